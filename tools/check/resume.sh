#!/usr/bin/env bash
# Exact resume: a run that is killed and resumed at random moments must end with the weights of one that was never stopped.
#
#   bash tools/check/resume.sh [--seed S] [N [CONFIG.yaml [key=value ...]]]
#   bash tools/check/resume.sh --method NAME|all [N]
#
# N trials (default 4). Each starts the run, stops it up to three times, by SIGTERM and by kill -9 in turn, resumes it (now and then
# with other loader threads) until it is done, and compares: the data section of last.safetensors by cmp, the tensors' names, types
# and shapes, and metrics.jsonl but for its times. Without CONFIG: FixMatch with an EMA teacher, or the method named, on small
# synthetic scenes, with every part that keeps running statistics.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

seed=1 method=fixmatch
while [[ ${1:-} == --* ]]; do
  case $1 in
    --seed) seed=$2 ;;
    --method) method=$2 ;;
    *)
      echo "unknown flag $1" >&2
      exit 2
      ;;
  esac
  shift 2
done
if [[ $method == all ]]; then
  status=0
  for method in supervised pseudo_label mean_teacher fixmatch unimatch unimatch_v2 augseg prevmatch cps u2pl; do
    echo "resume: $method"
    bash "$0" --seed "$seed" --method $method "${1:-1}" || status=1
  done
  exit $status
fi
trials=${1:-4}
(($#)) && shift
semiseg=${SEMISEG:-build/semiseg}
work=$(mktemp -d)
pid=
trap '[[ -z $pid ]] || kill -9 "$pid" 2>/dev/null || true; rm -rf "$work"' EXIT

if (($# == 0)); then
  settings="method: $method"
  case $method in fixmatch) settings+=", teacher: ema" ;; pseudo_label) settings+=", teacher: history, history: 2" ;; esac
  case $method in
    supervised | mean_teacher | u2pl) ;;
    augseg) settings+=", threshold: {kind: quantile, share: 0.5}" ;;
    *) settings+=", threshold: {kind: class_adaptive}, align_distribution: true" ;;
  esac
  cat >"$work/resume.yaml" <<YAML
seed: 3
data: {format: synthetic, size: [64, 128], counts: [12, 24, 4], crop: 64, workers: 2}
model: {backbone: resnet18}
semi: {$settings}
sampler: {rare_class_temperature: 0.05}
optim: {lr: 0.01, batch_labeled: 2, epochs: 3}
checkpoint: {every_steps: 3}
report: {every_steps: 2}
YAML
  set -- "$work/resume.yaml"
fi

RANDOM=$seed  # all choices come from it; a subshell would begin a sequence of its own

# The bytes behind a .safetensors header (8 bytes of length, then the header itself).
data_section() {
  local length
  length=$(od -An -t u8 -N 8 "$1" | tr -d ' ')
  tail -c +$((length + 9)) "$1"
}

# Prints in what two finished runs differ, nothing when they are equal.
differences() {
  cmp <(data_section "$1/checkpoints/last.safetensors") <(data_section "$2/checkpoints/last.safetensors") >/dev/null ||
    echo "the data sections differ"
  "${PYTHON:-python3}" - "$1" "$2" <<'PY' || echo "they could not be compared"
import json, struct, sys

TIMES = ("seconds", "images_per_s", "data_wait", "peak_memory_mb")

def tensors(run):
    with open(run + "/checkpoints/last.safetensors", "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    header.pop("__metadata__", None)
    return {name: (t["dtype"], t["shape"], data[slice(*t["data_offsets"])]) for name, t in header.items()}

def metrics(run):
    with open(run + "/metrics.jsonl") as file:
        return [{k: v for k, v in json.loads(line).items() if k not in TIMES} for line in file]

a, b = (tensors(run) for run in sys.argv[1:3])
for name in sorted(a.keys() | b.keys()):
    if a.get(name) != b.get(name):
        print("tensor", name)
a, b = (metrics(run) for run in sys.argv[1:3])
if [line["epoch"] for line in b] != list(range(1, len(b) + 1)):
    print("epochs in metrics.jsonl:", [line["epoch"] for line in b])
for x, y in zip(a, b):
    for key in sorted(x.keys() | y.keys()):
        if x.get(key) != y.get(key):
            print("metrics.jsonl, epoch", x["epoch"], key)
if len(a) != len(b):
    print("metrics.jsonl has", len(b), "lines,", len(a), "in the run that was never stopped")
PY
}

begin=$(date +%s.%N)
"$semiseg" train "$@" run.dir="$work/whole" >"$work/out" 2>"$work/err" || {
  cat "$work/err" >&2
  exit 1
}
whole_seconds=$(awk -v a="$begin" -v b="$(date +%s.%N)" 'BEGIN { print b - a }')
echo "resume: the run that is never stopped took $whole_seconds s"

# One trial; says what it did on stdout and returns 1 when something is wrong.
trial() {
  local run=$work/trial-$1 kills=$((1 + RANDOM % 3)) done_kills=0 resumed=0 told="" command code delay wrong draw
  local next=TERM sent
  (($1 % 2)) || next=KILL
  rm -rf "$run"
  while true; do
    if [[ ! -e $run ]]; then
      command=(train "${@:2}" run.dir="$run")
    else
      if ! compgen -G "$run/checkpoints/*.safetensors" >/dev/null; then
        code=0
        "$semiseg" train --resume "$run" >"$work/out" 2>"$work/err" || code=$?
        if ((code != 7)) || [[ $(wc -l <"$work/err") != 1 ]]; then
          echo "$told: resuming without a checkpoint exited $code: $(<"$work/err")"
          return 1
        fi
        told+=" (no checkpoint yet: begun again)"
        rm -rf "$run"
        done_kills=0
        continue
      fi
      command=(train --resume "$run")
      resumed=1
      if ((RANDOM % 2)); then
        local workers=(0 1 3 8)
        command+=(data.workers=${workers[RANDOM % 4]})
        told+=" ${command[-1]}"
      fi
    fi

    "$semiseg" "${command[@]}" >"$work/out" 2>"$work/err" &
    pid=$!
    sent=
    if ((done_kills < kills)); then
      draw=$RANDOM
      delay=$(awk -v f="$draw" -v t="$whole_seconds" -v n=$kills 'BEGIN { printf "%.3f", t * (0.05 + f / 32768 * 0.9 / n) }')
      sleep "$delay"
      if kill -"$next" "$pid" 2>/dev/null; then sent=$next; fi
    fi
    code=0
    wait "$pid" 2>/dev/null || code=$?
    pid=
    case $sent:$code in
      *:0)
        ((resumed)) && break
        rm -rf "$run"  # it was done before the signal came, which tries nothing
        done_kills=0
        continue
        ;;
      TERM:143 | KILL:137) told+=" $sent@${delay}s" ;;
      *)
        echo "$told: exit code $code after signal '$sent': $(<"$work/err")"
        return 1
        ;;
    esac
    done_kills=$((done_kills + 1))
    [[ $next == TERM ]] && next=KILL || next=TERM
  done
  wrong=$(differences "$work/whole" "$run")
  if [[ -n $wrong ]]; then
    echo "$told: differs in $(head -n 5 <<<"$wrong" | paste -sd ';')"
    return 1
  fi
  echo "$told: equal"
  rm -rf "$run"
}

passed=0 failed=0
for ((i = 1; i <= trials; ++i)); do
  # Not in a subshell: the trials share one sequence of random numbers.
  if trial "$i" "$@" >"$work/told"; then passed=$((passed + 1)); else failed=$((failed + 1)); fi
  echo "resume: trial $i:$(<"$work/told")"
done
echo "$passed passed, $failed failed"
((failed == 0))
