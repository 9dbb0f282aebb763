#!/usr/bin/env bash
# Builds semiseg for NVIDIA GPUs, on a machine that needs to have none, into build-cuda/. LibTorch (a CUDA build) and the compiler
# come with pip into .venv-cuda; both are some 5 GB.
#
#   bash tools/gpu/build.sh [TARGET...]         (default: semiseg semiseg_gpu_tests bench_ops)
#   TORCH=2.13.0 CUDA=13.0 TORCH_CUDA_ARCH_LIST=9.0 bash tools/gpu/build.sh
#   OpenCV_DIR=/elsewhere/lib/cmake/opencv4 bash tools/gpu/build.sh       a static OpenCV makes a small bundle (tools/gpu/bundle.sh)
#
# TORCH is the version that is on the GPU machine: binaries of one version do not run with another. CUDA is that of its build.
# On a machine with the CUDA toolkit and a CUDA build of LibTorch of its own, `cmake --preset cuda` is all that is needed.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

torch=${TORCH:-2.11.0} cuda=${CUDA:-13.0}
(($#)) || set -- semiseg semiseg_gpu_tests bench_ops
venv=.venv-cuda python=.venv-cuda/bin/python
stamp=$venv/.ready-$torch-$cuda

if [[ ! -e $stamp ]]; then
  echo "gpu build: installing LibTorch $torch with CUDA and the compiler of CUDA $cuda into $venv"
  rm -rf "$venv" build-cuda  # one LibTorch's parts and objects do not go with another's
  python3 -m venv "$venv"
  pip() { "$python" -m pip --disable-pip-version-check --no-input -q install "$@"; }
  # ===: the release as it is, with CUDA, also where pip knows a build of it for the CPU (2.13.0+cpu), which it would prefer.
  pip "torch===$torch" 'cmake>=3.31' ninja numpy safetensors  # the last two: for tools/gpu/bundle.sh
  # The parts of one toolkit: pip would take the newest of each, and the compiler's do not work with each other's versions.
  pip "cuda-toolkit[nvcc,cccl,cudart,crt]==$cuda.*" "nvidia-nvvm==$cuda.*" "nvidia-cuda-crt==$cuda.*"
  touch "$stamp"
fi

# The wheels in the form of a toolkit. nvcc finds its parts from its own place, so that is copied; libraries get the names that
# linkers look for.
wheels=$(echo "$PWD/$venv"/lib/python3*/site-packages/nvidia/cu[0-9]*)
[[ -d $wheels/bin ]] || { echo "gpu build: error: there is no compiler in $wheels; remove $venv and run this again" >&2; exit 1; }
toolkit=$PWD/$venv/toolkit
rm -rf "$toolkit"
mkdir -p "$toolkit/lib64/stubs"
cp -r "$wheels/bin" "$toolkit/bin"
ln -s "$wheels/include" "$toolkit/include"
ln -s "$wheels/nvvm" "$toolkit/nvvm"
for file in "$wheels"/lib/lib*; do
  name=$(basename "$file")
  ln -s "$file" "$toolkit/lib64/$name"
  if [[ $name == *.so.* ]]; then ln -sf "$file" "$toolkit/lib64/${name%%.so.*}.so"; fi
done

export PATH=$PWD/$venv/bin:$PATH CUDACXX=$toolkit/bin/nvcc
more=()
if [[ -n ${OpenCV_DIR:-} ]]; then more+=("-DOpenCV_DIR=$OpenCV_DIR"); fi
cmake --preset cuda -DTorch_DIR="$(echo "$PWD/$venv"/lib/python3*/site-packages/torch/share/cmake/Torch)" \
  -DCUDA_TOOLKIT_ROOT_DIR="$toolkit" -DCUDAToolkit_ROOT="$toolkit" "${more[@]}" >build-cuda.log 2>&1 ||
  { tail -n 20 build-cuda.log >&2; echo "gpu build: error: the configuration failed; all of it is in build-cuda.log" >&2; exit 1; }
rm -f build-cuda.log
cmake --build build-cuda --target "$@"
