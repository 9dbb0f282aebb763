#!/usr/bin/env python3
"""Train UniMatch in Python as published, on segmentation_models_pytorch's FPN: the peer of methods.sh's `unimatch`.

    python tools/study/unimatch_train.py --data DATA --start START --steps 300 --seed 0 --out RUN
    python tools/study/unimatch_train.py ... --precision bf16 --channels-last
    python tools/study/unimatch_train.py ... --steps 0                               scores of START itself

START is a checkpoint of semiseg (FPN; --backbone) or ImageNet weights of the encoder alone, as .safetensors. The defaults are
the settings of configs/camvid/unimatch.yaml with loss.class_weights=enet, as methods.sh runs it. Lists are looked up under
DATA and hold "image label" or "image" a line, relative to DATA. Precision and layout are as published: float32, contiguous.

The step and the views of images are those of tools/bench/unimatch_step.py. As published, each pass over the unlabelled images
has an order of its own, the labelled list is repeated to their number, and what is mixed in are the same unlabelled images in
other crops. At the end the validation images are scored, each as a whole, padded to multiples of 32.

RUN gets status.json, metrics.jsonl and metrics.csv as semiseg writes them, with a line every --save-every steps, and
weights.safetensors. A run that was stopped goes on from RUN/state.pt when called again, with the random numbers that it would
have drawn; one that is done is kept.
"""
import argparse
import csv
import json
import math
import os
import pathlib
import random
import resource
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "bench"))
from unimatch_step import IGNORED, Step, Views, autocast, make_model, make_optimizer, memory_format_of, normalize
import numpy as np
import safetensors
import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image
from torch.utils.data import DataLoader, Dataset

CAMVID = "sky,building,pole,road,pavement,tree,sign,fence,car,pedestrian,bicyclist"


def read_list(root, name):
    lines = [line.split() for line in (root / name).read_text().splitlines() if line.strip()]
    if not lines:
        raise SystemExit(f"{root / name} is empty")
    images, labels = [root / line[0] for line in lines], [root / line[1] for line in lines if len(line) > 1]
    return images, labels if len(labels) == len(images) else None


def passes(length, batch, count, seed):
    """Indices of `count` batches: pass after pass, each in a new order, without what does not fill a last batch."""
    if length < batch:
        raise SystemExit(f"{length} images do not fill a batch of {batch}")
    generator = torch.Generator().manual_seed(seed)
    indices = []
    while len(indices) < count * batch:
        indices += torch.randperm(length, generator=generator)[:length // batch * batch].tolist()
    return indices[:count * batch]


class SeededViews(Views):
    """Views by their place in the training, from which their random numbers follow: a resumed run sees what was to come."""

    def __init__(self, order, seed, *views):
        super().__init__(*views)
        self.order, self.seed = order, seed

    def __len__(self):
        return len(self.order)

    def __getitem__(self, position):
        random.seed(f"{self.seed} {position}")
        np.random.seed(random.getrandbits(32))
        with torch.random.fork_rng(devices=[]):  # without worker processes these are the network's random numbers, too
            torch.default_generator.manual_seed(random.getrandbits(63))
            return super().__getitem__(self.order[position])


class WholeImages(Dataset):
    def __init__(self, images, labels):
        self.images, self.labels = images, labels

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = Image.open(self.images[index]).convert("RGB")
        return normalize(image), torch.from_numpy(np.array(Image.open(self.labels[index]))).long()


def training_batches(arguments, first):
    labeled, unlabeled = (read_list(arguments.data, name) for name in (arguments.labeled, arguments.unlabeled))
    if labeled[1] is None:
        raise SystemExit(f"{arguments.labeled}: a line without a label")
    repeats = math.ceil(len(unlabeled[0]) / len(labeled[0]))
    labeled = [files * repeats for files in labeled]
    if repeats > 1:
        labeled = [files[:len(unlabeled[0])] for files in labeled]

    def loader(name, files, batch):
        # The unlabelled and the mix batch: one order, as that of the published sampler, and crops of their own.
        order = passes(len(files[0]), batch, arguments.steps, arguments.seed)
        seed, classes = f"{arguments.seed} {name}", len(arguments.classes)
        views = SeededViews(order, seed, *files, arguments.crop, name == "labeled", classes)
        return DataLoader(views, batch_size=batch, num_workers=arguments.workers, sampler=range(first * batch, len(order)),
                          pin_memory=arguments.device == "cuda")

    return zip(loader("labeled", labeled, arguments.batch_labeled), loader("unlabeled", unlabeled, arguments.batch_unlabeled),
               loader("mix", unlabeled, arguments.batch_unlabeled))


def enet_weights(arguments):
    counts = np.zeros(len(arguments.classes))
    for file in read_list(arguments.data, arguments.labeled)[1]:
        label = np.array(Image.open(file))
        counts += np.bincount(label[label < len(counts)], minlength=len(counts))
    weights = np.where(counts > 0, 1 / np.log(1.02 + counts / counts.sum()), 0)
    return torch.tensor(weights, dtype=torch.float32, device=arguments.device)


def load_start(model, file):
    tensors = safetensors.torch.load_file(file)
    parts = ("encoder.", "decoder.", "segmentation_head.")
    if any(name.startswith(parts) for name in tensors):
        # Besides the network a checkpoint holds the optimizer and what its method keeps.
        model.load_state_dict({name: tensor for name, tensor in tensors.items() if name.startswith(parts)})
    else:
        model.encoder.load_state_dict({name: tensor for name, tensor in tensors.items() if not name.startswith("fc.")})


@torch.no_grad()
def evaluate(model, arguments):
    images, labels = read_list(arguments.data, arguments.val)
    K = len(arguments.classes)
    counts = torch.zeros(K, K, dtype=torch.long, device=arguments.device)
    model.eval()
    for image, label in DataLoader(WholeImages(images, labels), num_workers=arguments.workers):
        image, label = image.to(arguments.device), label.to(arguments.device)
        height, width = label.shape[1:]
        padded = F.pad(image, (0, -width % 32, 0, -height % 32)).contiguous(memory_format=memory_format_of(arguments))
        with autocast(arguments):
            prediction = model(padded)[..., :height, :width].argmax(dim=1)
        known = label < K
        counts += torch.bincount(label[known] * K + prediction[known], minlength=K * K).view(K, K)
    return scores_of(counts.cpu().numpy())


def scores_of(counts):
    """Of a confusion matrix, labels in rows; a class that is neither labelled nor predicted counts nowhere."""
    hit, labelled, predicted, total = counts.diagonal(), counts.sum(1), counts.sum(0), int(counts.sum())

    def fractions(parts, wholes):
        return [int(part) / int(whole) if whole else None for part, whole in zip(parts, wholes)]

    def mean(values):
        known = [value for value in values if value is not None]
        return sum(known) / len(known) if known else 0

    iou, accuracy = fractions(hit, labelled + predicted - hit), fractions(hit, labelled)
    return {"miou": mean(iou), "mean_class_accuracy": mean(accuracy), "pixel_accuracy": int(hit.sum()) / max(total, 1),
            "iou": iou, "class_accuracy": accuracy, "label_share": (labelled / max(total, 1)).tolist(),
            "prediction_share": (predicted / max(total, 1)).tolist(), "confusion": counts.tolist()}


def replace_file(path, write):
    """A file that is there is whole, whenever the run is stopped."""
    unfinished = path.with_name(path.name + ".part")
    write(unfinished)
    os.replace(unfinished, path)


def write_metrics(run, records, classes):
    replace_file(run / "metrics.jsonl", lambda file: file.write_text("".join(json.dumps(r) + "\n" for r in records)))

    of_run = ("epoch", "step", "seconds", "lr", "images_per_s", "data_wait", "peak_memory_mb")
    of_loss = ("loss", "loss_supervised", "loss_unsupervised")
    of_scores = ("miou", "mean_class_accuracy", "pixel_accuracy")
    of_class = ("iou", "class_accuracy", "label_share", "prediction_share")

    def write_table(path):
        with open(path, "w", newline="") as file:
            table = csv.writer(file, lineterminator="\n")
            by_class = [f"{key}/{name}" for key in of_class for name in classes]
            table.writerow([*of_run, *of_loss, *of_scores, "pseudo_accepted", *by_class])
            for r in records:
                scores = r["val"] or {}
                table.writerow([*(r[key] for key in of_run), *(r["train"][key] for key in of_loss),
                                *(scores.get(key) for key in of_scores), r["pseudo"]["accepted"],
                                *(value for key in of_class for value in scores.get(key, [None] * len(classes)))])

    replace_file(run / "metrics.csv", write_table)


def write_status(arguments, state, step):
    status = {"state": state, "step": step, "total_steps": arguments.steps, "pid": os.getpid()}
    replace_file(arguments.out / "status.json", lambda file: file.write_text(json.dumps(status, indent=2) + "\n"))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=pathlib.Path, required=True)
    parser.add_argument("--labeled", default="splits/1_8/labeled.txt")
    parser.add_argument("--unlabeled", default="splits/1_8/unlabeled.txt")
    parser.add_argument("--val", default="splits/val.txt")
    parser.add_argument("--classes", type=lambda names: names.split(","), default=CAMVID, help="names, separated by commas")
    parser.add_argument("--start", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True, help="the run folder")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--crop", type=int, default=256, help="a multiple of 32")
    parser.add_argument("--batch-labeled", type=int, default=2)
    parser.add_argument("--batch-unlabeled", type=int, default=2)
    parser.add_argument("--lr", type=float, default=0.01)
    parser.add_argument("--decoder-lr-multiplier", type=float, default=1.0, help="10 in the published recipe")
    parser.add_argument("--threshold", type=float, default=0.95)
    parser.add_argument("--class-weights", choices=("none", "enet"), default="enet")
    parser.add_argument("--precision", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--channels-last", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto", help="auto: a GPU where torch has one")
    parser.add_argument("--workers", type=int, default=2, help="processes of each of the three loaders")
    parser.add_argument("--save-every", type=int, default=200, help="steps from one state file to the next")
    parser.add_argument("--log-every", type=int, default=10)
    arguments = parser.parse_args()
    if arguments.device == "auto":
        arguments.device = "cuda" if torch.cuda.is_available() else "cpu"
    return arguments


def main():
    arguments = parse_arguments()
    run, steps = arguments.out, arguments.steps
    if (run / "status.json").exists() and json.loads((run / "status.json").read_text())["state"] == "done":
        print(f"{run} is done")
        return
    run.mkdir(parents=True, exist_ok=True)
    settings = {name: str(value) for name, value in vars(arguments).items()
                if name not in ("data", "start", "out", "workers", "save_every", "log_every")}

    torch.manual_seed(arguments.seed)
    torch.backends.cudnn.benchmark = True  # as unimatch.py
    model = make_model(arguments, len(arguments.classes))
    optimizer = make_optimizer(model)
    first, records = 0, []
    saved = torch.load(run / "state.pt", map_location=arguments.device) if (run / "state.pt").exists() else None
    if saved:
        changed = [name for name in settings if settings[name] != saved["settings"].get(name)]
        if changed:
            raise SystemExit(f"{run} was begun with other settings: {', '.join(changed)}")
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        first, records = saved["step"], saved["records"]
        print(f"resuming after step {first}", flush=True)
    else:
        load_start(model, arguments.start)
    write_status(arguments, "running", first)

    weights = enet_weights(arguments) if arguments.class_weights == "enet" else None
    step = Step(model, optimizer, arguments, class_weights=weights)
    batches = training_batches(arguments, first) if first < steps else ()
    if saved:  # after the loaders, which draw too
        torch.set_rng_state(saved["rng"].cpu())
        if arguments.device == "cuda":
            torch.cuda.set_rng_state(saved["cuda_rng"].cpu())

    def means(index, since, before):
        """Of what the step has logged since."""
        return {key: (total - before[key]) / max(index - since, 1) for key, total in step.logged.items()}

    def record(index, since, mean, waited, seconds):
        images = (index - since) * (arguments.batch_labeled + arguments.batch_unlabeled)
        steps_per_pass = len(read_list(arguments.data, arguments.unlabeled)[0]) // arguments.batch_unlabeled
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        if arguments.device == "cuda":
            memory = torch.cuda.max_memory_allocated() / 2**20
        return {"epoch": max(math.ceil(index / steps_per_pass), 1), "step": index, "seconds": seconds,
                "lr": optimizer.param_groups[0]["lr"], "images_per_s": images / seconds if seconds else 0,
                "data_wait": waited / seconds if seconds else 0, "peak_memory_mb": memory,
                "train": {"loss": mean["loss"], "loss_supervised": mean["labeled"],
                          "loss_unsupervised": (mean["strong"] + mean["dropped"]) / 2},
                "val": None, "pseudo": {"accepted": mean["mask"]}, "alarms": []}

    def save(index):
        state = {"settings": settings, "step": index, "model": model.state_dict(), "optimizer": optimizer.state_dict(),
                 "records": records, "rng": torch.get_rng_state()}
        if arguments.device == "cuda":
            state["cuda_rng"] = torch.cuda.get_rng_state()
        write_metrics(run, records, arguments.classes)
        replace_file(run / "state.pt", lambda file: torch.save(state, file))
        write_status(arguments, "running", index)

    printed = recorded = (first, dict(step.logged))
    waited, begin = 0.0, time.perf_counter()
    asked = begin
    for index, batch in enumerate(batches, first + 1):
        waited += time.perf_counter() - asked
        rate = arguments.lr * (1 - (index - 1) / steps) ** 0.9
        for group, multiplier in zip(optimizer.param_groups, (1, arguments.decoder_lr_multiplier)):
            group["lr"] = rate * multiplier
        step(batch)
        if index % arguments.log_every == 0 or index == steps:
            mean = means(index, *printed)
            printed = (index, dict(step.logged))
            print(f"step {index}/{steps}  loss {mean['loss']:.4f} (labelled {mean['labeled']:.4f}, strong {mean['strong']:.4f}, "
                  f"dropped {mean['dropped']:.4f})  accepted {100 * mean['mask']:.1f}%  lr {rate:.2e}", flush=True)
            if not math.isfinite(mean["loss"]):
                raise SystemExit("the loss is no number")
        if index % arguments.save_every == 0 or index == steps:
            records.append(record(index, recorded[0], means(index, *recorded), waited, time.perf_counter() - begin))
            save(index)
            recorded = (index, dict(step.logged))
            waited, begin = 0.0, time.perf_counter()
        asked = time.perf_counter()

    begin = time.perf_counter()
    scores = evaluate(model, arguments)
    if not records:  # --steps 0
        records.append(record(0, 0, means(0, *recorded), 0.0, 0.0))
    records[-1]["val"] = scores
    records[-1]["seconds"] += time.perf_counter() - begin
    write_metrics(run, records, arguments.classes)
    replace_file(run / "weights.safetensors", lambda file: safetensors.torch.save_file(
        {name: tensor.contiguous() for name, tensor in model.state_dict().items()}, file))
    write_status(arguments, "done", steps)
    (run / "state.pt").unlink(missing_ok=True)
    print(f"mIoU {100 * scores['miou']:.2f}")


if __name__ == "__main__":
    main()
