#!/usr/bin/env bash
# The fused operations beside what they replace in Python, taking turns on this machine.
#
#   bash tools/bench/ops.sh PYTHON [ROUNDS]     PYTHON: one that has torch and torchmetrics; ROUNDS: default 3
#
# Logits [4, 19, 128, 256] -> 512 x 1024, float32, 2 threads. Prints medians over the rounds, the median of the rounds' ratios (above 1:
# semiseg is faster) and the memory beyond the inputs. OPS, LAYOUTS (contiguous, channels_last), REPEATS and THREADS in the environment
# change that.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=${1:?usage: bash tools/bench/ops.sh PYTHON [ROUNDS]}
rounds=${2:-3}
ops=${OPS:-loss predict confusion mix} layouts=${LAYOUTS:-contiguous channels_last} repeats=${REPEATS:-5}
export OMP_NUM_THREADS=${THREADS:-2}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
ninja -C build bench_ops >/dev/null

for op in $ops; do
  for layout in $layouts; do
    arguments=("$op" 4 19 128 256 512 1024 "$repeats")
    if [[ $layout == channels_last ]]; then arguments+=(channels_last); fi
    for ((round = 1; round <= rounds; ++round)); do
      "$python" tools/bench/ops_peer.py "${arguments[@]}" >>"$work/peer.$op.$layout"
      build/bench_ops "${arguments[@]}" >>"$work/ours.$op.$layout"
    done
  done
done

python3 - "$work" "$ops" "$layouts" <<'PY'
import json, statistics, sys

work = sys.argv[1]
print(f"{'':24} {'Python ms':>10} {'semiseg ms':>11} {'ratio':>6} {'Python MiB':>11} {'semiseg MiB':>12}")
for op in sys.argv[2].split():
    for layout in sys.argv[3].split():
        peer, ours = ([json.loads(line) for line in open(f"{work}/{side}.{op}.{layout}")] for side in ("peer", "ours"))
        middle = lambda runs, key: statistics.median(run[key] for run in runs)
        ratio = statistics.median(p["ms"] / o["ms"] for p, o in zip(peer, ours))
        print(f"{op + ' ' + layout:24} {middle(peer, 'ms'):10.1f} {middle(ours, 'ms'):11.1f} {ratio:6.1f} "
              f"{middle(peer, 'extra_mib'):11.1f} {middle(ours, 'extra_mib'):12.1f}")
PY
