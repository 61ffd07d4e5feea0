#!/usr/bin/env bash
# The two runs of docs/06-real-rasters.md on real scenes: train, predict, evaluate.
#   scripts/real_rasters.sh [FOLDER]      the program: MORAINE, by default build/cpu/bin/moraine
# About 2 minutes of processor time. Needs the data sets beside the clone (../shared/data); ends with a
# message where they are missing. Run twice, it predicts and evaluates with the models of the first.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-build/real}
moraine=${MORAINE:-build/cpu/bin/moraine}
data=../shared/data
if [ ! -d "$data/terramind" ] || [ ! -d "$data/enmap_potsdam" ]; then
  echo "skipped: no $data/terramind and $data/enmap_potsdam"
  exit 0
fi
if [ ! -x "$moraine" ]; then
  echo "no program at $moraine -> build it, or set MORAINE" >&2
  exit 1
fi
mkdir -p "$out"

echo "== Sentinel-2: trained on 282D, drawn on 433D"
"$moraine" train --config examples/moraine/runs/sentinel2.json --output "$out/s2"
for name in plain offset; do
  extra=()
  [ "$name" = offset ] && extra=(--offset -1000)
  echo "-- 433D ${extra[*]:-as it is}"
  "$moraine" predict --model "$out/s2" --input "$data/terramind/S2L2A/433D_629L_3_1.tif" \
    --output "$out/433D_$name.tif" --routing "$out/433D_${name}_routing.tif" \
    --preview "$out/433D_$name.png" "${extra[@]}"
  "$moraine" eval --prediction "$out/433D_$name.tif" \
    --labels "$data/terramind/LULC/433D_629L_3_1.tif" --output "$out/433D_$name.json"
done

echo "== EnMAP: trained on ten tiles, drawn on others"
"$moraine" train --config examples/moraine/runs/enmap.json --output "$out/enmap"
for tile in 96_0 128_128; do
  "$moraine" predict --model "$out/enmap" \
    --input "$data/enmap_potsdam/images/enmap_potsdam_tile_$tile.tif" \
    --output "$out/enmap_$tile.tif" --preview "$out/enmap_$tile.png"
  "$moraine" eval --prediction "$out/enmap_$tile.tif" \
    --labels "$data/enmap_potsdam/labels/enmap_potsdam_tile_$tile.tif" \
    --output "$out/enmap_$tile.json"
done
