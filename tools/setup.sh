#!/usr/bin/env bash
# Brings a fresh Debian 12 / Ubuntu 24.04 machine to a built semiseg. Run it again at any time: what is there already is left alone.
#
#   bash tools/setup.sh [TARGET...]     of the build (default: all; `semiseg` is the program alone)
#
# A LibTorch of your own is used when Torch_DIR or CMAKE_PREFIX_PATH names one; else pip puts one into .venv.
# SEMISEG_SKIP_PACKAGES=1 leaves the system's packages alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

targets=("${@:-all}")
torch_version=2.13.0
stamp=.venv/.semiseg-torch     # written once the LibTorch in .venv is whole
configured=build/setup.configured
log=build/setup.log
packages=(g++ cmake ninja-build ccache git python3 libopencv-core-dev libopencv-imgproc-dev libopencv-imgcodecs-dev
  libopencv-videoio-dev libyaml-cpp-dev libspdlog-dev nlohmann-json3-dev libpng-dev libjpeg-dev libdeflate-dev zlib1g-dev libgtest-dev
  libgoogle-perftools-dev libgloo-dev)

mkdir -p build
: >"$log"

say() { echo "setup: $*"; }
fail() {
  echo "setup: error: $*" >&2
  exit 1
}
# The end of the log, then one line that says what failed and what to do.
fail_with_log() {
  tail -n 15 "$log" >&2
  fail "$* (details: $log)"
}

# Whether the caller names a LibTorch.
torch_is_named() {
  [[ -z ${Torch_DIR:-} ]] || return 0
  local prefix prefixes
  IFS=':;' read -ra prefixes <<<"${CMAKE_PREFIX_PATH:-}"
  for prefix in "${prefixes[@]}"; do
    [[ -e $prefix/TorchConfig.cmake || -e $prefix/share/cmake/Torch/TorchConfig.cmake ]] && return 0
  done
  return 1
}

install_packages() {
  [[ -z ${SEMISEG_SKIP_PACKAGES:-} ]] || return 0
  if ! command -v dpkg-query >/dev/null; then
    say "no dpkg here, so install by hand what the configuration finds missing: ${packages[*]}"
    return 0
  fi
  torch_is_named || packages+=(python3-venv python3-pip)
  local have missing=() package sudo=()
  have=$(dpkg-query -W -f '${Status} ${Package}\n' "${packages[@]}" 2>/dev/null | sed -n 's/^install ok installed //p') || true
  for package in "${packages[@]}"; do
    grep -qx -- "$package" <<<"$have" || missing+=("$package")
  done
  ((${#missing[@]})) || return 0

  if ((EUID != 0)); then
    if command -v sudo >/dev/null && { sudo -n true 2>/dev/null || [[ -t 0 ]]; }; then
      sudo=(sudo)
    else
      fail "packages are missing and this is not root; run: sudo apt-get update && sudo apt-get install -y" \
        "--no-install-recommends ${missing[*]}"
    fi
  fi
  say "installing ${missing[*]}"
  local begin=$SECONDS
  "${sudo[@]}" apt-get -q update >>"$log" 2>&1 || true  # old lists may still do
  "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "${missing[@]}" \
    </dev/null >>"$log" 2>&1 ||
    fail_with_log "apt-get could not install ${missing[*]}; check the network and the package sources, then run this again"
  say "packages installed in $((SECONDS - begin)) s"
}

# Without nvcc a CUDA build of LibTorch is of no use: its CMake files ask for the toolkit.
fail_without_toolkit() {
  fail "pip's sources have a CUDA build of LibTorch alone, which needs the CUDA toolkit (nvcc) to build against; install the" \
    "toolkit, or point pip at PyTorch's CPU builds (PIP_EXTRA_INDEX_URL) and remove .venv, or set CMAKE_PREFIX_PATH to a CPU LibTorch"
}

venv_torch_config() { compgen -G '.venv/lib/python3*/site-packages/torch/share/cmake/Torch/TorchConfig.cmake' >/dev/null; }

# Whether the LibTorch in .venv loads and is the wanted one.
venv_torch_works() {
  venv_torch_config && .venv/bin/python -W ignore -c "
import sys, torch
sys.exit(torch.__version__.split('+')[0] != '$torch_version' or torch.ones(2).sum().item() != 2)"
}

install_torch() {
  if torch_is_named; then return 0; fi
  if [[ -e $stamp && $(<"$stamp") == "$torch_version" ]] && venv_torch_config; then return 0; fi
  if ! venv_torch_works 2>/dev/null; then
    if [[ -e .venv ]]; then
      say ".venv is incomplete; making it anew"
      rm -rf .venv
    fi
    say "installing LibTorch $torch_version into .venv"
    local begin=$SECONDS
    python3 -m venv .venv >>"$log" 2>&1 || {
      rm -rf .venv
      fail_with_log "python3 -m venv failed; install python3-venv"
    }
    local pip=(.venv/bin/python -m pip --disable-pip-version-check --no-input install)
    # Without nvcc a CPU build is looked for first, and gigabytes of CUDA are not fetched for nothing.
    local would=""
    if ! command -v nvcc >/dev/null && ! "${pip[@]}" --dry-run --no-deps "torch==$torch_version+cpu" >>"$log" 2>&1; then
      would=$("${pip[@]}" --dry-run "torch==$torch_version" 2>>"$log") || true
    fi
    if [[ $would == *nvidia-* ]]; then
      rm -rf .venv
      fail_without_toolkit
    fi
    { ! command -v nvcc >/dev/null && "${pip[@]}" "torch==$torch_version+cpu" >>"$log" 2>&1; } ||
      "${pip[@]}" "torch==$torch_version" >>"$log" 2>&1 ||
      fail_with_log "pip could not install torch==$torch_version; check the network (pip's own settings apply), or download" \
        "LibTorch and set CMAKE_PREFIX_PATH to its folder"
    venv_torch_works >>"$log" 2>&1 || fail_with_log "the LibTorch that pip installed does not load"
    say "LibTorch installed in $((SECONDS - begin)) s"
  fi
  echo "$torch_version" >"$stamp"
}

configure() {
  local arguments=() recorded=""
  [[ -z ${Torch_DIR:-} ]] || arguments+=("-DTorch_DIR=$Torch_DIR")
  [[ -z ${CMAKE_PREFIX_PATH:-} ]] || arguments+=("-DCMAKE_PREFIX_PATH=${CMAKE_PREFIX_PATH//:/;}")
  [[ ! -e $configured ]] || recorded=$(<"$configured")
  if [[ -e build/build.ninja && $recorded == "${arguments[*]-}" ]] &&
    grep -qxF "CMAKE_HOME_DIRECTORY:INTERNAL=$PWD" build/CMakeCache.txt; then
    return 0
  fi

  local version
  version=$(cmake --version 2>/dev/null | sed -n '1s/[^0-9]*//p') || fail "cmake is missing; install cmake 3.25 or newer"
  [[ $(printf '%s\n' 3.25 "$version" | sort -V | head -1) == 3.25 ]] ||
    fail "cmake $version is too old, 3.25 is needed; put a newer one on PATH (pip install cmake brings one)"
  if ! torch_is_named && ! command -v nvcc >/dev/null &&
    compgen -G '.venv/lib/python3*/site-packages/torch/lib/libtorch_cuda.so' >/dev/null; then
    fail_without_toolkit
  fi
  say "configuring in build/"
  rm -f "$configured"
  cmake --fresh --preset release "${arguments[@]}" >>"$log" 2>&1 || fail_with_log "the configuration failed; see above what is missing"
  echo "${arguments[*]-}" >"$configured"
}

build() {
  local begin=$SECONDS
  # A file takes up to 1.5 GB to compile.
  local jobs memory_jobs
  jobs=$(nproc)
  memory_jobs=$(awk '/MemAvailable/ { print int($2 / 1500000) }' /proc/meminfo)
  ((memory_jobs >= jobs)) || jobs=$((memory_jobs > 0 ? memory_jobs : 1))
  local ninja=(ninja -C build "-j$jobs" "${targets[@]}")
  local pending
  pending=$("${ninja[@]}" -n 2>/dev/null | grep -c '^\[') || true
  ((pending)) || return 0
  say "building ${targets[*]} ($pending steps; the first build takes minutes)"
  if [[ -t 1 ]]; then
    "${ninja[@]}" || fail "the build failed; see above"
  else
    "${ninja[@]}" >>"$log" 2>&1 || {
      grep -E 'error|FAILED' "$log" | head -20 >&2 || true
      fail_with_log "the build failed"
    }
  fi
  say "built ${targets[*]} in $((SECONDS - begin)) s"
}

install_packages
install_torch
configure
build
