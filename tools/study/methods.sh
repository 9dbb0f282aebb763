#!/usr/bin/env bash
# Every method on CamVid with a sixteenth and an eighth of the labels, ResNet-50 from ImageNet weights; then a table for each.
#
#   bash tools/study/methods.sh DATA WEIGHTS OUT [METHODS]
#   SPLITS="1_16" SEEDS="0 1 2" STEPS=400 SEMISEG=/elsewhere/semiseg bash tools/study/methods.sh ... unimatch,augseg
#
# OUT/SPLIT/METHOD-SEED is a run each; runs that are done are kept, one that was stopped is resumed. All see 2 + 2 images in a step
# (supervised: 4) at crop 256; the learning rate falls to 0 over STEPS (400).
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

(($# == 3 || $# == 4)) || {
  echo "usage: bash tools/study/methods.sh DATA WEIGHTS OUT [METHODS]" >&2
  exit 2
}
data=$(realpath "$1") weights=$(realpath "$2") out=$3 steps=${STEPS:-400}
methods=${4:-supervised,pseudo_label,mean_teacher,fixmatch,unimatch,augseg,prevmatch,cps,u2pl}
mkdir -p "$out"
out=$(realpath "$out")

. tools/study/job.sh

# method RUN METHOD SPLIT SEED
method() {
  local run=$1 method=$2 split=$3 seed=$4 every=1
  # An epoch of the labelled list alone is a few steps, shorter than an evaluation.
  if [[ $method == supervised ]]; then every=17; fi
  job "$run" "configs/camvid/$method.yaml" data.root="$data" data.labeled="splits/$split/labeled.txt" \
    data.unlabeled="splits/$split/unlabeled.txt" model.weights="$weights" optim.steps="$steps" seed="$seed" eval.every=$every
}

for split in ${SPLITS:-1_16 1_8}; do
  mkdir -p "$out/$split"
  for seed in ${SEEDS:-0}; do
    for name in ${methods//,/ }; do method "$out/$split/$name-$seed" "$name" "$split" "$seed"; done
  done
  echo "CamVid $split, $steps steps"
  python3 tools/study/table.py "$out/$split" --rare pole,sign,fence,pedestrian,bicyclist
done
