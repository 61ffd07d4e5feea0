#!/usr/bin/env python3
"""The library against the competition, pass by pass in turn, so that all meet the same machine.

    python3 -m venv ~/peers
    ~/peers/bin/pip install torch transformers openvino onnxruntime onnx onnxscript
    cmake --preset cpu -DMORAINE_BENCH=ON && cmake --build --preset cpu --target benchmarks
    ~/peers/bin/python bench/peers/run.py [--only TEXT ...] [--filter REGEX] [--threads 2] [--runs 9]
        [--build build/cpu] [--write docs/performance.md]

Every participant is a process of its own (workers.py; ours are bench/encoder and
bench/spectral_step) that does one pass when it is told to. A row's time is the median over the
runs; the ratio is the median of the ratios of passes that lie next to each other, with the quartiles
beside it: above 1 means that moraine is faster. Then come the kernels as shares of what the
processor does in loops of nothing but multiply-adds, or copies, right before and after
(bench/cpu_kernels, bench/image_ops; one thread). A peer that is not installed is left out, and the
report says so. `--only` keeps the rows, and the kernel programs, whose name contains one of the
texts; `--filter` the kernels that match.
"""

import argparse
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
NAMES = {"s": "ViT-S/14", "b": "ViT-B/14", "l": "ViT-L/14"}


def machine():
    """Lines that say what was measured on."""
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"model name\s*:\s*(.*)", info)
    family = re.search(r"cpu family\s*:\s*(\d+)", info), re.search(r"model\s*:\s*(\d+)", info)
    flags = set(re.search(r"flags\s*:\s*(.*)", info).group(1).split())
    wanted = [f for f in ("avx2", "fma", "avx512f", "avx512_bf16", "amx_bf16") if f in flags]
    memory = int(re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text()).group(1))
    caches = []
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind = (index / "type").read_text().strip()
        if kind != "Instruction":
            caches.append(f"L{(index / 'level').read_text().strip()} "
                          f"{(index / 'size').read_text().strip()}")
    virtual = " (a virtual machine)" if "hypervisor" in flags else ""
    return flags, [
        f"{model.group(1) if model else 'unknown'} (family {family[0].group(1)}, model "
        f"{family[1].group(1)}){virtual}, {os.cpu_count()} CPUs, {', '.join(caches)}, "
        f"{memory / 2**20:.0f} GiB",
        f"instruction sets: {', '.join(wanted)}",
        f"{datetime.date.today().isoformat()}, load average before the run "
        f"{os.getloadavg()[0]:.1f}",
    ]


class Worker:
    def __init__(self, command):
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            text=True,
        )
        word, _, self.name = (self.process.stdout.readline().strip() or "missing it ended").partition(
            " "
        )
        self.missing = None if word == "ready" else self.name
        self.seconds, self.peak = [], 0

    def once(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().split()
        if len(answer) != 2:
            sys.exit(f"run.py: {self.name} ended in the middle of a pass")
        self.peak = max(self.peak, float(answer[1]))
        return float(answer[0])

    def end(self):
        self.process.stdin.close()
        self.process.wait()


def quartiles(values):
    ordered = sorted(values)
    pick = lambda q: ordered[min(len(ordered) - 1, round(q * (len(ordered) - 1)))]  # noqa: E731
    return pick(0.25), statistics.median(ordered), pick(0.75)


def models(o, flags, say, notes):
    workers_py = str(Path(__file__).with_name("workers.py"))
    low = [] if not {"avx512_bf16", "amx_bf16"} & flags else ["bf16"]
    if not low:
        notes.append("bf16 rows: this processor has no bfloat16 products (avx512_bf16, amx_bf16)")
    rows = []
    for dtype in ["fp32", *low]:
        rows += [(f"{NAMES[m]} forward {dtype}", m, "forward", dtype) for m in "sbl"]
        rows += [(f"{NAMES['b']} {w} {dtype}", "b", w, dtype) for w in ("train", "lora")]
    rows.append((f"SpectralMoE step, {o.blocks} of 24 blocks, fp32", "l", f"spectral{o.blocks}",
                 "fp32"))
    rows = [r for r in rows if not o.only or any(t in r[0] for t in o.only)]
    if not rows:
        return
    say("| work | who | median, s | least, s | its time / moraine's | quartiles | peak, MiB |")
    say("|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        for title, model, work, dtype in rows:
            threads = str(o.threads)
            if work.startswith("spectral"):
                ours = [f"{o.build}/bench/spectral_step", "--blocks", str(o.blocks)]
                kinds = ["eager"]
            else:
                ours = [f"{o.build}/bench/encoder", "--model", model, "--work", work, "--dtype",
                        dtype]
                kinds = ["eager", "sdpa"]
                if work == "forward":
                    kinds += ["openvino", "onnxruntime"]
                    subprocess.run([sys.executable, workers_py, "export", model, work, dtype,
                                    threads, folder], stdout=subprocess.DEVNULL,
                                   stderr=subprocess.DEVNULL)
            workers = [Worker([*ours, "--threads", threads, "--serve"])]
            if workers[0].missing:
                sys.exit(f"run.py: {' '.join(ours)} did not start -> build the target benchmarks")
            for kind in kinds:
                w = Worker([sys.executable, workers_py, kind, model, work, dtype, threads, folder])
                if w.missing:
                    notes.append(f"{title}: {w.missing}")
                else:
                    workers.append(w)
            for _ in range(o.runs):
                for w in workers:
                    time.sleep(0.2)  # until the threads of the one before have gone to sleep
                    w.seconds.append(w.once())
            for w in workers:
                a, mid, b = quartiles([p / m for p, m in zip(w.seconds, workers[0].seconds)])
                between = "" if w is workers[0] else f"{a:.2f} to {b:.2f}"
                say(f"| {title} | {w.name} | {statistics.median(w.seconds):.3f} "
                    f"| {min(w.seconds):.3f} | {mid:.2f} | {between} | {w.peak:.0f} |")
                w.end()


def kernels(o, say, notes):
    for program, environment in (("cpu_kernels", {}), ("image_ops", {})):
        path = Path(o.build) / "bench" / program
        if o.only and not any(t in program for t in o.only):
            continue
        if not path.exists():
            notes.append(f"{program} is not built")
            continue
        found = subprocess.run(
            [str(path), "--benchmark_format=json", f"--benchmark_filter={o.filter}"],
            capture_output=True, text=True,
            env={**os.environ, "MORAINE_BENCH_THREADS": "1", **environment},
        )
        rows = json.loads(found.stdout)["benchmarks"]
        say(f"\n`bench/{program}`, one thread:\n")
        say("| what | ms | share of its bound | best share | rate |")
        say("|---|---|---|---|---|")
        for r in rows:
            name = re.sub(r"/(iterations:\d+|manual_time|real_time)", "", r["name"])
            rate = next((f"{r[k]:.1f} {k}" for k in ("GFLOP/s", "GB/s") if k in r), "")
            share = f"{r['share']:.2f}" if "share" in r else ""
            best = f"{r['best']:.2f}" if "best" in r else ""
            say(f"| {name} | {r['real_time']:.3f} | {share} | {best} | {rate} |")


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+")
    parser.add_argument("--filter", default=".", help="of the kernel programs")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--blocks", type=int, default=4, help="of SpectralMoE's 24, in its row")
    parser.add_argument("--build", default=str(ROOT / "build/cpu"))
    parser.add_argument("--write", help="the report goes here too, between its two marks")
    o = parser.parse_args()
    flags, about = machine()
    lines, notes = [], []

    def say(line):
        lines.append(line)
        print(line, flush=True)

    say(f"{o.threads} threads, {o.runs} passes of each in turn, on\n")
    for line in about:
        say(f"- {line}")
    say("")
    models(o, flags, say, notes)
    kernels(o, say, notes)
    if notes:
        say("\nLeft out:\n")
        for note in dict.fromkeys(notes):
            say(f"- {note}")
    if o.write:
        path, begin, end = Path(o.write), "<!-- measured -->", "<!-- end -->"
        text = path.read_text()
        if begin not in text or end not in text:
            sys.exit(f"run.py: {path} lacks the marks {begin} and {end}")
        head, rest = text.split(begin, 1)
        tail = rest.split(end, 1)[1]
        path.write_text(head + begin + "\n" + "\n".join(lines) + "\n" + end + tail)


if __name__ == "__main__":
    main()
