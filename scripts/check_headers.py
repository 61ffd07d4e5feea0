#!/usr/bin/env python3
"""Every header compiles alone, without a warning, in each compiler that is installed.

    check_headers.py [--compilers g++,clang++] [--jobs N] [--quick] [HEADER ...]

A header of io/ whose outside package is not installed is left out, by name. With --quick the
standard library comes precompiled: half the time, but a standard header that is missing goes unseen.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
FLAGS = "-std=c++20 -Wall -Wextra -Werror -fsyntax-only -Iinclude".split()


def outside_headers(path, seen):
    """What `path` includes from other makers, directly or through our headers."""
    if path in seen:
        return set()
    seen.add(path)
    names = set()
    for target in re.findall(r"^\s*#\s*include\s*<([^>]+)>", path.read_text(), re.M):
        if target.startswith("moraine/"):
            names |= outside_headers(ROOT / "include" / target, seen)
        elif re.match(r"rapidjson/|tiff|png|jpeglib|zlib|zstd|stb", target):
            names.add(target)
    return names


def has(compiler, header):
    # jpeglib.h needs stdio.h before it
    text = f"#include <cstdio>\n#include <{header}>\n"
    command = [compiler, "-std=c++20", "-E", "-x", "c++", "-", "-o", os.devnull]
    return subprocess.run(command, input=text, text=True, capture_output=True).returncode == 0


STANDARD = """algorithm array atomic bit charconv chrono cmath cstdint cstdio cstdlib cstring exception limits map
memory new numeric string string_view tuple type_traits unordered_map unordered_set utility vector""".split()


def precompile(compiler, folder):
    """The flags that put the standard library before a header."""
    path = pathlib.Path(folder) / (pathlib.Path(compiler).name + ".hpp")
    path.write_text("".join(f"#include <{name}>\n" for name in STANDARD))
    built = [f for f in FLAGS if f not in ("-fsyntax-only", "-Iinclude")]
    subprocess.run([compiler, *built, "-x", "c++-header", str(path), "-o", f"{path}.gch"], check=True)
    return ["-include", str(path)]


def compile_alone(compiler, header, before):
    command = [compiler, *FLAGS, *before, "-x", "c++", "-"]
    run = subprocess.run(command, input=f"#include <{header}>\n", text=True, capture_output=True, cwd=ROOT)
    return compiler, header, run.returncode == 0, run.stderr


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compilers", default="g++,clang++")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--quick", action="store_true", help="with the standard library precompiled")
    parser.add_argument("headers", nargs="*", help="moraine/core/tensor.hpp ...; default: all")
    options = parser.parse_args()
    compilers = [c for c in options.compilers.split(",") if shutil.which(c)]
    if not compilers:
        sys.exit("check_headers: none of these compilers is installed: " + options.compilers)
    headers = options.headers or sorted(
        str(p.relative_to(ROOT / "include")) for p in (ROOT / "include").rglob("*.hpp")
    )
    known, jobs = {}, []
    for header in headers:
        needs = outside_headers(ROOT / "include" / header, set())
        missing = [n for n in sorted(needs) if not known.setdefault(n, has(compilers[0], n))]
        if missing:
            print(f"left out: {header}, {missing[0]} is not installed")
        else:
            jobs += [(c, header) for c in compilers]
    failed = 0
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(options.jobs) as pool,
    ):
        before = {c: precompile(c, folder) if options.quick else [] for c in compilers}
        for compiler, header, passed, errors in pool.map(lambda j: compile_alone(*j, before[j[0]]), jobs):
            if not passed:
                failed += 1
                print(f"{header} does not compile alone with {compiler}:\n{errors[:2000]}")
    print(f"{len(jobs) - failed} of {len(jobs)} compile alone ({', '.join(compilers)})")
    return 1 if failed or not jobs else 0


if __name__ == "__main__":
    sys.exit(main())
