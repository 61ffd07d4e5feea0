#!/usr/bin/env python3
"""Runs a program and compares what it prints with a recorded file.

    check_output.py RECORDED PROGRAM [ARG ...]

Words must be equal; numbers may differ by 1e-4 of their size, or 1e-6, since the last digits depend
on the instruction set.
"""

import pathlib
import re
import subprocess
import sys

NUMBER = re.compile(r"[-+]?(?:\d+\.\d*|\.\d+|\d+)(?:[eE][-+]?\d+)?")


def same(recorded, printed):
    if NUMBER.sub("#", recorded).split() != NUMBER.sub("#", printed).split():
        return False
    for a, b in zip(NUMBER.findall(recorded), NUMBER.findall(printed)):
        x, y = float(a), float(b)
        if abs(x - y) > max(1e-6, 1e-4 * abs(x)):
            return False
    return True


def main():
    recorded = pathlib.Path(sys.argv[1]).read_text().splitlines()
    run = subprocess.run(sys.argv[2:], text=True, stdout=subprocess.PIPE)
    printed = run.stdout.splitlines()
    failed = run.returncode != 0 or len(recorded) != len(printed)
    if run.returncode:
        print(f"the program returned {run.returncode}")
    for number, (a, b) in enumerate(zip(recorded, printed), 1):
        if not same(a, b):
            failed = True
            print(f"line {number}\n  recorded: {a}\n  printed:  {b}")
    if len(recorded) != len(printed):
        print(f"{len(recorded)} lines are recorded, {len(printed)} were printed")
    print("differs" if failed else f"{len(printed)} lines as recorded")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
