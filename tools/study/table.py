"""Table of the runs of a study: scores of the last evaluated epoch, in percent.

Usage: python3 tools/study/table.py DIR [--rare NAME,NAME,...] [--best]

DIR holds one run folder per run, called NAME-SEED; runs of one NAME are averaged. `rare` is the mean IoU of the classes named.
--best takes the epoch with the best mIoU, as papers do, instead of the last one.
"""
import argparse
import csv
import json
import pathlib
import statistics


def class_names(run):
    with open(run / "metrics.csv", newline="") as file:
        header = next(csv.reader(file))
    return [column[len("iou/"):] for column in header if column.startswith("iou/")]


def scores_of(run, best):
    with open(run / "metrics.jsonl") as file:
        scores = [line["val"] for line in map(json.loads, file) if line.get("val")]
    if not scores:
        return None
    return max(scores, key=lambda s: s["miou"]) if best else scores[-1]


def mean(values):
    known = [v for v in values if v is not None]
    return statistics.mean(known) if known else None


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("dir", type=pathlib.Path)
    parser.add_argument("--rare", default="")
    parser.add_argument("--best", action="store_true")
    options = parser.parse_args()

    groups, names = {}, None
    for file in sorted(options.dir.glob("*/metrics.csv")):
        scores = scores_of(file.parent, options.best)
        if scores is None:
            continue
        names = names or class_names(file.parent)
        groups.setdefault(file.parent.name.rsplit("-", 1)[0], []).append((file.parent.name, scores))
    if not groups:
        raise SystemExit(f"no evaluated run in {options.dir}")
    rare = [names.index(name) for name in options.rare.split(",") if name]

    def row(name, values):
        print(f"{name:26}" + "".join("     -" if v is None else f"{100 * v:6.1f}" for v in values))

    head = ["mIoU", "cl.acc", "px.acc"] + (["rare"] if rare else []) + [name[:5] for name in names]
    print(f"Scores in percent, {'best' if options.best else 'last'} epoch")
    print(f"{'run':26}" + "".join(f"{h:>6}" for h in head))
    for group, runs in groups.items():
        table = []
        for name, s in runs:
            extra = [mean([s["iou"][c] for c in rare])] if rare else []
            table.append([s["miou"], s["mean_class_accuracy"], s["pixel_accuracy"], *extra, *s["iou"]])
            row(name, table[-1])
        if len(runs) > 1:
            row(f"{group}, mean", [mean(column) for column in zip(*table)])
            error = statistics.stdev(line[0] for line in table) / len(runs) ** 0.5
            print(f"{'':26}mIoU {100 * mean([line[0] for line in table]):.1f} +- {100 * error:.1f} "
                  f"(standard error, {len(runs)} seeds)")


main()
