#!/usr/bin/env python3
"""Time what a fused operation replaces, for tools/bench/ops.sh: the Python peer of bench_ops, with the same arguments.

    python tools/bench/ops_peer.py (loss|predict|confusion|mix) BATCH CLASSES h w H W REPEATS [channels_last]

loss: F.interpolate + F.cross_entropy, forward and backward to the low-resolution logits; predict: F.interpolate + softmax + max;
confusion: F.interpolate + torchmetrics' MulticlassConfusionMatrix, which takes the argmax itself; mix: two strong views and their
pseudo-labels, of which boxes come from another draw, as unimatch.py of LiheYoung/UniMatch does it.
"""
import json
import resource
import statistics
import sys
import time

try:
    import torchvision_ops_stub  # noqa: F401  where torchvision is a CUDA build beside a CPU build of torch
except ImportError:
    pass
import torch
import torch.nn.functional as F


def peak_mib():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def operation(name, logits, label):
    size = label.shape[1:]
    up = lambda x: F.interpolate(x, size=size, mode="bilinear", align_corners=True)
    if name == "loss":
        def run():
            leaf = logits.detach().requires_grad_()
            F.cross_entropy(up(leaf), label, ignore_index=255).backward()
    elif name == "predict":
        def run():
            with torch.no_grad():
                up(logits).softmax(dim=1).max(dim=1)
    elif name == "confusion":
        from torchmetrics.classification import MulticlassConfusionMatrix
        metric = MulticlassConfusionMatrix(num_classes=logits.shape[1], ignore_index=255, validate_args=False)

        def run():
            with torch.no_grad():
                metric.update(up(logits), label)
    elif name == "mix":
        batch, (H, W) = len(label), size
        box = torch.zeros(batch, H, W)
        box[:, H // 4:H // 4 + H // 2, W // 4:W // 4 + W // 2] = 1
        layout = torch.channels_last if not logits.is_contiguous() else torch.contiguous_format
        view = lambda value: torch.full((batch, 3, H, W), value).contiguous(memory_format=layout)
        image, image_mix = view(0.0), view(1.0)
        conf, conf_mix, ignore = torch.rand(batch, H, W), torch.rand(batch, H, W), label.clone()

        def run():
            for _ in range(2):
                boxes = box.unsqueeze(1).expand(image.shape) == 1
                image[boxes] = image_mix[boxes]
                for target, source in ((label, label), (conf, conf_mix), (ignore, ignore)):
                    mixed = target.clone()
                    mixed[box == 1] = source[box == 1]
    else:
        sys.exit(f"no operation {name!r}")
    return run


def main():
    name, numbers, layout = sys.argv[1], [int(x) for x in sys.argv[2:9]], sys.argv[9:]
    batch, classes, h, w, H, W, repeats = numbers
    torch.manual_seed(0)
    operation(name, torch.randn(1, classes, 2, 2), torch.zeros(1, 8, 8, dtype=torch.long))()
    logits = torch.randn(batch, classes, h, w)
    if layout:
        logits = logits.contiguous(memory_format=torch.channels_last)
    label = torch.randint(classes, (batch, H, W))
    label[:, :8] = 255
    run = operation(name, logits, label)
    before = peak_mib()
    run()
    extra = peak_mib() - before
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        times.append(1e3 * (time.perf_counter() - begin))
    print(json.dumps({"ms": statistics.median(times), "extra_mib": extra}))


if __name__ == "__main__":
    main()
