#!/usr/bin/env bash
# Loading beside UniMatch's own data set (PIL, torchvision) at equal settings, each on one thread of this machine, taking turns.
#
#   bash tools/bench/loading.sh PYTHON [ROUNDS]     PYTHON: one that has torch, torchvision and PIL; ROUNDS: default 5
#
# Data: 1024 x 2048 PNG images of about 2.3 MB, as Cityscapes has them, with their labels. A step reads one labelled and two
# unlabelled samples (image, label, the weak and two strong views), crop 801, all normalised to float32: what one step of UniMatch
# reads with batches of one. Ours is "loader alone" of `semiseg bench` with data.workers=0, where the calling thread loads; a second
# line has data.cache on top. Prints medians over the rounds; the ratio (above 1: semiseg is faster) is that of the same round.
# In the environment: STEPS, steps of each round (default 10); SEMISEG, the program (default build/semiseg). Most of the time goes into the training steps that the command
# times as well.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=${1:?usage: bash tools/bench/loading.sh PYTHON [ROUNDS]}
rounds=${2:-5}
steps=${STEPS:-10}
semiseg=$(realpath "${SEMISEG:-build/semiseg}")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=1

"$semiseg" synth "$work/data" --train 8 --val 1 --size 1024x2048 --seed 1 >/dev/null
"$python" tools/bench/loading.py "$work/data" --photographs
cat >"$work/bench.yaml" <<YAML
base: $PWD/configs/methods/unimatch.yaml
data: {format: cityscapes, root: $work/data, labeled: 1/2, unlabeled_truth: true, crop: 801, workers: 0}
model: {backbone: resnet18}
optim: {batch_labeled: 1, batch_unlabeled: 1, steps: 100}
YAML

for ((round = 1; round <= rounds; ++round)); do
  "$python" tools/bench/loading.py "$work/data" --steps "$steps" --seed "$round" >"$work/peer.$round"
  "$semiseg" bench "$work/bench.yaml" seed="$round" --steps "$steps" --json "$work/plain.$round" >"$work/out"
  "$semiseg" bench "$work/bench.yaml" seed="$round" data.cache="$work/cache" --steps "$steps" --json "$work/cached.$round" \
    >"$work/out"
  echo "round $round: done" >&2
done

python3 - "$work" "$rounds" <<'PY'
import json, statistics, sys

work, rounds = sys.argv[1], range(1, int(sys.argv[2]) + 1)
peer = [json.load(open(f"{work}/peer.{n}"))["step_ms"] for n in rounds]
print(f"{'':22} {'step ms':>8} {'samples/s':>10} {'ratio':>6}")
for name, side in (("UniMatch's data set", None), ("semiseg", "plain"), ("semiseg, data.cache", "cached")):
    ours = [json.load(open(f"{work}/{side}.{n}"))["parts"]["loader alone"] for n in rounds] if side else peer
    ratio = statistics.median(theirs / own for theirs, own in zip(peer, ours))
    step = statistics.median(ours)
    print(f"{name:22} {step:8.1f} {3000 / step:10.1f} {ratio:6.2f}")
PY
