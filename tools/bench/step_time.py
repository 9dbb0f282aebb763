#!/usr/bin/env python3
"""Time a supervised training step of segmentation_models_pytorch's FPN: the Python peer of `semiseg bench`.

    python tools/bench/step_time.py --backbone resnet18 --precision bf16

Forward (logits at the input's size by the model's own head), cross-entropy with ignore index 255, backward, SGD with momentum;
channels-last; one fixed random batch, so no data loading is in it. Prints one JSON object; times are medians over the steps.
"""
import argparse
import json
import resource
import statistics
import time

try:
    import torchvision_ops_stub  # noqa: F401  where torchvision is a CUDA build beside a CPU build of torch
except ImportError:
    pass
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--crop", type=int, default=256)
    parser.add_argument("--classes", type=int, default=11)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    device = torch.device(arguments.device)
    model = smp.FPN(arguments.backbone, encoder_weights=None, classes=arguments.classes)
    model = model.to(device=device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=1e-4)
    shape = (arguments.batch, 3, arguments.crop, arguments.crop)
    image = torch.randn(shape, device=device).contiguous(memory_format=torch.channels_last)
    label = torch.randint(arguments.classes, (shape[0], *shape[2:]), device=device)
    label[:, :8] = 255  # some pixels that nothing counts

    def step():
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.precision == "bf16"):
            logits = model(image)
        loss = F.cross_entropy(logits.float(), label, ignore_index=255)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()

    times = []
    for index in range(arguments.warmup + arguments.steps):
        begin = time.perf_counter()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        if index >= arguments.warmup:
            times.append(time.perf_counter() - begin)
    median = statistics.median(times)
    if device.type == "cuda":
        peak = torch.cuda.max_memory_allocated() / 2**20
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({"step_ms": 1e3 * median, "images_per_s": arguments.batch / median, "peak_memory_mb": peak,
                      "step_ms_all": [round(1e3 * t, 3) for t in times], "torch": torch.__version__}))


if __name__ == "__main__":
    main()
