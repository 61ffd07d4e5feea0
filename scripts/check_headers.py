#!/usr/bin/env python3
"""Every header compiles alone, without a warning, in each compiler that is installed.

    check_headers.py [--compilers g++,clang++] [--jobs N] [HEADER ...]

A header of io/ whose outside package is not installed is left out, by name.
"""

import argparse
import concurrent.futures
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
FLAGS = "-std=c++20 -Wall -Wextra -Werror -fsyntax-only -Iinclude -isystem /usr/include/eigen3".split()


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


def compile_alone(compiler, header):
    command = [compiler, *FLAGS, "-x", "c++", "-"]
    run = subprocess.run(command, input=f"#include <{header}>\n", text=True, capture_output=True, cwd=ROOT)
    return compiler, header, run.returncode == 0, run.stderr


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compilers", default="g++,clang++")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
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
    with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
        for compiler, header, passed, errors in pool.map(lambda j: compile_alone(*j), jobs):
            if not passed:
                failed += 1
                print(f"{header} does not compile alone with {compiler}:\n{errors[:2000]}")
    print(f"{len(jobs) - failed} of {len(jobs)} compile alone ({', '.join(compilers)})")
    return 1 if failed or not jobs else 0


if __name__ == "__main__":
    sys.exit(main())
