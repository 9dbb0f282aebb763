#!/usr/bin/env bash
# The study of the falling mIoU: a fair start, the fall, and each cure, with three seeds; then a table and what `diagnose` says.
#
#   bash tools/study/falling_miou.sh OUT                        drawn street scenes
#   bash tools/study/falling_miou.sh OUT DATA WEIGHTS           CamVid, an eighth of the labels, ResNet-50 from ImageNet weights
#   SEEDS="0 1" JOBS=2 SEMISEG=/elsewhere/semiseg bash tools/study/falling_miou.sh ...       two runs at a time
#
# Runs that are done are kept, one that was stopped is resumed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

(($# == 1 || $# == 3)) || {
  echo "usage: bash tools/study/falling_miou.sh OUT [DATA WEIGHTS]" >&2
  exit 2
}
out=$1 seeds=${SEEDS:-0 1 2}
mkdir -p "$out"
out=$(realpath "$out")
data=() start=() length=() rare=pole,"traffic light","traffic sign",person,rider,motorcycle,bicycle
if (($# == 3)); then
  root=$(realpath "$2")
  data=(data.format=list "data.root=$root" data.classes=camvid data.crop=256 data.labeled=splits/1_8/labeled.txt
    data.unlabeled=splits/1_8/unlabeled.txt data.val=splits/val.txt model.backbone=resnet50)
  start=("model.weights=$(realpath "$3")" optim.kind=sgd optim.lr=0.01 optim.steps=400 eval.every=17)
  length=(data.unlabeled_truth=false optim.lr=0.002 optim.batch_labeled=2 optim.batch_unlabeled=4 optim.epochs=4)
  rare=pole,sign,fence,pedestrian,bicyclist
fi

. tools/study/job.sh

for seed in $seeds; do
  beside "$out/start-$seed" configs/studies/balanced_start.yaml seed=$seed "${data[@]}" "${start[@]}"
done
finish_all
for seed in $seeds; do
  from="model.weights=$out/start-$seed/checkpoints/last.safetensors"
  beside "$out/falling-$seed" configs/studies/falling_miou.yaml seed=$seed "${data[@]}" "${length[@]}" "$from"
  for cure in configs/studies/cures/*.yaml; do
    beside "$out/$(basename "$cure" .yaml)-$seed" "$cure" seed=$seed "${data[@]}" "${length[@]}" "$from"
  done
done
finish_all

"${PYTHON:-python3}" tools/study/table.py "$out" --rare "$rare"
"$semiseg" diagnose "$out/falling-${seeds%% *}"
