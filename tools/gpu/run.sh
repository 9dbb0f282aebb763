#!/usr/bin/env bash
# Runs in a bundle (tools/gpu/bundle.sh) on a machine with an NVIDIA GPU and the torch that the bundle was built for: the tests
# that need a GPU, exact resume, the benchmarks, steps and operations beside the Python peers, and a training. One file,
# results.json, says how each part went; table.md sets the measurements beside what they should reach (tools/gpu/table.py).
#
#   bash run.sh [OUT [PART...]]       OUT: folder for results.json, logs and runs (default: results)
#                                     PART: tests, sanitizer, resume, ops, bench, peers, train (default: all, in this order), and
#                                     study
#   PYTHON=python3 SECONDS_EACH=240 STEPS=300 bash run.sh out tests bench
#   SECONDS_ALL=570 SECONDS_EACH=150 bash run.sh out peers     ends in time: what is left is done when it is called again
#   JOBS=12 SEEDS="0 1 2" SPLITS=1_8 SECONDS_EACH=500 bash run.sh out study
#
# peers: steps, memory, losses and scores beside the Python peers, taking turns; those whose packages are missing are left out.
#   CASES ("resnet50:2 resnet50:8 resnet101:2 resnet101:8", the backbone and the images of each kind), CROP (800), SCENE (1024x2048)
#   and PEER_STEPS (20) say what is measured, ROUNDS (2) how often: the first case and the operations. DEVICE=cpu rehearses it
#   without a GPU. The scenes are drawn once, beside this script.
# study: every method on the bundle's data, and the falling mIoU with its cures (tools/study), JOBS runs at a time (default: 8).
#
# Parts that are done are kept and not run again, so that a run that was cut off goes on; trainings resume.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:-results}
(($#)) && shift
parts=("$@")
(($#)) || parts=(tests sanitizer resume ops bench peers train)
mkdir -p "$out"
out=$(cd "$out" && pwd)
limit=${SECONDS_EACH:-300} all=${SECONDS_ALL:-0} steps=${STEPS:-300} device=${DEVICE:-cuda}

python=${PYTHON:-python3}
export PYTHON=$python
torch=$("$python" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parent)') || {
  echo "run: error: $python has no torch; name one that has: PYTHON=/elsewhere/bin/python" >&2
  exit 1
}
given_libraries=${LD_LIBRARY_PATH:-}
# The libraries of CUDA lie beside torch's own where pip brought them.
export LD_LIBRARY_PATH=$torch/lib:$(printf '%s:' "$torch"/../nvidia/*/lib)$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export SEMISEG_BINARY=$here/bin/semiseg SEMISEG=$here/bin/semiseg
"$SEMISEG_BINARY" --version >"$out/version.txt" 2>&1 || {
  echo "run: error: the program does not start: $(tail -n 1 "$out/version.txt")" >&2
  exit 1
}

gpu=$(nvidia-smi --query-gpu=name,memory.total,driver_version --format=csv,noheader 2>/dev/null) || gpu="unknown: nvidia-smi fails"
grep -qxF -- "$gpu" "$out/gpu.txt" 2>/dev/null || echo "$gpu" >>"$out/gpu.txt"

wanted() { [[ " ${parts[*]} " == *" $1 "* ]]; }

# seconds_left MOST: how long what begins now may take; 0 is without end. Fails where SECONDS_ALL are over.
seconds_left() {
  local left=$((all - SECONDS))
  if ((all == 0 || ($1 && $1 < left))); then echo "$1"; else echo "$left" && ((left >= 5)); fi
}

# part NAME COMMAND...: its output goes to NAME.log, how it ended and how long it took to NAME.end.
part() {
  local name=$1 begin=$SECONDS code=0 seconds
  shift
  wanted "${name%%-*}" || return 0
  if [[ $(cat "$out/$name.end" 2>/dev/null) == "0 "* ]]; then return 0; fi
  seconds=$(seconds_left "$limit") || { echo "run: $name: no time is left"; return 0; }
  echo "run: $name"
  timeout -k 10 "$seconds" "$@" >"$out/$name.log" 2>&1 || code=$?
  echo "$code $((SECONDS - begin))" >"$out/$name.end"
  if ((code)); then echo "run: $name ended with $code: $(tail -n 1 "$out/$name.log")"; fi
}

training=(configs/synthetic/demo.yaml)
if [[ -d $here/data ]]; then
  training=(configs/camvid/fixmatch.yaml data.root="$here/data" optim.batch_labeled=4 optim.batch_unlabeled=4)
  if [[ -e $here/weights.safetensors ]]; then training+=(model.weights="$here/weights.safetensors"); fi
fi
cd "$here" || exit 1

part tests bin/semiseg_gpu_tests --gtest_output="json:$out/tests.json"
# Without PyTorch's cache each tensor is an allocation of its own, so that a step beyond one is seen. Where there is no
# compute-sanitizer the parts end with 127, which is no failure.
for tool in memcheck racecheck; do
  part sanitizer-$tool env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --tool $tool --error-exitcode 9 \
    bin/semiseg_gpu_tests --gtest_filter='CudaOps*'
done
part resume bash tools/check/resume.sh 2 configs/synthetic/demo.yaml run.device=cuda run.deterministic=true optim.epochs=2 \
  semi.ramp_up_epochs=0  # so that a graph is recorded
for method in supervised pseudo_label mean_teacher fixmatch unimatch unimatch_v2 augseg prevmatch cps u2pl; do
  part resume-$method bash tools/check/resume.sh --method $method 1
done
# Each operation at 512 x 1024 and 1024 x 2048, fused and as torch.nn.functional computes it.
part ops bash -c 'for size in "4 19 128 256 512 1024" "4 19 256 512 1024 2048"; do
  for operation in loss predict confusion mix; do for type in "" bf16; do for form in "" plain; do
    result=$(bin/bench_ops $operation $size 50 cuda $type $form) || exit
    echo "$operation $size $type $form: $result"
  done; done; done; done'
for config in synthetic/demo cityscapes/unimatch; do
  real=()
  [[ $config == synthetic/* ]] || real=(data.format=synthetic data.root= data.size='[1024, 2048]' data.counts='[16, 16, 4]' data.crop=800 \
    model.backbone=resnet50)
  part bench-"${config#*/}" bin/semiseg bench "configs/$config.yaml" run.device=cuda "${real[@]}" --json "$out/bench-${config#*/}.json"
done

# measure NAME COMMAND...: a part that prints a JSON object on a line, which goes to NAME.json.
measure() {
  part "$@"
  if [[ -e $out/$1.log ]] && ! grep '^{' "$out/$1.log" | tail -n 1 >"$out/$1.json"; then rm "$out/$1.json"; fi
}

# peer NEEDED NAME SCRIPT ARGUMENT...: measures a Python script, unless the package NEEDED is missing. It gets its own machine's
# libraries, not the bundle's.
peer() {
  local needed=$1 name=$2
  shift 2
  if grep -q "\"missing\".*\"$needed\":" "$out/peers-machine.json"; then return 0; fi
  measure "$name" env LD_LIBRARY_PATH="$given_libraries" "$python" tools/gpu/peer.py "$here/python" "$@"
}

# UniMatch's step as the peer has it, on drawn scenes from files. The peer's step is without loading.
# ours CASE NAME [SETTING...]
ours() {
  local backbone=${1%:*} batch=${1#*:} name=$2
  shift 2
  part "$name" bin/semiseg bench configs/cityscapes/unimatch.yaml run.device="$device" run.deterministic=false data.root="$scenes" \
    data.labeled=1/2 data.crop="$crop" data.workers="$workers" model.backbone="$backbone" model.decoder=fpn model.output_stride=32 \
    model.dropout=0.2 model.norm=batch loss.kind=ce semi.threshold=0.95 optim.batch_labeled="$batch" optim.batch_unlabeled="$batch" \
    "$@" --steps "$peer_steps" --json "$out/$name.json"
}

# theirs CASE NAME [FLAG...]
theirs() {
  local backbone=${1%:*} batch=${1#*:} name=$2
  shift 2
  peer segmentation_models_pytorch "$name" tools/bench/unimatch_step.py --device "$device" --backbone "$backbone" --crop "$crop" \
    --batch-labeled "$batch" --batch-unlabeled "$batch" --threshold 0.95 --warmup 5 --steps "$peer_steps" "$@"
}

if wanted peers; then
  read -ra cases <<<"${CASES:-resnet50:2 resnet50:8 resnet101:2 resnet101:8}"
  crop=${CROP:-800} scene=${SCENE:-1024x2048} peer_steps=${PEER_STEPS:-20} rounds=${ROUNDS:-2}
  scenes=$here/scenes-$scene cores=$(env -u OMP_NUM_THREADS nproc)
  workers=$((cores > 2 ? cores - 2 : 1))
  # Also brings Python's libraries from the disk, which takes minutes where it is cold.
  env LD_LIBRARY_PATH="$given_libraries" "$python" tools/gpu/peer.py "$here/python" machine >"$out/peers-machine.json"
  missing=$(grep -o '"missing": {"[^}]*}' "$out/peers-machine.json")
  if [[ -n $missing ]]; then echo "run: peers that need these packages are left out: ${missing#*: }"; fi
  if [[ ! -e $scenes/.complete ]]; then
    "$SEMISEG_BINARY" synth "$scenes" --train 48 --val 2 --size "$scene" >/dev/null && touch "$scenes/.complete"
  fi

  # What matters most comes first; what torch.compile takes minutes for comes last.
  case=${cases[0]}
  name=peers-${case/:/-}
  for ((round = 1; round <= rounds; ++round)); do
    ours $case $name-ours-$round
    theirs $case $name-fp32-$round
    theirs $case $name-bf16-$round --precision bf16 --channels-last
  done
  ours $case $name-deterministic-1 run.deterministic=true
  theirs $case $name-compile-1 --precision bf16 --channels-last --compile
  flags=(cuda bf16)
  [[ $device == cuda ]] || flags=(bf16)
  for ((round = 1; round <= rounds; ++round)); do
    for row in "torch loss 4 19 128 256 512 1024" "torchmetrics confusion 1 19 256 512 1024 2048"; do
      read -r needed operation sizes <<<"$row"
      measure peers-$operation-ours-$round bin/bench_ops $operation $sizes 50 "${flags[@]}"
      peer $needed peers-$operation-peer-$round tools/bench/ops_peer.py $operation $sizes 50 "${flags[@]}"
    done
  done
  for case in "${cases[@]:1}"; do
    name=peers-${case/:/-}
    theirs $case $name-fp32-1
    ours $case $name-ours-1
    theirs $case $name-bf16-1 --precision bf16 --channels-last
    ours $case $name-deterministic-1 run.deterministic=true
  done
  for case in "${cases[@]:1}"; do
    theirs $case peers-${case/:/-}-compile-1 --precision bf16 --channels-last --compile
  done
fi

if wanted study; then
  if [[ -d $here/data && -e $here/weights.safetensors ]]; then
    export JOBS=${JOBS:-8} OMP_NUM_THREADS=1 PYTHONPATH=$here/python${PYTHONPATH:+:$PYTHONPATH}
    # The first process reads the libraries from the disk, which takes minutes where it is cold; the others find them in memory.
    part study-warm bin/semiseg train configs/synthetic/demo.yaml run.device=cuda run.dir="$out/runs/warm" optim.epochs=1
    part study-methods bash tools/study/methods.sh data weights.safetensors "$out/methods"
    part study-falling bash tools/study/falling_miou.sh "$out/falling" data weights.safetensors
  else
    echo "run: study is left out: the bundle has no data or no weights"
  fi
fi
if wanted train && ! seconds=$(seconds_left 0); then
  echo "run: train: no time is left"
elif wanted train; then
  echo "run: train"
  begin=$SECONDS code=0
  run=$out/runs/train
  if compgen -G "$run/checkpoints/*.safetensors" >/dev/null; then
    training=(--resume "$run")
  else
    training+=(run.device=cuda run.dir="$run" optim.steps="$steps" checkpoint.every_steps=100)
  fi
  timeout -k 10 "$seconds" bin/semiseg train "${training[@]}" >>"$out/train.log" 2>&1 || code=$?
  echo "$code $((SECONDS - begin))" >"$out/train.end"
fi

"$python" tools/gpu/table.py "$out"
"$python" - "$out" <<'PY'
import json, pathlib, sys
out = pathlib.Path(sys.argv[1])
def read(name):
    try:
        return json.loads((out / name).read_text())
    except (OSError, ValueError):
        return None
gpu = (out / "gpu.txt").read_text().strip()
result = {"version": (out / "version.txt").read_text().strip(), "gpu": gpu, "table": read("table.json"), "parts": {}}
for end in sorted(out.glob("*.end")):
    code, seconds = map(int, end.read_text().split())
    log = (out / f"{end.stem}.log").read_text(errors="replace").splitlines()
    result["parts"][end.stem] = {"exit_code": code, "seconds": seconds, "last_lines": log[-40:] if end.stem.startswith(("ops", "study")) else log[-3:]}
tests = read("tests.json")
if tests:
    result["tests"] = {t["classname"] + "." + t["name"]: "failed" if "failures" in t else t["result"].lower()
                       for suite in tests["testsuites"] for t in suite["testsuite"]}
result["bench"] = {file.stem.removeprefix("bench-"): read(file.name) for file in sorted(out.glob("bench-*.json"))}
metrics = out / "runs" / "train" / "metrics.jsonl"
if metrics.exists():
    result["train"] = [{"epoch": e["epoch"], "step": e["step"], "seconds": e["seconds"], "images_per_s": e["images_per_s"],
                        "data_wait": e["data_wait"], "miou": (e.get("val") or {}).get("miou")}
                       for e in map(json.loads, metrics.read_text().splitlines())]
(out / "results.json").write_text(json.dumps(result, indent=1) + "\n")
print(f"run: {out / 'results.json'}")
missing = [name for name, part in result["parts"].items() if name.startswith("sanitizer") and part["exit_code"] == 127]
if missing:
    print("run: not run, as there is no compute-sanitizer:", ", ".join(missing))
# A peer that fails is no failure of ours; the table says why it has no number.
theirs = [name for name in result["parts"] if name.split("-")[-2:-1] in (["fp32"], ["bf16"], ["compile"], ["peer"])]
sys.exit(any(part["exit_code"] for name, part in result["parts"].items() if name not in missing + theirs))
PY
