#!/usr/bin/env python3
"""Every entry of tests/parity/fixtures is read by a test.

    check_fixtures.py [ROOT]       default: this repository
    check_fixtures.py --self-test  a fixture that nobody reads is found

A test reads a fixture when its code, comments apart, holds the name, or
check_parity("GROUP" or check_group("GROUP" for ops_GROUP.safetensors, or folders("PREFIX") or
check_states("PREFIX" for folders. What is read of a file is the tests' own affair: they count cases, outputs and gradients.
"""

import pathlib
import re
import sys

FIXTURES = "tests/parity/fixtures"


def readers(root):
    """(names and groups, prefixes of folders) in the code of the tests."""
    names, prefixes = set(), set()
    for path in sorted((root / "tests").rglob("*.[ch]pp")):
        code = re.sub(r"//.*", "", path.read_text())
        for group in re.findall(r'check_(?:parity|group)\(\s*"(\w+)"', code):
            names.add(f"ops_{group}.safetensors")
        prefixes.update(re.findall(r'(?:folders|check_states)\(\s*"(\w+)"', code))
        names.update(re.findall(r"[\w.]+\.(?:safetensors|inc)", code))
    return names, prefixes


def unread(root, entries):
    names, prefixes = readers(root)
    return [e for e in entries if e not in names and not any(e.startswith(p) for p in prefixes)]


def main():
    arguments = sys.argv[1:]
    root = pathlib.Path(__file__).resolve().parent.parent
    if arguments == ["--self-test"]:
        planted = ["ops_nobody.safetensors", "nobody_folder", "ops_conv.safetensors"]
        found = unread(root, planted)
        print(f"found {found}")
        return 0 if found == planted[:2] else 1
    root = pathlib.Path(arguments[0]) if arguments else root
    entries = sorted(p.name for p in (root / FIXTURES).iterdir())
    found = unread(root, entries)
    for name in found:
        print(f"{FIXTURES}/{name}: no test reads it")
    print(f"{len(entries)} fixtures, {len(found)} unread")
    return 1 if found or not entries else 0


if __name__ == "__main__":
    sys.exit(main())
