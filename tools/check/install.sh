#!/usr/bin/env bash
# The library as applications meet it: installs into an empty folder, builds examples/ against it, and compares what they predict on
# drawn images with `semiseg predict`, byte by byte.
#
#   bash tools/check/install.sh [PREFIX]     PREFIX: keep the installation there (default: a temporary folder)
# SEMISEG_BUILD names another build folder than build/.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
prefix=${1:-$work/prefix}
build=${SEMISEG_BUILD:-build}
export OMP_NUM_THREADS=1

# Runs a step; shows what it printed where it failed.
step() {
  local what=$1
  shift
  "$@" >"$work/log" 2>&1 || {
    cat "$work/log" >&2
    echo "install: failed to $what" >&2
    exit 1
  }
}

begin=$SECONDS
step "build the library" ninja -C "$build" semiseg semiseg_library
step "install" cmake --install "$build" --prefix "$prefix"
for file in bin/semiseg include/semiseg/predictor.h share/semiseg/configs/base/defaults.yaml share/semiseg/examples/segment.cpp; do
  [[ -e $prefix/$file ]] || { echo "install: $file is missing" >&2; exit 1; }
done

# Outside the repository, so that nothing of it can help.
cp -r "$prefix/share/semiseg/examples" "$work/examples"
printf '%s\n' "$prefix"/include/semiseg/*.h | sed 's|.*/include/\(.*\)|#include <\1>|' >"$work/examples/headers.cpp"
cat >>"$work/examples/CMakeLists.txt" <<'CMAKE'
add_library(headers OBJECT headers.cpp)
target_link_libraries(headers PRIVATE semiseg::semiseg)
target_compile_options(headers PRIVATE -fsyntax-only)
CMAKE
step "configure the examples" cmake -S "$work/examples" -B "$work/build" -G Ninja -DCMAKE_PREFIX_PATH="$prefix"
step "build the examples" ninja -C "$work/build"

semiseg=$prefix/bin/semiseg
cat >"$work/tiny.yaml" <<YAML
base: $prefix/share/semiseg/configs/methods/supervised.yaml
data: {format: synthetic, size: [64, 96], counts: [4, 0, 2], crop: 64}
model: {backbone: resnet18}
optim: {steps: 2, batch_labeled: 2}
report: {html: false, tensorboard: false, samples: 0}
YAML
step "train" "$semiseg" train "$work/tiny.yaml" run.dir="$work/run"
step "draw images" "$semiseg" synth "$work/street" --train 1 --val 3 --size 160x240
images=("$work"/street/leftImg8bit/val/*.png)
[[ -e ${images[0]} ]] || images=("$work"/street/leftImg8bit/val/*/*.png)
checkpoint=$work/run/checkpoints/last.safetensors
step "predict" "$semiseg" predict "$checkpoint" "${images[@]}" -o "$work/expected"

name=$(basename "${images[0]}" .png)
step "run examples/segment" "$work/build/segment" "$checkpoint" "${images[0]}" "$work/$name"
cat "$work/log"
# The program marks its pictures as results: of label images the pixels are compared, of overlays all but the JPEG's comment.
mkdir "$work/segment"
mv "$work/$name.png" "$work/segment/"
same_pixels() {
  step "compare $1" "$semiseg" diagnose --labels "$work/expected" --predictions "$work/$1" --json "$work/same.json"
  grep -q '"pixel_accuracy": *1.0' "$work/same.json" || {
    echo "install: $work/$1 does not hold what the program predicts" >&2
    exit 1
  }
}
same_pixels segment
python3 - "$work/${name}_overlay.jpg" "$work/expected/${name}_overlay.jpg" <<'PYTHON' || exit 1
import pathlib
import sys


def segments(path):
    """The segments of a JPEG up to its pixels, without comments (FF FE), and the rest."""
    data = pathlib.Path(path).read_bytes()
    kept, at = [data[:2]], 2
    while data[at + 1] != 0xDA:
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        if data[at + 1] != 0xFE:
            kept.append(data[at:end])
        at = end
    return kept + [data[at:]]


if segments(sys.argv[1]) != segments(sys.argv[2]):
    sys.exit(f"install: {sys.argv[1]} is not the overlay that the program makes")
PYTHON
step "run examples/threads" "$work/build/threads" "$checkpoint" "$work/threads" "${images[@]}"
cat "$work/log"
same_pixels threads

code=0
"$work/build/segment" "$work/tiny.yaml" "${images[0]}" "$work/none" 2>"$work/log" || code=$?
[[ $code == 7 && $(wc -l <"$work/log") == 1 ]] || { echo "install: a bad checkpoint exits $code: $(<"$work/log")" >&2; exit 1; }
echo "install: the examples predict as the program does (${#images[@]} images, $((SECONDS - begin)) s)"
