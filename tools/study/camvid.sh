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
data=$(realpath "$1") weights=$(realpath "$2") out=$3 jobs=${4:-} semiseg=${SEMISEG:-build/semiseg}
mkdir -p "$out"
out=$(realpath "$out")

state_of() { sed -n 's/.*"state": *"\([a-z]*\)".*/\1/p' "$1/status.json" 2>/dev/null || true; }

# job NAME CONFIG [key=value ...]
job() {
  local name=$1 config=$2 run=$out/$1
  shift 2
  if [[ -n $jobs && ,$jobs, != *,$name,* ]] || [[ $(state_of "$run") == done ]]; then return 0; fi
  if compgen -G "$run/checkpoints/*.safetensors" >/dev/null; then
    echo "study: resuming $name"
    "$semiseg" train --resume "$run" >"$out/$name.out"
  else
    rm -rf "$run"
    echo "study: running $name"
    "$semiseg" train "configs/camvid/$config.yaml" data.root="$data" model.weights="$weights" run.dir="$run" "$@" >"$out/$name.out"
  fi
}

# An epoch of 46 images is 12 steps, shorter than an evaluation: evaluate half way and at the end.
for seed in 0 1 2; do job supervised-$seed supervised seed=$seed eval.every=17; done
for weighting in inverse median enet effective; do
  job $weighting-0 supervised seed=0 eval.every=17 loss.class_weights=$weighting
done
for seed in 0 1; do
  job fixmatch-$seed fixmatch seed=$seed
  job mean_teacher-$seed mean_teacher seed=$seed
done

python3 tools/study/table.py "$out" --rare pole,sign,fence,pedestrian,bicyclist
