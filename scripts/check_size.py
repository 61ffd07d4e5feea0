#!/usr/bin/env python3
"""Sizes of the headers: at most 700 lines (those from 400 on are named), at most 100 columns.

    check_size.py [ROOT]
"""

import pathlib
import sys

MOST, NAMED, COLUMNS = 700, 400, 100


def main():
    root = pathlib.Path(sys.argv[1]) if sys.argv[1:] else pathlib.Path(__file__).resolve().parent.parent
    bad, total, count = [], 0, 0
    for path in sorted((root / "include").rglob("*.*")):
        lines = path.read_text().splitlines()
        total, count = total + len(lines), count + 1
        name = path.relative_to(root)
        if len(lines) > MOST:
            bad.append(f"{name}: {len(lines)} lines; at most {MOST} -> split it, one idea per header")
        elif len(lines) >= NAMED:
            print(f"{name}: {len(lines)} lines (from {NAMED} on a header needs a reason)")
        wide, aligned = [], False  # a table that clang-format is told to leave alone may be wider
        for number, line in enumerate(lines, 1):
            aligned = "clang-format off" in line or (aligned and "clang-format on" not in line)
            if len(line) > COLUMNS and not aligned:
                wide.append(number)
        if wide:
            bad.append(f"{name}: lines of more than {COLUMNS} columns: {', '.join(map(str, wide))}")
    print(f"{count} files, {total} lines")
    print("\n".join(bad))
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
