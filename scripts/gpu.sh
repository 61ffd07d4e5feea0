#!/usr/bin/env bash
# One entry for a machine with a GPU, which may have no network: builds the CUDA backend and the
# tests with it, runs the rows of the ops that have kernels, and their timings.
#
#   scripts/gpu.sh --carry    on the machine where the packages are: copies their headers to .deps/
#   scripts/gpu.sh            on the GPU machine: needs nvcc, g++, cmake; uses .deps/ if it is there
#
# Not run yet, neither with a GPU nor without: whoever is lent one first should expect to mend it.
set -euo pipefail
cd "$(dirname "$0")/.."
deps="$PWD/.deps"

if [ "${1:-}" = "--carry" ]; then
  rm -rf "$deps"
  mkdir -p "$deps/include" "$deps/share"
  for what in eigen3 doctest rapidjson stb nlohmann CLI; do
    for from in /usr/include/$what; do
      if [ -e "$from" ]; then cp -rL "$from" "$deps/include/"; fi
    done
  done
  for what in eigen3 cmake/nlohmann_json cmake/CLI11; do
    if [ -e "/usr/share/$what" ]; then
      mkdir -p "$deps/share/$(dirname "$what")"
      cp -rL "/usr/share/$what" "$deps/share/$(dirname "$what")/"
    fi
  done
  rm -rf "$deps/include/eigen3/unsupported"
  du -sh "$deps"
  exit 0
fi

PATH="$PATH:/usr/local/cuda/bin"
nvcc --version | tail -2
nvidia-smi --query-gpu=name,driver_version --format=csv,noheader 2>/dev/null || echo "no GPU here"
more=()
[ -d "$deps" ] && more=("-DCMAKE_PREFIX_PATH=$deps" "-DCMAKE_INCLUDE_PATH=$deps/include"
  "-DCMAKE_CXX_FLAGS=-isystem $deps/include -isystem $deps/include/eigen3")
cmake --preset cuda -DMORAINE_EXAMPLES=OFF "${more[@]}" >/dev/null
cmake --build --preset cuda --target ops_tests
ctest --preset cuda -L '^ops$' -j 4
if [ -f bench/ops.cpp ]; then
  if cmake --build --preset cuda --target bench_ops 2>/dev/null; then
    build/cuda/bench/ops --benchmark_filter=cuda
  else
    echo "Google Benchmark is not here: no timings"
  fi
fi
