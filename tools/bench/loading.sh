#!/usr/bin/env bash
# Loading beside UniMatch's own data set (PIL, torchvision) at equal settings, each on one thread of this machine, taking turns.
#
#   bash tools/bench/loading.sh PYTHON [ROUNDS]     PYTHON: one that has torch, torchvision and PIL; ROUNDS: default 5
#
# Data: 1024 x 2048 PNG images of about 2.5 MB, as Cityscapes has them, with their labels. A step reads one labelled and two
# unlabelled samples (image, label, the weak and two strong views), crop 801, all normalised to float32: what one step of UniMatch
# reads with batches of one. Ours is timed with and without data.cache. Prints medians over the rounds; the ratio (above 1: semiseg
# is faster) is the median of those of each round. STEPS in the environment: steps of each round (default 20).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=${1:?usage: bash tools/bench/loading.sh PYTHON [ROUNDS]}
rounds=${2:-5}
steps=${STEPS:-20}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=1

ninja -C build semiseg bench_loading >/dev/null
build/semiseg synth "$work/data" --train 8 --val 1 --size 1024x2048 --seed 1 >/dev/null
"$python" tools/bench/loading.py "$work/data" --photographs
cat >"$work/loading.yaml" <<YAML
data: {format: cityscapes, root: $work/data, labeled: 1/2, unlabeled_truth: true, crop: 801}
semi: {method: unimatch}
optim: {batch_labeled: 1, batch_unlabeled: 1, steps: 1}
YAML

for ((round = 1; round <= rounds; ++round)); do
  "$python" tools/bench/loading.py "$work/data" --steps "$steps" --seed "$round" >"$work/peer.$round"
  build/bench_loading "$work/loading.yaml" "$steps" seed="$round" >"$work/plain.$round"
  build/bench_loading "$work/loading.yaml" "$steps" seed="$round" data.cache="$work/cache" >"$work/cached.$round"
  echo "round $round: done" >&2
done

python3 - "$work" "$rounds" <<'PY'
import json, statistics, sys

work, rounds = sys.argv[1], range(1, int(sys.argv[2]) + 1)
def read(side):
    return [json.load(open(f"{work}/{side}.{n}"))["step_ms"] for n in rounds]
peer = read("peer")
print(f"{'':22} {'step ms':>8} {'samples/s':>10} {'ratio':>6}")
for name, side in (("UniMatch's data set", "peer"), ("semiseg", "plain"), ("semiseg, data.cache", "cached")):
    own = read(side)
    ratio = statistics.median(theirs / ours for theirs, ours in zip(peer, own))
    step = statistics.median(own)
    print(f"{name:22} {step:8.1f} {3000 / step:10.1f} {ratio:6.2f}")
PY
