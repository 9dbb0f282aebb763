#!/usr/bin/env bash
# UniMatch's step and its memory beside the published Python step on segmentation_models_pytorch (unimatch_step.py), both on this
# machine, taking turns.
#
#   bash tools/bench/unimatch.sh PYTHON [ROUNDS]    PYTHON: one that has torch and segmentation_models_pytorch; ROUNDS: default 5
#
# Rows, of which ROWS in the environment chooses:
#   step         ResNet-18, crop 256, 2 + 2, data included: the precision that semiseg chooses, against float32 as users run it
#   step-bf16    the same with bf16 on both sides, the Python side in channels-last
#   memory       ResNet-50, crop 768, 1 + 1, in float32: resident memory at its peak
#   memory-bf16  the same with bf16 on both sides, the Python side in channels-last
# Data: rendered street scenes of SIZE (512x1024) as PNG. STEPS (10), MEMORY_STEPS (2) and THREADS (2) can be set too. bf16 takes many
# seconds a step on a processor without bfloat16 instructions.
#
# Prints for each row the medians over the rounds of both sides, and the median of the rounds' ratios: for a step, Python's time over
# semiseg's; for memory, semiseg's share of Python's.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=${1:?usage: bash tools/bench/unimatch.sh PYTHON [ROUNDS]}
rounds=${2:-5}
rows=${ROWS:-step step-bf16 memory memory-bf16} size=${SIZE:-512x1024} threads=${THREADS:-2}
steps=${STEPS:-10} memory_steps=${MEMORY_STEPS:-2}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=$threads

build/semiseg synth "$work/data" --train 32 --val 1 --size "$size" --seed 1 >/dev/null
cat >"$work/unimatch.yaml" <<YAML
data: {format: cityscapes, root: $work/data, labeled: "1/2", workers: 2}
semi: {method: unimatch, threshold: 0.95}
optim: {kind: sgd, lr: 0.01, momentum: 0.9, weight_decay: 0.0001, steps: 1000}
YAML

# run_both ROW ROUND BACKBONE CROP BATCH STEPS OUR_PRECISION THEIR_PRECISION
run_both() {
  local layout=--no-channels-last
  [ "$8" = bf16 ] && layout=--channels-last
  "$python" tools/bench/unimatch_step.py --data "$work/data" --backbone "$3" --crop "$4" --batch-labeled "$5" --batch-unlabeled "$5" \
    --precision "$8" $layout --threads "$threads" --steps "$6" --warmup 2 >"$work/theirs.$1.$2"
  build/semiseg bench "$work/unimatch.yaml" model.backbone="$3" data.crop="$4" optim.batch_labeled="$5" optim.batch_unlabeled="$5" \
    run.precision="$7" --steps "$6" --json "$work/ours.$1.$2" >"$work/out"
  echo "$1 round $2: done" >&2
}

for ((round = 1; round <= rounds; ++round)); do
  for row in $rows; do
    case $row in
      step) run_both $row $round resnet18 256 2 "$steps" auto fp32 ;;
      step-bf16) run_both $row $round resnet18 256 2 "$steps" bf16 bf16 ;;
      memory) run_both $row $round resnet50 768 1 "$memory_steps" fp32 fp32 ;;
      memory-bf16) run_both $row $round resnet50 768 1 "$memory_steps" bf16 bf16 ;;
      *) echo "unimatch.sh: no row is called \"$row\"" >&2; exit 2 ;;
    esac
  done
done

python3 - "$work" "$rounds" "$rows" <<'PY'
import json, statistics, sys

work, rounds = sys.argv[1], int(sys.argv[2])


def read(path):
    text = open(path).read()
    return json.loads(text[text.index("{"):])


print(f"{'':12} {'Python':>10} {'semiseg':>10} {'ratio':>7}")
for row in sys.argv[3].split():
    memory = row.startswith("memory")
    key = "peak_memory_mb" if memory else "step_ms"
    pairs = []
    for n in range(1, rounds + 1):
        pairs.append([read(f"{work}/{side}.{row}.{n}")[key] for side in ("theirs", "ours")])
    ratio = statistics.median(ours / theirs if memory else theirs / ours for theirs, ours in pairs)
    theirs, ours = (statistics.median(side) for side in zip(*pairs))
    print(f"{row:12} {theirs:10.1f} {ours:10.1f} {ratio:7.2f}  {'MiB, share' if memory else 'ms, times faster'}")
PY
