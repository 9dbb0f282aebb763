#!/usr/bin/env bash
# Step times of semiseg beside those of segmentation_models_pytorch at equal settings, both on this machine, taking turns.
#
#   bash tools/bench/compare.sh PYTHON [ROUNDS]     PYTHON: one that has torch and segmentation_models_pytorch; ROUNDS: default 3
#
# ResNet-18 and 50, fp32 and bf16, channels-last, batch 4, crop 256, 11 classes, 2 threads, supervised SGD, data loading left out.
# Prints the median over the rounds of each round's median step, and their ratio (above 1: semiseg is faster). BACKBONES, PRECISIONS,
# STEPS, BATCH, CROP and THREADS in the environment change that: bf16 takes minutes a step on a processor without bfloat16
# instructions.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=${1:?usage: bash tools/bench/compare.sh PYTHON [ROUNDS]}
rounds=${2:-3}
backbones=${BACKBONES:-resnet18 resnet50} precisions=${PRECISIONS:-fp32 bf16} steps=${STEPS:-10}
batch=${BATCH:-4} crop=${CROP:-256} threads=${THREADS:-2}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=$threads

# The first 11 of the label values are classes, the rest is ignored.
build/semiseg synth "$work/data" --train 32 --val 2 --size 360x480 --seed 1 >/dev/null
{
  echo "classes:"
  printf '  - {name: class%d}\n' $(seq 0 10)
  echo "ignore: [$(seq -s ', ' 11 254)]"
} >"$work/classes.yaml"
cat >"$work/bench.yaml" <<YAML
data: {format: cityscapes, root: $work/data, classes: classes.yaml, crop: $crop, workers: 1}
semi: {method: supervised}
optim: {kind: sgd, lr: 0.01, momentum: 0.9, weight_decay: 0.0001, batch_labeled: $batch, steps: 100}
YAML

for backbone in $backbones; do
  for precision in $precisions; do
    for ((round = 1; round <= rounds; ++round)); do
      name=$backbone.$precision.$round
      "$python" tools/bench/step_time.py --backbone $backbone --precision $precision --batch $batch --crop $crop \
        --threads $threads --steps "$steps" --warmup 2 >"$work/peer.$name"
      build/semiseg bench "$work/bench.yaml" model.backbone=$backbone run.precision=$precision --steps "$steps" \
        --json "$work/ours.$name" >"$work/out"
      echo "$backbone $precision round $round: done" >&2
    done
  done
done

python3 - "$work" "$rounds" "$backbones" "$precisions" <<'PY'
import json, statistics, sys

work, rounds = sys.argv[1], int(sys.argv[2])
print(f"{'':16} {'smp step ms':>12} {'semiseg step ms':>16} {'ratio':>6} {'smp MiB':>8} {'semiseg MiB':>12}")
for backbone in sys.argv[3].split():
    for precision in sys.argv[4].split():
        def read(side, key):
            reports = [json.load(open(f"{work}/{side}.{backbone}.{precision}.{n}")) for n in range(1, rounds + 1)]
            return statistics.median(report[key] for report in reports)
        peer, ours = read("peer", "step_ms"), read("ours", "step_without_data_ms")
        print(f"{backbone + ' ' + precision:16} {peer:12.1f} {ours:16.1f} {peer / ours:6.2f} "
              f"{read('peer', 'peak_memory_mb'):8.0f} {read('ours', 'peak_memory_mb'):12.0f}")
PY
