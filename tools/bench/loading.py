#!/usr/bin/env python3
"""Time UniMatch's data set as published, on one thread: the Python peer of tools/bench/loading.cpp.

    python tools/bench/loading.py DATA --steps 10        DATA: as `semiseg synth` makes it
    python tools/bench/loading.py DATA --photographs     no timing: makes the images compress like photographs

One step reads what one step of its training loop reads: a labelled sample (image and label, one view), and two unlabelled samples
(image and label, the weak and two strong views, boxes), the second of them for CutMix. Views follow LiheYoung/UniMatch,
dataset/semi.py and dataset/transform.py: resize to U(.5, 2), crop with padding, mirror, ColorJitter(.5, .5, .5, .25) with p .8,
grey with p .2, blur of radius U(.1, 2) with p .5, CutMix boxes with p .5, normalisation. Prints one JSON object; times are medians
over the steps.
"""
import argparse
import json
import pathlib
import random
import statistics
import time

try:
    import torchvision_ops_stub  # noqa: F401  where torchvision is a CUDA build beside a CPU build of torch
except ImportError:
    pass
import numpy as np
import torch
from PIL import Image, ImageFilter, ImageOps
from torchvision import transforms

FILL_IMAGE, FILL_UNLABELED, IGNORED = 0, 254, 255
TO_NORMALIZED = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])


def soften(path):
    """A rendered scene is sharp in every pixel; a photograph, seen through a lens and an array of colour filters, is not."""
    image = Image.open(path).convert("RGB")
    half = image.resize((image.size[0] // 2, image.size[1] // 2), Image.BOX)
    half.resize(image.size, Image.BICUBIC).save(path)


def read_pair(pair):
    image = Image.open(pair[0]).convert("RGB")
    return image, Image.fromarray(np.array(Image.open(pair[1])))


def weak_view(image, label, crop, fill_label):
    longest = max(image.size)
    scale = random.randint(int(longest * 0.5), int(longest * 2.0)) / longest
    size = tuple(int(side * scale + 0.5) for side in image.size)
    image, label = image.resize(size, Image.BILINEAR), label.resize(size, Image.NEAREST)
    border = (0, 0, max(crop - size[0], 0), max(crop - size[1], 0))
    image, label = ImageOps.expand(image, border, fill=FILL_IMAGE), ImageOps.expand(label, border, fill=fill_label)
    left, top = random.randint(0, image.size[0] - crop), random.randint(0, image.size[1] - crop)
    box = (left, top, left + crop, top + crop)
    image, label = image.crop(box), label.crop(box)
    if random.random() < 0.5:
        image, label = image.transpose(Image.FLIP_LEFT_RIGHT), label.transpose(Image.FLIP_LEFT_RIGHT)
    return image, label


def strong_view(image):
    image = image.copy()
    if random.random() < 0.8:
        image = transforms.ColorJitter(0.5, 0.5, 0.5, 0.25)(image)
    image = transforms.RandomGrayscale(p=0.2)(image)
    if random.random() < 0.5:
        image = image.filter(ImageFilter.GaussianBlur(radius=np.random.uniform(0.1, 2.0)))
    return image


def cutmix_mask(crop):
    mask = torch.zeros(crop, crop)
    if random.random() > 0.5:
        return mask
    area = np.random.uniform(0.02, 0.4) * crop * crop
    while True:
        ratio = np.random.uniform(0.3, 1 / 0.3)
        width, height = int(np.sqrt(area / ratio)), int(np.sqrt(area * ratio))
        x, y = np.random.randint(0, crop), np.random.randint(0, crop)
        if x + width <= crop and y + height <= crop:
            break
    mask[y:y + height, x:x + width] = 1
    return mask


def as_label(label):
    return torch.from_numpy(np.array(label)).long()


def labeled_sample(pair, crop):
    image, label = weak_view(*read_pair(pair), crop, IGNORED)
    return TO_NORMALIZED(image), as_label(label)


def unlabeled_sample(pair, crop):
    image, label = weak_view(*read_pair(pair), crop, FILL_UNLABELED)
    strong, boxes = [], []
    for _ in range(2):
        strong.append(TO_NORMALIZED(strong_view(image)))
        boxes.append(cutmix_mask(crop))
    ignore = torch.zeros(crop, crop, dtype=torch.long)
    ignore[as_label(label) == FILL_UNLABELED] = IGNORED
    return TO_NORMALIZED(image), *strong, ignore, *boxes


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=pathlib.Path)
    parser.add_argument("--photographs", action="store_true")
    parser.add_argument("--crop", type=int, default=801)
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    images = sorted((arguments.data / "leftImg8bit" / "train").glob("*/*.png"))
    if arguments.photographs:
        for path in images:
            soften(path)
        return

    labels = sorted((arguments.data / "gtFine" / "train").glob("*/*_labelTrainIds.png"))
    pairs = list(zip(images, labels, strict=True))
    torch.set_num_threads(1)
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(arguments.seed)

    def step():
        labeled_sample(random.choice(pairs), arguments.crop)
        for _ in range(2):
            unlabeled_sample(random.choice(pairs), arguments.crop)

    times = []
    for index in range(arguments.warmup + arguments.steps):
        begin = time.perf_counter()
        step()
        if index >= arguments.warmup:
            times.append(time.perf_counter() - begin)
    print(json.dumps({"step_ms": 1e3 * statistics.median(times), "step_ms_all": [round(1e3 * t, 3) for t in times]}))


if __name__ == "__main__":
    main()
