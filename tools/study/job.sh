# Sourced by the studies: one run of a study, kept when it is done and resumed when it was stopped.

semiseg=${SEMISEG:-build/semiseg}

# job RUN train-arguments...: RUN is the run folder; what the terminal would show goes to RUN.out.
job() {
  local run=$1 state
  shift
  state=$(sed -n 's/.*"state": *"\([a-z]*\)".*/\1/p' "$run/status.json" 2>/dev/null || true)
  if [[ $state == done ]]; then return 0; fi
  if compgen -G "$run/checkpoints/*.safetensors" >/dev/null; then
    echo "study: resuming $run"
    "$semiseg" train --resume "$run" >"$run.out"
  else
    rm -rf "$run"
    echo "study: running $run"
    "$semiseg" train "$@" run.dir="$run" >"$run.out"
  fi
}
