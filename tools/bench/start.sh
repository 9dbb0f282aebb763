#!/usr/bin/env bash
# Seconds from the start of the process until its first training step can begin, and until that step has ended, beside Python with
# segmentation_models_pytorch (unimatch_step.py), both on this machine, taking turns.
#
#   bash tools/bench/start.sh PYTHON [ROUNDS]    PYTHON: one that has torch and segmentation_models_pytorch; ROUNDS: default 5
#
# UniMatch, ResNet-18, crop 256, float32, the same rendered scenes for both; BATCH (2, of each kind) and THREADS (2) can be set. The
# clock is read when the lines arrive that a process writes before it loads its first batch and after its step; the process is
# then ended. semiseg has by its first line read every label and written its run folder; Python has imported its libraries and
# built network and optimizer. A first round warms the disk's cache and is left out.
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
import os, shutil, signal, statistics, subprocess, sys, time

rounds, (work, python, batch, threads) = int(sys.argv[1]), sys.argv[2:]
peer = [python, "tools/bench/unimatch_step.py", "--data", f"{work}/data", "--batch-labeled", batch, "--batch-unlabeled", batch,
        "--threads", threads, "--warmup", "0", "--steps", "1"]
ours = ["build/semiseg", "train", f"{work}/unimatch.yaml"]


def seconds(command, marks):
    elapsed, begin = [], time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as process:
        for line in process.stdout:
            if marks[len(elapsed)] in line:
                elapsed.append(time.perf_counter() - begin)
            if len(elapsed) == len(marks):
                os.killpg(process.pid, signal.SIGKILL)  # its loading processes, too
                return elapsed
    raise SystemExit(f"{command[0]} ended without a step")


rows = []
for n in range(rounds + 1):
    rows.append((seconds(peer, ["ready", "step_ms"]), seconds(ours, ["run folder:", "step 1/"])))
    shutil.rmtree(f"{work}/run")
print(f"{'':22} {'Python':>8} {'semiseg':>8} {'ratio':>7}")
for i, what in enumerate(("ready for its first", "end of its first step")):
    theirs, ours = ([row[side][i] for row in rows[1:]] for side in (0, 1))
    print(f"{what:22} {statistics.median(theirs):7.2f}s {statistics.median(ours):7.2f}s "
          f"{statistics.median(t / o for t, o in zip(theirs, ours)):7.2f}")
PY
