#!/usr/bin/env bash
# Builds semiseg and its library, trains on synthetic street scenes (nothing is downloaded for them) into runs/demo and shows how
# mIoU rose. Run again, it goes on with a training that was stopped, and repeats none that is done.
#
#   bash tools/demo.sh [--quick]     --quick: two tiny epochs into runs/demo-quick, to see that everything works
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

run=runs/demo settings=()
case ${1:-} in
  "") ;;
  --quick) run=runs/demo-quick settings=(optim.epochs=2 "data.counts=[8,8,4]") ;;
  *)
    echo "usage: bash tools/demo.sh [--quick]" >&2
    exit 2
    ;;
esac

bash tools/setup.sh semiseg semiseg_library

begin=$SECONDS
if grep -qs '"state": "done"' "$run/status.json"; then
  echo "demo: $run is trained already (remove the folder to train anew)"
elif compgen -G "$run/checkpoints/*.safetensors" >/dev/null; then
  build/semiseg train --resume "$run"
else
  rm -rf "$run"
  echo "demo: training configs/synthetic/demo.yaml into $run"
  build/semiseg train configs/synthetic/demo.yaml run.dir="$run" "${settings[@]}"
fi
[[ -d runs/demo-photos ]] || build/semiseg synth runs/demo-photos --train 2 --val 4 --size 128x256 --seed 7 >/dev/null
photos=runs/demo-photos/leftImg8bit/val

echo
echo "demo: $((SECONDS - begin)) s; validation scores per epoch:"
awk -F, '
  NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; printf "%8s %8s %20s %15s\n", "epoch", "mIoU", "mean class accuracy", "pixel accuracy" }
  NR > 1 && $column["miou"] != "" {
    printf "%8d %8.4f %20.4f %15.4f\n", $column["epoch"], $column["miou"], $column["mean_class_accuracy"], $column["pixel_accuracy"]
  }' "$run/metrics.csv"

echo
echo "demo: the run folder is $run (metrics.jsonl, train.log, checkpoints/)"
if [[ -e $run/report.html ]]; then echo "demo: the report is $run/report.html"; fi
cat <<TEXT

Try next:
  build/semiseg eval $run/checkpoints/best.safetensors
  build/semiseg predict $run/checkpoints/best.safetensors $photos -o runs/demo-predictions
  build/semiseg config configs/synthetic/demo.yaml
  build/semiseg train --resume $run --extend 5
TEXT
