"""Makes tests/parity/smp_fpn.json: logits of segmentation_models_pytorch's FPN for weights and an input given by a formula.

Usage: python tools/goldens/smp_fpn.py tests/parity/smp_fpn.json
Needs torch, torchvision, segmentation_models_pytorch 0.6. The formula stands in fpn_parity_test.cpp too, so no weights are stored.
"""
import json
import sys

import numpy as np
import segmentation_models_pytorch as smp
import torch

CLASSES = 19
SIZE = (64, 96)
SAMPLES = 150


def fnv1a(text):
    value = 0xCBF29CE484222325
    for byte in text.encode():
        value = (value ^ byte) * 0x100000001B3 % 2**64
    return value


def noise(name, count):
    """Values in [-1, 1), a pure function of the name and the index: the low half of the name's FNV-1a hash plus the index, mixed
    by MurmurHash3's finaliser."""
    x = (np.arange(count, dtype=np.uint64) + fnv1a(name) % 2**32) % 2**32
    x = x.astype(np.uint32)
    with np.errstate(over="ignore"):
        x ^= x >> np.uint32(16)
        x *= np.uint32(0x85EBCA6B)
        x ^= x >> np.uint32(13)
        x *= np.uint32(0xC2B2AE35)
        x ^= x >> np.uint32(16)
    return x.astype(np.float64) / 2**31 - 1


def closed_form(name, shape):
    """Convolutions: uniform with variance 2 / fan_in. Normalisations near the identity; those that end a residual branch at half
    scale, so that activations stay of order one in evaluation mode."""
    count = int(np.prod(shape))
    values = noise(name, count)
    if len(shape) == 4:
        values = values * np.sqrt(6 / (shape[1] * shape[2] * shape[3]))
    elif name.endswith("running_var"):
        values = 1 + 0.2 * values
    elif name.endswith("weight"):
        values = (0.5 if ".bn2." in name or ".bn3." in name else 1.0) * (1 + 0.2 * values)
    else:  # biases and running means
        values = 0.1 * values
    return torch.from_numpy(values.astype(np.float32)).reshape(shape)


def main(path):
    torch.set_num_threads(1)
    golden = {"size": SIZE, "classes": CLASSES, "cases": []}
    image = torch.from_numpy(noise("image", 2 * 3 * SIZE[0] * SIZE[1]).astype(np.float32)).reshape(2, 3, *SIZE)
    for backbone in ("resnet18", "resnet50"):
        model = smp.FPN(backbone, encoder_weights=None, classes=CLASSES, decoder_dropout=0.0)
        state = model.state_dict()
        for name, value in state.items():
            if not name.endswith("num_batches_tracked"):
                state[name] = closed_form(name, tuple(value.shape))
        model.load_state_dict(state)
        for mode in ("eval", "train"):  # in this order: training changes the running statistics
            model.train(mode == "train")
            with torch.no_grad():
                logits = model(image)
            flat = logits.flatten()
            step = flat.numel() // SAMPLES
            after = model.state_dict()
            golden["cases"].append({
                "backbone": backbone,
                "mode": mode,
                "names": sum(1 for _ in after),
                "mean": flat.double().mean().item(),
                "mean_abs": flat.double().abs().mean().item(),
                "step": step,
                "logits": [round(v, 6) for v in flat[::step].tolist()],
                "running_mean": round(after["encoder.layer4.1.bn2.running_mean"].double().abs().mean().item(), 8),
                "running_var": round(after["encoder.layer4.1.bn2.running_var"].double().mean().item(), 8),
            })
            print(backbone, mode, "mean abs logit", flat.abs().mean().item(), "max", flat.abs().max().item())
    with open(path, "w") as file:
        json.dump(golden, file)
        file.write("\n")


if __name__ == "__main__":
    main(sys.argv[1])
