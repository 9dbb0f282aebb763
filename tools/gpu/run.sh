#!/usr/bin/env bash
# Runs in a bundle (tools/gpu/bundle.sh) on a machine with an NVIDIA GPU and the torch that the bundle was built for: the tests that
# need a GPU, exact resume, the benchmarks and a training. One file, results.json, says how each part went.
#
#   bash run.sh [OUT [PART...]]       OUT: folder for results.json, logs and runs (default: results)
#                                     PART: tests, sanitizer, resume, ops, bench, train (default: all, in this order), and study
#   PYTHON=python3 SECONDS_EACH=240 STEPS=300 bash run.sh out tests bench
#   JOBS=12 SEEDS="0 1 2" SPLITS=1_8 SECONDS_EACH=500 bash run.sh out study
#
# study: every method on the bundle's data, and the falling mIoU with its cures (tools/study), JOBS runs at a time (default: 8).
#
# Parts that are done are kept and not run again, so that a run that was cut off goes on; trainings resume.
set -uo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:-results}
(($#)) && shift
parts=("$@")
(($#)) || parts=(tests sanitizer resume ops bench train)
mkdir -p "$out"
out=$(cd "$out" && pwd)
limit=${SECONDS_EACH:-300} steps=${STEPS:-300}

python=${PYTHON:-python3}
export PYTHON=$python
torch=$("$python" -c 'import pathlib, torch; print(pathlib.Path(torch.__file__).parent)') || {
  echo "run: error: $python has no torch; name one that has: PYTHON=/elsewhere/bin/python" >&2
  exit 1
}
# The libraries of CUDA lie beside torch's own where pip brought them.
export LD_LIBRARY_PATH=$torch/lib:$(printf '%s:' "$torch"/../nvidia/*/lib)$here/lib${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
export SEMISEG_BINARY=$here/bin/semiseg SEMISEG=$here/bin/semiseg
"$SEMISEG_BINARY" --version >"$out/version.txt" 2>&1 || {
  echo "run: error: the program does not start: $(tail -n 1 "$out/version.txt")" >&2
  exit 1
}

# part NAME COMMAND...: its output goes to NAME.log, how it ended and how long it took to NAME.end.
part() {
  local name=$1 begin=$SECONDS code=0
  shift
  [[ " ${parts[*]} " == *" ${name%%-*} "* ]] || return 0
  if [[ $(cat "$out/$name.end" 2>/dev/null) == "0 "* ]]; then return 0; fi
  echo "run: $name"
  timeout -k 10 "$limit" "$@" >"$out/$name.log" 2>&1 || code=$?
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
if [[ " ${parts[*]} " == *" study "* ]]; then
  if [[ -d $here/data && -e $here/weights.safetensors ]]; then
    export JOBS=${JOBS:-8} OMP_NUM_THREADS=1
    # The first process reads the libraries from the disk, which takes minutes where it is cold; the others find them in memory.
    part study-warm bin/semiseg train configs/synthetic/demo.yaml run.device=cuda run.dir="$out/runs/warm" optim.epochs=1
    part study-methods bash tools/study/methods.sh data weights.safetensors "$out/methods"
    part study-falling bash tools/study/falling_miou.sh "$out/falling" data weights.safetensors
  else
    echo "run: study is left out: the bundle has no data or no weights"
  fi
fi
if [[ " ${parts[*]} " == *" train "* ]]; then
  echo "run: train"
  begin=$SECONDS code=0
  run=$out/runs/train
  if compgen -G "$run/checkpoints/*.safetensors" >/dev/null; then
    training=(--resume "$run")
  else
    training+=(run.device=cuda run.dir="$run" optim.steps="$steps" checkpoint.every_steps=100)
  fi
  bin/semiseg train "${training[@]}" >>"$out/train.log" 2>&1 || code=$?
  echo "$code $((SECONDS - begin))" >"$out/train.end"
fi

"$python" - "$out" <<'PY'
import json, pathlib, subprocess, sys
out = pathlib.Path(sys.argv[1])
def read(name):
    try:
        return json.loads((out / name).read_text())
    except (OSError, ValueError):
        return None
try:
    gpu = subprocess.run(["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"],
                         capture_output=True, text=True).stdout.strip()
except OSError:
    gpu = "unknown: there is no nvidia-smi"
result = {"version": (out / "version.txt").read_text().strip(), "gpu": gpu, "parts": {}}
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
sys.exit(any(part["exit_code"] for name, part in result["parts"].items() if name not in missing))
PY
