#!/usr/bin/env bash
# The CamVid study: supervised training with three seeds, each class weighting, FixMatch and Mean Teacher, on 1/8 of the labels.
#
#   bash tools/study/camvid.sh DATA WEIGHTS OUT [JOBS]
#   SEMISEG=/elsewhere/semiseg bash tools/study/camvid.sh ...      another binary than build/semiseg
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

. tools/study/job.sh

# camvid NAME CONFIG [key=value ...]: a job, where its name was asked for
camvid() {
  local name=$1 config=$2
  shift 2
  if [[ -n $jobs && ,$jobs, != *,$name,* ]]; then return 0; fi
  job "$out/$name" "configs/camvid/$config.yaml" data.root="$data" model.weights="$weights" "$@"
}

# An epoch of 46 images is 12 steps, shorter than an evaluation: evaluate half way and at the end.
for seed in 0 1 2; do camvid supervised-$seed supervised seed=$seed eval.every=17; done
for weighting in inverse median enet effective; do
  camvid $weighting-0 supervised seed=0 eval.every=17 loss.class_weights=$weighting
done
for seed in 0 1; do
  camvid fixmatch-$seed fixmatch seed=$seed
  camvid mean_teacher-$seed mean_teacher seed=$seed
done

"${PYTHON:-python3}" tools/study/table.py "$out" --rare pole,sign,fence,pedestrian,bicyclist
