#!/usr/bin/env bash
# Packs what tools/gpu/build.sh has built into a folder that runs on a machine without network or root rights, with its own torch:
# the programs, the libraries that such a machine lacks, presets, and tools/gpu/run.sh with what it calls.
#
#   bash tools/gpu/bundle.sh OUT [--data DIR] [--weights FILE.safetensors] [--peers]
#
# OUT       a folder, made anew; send it as it is, or `tar cJf semiseg-gpu.tar.xz OUT`
# --data    real images to train on: a folder with images/, labels/ and splits/ as CamVid's (README.md); else drawn scenes alone
# --weights ImageNet weights; they travel as bfloat16, at half their size
# --peers   segmentation_models_pytorch, which run.sh's parts `peers` and `study` compare with. What it needs in turn, torchvision, timm,
#           huggingface_hub, safetensors, tqdm, pillow and numpy, is taken to be beside torch there, and so is torchmetrics
set -euo pipefail
repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

out=${1:?usage: bash tools/gpu/bundle.sh OUT [--data DIR] [--weights FILE.safetensors] [--peers]}
shift
data= weights= peers=
while (($#)); do
  case $1 in
    --data) data=$2; shift ;;
    --weights) weights=$2; shift ;;
    --peers) peers=1 ;;
    *) echo "unknown flag $1" >&2; exit 2 ;;
  esac
  shift
done
build=$repository/build-cuda
[[ -x $build/semiseg && -x $build/semiseg_gpu_tests ]] || { echo "bundle: error: build first: bash tools/gpu/build.sh" >&2; exit 1; }

rm -rf "$out"
mkdir -p "$out"/{bin,lib,tools/bench,tools/check,tools/gpu,tools/study}
for program in semiseg semiseg_gpu_tests bench_ops; do
  if [[ -x $build/$program ]]; then strip -o "$out/bin/$program" "$build/$program"; fi
done

# What the programs load, but for the C and C++ runtimes and all that comes with torch and the driver.
ldd "$out/bin/semiseg" "$out/bin/semiseg_gpu_tests" | awk '$2 == "=>" && $3 ~ "^/" {print $3}' | sort -u |
  grep -Ev '/(torch|nvidia)/|/(libc|libm|libdl|librt|libpthread|libstdc\+\+|libgcc_s|libgomp[^/]*|ld-linux[^/]*|libcuda|libcud[^/]*)\.so' |
  while read -r library; do install -m 644 "$library" "$out/lib/$(basename "$library")"; done

cp -r "$repository/configs" "$out/"
cp "$repository/tools/gpu/run.sh" "$out/"
cp "$repository"/tools/gpu/{peer,table}.py "$out/tools/gpu/"
cp "$repository"/tools/bench/{ops_peer,unimatch_step}.py "$out/tools/bench/"
cp "$repository/tools/check/resume.sh" "$out/tools/check/"
cp "$repository"/tools/study/{job.sh,methods.sh,falling_miou.sh,table.py,unimatch_train.py} "$out/tools/study/"
if [[ -n $peers ]]; then
  "$repository/.venv-cuda/bin/python" -m pip --disable-pip-version-check --no-input -q install --no-deps --no-compile \
    --target "$out/python" segmentation_models_pytorch==0.6.0
fi
if [[ -n $data ]]; then cp -rL "$data" "$out/data"; fi
if [[ -n $weights ]]; then
  "$repository/.venv-cuda/bin/python" - "$weights" "$out/weights.safetensors" <<'PY'
import sys
import torch
from safetensors.torch import load_file, save_file
weights = load_file(sys.argv[1])
save_file({name: t.to(torch.bfloat16) if t.is_floating_point() else t for name, t in weights.items()}, sys.argv[2])
PY
fi
du -sh "$out" | awk '{print "bundle: " $2 ", " $1}'
