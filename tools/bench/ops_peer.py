#!/usr/bin/env python3
"""Time what a fused operation replaces, for tools/bench/ops.sh and tools/gpu/run.sh: the Python peer of bench_ops, with the same
arguments.

    python tools/bench/ops_peer.py (loss|predict|confusion|mix) BATCH CLASSES h w H W REPEATS [channels_last] [cuda] [bf16]

loss: F.interpolate + F.cross_entropy, forward and backward to the low-resolution logits; predict: F.interpolate + softmax + max;
confusion: F.interpolate + torchmetrics' MulticlassConfusionMatrix, which takes the argmax itself; mix: two strong views and their
pseudo-labels, of which boxes come from another draw, as unimatch.py of LiheYoung/UniMatch does it.

Prints the median milliseconds and the memory beyond the inputs. On a GPU also, of one repetition: device_ms, what its kernels,
copies and fills take together (by Kineto, as bench_ops counts it), and event_ms, the time between two events around REPEATS
repetitions that are queued without waiting, the median of five such rows.
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


def peak_mib(device):
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**20
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
        metric = metric.to(logits.device)

        def run():
            with torch.no_grad():
                metric.update(up(logits), label)
    elif name == "mix":
        batch, (H, W) = len(label), size
        box = torch.zeros(batch, H, W, device=logits.device)
        box[:, H // 4:H // 4 + H // 2, W // 4:W // 4 + W // 2] = 1
        layout = torch.channels_last if not logits.is_contiguous() else torch.contiguous_format
        view = lambda value: torch.full((batch, 3, H, W), value, device=logits.device).contiguous(memory_format=layout)
        image, image_mix = view(0.0), view(1.0)
        conf, conf_mix, ignore = torch.rand_like(box), torch.rand_like(box), label.clone()

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


def device_ms(run, repeats):
    from torch.profiler import ProfilerActivity, profile
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA]) as profiler:
        for _ in range(repeats):
            run()
        torch.cuda.synchronize()
    busy_ns = 0
    for event in profiler.profiler.kineto_results.events():
        if event.device_type() == torch.autograd.DeviceType.CUDA and not event.is_user_annotation():
            busy_ns += event.duration_ns()
    return busy_ns / 1e6 / repeats


def event_ms(run, repeats):
    rows = []
    for _ in range(5):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeats):
            run()
        end.record()
        end.synchronize()
        rows.append(begin.elapsed_time(end) / repeats)
    return statistics.median(rows)


def main():
    name, numbers, flags = sys.argv[1], [int(x) for x in sys.argv[2:9]], sys.argv[9:]
    if unknown := set(flags) - {"channels_last", "cuda", "bf16"}:
        sys.exit(f"no flag {unknown.pop()!r}")
    batch, classes, h, w, H, W, repeats = numbers
    device = "cuda" if "cuda" in flags else "cpu"
    of_logits = {"device": device, "dtype": torch.bfloat16 if "bf16" in flags else torch.float32}
    wait = torch.cuda.synchronize if device == "cuda" else lambda: None
    torch.manual_seed(0)
    operation(name, torch.randn(1, classes, 2, 2, **of_logits), torch.zeros(1, 8, 8, dtype=torch.long, device=device))()
    logits = torch.randn(batch, classes, h, w, **of_logits)
    if "channels_last" in flags:
        logits = logits.contiguous(memory_format=torch.channels_last)
    label = torch.randint(classes, (batch, H, W), device=device)
    label[:, :8] = 255
    run = operation(name, logits, label)
    wait()
    before = peak_mib(device)
    run()
    wait()
    extra = peak_mib(device) - before
    times = []
    for _ in range(repeats):
        begin = time.perf_counter()
        run()
        wait()
        times.append(1e3 * (time.perf_counter() - begin))
    result = {"ms": statistics.median(times), "extra_mib": extra}
    if device == "cuda":
        result |= {"device_ms": device_ms(run, repeats), "event_ms": event_ms(run, repeats)}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
