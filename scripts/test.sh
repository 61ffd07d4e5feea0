#!/usr/bin/env bash
# Sets up, builds and runs every test. Two processors: at most ten minutes after the packages are
# there. The last lines are ctest's own summary.
set -euo pipefail
cd "$(dirname "$0")/.."
start=$SECONDS
scripts/setup.sh
setup=$((SECONDS - start))
cmake --preset cpu >/dev/null
cmake --build --preset cpu
echo "setup ${setup} s, build $((SECONDS - start - setup)) s, now the tests"
exec ctest --preset cpu -j "$(nproc)"
