#!/usr/bin/env bash
# Runs every fuzz target of build/fuzz (preset `fuzz`) for some seconds, as many at once as there
# are processors. A finding stops it and names the file that shows it.
#
#   scripts/fuzz.sh [SECONDS] [NAME ...]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds="${1:-30}"
[ $# -gt 0 ] && shift
names=("$@")
if [ ${#names[@]} -eq 0 ]; then
  for file in tests/fuzz/fuzz_*.cpp; do
    name="$(basename "$file" .cpp)"
    names+=("${name#fuzz_}")
  done
fi

one() {
  local name=$1 seconds=$2 work="build/fuzz/runs/$1" dictionary=()
  mkdir -p "$work/corpus"
  [ -f "tests/fuzz/$name.dict" ] && dictionary=("-dict=tests/fuzz/$name.dict")
  if ! "build/fuzz/fuzz/fuzz_$name" -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 \
    -max_len=65536 -artifact_prefix="$work/" "${dictionary[@]}" "$work/corpus" \
    "tests/fuzz/seeds/$name" >"$work/log" 2>&1; then
    tail -n 30 "$work/log"
    echo "fuzz_$name: FAILED, the input is in $work/"
    return 1
  fi
  echo "fuzz_$name: $(grep -E '^Done' "$work/log" || echo finished)"
}
export -f one
printf '%s\n' "${names[@]}" | xargs -P "$(nproc)" -I{} bash -c "one {} $seconds"
