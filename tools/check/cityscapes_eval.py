#!/usr/bin/env python3
"""Compare the scores of `semiseg eval` with the official Cityscapes evaluator on exported labelIds, to 1e-6.

    python tools/check/cityscapes_eval.py [--checkpoint FILE --config FILE] [--semiseg build/semiseg]

Needs a Python with cityscapesscripts, numpy and pillow. Without a checkpoint, a small data set in the Cityscapes layout is drawn by
`semiseg synth` and a network is trained on it for a few steps. With one, the config must name a data set in that layout.
"""
import argparse
import json
import math
import pathlib
import subprocess
import sys
import tempfile

from cityscapesscripts.evaluation import evalPixelLevelSemanticLabeling as official
from cityscapesscripts.helpers.labels import labels

TOLERANCE = 1e-6
CONFIG = """
data: {{format: cityscapes, root: {root}, crop: 96}}
model: {{backbone: resnet18}}
optim: {{lr: 0.02, batch_labeled: 2, steps: 40}}
eval: {{every: 100}}
"""


def run(*words):
    subprocess.run([str(word) for word in words], check=True, stdout=subprocess.DEVNULL)


def official_scores(ground_truth, predictions):
    """Class name -> IoU (nan where the class is absent), and their mean."""
    args = official.args
    args.evalInstLevelScore = False
    args.JSONOutput = False
    args.quiet = True
    scores = official.evaluateImgLists(predictions, ground_truth, args)
    return scores["classScores"], scores["averageScoreClasses"]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint")
    parser.add_argument("--config")
    parser.add_argument("--semiseg", default="build/semiseg")
    arguments = parser.parse_args()
    if bool(arguments.checkpoint) != bool(arguments.config):
        parser.error("--checkpoint and --config go together")

    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        checkpoint, config = arguments.checkpoint, arguments.config
        if not checkpoint:
            root = folder / "city"
            run(arguments.semiseg, "synth", root, "--train", 8, "--val", 5, "--size", "100x212", "--seed", 11)
            config = folder / "city.yaml"
            config.write_text(CONFIG.format(root=root))
            run(arguments.semiseg, "train", config, f"run.dir={folder / 'run'}")
            checkpoint = folder / "run" / "checkpoints" / "last.safetensors"

        predictions = folder / "predictions"
        report = folder / "scores.json"
        run(arguments.semiseg, "eval", checkpoint, config, "--predictions", predictions, "--ids", "label", "--json", report)
        ours = json.loads(report.read_text())

        settings = subprocess.run([arguments.semiseg, "config", str(config)], check=True, capture_output=True, text=True).stdout
        root = next(line.split("root:")[1].split(" #")[0].strip().strip("'\"") for line in settings.splitlines() if "root:" in line)
        ground_truth = sorted(pathlib.Path(root).glob("gtFine/val/*/*_gtFine_labelIds.png"))
        written = {path.name: path for path in predictions.rglob("*.png")}
        pairs = []
        for truth in ground_truth:
            stem = truth.name.removesuffix("_gtFine_labelIds.png")
            found = [path for name, path in written.items() if name.startswith((stem + "_", stem + "."))]
            if len(found) != 1:
                sys.exit(f"{len(found)} predictions for {truth}")
            pairs.append((str(truth), str(found[0])))
        if len(written) != len(pairs):
            sys.exit(f"{len(written)} predictions for {len(pairs)} images")
        official_iou, official_mean = official_scores([p[0] for p in pairs], [p[1] for p in pairs])

    evaluated = [label for label in sorted(labels, key=lambda label: label.trainId) if not label.ignoreInEval]
    if len(ours["iou"]) != len(evaluated):
        sys.exit(f"semiseg reports {len(ours['iou'])} classes, the evaluator {len(evaluated)}")
    worst = abs(ours["miou"] - official_mean)
    print(f"{'class':16} {'semiseg':>10} {'official':>10}")
    for label, iou in zip(evaluated, ours["iou"]):
        expected = official_iou[label.name]
        if (iou is None) != math.isnan(expected):
            sys.exit(f"{label.name}: semiseg says {iou}, the evaluator {expected}")
        if iou is None:
            print(f"{label.name:16} {'absent':>10} {'absent':>10}")
            continue
        worst = max(worst, abs(iou - expected))
        print(f"{label.name:16} {iou:10.6f} {expected:10.6f}")
    print(f"{'mean':16} {ours['miou']:10.6f} {official_mean:10.6f}")
    print(f"{len(pairs)} images, largest difference {worst:.2e}")
    sys.exit(1 if worst > TOLERANCE else 0)


if __name__ == "__main__":
    main()
