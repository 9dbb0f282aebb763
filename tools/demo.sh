#!/usr/bin/env bash
# Builds semiseg, trains on synthetic street scenes (nothing is downloaded for them) and shows how mIoU rose.
#
#   bash tools/demo.sh [--quick]     --quick: two tiny epochs, to see that everything works
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

settings=()
case ${1:-} in
  "") ;;
  --quick) settings=(optim.epochs=2 "data.counts=[8,8,4]") ;;
  *)
    echo "usage: bash tools/demo.sh [--quick]" >&2
    exit 2
    ;;
esac

bash tools/setup.sh semiseg

number=1
while [[ -e demo/run-$number ]]; do number=$((number + 1)); done
run=demo/run-$number
begin=$SECONDS
echo "demo: training configs/synthetic/demo.yaml into $run"
build/semiseg train configs/synthetic/demo.yaml run.dir="$run" "${settings[@]}"
[[ -d demo/images ]] || build/semiseg synth demo/images --train 2 --val 4 --size 128x256 --seed 7 >/dev/null
images=(demo/images/leftImg8bit/val/*)

echo
echo "demo: trained in $((SECONDS - begin)) s; validation scores per epoch:"
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
  build/semiseg predict $run/checkpoints/best.safetensors ${images[0]} -o demo/predictions
  build/semiseg config configs/synthetic/demo.yaml
  build/semiseg train --resume $run --extend 5
TEXT
