#!/usr/bin/env bash
# The CamVid study: supervised training with three seeds, each class weighting, FixMatch and Mean Teacher, on 1/8 of the labels.
#
#   bash tools/study/camvid.sh DATA WEIGHTS OUT [JOBS]
#
# DATA     folder with images/, labels/ and splits/1_8/{labeled,unlabeled}.txt, splits/val.txt
# WEIGHTS  ImageNet weights of a ResNet-50
# OUT      one run folder per run; runs that are done are kept, one that was stopped is resumed
# JOBS     names of the runs to do, separated by commas (default: all); the table shows whatever OUT holds
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

(($# == 3 || $# == 4)) || {
  echo "usage: bash tools/study/camvid.sh DATA WEIGHTS OUT [JOBS]" >&2
  exit 2
}
data=$(realpath "$1") weights=$(realpath "$2") out=$3 jobs=${4:-}
mkdir -p "$out"
out=$(realpath "$out")

state_of() { sed -n 's/.*"state": *"\([a-z]*\)".*/\1/p' "$1/status.json" 2>/dev/null || true; }

# job NAME CONFIG [key=value ...]
job() {
  local name=$1 config=$2 run=$out/$1
  shift 2
  if [[ -n $jobs && ,$jobs, != *,$name,* ]] || [[ $(state_of "$run") == done ]]; then return 0; fi
  if compgen -G "$run/checkpoints/*.safetensors" >/dev/null; then
    echo "study: resuming $name"
    build/semiseg train --resume "$run" >"$out/$name.out"
  else
    rm -rf "$run"
    echo "study: running $name"
    build/semiseg train "configs/camvid/$config.yaml" data.root="$data" model.weights="$weights" run.dir="$run" "$@" >"$out/$name.out"
  fi
}

for seed in 0 1 2; do job supervised-$seed supervised seed=$seed; done
for weighting in inverse median enet effective; do job $weighting-0 supervised seed=0 loss.class_weights=$weighting; done
for seed in 0 1; do
  job fixmatch-$seed fixmatch seed=$seed
  job mean_teacher-$seed mean_teacher seed=$seed
done

python3 - "$out" <<'PY'
import json, pathlib, statistics, sys

NAMES = ("sky", "building", "pole", "road", "pavement", "tree", "sign", "fence", "car", "pedestrian", "bicyclist")
groups = {}
for file in sorted(pathlib.Path(sys.argv[1]).glob("*/metrics.jsonl")):
    scores = [line["val"] for line in map(json.loads, file.read_text().splitlines()) if line.get("val")]
    if scores:
        groups.setdefault(file.parent.name.rsplit("-", 1)[0], []).append((file.parent.name, scores[-1]))

def row(name, values):
    cells = ["     -" if v is None else f"{100 * v:6.1f}" for v in values]
    print(f"{name:22}" + "".join(cells))

print("Validation IoU in percent, last epoch")
print(f"{'run':22}" + "".join(f"{n[:5]:>6}" for n in ("mIoU", "acc", *NAMES)))
for group, runs in groups.items():
    table = [(s["miou"], s["mean_class_accuracy"], *s["iou"]) for _, s in runs]
    for (name, _), values in zip(runs, table):
        row(name, values)
    if len(runs) > 1:
        columns = [[v for v in column if v is not None] for column in zip(*table)]
        row(f"{group}, mean", [statistics.mean(c) if c else None for c in columns])
        error = statistics.stdev(columns[0]) / len(runs) ** 0.5
        print(f"{'':22}mIoU {100 * statistics.mean(columns[0]):.1f} +- {100 * error:.1f} (standard error, {len(runs)} seeds)")
PY
