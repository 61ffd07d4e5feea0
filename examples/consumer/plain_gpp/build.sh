#!/usr/bin/env bash
# A compiler and your clone: ./build.sh [APP]
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
${CXX:-g++} -std=c++20 -O2 -I"$here/../../../include" "$here/main.cpp" \
  -pthread -o "${1:-app}"
