# Sourced by the studies: one run of a study, kept when it is done and resumed when it was stopped. JOBS in the environment (1): runs
# at a time, of those that do not wait for each other.

semiseg=${SEMISEG:-build/semiseg}

# is_done RUN
is_done() {
  local state
  state=$(sed -n 's/.*"state": *"\([a-z]*\)".*/\1/p' "$1/status.json" 2>/dev/null || true)
  [[ $state == done ]]
}

# job RUN train-arguments...: RUN is the run folder; what the terminal would show goes to RUN.out.
job() {
  local run=$1
  shift
  if is_done "$run"; then return 0; fi
  if compgen -G "$run/checkpoints/*.safetensors" >/dev/null; then
    echo "study: resuming $run"
    "$semiseg" train --resume "$run" >"$run.out"
  else
    rm -rf "$run"
    echo "study: running $run"
    "$semiseg" train "$@" run.dir="$run" >"$run.out"
  fi
}

# beside RUN train-arguments...: the same, beside up to JOBS - 1 others; finish_all waits for them, and fails where one has failed.
beside() { command_beside job "$@"; }

# command_beside COMMAND...: so with any command.
pids=()
command_beside() {
  if ((${JOBS:-1} <= 1)); then
    "$@"
    return
  fi
  while (($(jobs -pr | wc -l) >= JOBS)); do sleep 0.2; done
  "$@" &
  pids+=($!)
}
finish_all() {
  local pid failed=0
  for pid in "${pids[@]}"; do wait "$pid" || failed=1; done
  pids=()
  return $failed
}
