#!/usr/bin/env bash
# Runs the tests of the CPU kernels on an emulated processor with AVX-512, for machines whose own
# has none: bochs boots a Debian kernel whose only program is the tests, linked statically.
#
#   scripts/emulate_avx512.sh [FOLDER]    for scratch and results, build/emulate by default
#
# Needs Debian 12 and the packages below, which it names and does not install; no root. The kernel
# is fetched into FOLDER (`apt-get download`) and not installed either. Environment:
#   KERNEL  another vmlinuz, with a serial console built in     CXX   the compiler (g++)
#   MODEL   another processor of `bochs --help cpu`             JOBS  compilers at once (nproc)
#   LIMIT   seconds after which the emulation is stopped (3000)
#
# What it cannot show: speed, and vdpbf16ps, which no processor of bochs 2.7 has.
set -euo pipefail
cd "$(dirname "$0")/.."
out="${1:-build/emulate}"
model="${MODEL:-corei7_skylake_x}"
limit="${LIMIT:-3000}"
export CXX="${CXX:-g++}"

# What runs, one process each: the file tests/<name>_test.cpp, then doctest's options. Left out are
# cases that take minutes here and run few kernels of an instruction set, or none that others do not:
# products in double, large attention with added terms (its small sizes run), attention by many
# threads, and most rows of ops, which are gradient checks in double.
runs=(
  "cpu/isa"
  "cpu/rows"
  "cpu/gemm --test-case-exclude=*double?agrees*"
  "cpu/attention --test-case-exclude=*terms?added*,*8?threads"
  "ops/parity"
  "ops/softmax"
  "ops/norm"
  "ops/matmul --test-case=*op?matmul,*op?linear_gelu,*relu?cuts*"
  "ops/conv --test-case=*PyTorch*,*several?pieces*,*op?conv2d_depthwise"
  "cpu/attention_bf16"
  "cpu/bf16"
)

packages=(
  "g++|/usr/bin/g++|the compiler"
  "doctest-dev|/usr/include/doctest/doctest.h|the tests"
  "libeigen3-dev|/usr/include/eigen3/Eigen/Core|what the tests compare products with"
  "rapidjson-dev|/usr/include/rapidjson/document.h|reads the tests' golden values"
  "bochs|/usr/bin/bochs|the emulator"
  "bochsbios|/usr/share/bochs/BIOS-bochs-latest|its BIOS"
  "bochs-term|/usr/lib/x86_64-linux-gnu/bochs/plugins/libbx_term_gui.so|its screen without X"
  "busybox-static|/bin/busybox|the programs beside the tests"
  "isolinux|/usr/lib/ISOLINUX/isolinux.bin|the boot loader"
  "syslinux-common|/usr/lib/syslinux/modules/bios/ldlinux.c32|the rest of the boot loader"
  "xorriso|/usr/bin/xorriso|makes the disc that is booted"
)
missing=()
for entry in "${packages[@]}"; do
  IFS='|' read -r name file why <<<"$entry"
  if [ ! -e "$file" ]; then
    echo "emulate: $name is missing: $why" >&2
    missing+=("$name")
  fi
done
if [ ${#missing[@]} -gt 0 ]; then
  echo "emulate: apt-get install ${missing[*]}" >&2
  exit 2
fi
mkdir -p "$out"
out="$(cd "$out" && pwd)"
export objects="$out/objects"
rm -rf "$out/root" "$out/disc" "$objects"
mkdir -p "$objects" "$out/cpu" "$out/disc" "$out/root"/{bin,dev,proc,sys,moraine/tests/parity}

# Of Debian's kernels the one for virtual machines is the smallest; its serial console is built in.
kernel="${KERNEL:-}"
if [ -z "$kernel" ]; then
  package="$(apt-cache depends linux-image-cloud-amd64 |
    sed -n 's/^ *Depends: \(linux-image-[^ ]*\).*/\1/p' | head -n 1)"
  kernel="$out/$package/boot/vmlinuz-${package#linux-image-}"
  if [ ! -e "$kernel" ]; then
    echo "== fetching $package"
    (cd "$out" && apt-get -q download "$package" && dpkg -x "$package"_*.deb "$package")
    rm "$out/$package"_*.deb
  fi
fi

# The tests, and one of our own: which kernels does the emulated processor choose?
cat >"$out/cpu/isa_test.cpp" <<'END'
#include <doctest/doctest.h>

#include <cstdio>
#include <moraine/cpu/gemm_kernels.hpp>
using namespace moraine::cpu;

TEST_CASE("this processor chooses the AVX-512 kernels") {
  std::printf("best_isa: %s\n", name_of(best_isa()));
  REQUIRE(best_isa() == Isa::avx512);
  REQUIRE(gemm_kernels(best_isa()));
  CHECK(gemm_kernels(best_isa())->isa == Isa::avx512);
}
END
compile() {
  local file=$1 object cxx options=(-O1 -DMORAINE_COMPILED)
  object="$objects/$(basename "$(dirname "$file")")_$(basename "$file" .cpp).o"
  case "$file" in
    */compiled.cpp) options=(-O2 -DMORAINE_COMPILING) ;;  # the kernels, as in a release
    */main.cpp) options=(-O0) ;;
  esac
  read -ra cxx <<<"$CXX"
  "${cxx[@]}" -std=c++20 "${options[@]}" -Iinclude -Itests -isystem /usr/include/eigen3 \
    '-DMORAINE_SOURCE_DIR="/moraine"' '-DMORAINE_BINARY_DIR="/moraine"' -c "$file" -o "$object"
}
export -f compile
files=(include/moraine/compiled.cpp tests/main.cpp tests/op_case.cpp)
for entry in "${runs[@]}"; do
  name="${entry%% *}"
  file="tests/${name}_test.cpp"
  [ "$name" = cpu/isa ] && file="$out/cpu/isa_test.cpp"
  files+=("$file")
done
echo "== compiling ${#files[@]} files"
printf '%s\0' "${files[@]}" | xargs -0 -P "${JOBS:-$(nproc)}" -I{} bash -c "compile '{}'"
read -ra cxx <<<"$CXX"
"${cxx[@]}" -static -s "$objects"/*.o -o "$out/root/bin/tests" -pthread

# The system: busybox, the tests, their golden values, and an init that runs them.
cp /bin/busybox "$out/root/bin/"
cp -r tests/parity/fixtures "$out/root/moraine/tests/parity/"
cat >"$out/root/init" <<'END'
#!/bin/busybox sh
set -f
PATH=/bin
busybox mount -t proc proc /proc
busybox mount -t sysfs sys /sys
export MORAINE_ISA=avx512
busybox grep -m 1 "model name" /proc/cpuinfo
busybox grep -m 1 flags /proc/cpuinfo | busybox tr ' ' '\n' | busybox grep avx | busybox tr '\n' ' '
echo
run() {
  name=$1
  shift
  tests --no-intro --no-colors -d "--source-file=*${name}_test.cpp" "$@"
  status=$?
  echo "emulated: $name status $status"
}
off() {
  echo "emulated: end"
  busybox sleep 2  # the serial port is slow
  busybox poweroff -f
}
END
for entry in "${runs[@]}"; do
  echo "run $entry"
  # Without AVX-512 the others would only say the same once more.
  if [ "$entry" = cpu/isa ]; then echo "[ \$status -eq 0 ] || off"; fi
done >>"$out/root/init"
echo off >>"$out/root/init"
chmod +x "$out/root/init"
(cd "$out/root" && find . | busybox cpio -o -H newc 2>/dev/null | gzip -1) >"$out/disc/initrd"
cp "$kernel" "$out/disc/vmlinuz"
cp /usr/lib/ISOLINUX/isolinux.bin /usr/lib/syslinux/modules/bios/ldlinux.c32 "$out/disc/"
# bochs 2.7 tells the size of a compacted XSAVE area wrongly; Linux then switches XSAVE off, and AVX
# with it, unless it is told not to compact. A panic ends in a triple fault, which stops bochs.
arguments="console=ttyS0 quiet loglevel=1 clearcpuid=xsavec,xsaves mitigations=off tsc=reliable"
cat >"$out/disc/isolinux.cfg" <<END
DEFAULT tests
LABEL tests
  LINUX vmlinuz
  INITRD initrd
  APPEND $arguments reboot=triple panic=-1
END
xorriso -as mkisofs -quiet -o "$out/disc.iso" -b isolinux.bin -c boot.cat -no-emul-boot \
  -boot-load-size 4 -boot-info-table "$out/disc" 2>/dev/null

# The machine. What ends it is the power switch or a triple fault; Debian's bochs has its debugger
# built in, which waits for a first command.
echo c >"$out/debugger"
cat >"$out/bochsrc" <<END
config_interface: textconfig
display_library: term
cpu: model=$model, count=1, ips=50000000, reset_on_triple_fault=0
memory: guest=1024, host=1024
romimage: file=/usr/share/bochs/BIOS-bochs-latest
vgaromimage: file=/usr/share/bochs/VGABIOS-lgpl-latest
ata0-master: type=cdrom, path="$out/disc.iso", status=inserted
boot: cdrom
clock: sync=none
com1: enabled=1, mode=file, dev="$out/serial.txt"
log: "$out/bochs.log"
panic: action=fatal
error: action=report
info: action=report
END
echo "== booting a $model; at most $limit seconds"
: >"$out/serial.txt"
start=$SECONDS
TERM=linux bochs -f "$out/bochsrc" -rc "$out/debugger" </dev/null >"$out/screen.txt" 2>&1 &
machine=$!
trap 'kill -KILL $machine 2>/dev/null || true' EXIT
# What the tests say, and for each case the seconds since the start. Switched off, bochs may hang.
seen=0
running=1
screen=""
while [ $running -eq 1 ]; do
  sleep 3
  # Its screen is a terminal that it opens itself; it stops when nobody reads it.
  if [ -z "$screen" ]; then
    screen="$(sed -n 's/^Bochs connected to screen "\(.*\)".*/\1/p' "$out/screen.txt")"
    if [ -n "$screen" ]; then cat "$screen" >/dev/null 2>&1 & fi
  fi
  if ! kill -0 $machine 2>/dev/null || [ $((SECONDS - start)) -ge "$limit" ] ||
    grep -q "emulated: end" "$out/serial.txt" || grep -q "Bochs is exiting" "$out/screen.txt"; then
    running=0
  fi
  lines="$(wc -l <"$out/serial.txt")"
  while IFS= read -r line; do
    line="${line%$'\r'}"
    case "$line" in
      "" | =====* | "TEST CASE:"* | *_test.cpp:*[0-9]:) ;;
      [0-9]*" s: "*) printf '%5d s  %s\n' $((SECONDS - start)) "${line#* s: }" ;;
      *) printf '%s\n' "$line" ;;
    esac
  done < <(sed -n "$((seen + 1)),${lines}p" "$out/serial.txt")
  seen=$lines
done
kill -KILL $machine 2>/dev/null || true
wait $machine 2>/dev/null || true
took=$((SECONDS - start))

# What counts is what the tests said, not how the machine went off.
bad=0
if [ "$took" -ge "$limit" ]; then
  echo "emulate: not through after $limit seconds -> set LIMIT" >&2
  bad=1
fi
for entry in "${runs[@]}"; do
  name="${entry%% *}"
  if ! tr -d '\r' <"$out/serial.txt" | grep -qx "emulated: $name status 0"; then
    echo "emulate: $name FAILED or did not run; see $out/serial.txt and screen.txt" >&2
    bad=1
  fi
done
if grep -qE "test cases: +0 " "$out/serial.txt"; then
  echo "emulate: a file of which no case ran" >&2
  bad=1
fi
if [ $bad -ne 0 ]; then exit 1; fi
echo "emulate: all passed on an emulated $model in $took seconds"
