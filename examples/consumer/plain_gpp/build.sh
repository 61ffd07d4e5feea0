#!/usr/bin/env bash
# A compiler, your clone, and Eigen's headers: ./build.sh [APP]
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
${CXX:-g++} -std=c++20 -O2 -I"$here/../../../include" -I/usr/include/eigen3 "$here/main.cpp" \
  -pthread -o "${1:-app}"
