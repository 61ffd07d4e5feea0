#!/usr/bin/env bash
# An installed moraine through pkg-config: PKG_CONFIG_PATH=<prefix>/share/pkgconfig ./build.sh [APP]
set -euo pipefail
here="$(cd "$(dirname "$0")" && pwd)"
# shellcheck disable=SC2046  # several flags
${CXX:-g++} -std=c++20 -O2 "$here/main.cpp" $(pkg-config --cflags --libs moraine) -o "${1:-app}"
