#!/usr/bin/env bash
# Installs what building, testing and the demo need, and prints each package with its reason.
# Debian 12; written for Ubuntu 24.04 too, where it is untried. Needs root or sudo only if something
# is missing. Nothing is installed outside the system's package manager.
set -euo pipefail

packages=(
  "g++|the C++20 compiler"
  "cmake|configures the build"
  "ninja-build|runs the build"
  "python3|repository checks (its standard library only)"
  "pkg-config|one of the ways to consume the library, tested"
  "libeigen3-dev|what the tests compare our own products with"
  "libtiff-dev|reads and writes GeoTIFF"
  "libpng-dev|reads PNG"
  "libjpeg-dev|reads JPEG (libjpeg-turbo)"
  "zlib1g-dev|compressed .mat and .npz members"
  "rapidjson-dev|reads JSON: checkpoint headers, configurations, cards"
  "libstb-dev|writes PNG previews"
  "nlohmann-json3-dev|reports and configurations of the program; tests"
  "libcli11-dev|command line of the program"
  "doctest-dev|the tests"
  "libbenchmark-dev|the benchmarks"
)

if ! command -v dpkg-query >/dev/null || ! command -v apt-get >/dev/null; then
  echo "setup: this is no Debian or Ubuntu; install the equivalents of:" >&2
  printf '  %s\n' "${packages[@]}" >&2
  exit 1
fi
# shellcheck disable=SC1091
system="$(. /etc/os-release && echo "$ID $VERSION_ID")"
case "$system" in
  "debian 12") ;;
  *) echo "setup: tried on Debian 12; this is $system, where it is untried" ;;
esac

missing=()
for entry in "${packages[@]}"; do
  name="${entry%%|*}" why="${entry#*|}"
  if dpkg-query -W -f='${Status}' "$name" 2>/dev/null | grep -q "install ok installed"; then
    state="here"
  else
    state="to install"
    missing+=("$name")
  fi
  printf '%-20s %-11s %s\n' "$name" "$state" "$why"
done
[ ${#missing[@]} -eq 0 ] && exit 0

as_root=()
if [ "$(id -u)" -ne 0 ]; then
  if ! command -v sudo >/dev/null; then
    echo "setup: neither root nor sudo; as root, run: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  as_root=(sudo)
fi
echo "setup: installing ${missing[*]}"
export DEBIAN_FRONTEND=noninteractive
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
