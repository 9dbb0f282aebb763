#!/usr/bin/env bash
# Every method on CamVid with a sixteenth and an eighth of the labels, ResNet-50 from ImageNet weights; then a table for each.
#
#   bash tools/study/methods.sh DATA WEIGHTS OUT [METHODS]
#   SPLITS="1_16" SEEDS="0 1 2" STEPS=600 JOBS=2 SEMISEG=/elsewhere/semiseg bash tools/study/methods.sh ... unimatch,augseg
#
# OUT/SPLIT/METHOD-SEED is a run each; runs that are done are kept, one that was stopped is resumed. A split and a seed have one
# start, START_STEPS (400) of supervised training with class weights and four images a step; every method goes on from it for STEPS
# (300) with its preset in configs/camvid, the same class weights, the same two labelled images a step and, but for supervised, two
# unlabelled ones. The learning rate falls to 0 in each, from .01 or, where a method adds its two losses or two images are all that a
# step sees, .005. supervised4 sees four labelled images a step instead: the compute of two and two; in supervised4_ema an average of
# its weights is evaluated, as in methods with such a teacher. fixmatch4 sees four and four. balanced is configs/camvid/balanced.yaml,
# FixMatch with the parts that serve rare classes. The second network of cps takes the backbone of the start alone: two that are equal
# have nothing to teach each other.
#
# unimatch_python is UniMatch in Python as published (unimatch_train.py), with the settings of unimatch and from the same start, scored
# at its end alone; left out where $PYTHON (python3) lacks segmentation_models_pytorch. It is float32, as published;
# UNIMATCH_FLAGS="--precision bf16 --channels-last" makes it what semiseg is on a GPU.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

(($# == 3 || $# == 4)) || {
  echo "usage: bash tools/study/methods.sh DATA WEIGHTS OUT [METHODS]" >&2
  exit 2
}
data=$(realpath "$1") weights=$(realpath "$2") out=$3 steps=${STEPS:-300} start_steps=${START_STEPS:-400} python=${PYTHON:-python3}
methods=${4:-supervised,supervised4,supervised4_ema,balanced,fixmatch,fixmatch4,unimatch,unimatch_python,unimatch_v2,augseg,mean_teacher,pseudo_label,self_training,prevmatch,cps,u2pl}
mkdir -p "$out"
out=$(realpath "$out")

. tools/study/job.sh

# camvid RUN CONFIG key=value...: a run on `split` with `seed`, beside others
camvid() {
  local run=$1 config=$2
  shift 2
  beside "$run" "configs/camvid/$config.yaml" data.root="$data" data.labeled="splits/$split/labeled.txt" \
    data.unlabeled="splits/$split/unlabeled.txt" loss.class_weights=enet seed="$seed" "$@"
}

# peer RUN START: UniMatch in Python from START, on `split` with `seed`
peer() {
  local run=$1 flags
  if is_done "$run"; then return 0; fi
  read -ra flags <<<"${UNIMATCH_FLAGS:-}"
  echo "study: running or resuming $run"
  "$python" tools/study/unimatch_train.py --data "$data" --labeled "splits/$split/labeled.txt" \
    --unlabeled "splits/$split/unlabeled.txt" --start "$2" --steps "$steps" --seed "$seed" --out "$run" "${flags[@]}" >>"$run.out"
}

if [[ ,$methods, == *,unimatch_python,* ]] && ! why=$("$python" tools/study/unimatch_train.py --help 2>&1); then
  echo "study: unimatch_python is left out: ${why##*$'\n'}"
  methods=$(sed 's/,unimatch_python,/,/; s/^,//; s/,$//' <<<",$methods,")
fi

splits=${SPLITS:-1_16 1_8} seeds=${SEEDS:-0}
for split in $splits; do
  mkdir -p "$out/$split"
  for seed in $seeds; do
    # Evaluated at its end alone: an epoch of the labelled list is a few steps, shorter than an evaluation.
    camvid "$out/$split/start-$seed" supervised model.weights="$weights" optim.steps="$start_steps" eval.every=1000
  done
done
finish_all

for split in $splits; do
  for seed in $seeds; do
    for method in ${methods//,/ }; do
      config=$method length=$steps from=$out/$split/start-$seed/checkpoints/last.safetensors more=()
      case $method in
        supervised) more=(optim.batch_labeled=2 optim.lr=0.005 eval.every=1000) ;;
        supervised4) config=supervised more=(eval.every=1000) ;;
        supervised4_ema) config=supervised more=(semi.ema_decay=0.99 eval.every=1000) ;;
        fixmatch4) config=fixmatch more=(optim.batch_labeled=4 optim.batch_unlabeled=4) ;;
        self_training) length=$((steps / 3)) more=(eval.every=1000) ;;  # of each of its three trainings
        unimatch_python)
          command_beside peer "$out/$split/$method-$seed" "$from"
          continue
          ;;
      esac
      camvid "$out/$split/$method-$seed" "$config" model.weights="$from" optim.steps="$length" "${more[@]}"
    done
  done
done
finish_all

for split in $splits; do
  echo "CamVid $split, $start_steps + $steps steps"
  "$python" tools/study/table.py "$out/$split" --rare pole,sign,fence,pedestrian,bicyclist
done
