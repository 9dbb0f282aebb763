#!/usr/bin/env bash
# Builds OpenCV's core, imgproc, imgcodecs and videoio as static libraries, without all that they can be built with: a bundle
# (tools/gpu/bundle.sh) is then a seventh of its size with Debian's OpenCV. Reads and writes PNG, JPEG and TIFF, and MJPEG videos.
#
#   bash tools/gpu/opencv.sh [DIR]                  DIR: where it is installed (default: .venv-cuda-opencv)
#   OpenCV_DIR=$PWD/.venv-cuda-opencv/lib/cmake/opencv4 bash tools/gpu/build.sh
#
# The source comes with pip. Two cores take some minutes.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

to=$(realpath -m "${1:-.venv-cuda-opencv}") version=4.10.0.84
if [[ -e $to/.ready-$version ]]; then exit 0; fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
echo "opencv: fetching the source"
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip --disable-pip-version-check --no-input -q download --no-deps --no-binary opencv-python-headless \
  -d "$work" "opencv-python-headless==$version"
tar xzf "$work"/opencv*.tar.gz -C "$work"
rm -rf "$to"
echo "opencv: building into $to"
cmake -S "$work"/opencv*-"$version"/opencv -B "$work/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_INSTALL_PREFIX="$to" \
  -DBUILD_LIST=core,imgproc,imgcodecs,videoio -DBUILD_SHARED_LIBS=OFF -DCMAKE_POSITION_INDEPENDENT_CODE=ON \
  -DBUILD_TESTS=OFF -DBUILD_PERF_TESTS=OFF -DBUILD_EXAMPLES=OFF -DBUILD_opencv_apps=OFF -DBUILD_JAVA=OFF -DBUILD_opencv_python3=OFF \
  -DBUILD_PNG=OFF -DBUILD_JPEG=OFF -DBUILD_ZLIB=OFF -DBUILD_TIFF=ON -DWITH_ADE=OFF -DWITH_EIGEN=OFF -DWITH_FFMPEG=OFF \
  -DWITH_GSTREAMER=OFF -DWITH_GTK=OFF -DWITH_IPP=OFF -DWITH_ITT=OFF -DWITH_JASPER=OFF -DWITH_LAPACK=OFF -DWITH_OBSENSOR=OFF \
  -DWITH_OPENCL=OFF -DWITH_OPENEXR=OFF -DWITH_OPENJPEG=OFF -DWITH_PROTOBUF=OFF -DWITH_QUIRC=OFF -DWITH_V4L=OFF -DWITH_VA=OFF \
  -DWITH_WEBP=OFF -DWITH_1394=OFF >"$work/log" 2>&1 && cmake --build "$work/build" --target install >>"$work/log" 2>&1 ||
  { tail -n 20 "$work/log" >&2; echo "opencv: error: it was not built; the last lines are above" >&2; exit 1; }
touch "$to/.ready-$version"
