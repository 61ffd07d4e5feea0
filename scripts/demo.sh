#!/usr/bin/env bash
# Sets up, builds the program and does the main job: two small foundation models, adapted on one
# sensor, draw a map for a sensor never seen, and show which expert handled which patch.
#
#   scripts/demo.sh [--full] [--seeds N] [--output DIR]
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/setup.sh
cmake --preset cpu >/dev/null
cmake --build --preset cpu --target moraine_program
exec build/cpu/bin/moraine demo "$@"
