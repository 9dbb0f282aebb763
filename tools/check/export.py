#!/usr/bin/env python3
"""Run exported networks in Python's runtimes and compare their output with semiseg's own, to 1e-4.

    semiseg export best.safetensors -o street.onnx --reference street.reference.safetensors
    python tools/check/export.py street.onnx [--reference FILE] [--speed]

.onnx is checked and run by onnx and onnxruntime, .pt by torch.jit, .safetensors by segmentation_models_pytorch. Without
--reference, it is FILE with .reference.safetensors for its ending. Exit code 77: a package is missing.
"""
import argparse
import json
import pathlib
import sys
import time

TOLERANCE = 1e-4
MULTIPLE = 32  # what semiseg pads sides to

try:
    import numpy
    from safetensors import safe_open
    from safetensors.numpy import load_file
except ImportError as error:
    print(f"missing: {error.name}")
    sys.exit(77)


def onnx_runner(path):
    import onnx
    import onnxruntime

    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    assert len(json.loads(metadata["classes"])) > 0 and len(json.loads(metadata["mean"])) == 3, metadata
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image})[0]


def torch_script_runner(path):
    import torch

    extra = {"semiseg.json": ""}
    network = torch.jit.load(str(path), _extra_files=extra)
    assert len(json.loads(extra["semiseg.json"])["classes"]) > 0, extra
    network.eval()

    def run(image):
        with torch.inference_mode():
            return network(torch.from_numpy(image)).numpy()

    return run


def fold(module):
    """Replaces each BatchNorm2d by nothing, after its convolution has got a bias: the names of a folded file."""
    import torch

    before = None
    for name, child in list(module.named_children()):
        if isinstance(child, torch.nn.BatchNorm2d) and before is not None:
            before.bias = torch.nn.Parameter(torch.zeros(before.out_channels))
            setattr(module, name, torch.nn.Identity())
        else:
            fold(child)
        last = child
        while isinstance(last, torch.nn.Sequential) and len(last) > 0:
            last = last[-1]
        before = last if isinstance(last, torch.nn.Conv2d) else None


def smp_runner(path):
    import torch

    try:
        import torchvision_ops_stub  # noqa: F401  where torchvision is there without its compiled operators
    except ImportError:
        pass
    import segmentation_models_pytorch as smp

    with safe_open(path, "pt") as file:
        metadata = file.metadata()
        weights = {name: file.get_tensor(name) for name in file.keys()}
    settings = json.loads(metadata["model"])
    common = {"encoder_name": settings["backbone"], "encoder_weights": None, "classes": len(json.loads(metadata["classes"]))}
    if settings["decoder"] == "fpn":
        network = smp.FPN(**common)
    else:
        network = smp.DeepLabV3Plus(**common, encoder_output_stride=settings["output_stride"])
    if json.loads(metadata["batch_norm_folded"]):
        fold(network)
    network.load_state_dict(weights, strict=True)
    network.eval()

    def run(image):
        height, width = image.shape[2:]
        padded = numpy.pad(image, ((0, 0), (0, 0), (0, -height % MULTIPLE), (0, -width % MULTIPLE)))
        with torch.inference_mode():
            return network(torch.from_numpy(padded))[:, :, :height, :width].numpy()

    return run


RUNNERS = {".onnx": onnx_runner, ".pt": torch_script_runner, ".safetensors": smp_runner}


def compare(path, reference, speed):
    """Whether the runtime's outputs are semiseg's."""
    tensors = load_file(reference)
    output = next(name.split(".")[0] for name in tensors if not name.startswith("image."))
    run = RUNNERS[path.suffix](path)
    good = True
    for index in range(sum(name.startswith("image.") for name in tensors)):
        image, expected = tensors[f"image.{index}"], tensors[f"{output}.{index}"]
        got = run(image)
        if got.shape != expected.shape or got.dtype != expected.dtype:
            print(f"{path.name}: {image.shape}: {got.dtype}{got.shape} instead of {expected.dtype}{expected.shape}")
            good = False
            continue
        if output == "classes":
            agreement = numpy.mean(got == expected)
            good = good and agreement > 0.999
            text = ""
        else:
            difference = numpy.abs(got - expected).max()
            agreement = numpy.mean(got.argmax(1) == expected.argmax(1))
            good = good and bool(difference <= TOLERANCE)
            text = f"max abs difference {difference:.2e} of {numpy.abs(expected).max():.1f}, "
        if speed:
            seconds = []
            for _ in range(7):
                start = time.perf_counter()
                run(image)
                seconds.append(time.perf_counter() - start)
            text += f"{1000 * sorted(seconds)[len(seconds) // 2]:.0f} ms, "
        size = "x".join(str(side) for side in image.shape)
        print(f"{path.name:40} {size:14} {text}same class in {100 * agreement:.4f} % of the pixels")
    return good


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=pathlib.Path)
    parser.add_argument("--reference", type=pathlib.Path)
    parser.add_argument("--speed", action="store_true", help="also time each run")
    arguments = parser.parse_args()
    good = True
    for path in arguments.files:
        if path.suffix not in RUNNERS:
            parser.error(f"{path} is no .onnx, .pt or .safetensors")
        try:
            good = compare(path, arguments.reference or path.with_suffix(".reference.safetensors"), arguments.speed) and good
        except ImportError as error:
            print(f"missing: {error.name}")
            sys.exit(77)
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
