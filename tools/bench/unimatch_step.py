#!/usr/bin/env python3
"""Time UniMatch's training step as published, on segmentation_models_pytorch's FPN: the Python peer of `semiseg bench`.

    python tools/bench/unimatch_step.py --data DATA                                   as its users run it: fp32, contiguous
    python tools/bench/unimatch_step.py --data DATA --precision bf16 --channels-last
    python tools/bench/unimatch_step.py --backbone resnet50 --crop 768 --batch-labeled 1 --batch-unlabeled 1     without data
    python tools/bench/unimatch_step.py --device cuda --backbone resnet50 --crop 800 --steps 30        TF32 in convolutions
    python tools/bench/unimatch_step.py --device cuda --precision bf16 --channels-last --compile ...   torch.compile for the network

One step is what LiheYoung/UniMatch's unimatch.py does in one iteration: the mix batch predicted in eval mode; CutMix; the labelled and
the weak images in one pass, with their features and the same features under Dropout2d(.5) decoded together; both strong views in
one pass; softmax, max and argmax of logits at full size; cross-entropy of the labelled images; for each strong view and for the
dropped features the cross-entropy against the pseudo-labels, 0 below the confidence threshold and on padding, over the pixels that are
no padding; SGD with momentum; the numbers that it logs, read each step. Dropped are, in place of DeepLabV3+'s two features, the four
that FPN reads. tools/study/unimatch_train.py trains with the same step.

DATA is what `semiseg synth` makes. Loading follows dataset/semi.py and dataset/transform.py, by PIL and torchvision in three zipped
DataLoaders with 2 worker processes each. Without --data the step runs on fixed tensors. Prints a line when it is about to load its
first batch, and in the end one JSON object: step_ms is a mean over the timed steps, waiting for data included; memory is this
process's, without its workers; on a GPU, what its allocator held at most.
"""
import argparse
import contextlib
import json
import pathlib
import random
import resource
import time

try:
    import torchvision_ops_stub  # noqa: F401  where torchvision is a CUDA build beside a CPU build of torch
except ImportError:
    pass
import numpy as np
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from PIL import Image, ImageFilter, ImageOps
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

IGNORED, PADDING = 255, 254  # PADDING: of unlabelled images, until it becomes IGNORED in the mask
normalize = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])


class Views(Dataset):
    """Weak views of labelled images with labels, or weak and strong views of unlabelled ones with mask and CutMix boxes.

    labels may be None where images are unlabelled: of their labels nothing is used but the size.
    """

    def __init__(self, images, labels, crop, labeled, classes):
        self.images, self.labels = images, labels
        self.crop, self.labeled, self.classes = crop, labeled, classes

    def __len__(self):
        return len(self.images)

    def weak_view(self, image, label):
        width, height = image.size
        longest = random.randint(int(max(width, height) * 0.5), int(max(width, height) * 2.0))
        size = [int(side * longest / max(width, height) + 0.5) for side in (width, height)]
        image, label = image.resize(size, Image.BILINEAR), label.resize(size, Image.NEAREST)
        border = (0, 0, max(self.crop - size[0], 0), max(self.crop - size[1], 0))
        image = ImageOps.expand(image, border=border, fill=0)
        label = ImageOps.expand(label, border=border, fill=IGNORED if self.labeled else PADDING)
        left, top = (random.randint(0, side - self.crop) for side in image.size)
        box = (left, top, left + self.crop, top + self.crop)
        image, label = image.crop(box), label.crop(box)
        if random.random() < 0.5:
            image, label = image.transpose(Image.FLIP_LEFT_RIGHT), label.transpose(Image.FLIP_LEFT_RIGHT)
        return image, label

    def strong_view(self, image):
        if random.random() < 0.8:
            image = transforms.ColorJitter(0.5, 0.5, 0.5, 0.25)(image)
        image = transforms.RandomGrayscale(p=0.2)(image)
        if random.random() < 0.5:
            image = image.filter(ImageFilter.GaussianBlur(radius=np.random.uniform(0.1, 2.0)))
        return normalize(image)

    def cutmix_box(self):
        box = torch.zeros(self.crop, self.crop)
        if random.random() > 0.5:
            return box
        area = np.random.uniform(0.02, 0.4) * self.crop * self.crop
        while True:
            ratio = np.random.uniform(0.3, 1 / 0.3)
            width, height = int(np.sqrt(area / ratio)), int(np.sqrt(area * ratio))
            x, y = np.random.randint(0, self.crop), np.random.randint(0, self.crop)
            if x + width <= self.crop and y + height <= self.crop:
                box[y:y + height, x:x + width] = 1
                return box

    def __getitem__(self, index):
        image = Image.open(self.images[index]).convert("RGB")
        label = Image.fromarray(np.array(Image.open(self.labels[index]))) if self.labels else Image.new("L", image.size)
        image, label = self.weak_view(image, label)
        label = torch.from_numpy(np.array(label)).long()
        if self.labeled:
            label[label >= self.classes] = IGNORED
            return normalize(image), label
        mask = torch.where(label == PADDING, IGNORED, 0)
        return (normalize(image), self.strong_view(image), self.strong_view(image), mask, self.cutmix_box(), self.cutmix_box())


def synth_files(root):
    images = sorted((root / "leftImg8bit/train").glob("*/*.png"))
    labels = sorted((root / "gtFine/train").glob("*/*_labelTrainIds.png"))
    if not images or len(images) != len(labels):
        raise SystemExit(f"{root}: no images and labels as `semiseg synth` makes them")
    return images, labels


def loaded_batches(arguments, count):
    def loader(batch, labeled):
        views = Views(*synth_files(arguments.data), arguments.crop, labeled, arguments.classes)
        sampler = RandomSampler(views, replacement=True, num_samples=count * batch)
        return DataLoader(views, batch_size=batch, num_workers=2, drop_last=True, sampler=sampler)
    unlabeled = loader(arguments.batch_unlabeled, labeled=False)
    return zip(loader(arguments.batch_labeled, labeled=True), unlabeled, unlabeled)


def fixed_batches(arguments, count):
    side = arguments.crop

    def images(batch):
        return torch.randn(batch, 3, side, side)

    def unlabeled(batch):
        boxes = torch.zeros(2, batch, side, side)
        boxes[:, :, side // 4:side // 2, side // 4:side // 2] = 1
        return [images(batch), images(batch), images(batch), torch.zeros(batch, side, side, dtype=torch.long), *boxes]

    label = torch.randint(arguments.classes, (arguments.batch_labeled, side, side))
    batch = ((images(arguments.batch_labeled), label), unlabeled(arguments.batch_unlabeled), unlabeled(arguments.batch_unlabeled))
    if arguments.device == "cuda":  # as DataLoader(pin_memory=True) hands them out
        batch = tuple(tuple(tensor.pin_memory() for tensor in part) for part in batch)
    return (batch for _ in range(count))


def memory_format_of(arguments):
    return torch.channels_last if arguments.channels_last else torch.contiguous_format


def make_model(arguments, classes):
    model = smp.FPN(arguments.backbone, encoder_weights=None, classes=classes)
    return model.to(arguments.device, memory_format=memory_format_of(arguments))


def make_optimizer(model):
    return torch.optim.SGD([{"params": model.encoder.parameters()},
                            {"params": [*model.decoder.parameters(), *model.segmentation_head.parameters()]}],
                           lr=0.01, momentum=0.9, weight_decay=1e-4)


def autocast(arguments):
    return torch.autocast(arguments.device, torch.bfloat16) if arguments.precision == "bf16" else contextlib.nullcontext()


def pseudo_label(logits):
    return logits.softmax(dim=1).max(dim=1)[0], logits.argmax(dim=1)


class Step:
    """One iteration of unimatch.py on a batch of labelled, unlabelled and mix images; `logged` sums up what it logs.

    keep_batch: the batch comes again, so CutMix must not write into it.
    """

    def __init__(self, model, optimizer, arguments, class_weights=None, keep_batch=False):
        self.model, self.optimizer, self.arguments, self.keep_batch = model, optimizer, arguments, keep_batch
        self.drop = torch.nn.Dropout2d(0.5)
        self.criterion_labeled = torch.nn.CrossEntropyLoss(weight=class_weights, ignore_index=IGNORED)
        self.logged = dict.fromkeys(("loss", "labeled", "strong", "dropped", "mask"), 0.0)

    def with_dropped_features(self, image):
        model = self.model
        features = model.encoder(image)
        # What FPN's decoder does not read, the image and the feature at stride 2, need not be doubled.
        both = features[:-4] + [torch.cat((feature, self.drop(feature))) for feature in features[-4:]]
        return model.segmentation_head(model.decoder(both)).chunk(2)

    def unlabeled_loss(self, logits, label, confidence, ignore):
        accepted = (confidence >= self.arguments.threshold) & (ignore != IGNORED)
        loss = F.cross_entropy(logits, label, reduction="none") * accepted
        return loss.sum() / torch.sum(ignore != IGNORED).item()

    def __call__(self, batch):
        model, arguments, logged, memory_format = self.model, self.arguments, self.logged, memory_format_of(self.arguments)
        batch = [[tensor.to(arguments.device) for tensor in part] for part in batch]
        (image, label), (weak, strong1, strong2, ignore, box1, box2), (mix_weak, mix_strong1, mix_strong2, mix_ignore, _, _) = batch
        strong = [strong1.clone(), strong2.clone()] if self.keep_batch else [strong1, strong2]
        boxes = [box1, box2]
        image, weak, mix_weak = (x.contiguous(memory_format=memory_format) for x in (image, weak, mix_weak))
        with torch.no_grad(), autocast(arguments):
            model.eval()
            mix_confidence, mix_label = pseudo_label(model(mix_weak))
        for view, box, mix in zip(strong, boxes, (mix_strong1, mix_strong2)):
            where = box.unsqueeze(1).expand(view.shape) == 1
            view[where] = mix[where]

        model.train()
        with autocast(arguments):
            logits, dropped = self.with_dropped_features(torch.cat((image, weak)))
            labeled_logits, weak_logits = logits.split((len(image), len(weak)))
            dropped_logits = dropped[len(image):]
            strong_logits = model(torch.cat(strong).contiguous(memory_format=memory_format)).chunk(2)

            confidence, pseudo = pseudo_label(weak_logits.detach())
            labeled_loss = self.criterion_labeled(labeled_logits, label)
            strong_losses = []
            for view_logits, box in zip(strong_logits, boxes):
                mixed = [x.clone() for x in (pseudo, confidence, ignore)]
                for x, source in zip(mixed, (mix_label, mix_confidence, mix_ignore)):
                    x[box == 1] = source[box == 1]
                strong_losses.append(self.unlabeled_loss(view_logits, *mixed))
            dropped_loss = self.unlabeled_loss(dropped_logits, pseudo, confidence, ignore)
            loss = (labeled_loss + strong_losses[0] * 0.25 + strong_losses[1] * 0.25 + dropped_loss * 0.5) / 2.0

        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        logged["loss"] += loss.item()
        logged["labeled"] += labeled_loss.item()
        logged["strong"] += (strong_losses[0].item() + strong_losses[1].item()) / 2.0
        logged["dropped"] += dropped_loss.item()
        used = ((confidence >= arguments.threshold) & (ignore != IGNORED)).sum().item()
        logged["mask"] += used / (ignore != IGNORED).sum().item()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path)
    parser.add_argument("--backbone", default="resnet18")
    parser.add_argument("--crop", type=int, default=256, help="a multiple of 32")
    parser.add_argument("--batch-labeled", type=int, default=2)
    parser.add_argument("--batch-unlabeled", type=int, default=2)
    parser.add_argument("--classes", type=int, default=19)
    parser.add_argument("--threshold", type=float, default=0.95)
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--compile", action="store_true", help="encoder, decoder and head by torch.compile")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--steps", type=int, default=10)
    arguments = parser.parse_args()

    torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True  # as unimatch.py
    model = make_model(arguments, arguments.classes)
    if arguments.compile:
        for part in (model.encoder, model.decoder, model.segmentation_head):
            part.compile()
    optimizer = make_optimizer(model)
    step = Step(model, optimizer, arguments, keep_batch=arguments.data is None)

    count = arguments.warmup + arguments.steps
    batches = (loaded_batches if arguments.data else fixed_batches)(arguments, count)
    print("ready", flush=True)  # for start.sh
    times = []
    begin = time.perf_counter()
    for batch in batches:
        step(batch)
        end = time.perf_counter()
        times.append(end - begin)
        begin = end
    timed = times[arguments.warmup:]
    mean = sum(timed) / len(timed)
    peak_mb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if arguments.device == "cuda":
        peak_mb = torch.cuda.max_memory_allocated() / 2**20
    print(json.dumps({"step_ms": 1e3 * mean, "images_per_s": (arguments.batch_labeled + arguments.batch_unlabeled) / mean,
                      "peak_memory_mb": peak_mb,
                      "loss": step.logged["loss"] / count, "step_ms_all": [round(1e3 * t, 3) for t in timed],
                      "torch": torch.__version__}))


if __name__ == "__main__":
    main()
