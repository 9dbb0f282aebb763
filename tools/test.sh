#!/usr/bin/env bash
# Builds everything and runs all tests. Further arguments go to ctest and run it alone: bash tools/test.sh -R Config
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

bash tools/setup.sh
status=0
# Tests that need them are skipped, and say so, where they cannot be had.
if [[ -x .venv/bin/python ]] && ! .venv/bin/python -c "import numpy, onnx, onnxruntime, safetensors, tensorboard" 2>/dev/null; then
  echo "test: installing the Python packages that read semiseg's files back"
  .venv/bin/python -m pip --disable-pip-version-check --no-input -q install -r tools/requirements-test.txt ||
    echo "test: they could not be installed; the tests that need them will be skipped" >&2
fi

if (($# == 0)); then
  if [[ $(clang-format --version 2>/dev/null) == *"version 14."* ]]; then
    find include models src tests examples -name '*.h' -o -name '*.cpp' | xargs clang-format --dry-run -Werror || {
      echo "test: error: the files above are not formatted; run clang-format -i on them" >&2
      status=1
    }
  fi
  bash tools/check/bad_input.sh || status=1
  python3 tools/check/docs.py || status=1
  bash tools/check/resume.sh 2 || status=1
  bash tools/check/install.sh || status=1
  for method in prevmatch cps u2pl; do bash tools/check/resume.sh --method $method 1 || status=1; done
fi

# Two tests at a time with one compute thread each: two with two threads on two cores wait for each other most of the time.
OMP_NUM_THREADS=1 ctest --test-dir build --output-on-failure -j2 "$@" || status=1
if ((status)); then echo "test: failed; see above" >&2; fi
exit "$status"
