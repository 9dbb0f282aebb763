#!/usr/bin/env bash
# Seconds from the start of the process to the end of its first training step, beside Python with segmentation_models_pytorch
# (unimatch_step.py), both on this machine, taking turns.
#
#   bash tools/bench/start.sh PYTHON [ROUNDS]    PYTHON: one that has torch and segmentation_models_pytorch; ROUNDS: default 5
#
# UniMatch, ResNet-18, crop 256, float32, the same rendered scenes for both; BATCH (2, of each kind) and THREADS (2) can be set. The
# clock stops when the line that a process writes after its step arrives; the process is then ended. semiseg has by then read
# every label and written its run folder; Python has imported its libraries and started its loaders' workers. A first round warms
# the disk's cache and is left out.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

python=${1:?usage: bash tools/bench/start.sh PYTHON [ROUNDS]}
rounds=${2:-5} threads=${THREADS:-2} batch=${BATCH:-2}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export OMP_NUM_THREADS=$threads

build/semiseg synth "$work/data" --train 32 --val 1 --size 256x512 --seed 1 >/dev/null
cat >"$work/unimatch.yaml" <<YAML
data: {format: cityscapes, root: $work/data, labeled: "1/2", crop: 256, workers: 2}
model: {backbone: resnet18}
semi: {method: unimatch}
optim: {kind: sgd, lr: 0.01, batch_labeled: $batch, batch_unlabeled: $batch, steps: 1000}
report: {every_steps: 1}
run: {precision: fp32, dir: $work/run}
YAML

python3 - "$rounds" "$work" "$python" "$batch" "$threads" <<'PY'
import shutil, statistics, subprocess, sys, time

rounds, work, python, batch, threads = int(sys.argv[1]), *sys.argv[2:]
peer = [python, "tools/bench/unimatch_step.py", "--data", f"{work}/data", "--batch-labeled", batch, "--batch-unlabeled", batch,
        "--threads", threads, "--warmup", "0", "--steps", "1"]
ours = ["build/semiseg", "train", f"{work}/unimatch.yaml"]


def seconds(command, mark):
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if mark in line:
                elapsed = time.perf_counter() - begin
                process.kill()
                return elapsed
    raise SystemExit(f"{command[0]} ended without a step")


times = {"Python": [], "semiseg": []}
for n in range(rounds + 1):
    times["Python"].append(seconds(peer, "step_ms"))
    times["semiseg"].append(seconds(ours, "step 1/"))
    shutil.rmtree(f"{work}/run")
times = {name: values[1:] for name, values in times.items()}
for name, values in times.items():
    print(f"{name:8} {statistics.median(values):6.2f} s")
ratios = [theirs / ours for theirs, ours in zip(times["Python"], times["semiseg"])]
print(f"ratio    {statistics.median(ratios):6.2f}")
PY
