#!/usr/bin/env python3
"""Which layer of include/moraine may include which, and which outside headers belong where.

    check_layers.py [ROOT]        checks ROOT/include/moraine (default: this repository)
    check_layers.py --self-test   plants violations in a copy and expects each to be found
"""

import pathlib
import re
import shutil
import sys
import tempfile

MAY_INCLUDE = {
    "core": "",
    "cpu": "core",
    "cuda": "core",
    "io": "core",
    "autograd": "core",
    "ops": "core autograd cpu cuda",
    "nn": "core autograd ops",
    "peft": "core autograd ops nn",
    "models": "core autograd ops nn",
    "decoders": "core autograd ops nn",
    "data": "core io",
    "train": "core autograd ops nn data io",
    "inspect": "core nn io",
    "recipes": "core cpu cuda io autograd ops nn peft models decoders data train inspect",
}

# Headers of other makers, and the one layer whose door they are ("" is nowhere).
DOORS = [
    (r"Eigen/|unsupported/Eigen", ""),
    (r"cublas|cublasLt|cudnn", "cuda"),
    (r"tiff|png\.h|jpeglib|turbojpeg|zlib\.h|zstd|rapidjson/|stb", "io"),
    (r"nlohmann/|CLI/|doctest/|benchmark/", ""),
    (r"cub/|thrust/|cute/|cutlass/", ""),
    # What costs every user's compile time; design, section 8.
    (r"(iostream|regex|thread|random|filesystem|functional|future|ranges)$", ""),
    (r"(mm_malloc|immintrin|x86intrin|arm_neon)", ""),
]

INCLUDE = re.compile(r'^\s*#\s*include\s*([<"])([^>"]+)[>"]')


def check(root):
    base = root / "include" / "moraine"
    found = []
    for path in sorted(p for p in base.rglob("*") if p.suffix in (".hpp", ".cuh", ".cpp", ".cu")):
        name = path.relative_to(base)
        layer = name.parts[0] if len(name.parts) > 1 else None
        if layer is not None and layer not in MAY_INCLUDE:
            found.append(f"{name}: no layer is called {layer}")
            continue
        lines = path.read_text().splitlines()
        if path.suffix in (".hpp", ".cuh") and (not lines or lines[0] != "#pragma once"):
            found.append(f"{name}:1: the first line is not #pragma once")
        for number, line in enumerate(lines, 1):
            match = INCLUDE.match(line)
            if not match:
                continue
            where, (bracket, target) = f"{name}:{number}", match.groups()
            if bracket == '"':
                found.append(f'{where}: "{target}" is to be written <moraine/...>')
                continue
            if not target.startswith("moraine/"):
                for pattern, door in DOORS:
                    if re.match(pattern, target) and layer != door:
                        found.append(
                            f"{where}: <{target}> belongs "
                            + (f"in {door}/ only" if door else "in no header of the library")
                        )
                continue
            target = target[len("moraine/") :]
            if not (base / target).is_file():
                found.append(f"{where}: <moraine/{target}> does not exist")
                continue
            to = target.split("/")[0] if "/" in target else None
            if layer is None:
                continue  # an umbrella: it may include everything below it
            if to is None:
                found.append(f"{where}: the umbrella <moraine/{target}> inside the library")
            elif to != layer and to not in MAY_INCLUDE[layer].split():
                found.append(f"{where}: {layer} may not include {to} (<moraine/{target}>)")
    return found


def self_test(root):
    """Each planted line must be found, and nothing else may be."""
    plants = [
        ("core/config.hpp", "#include <moraine/ops/unary.hpp>", "core may not include ops"),
        ("ops/unary.hpp", "#include <moraine/io/json.hpp>", "ops may not include io"),
        ("ops/unary.hpp", "#include <moraine/moraine.hpp>", "inside the library"),
        ("ops/unary.hpp", "#include <Eigen/Core>", "in no header"),
        ("ops/unary.hpp", "#include <cublas_v2.h>", "in cuda/ only"),
        ("core/config.hpp", "#include <iostream>", "in no header"),
        ("core/config.hpp", '#include "error.hpp"', "is to be written"),
        ("core/config.hpp", "#include <moraine/core/nothing.hpp>", "does not exist"),
    ]
    failures = 0
    for file, line, expected in plants:
        with tempfile.TemporaryDirectory() as folder:
            shutil.copytree(root / "include", pathlib.Path(folder) / "include")
            path = pathlib.Path(folder) / "include" / "moraine" / file
            path.write_text(path.read_text() + line + "\n")
            before, after = check(root), check(pathlib.Path(folder))
            new = [f for f in after if f not in before]
            if len(new) != 1 or expected not in new[0]:
                print(f"planted in {file}: {line}; found {new}, expected one '{expected}'")
                failures += 1
    print(f"{len(plants) - failures} of {len(plants)} planted violations found")
    return failures


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    if sys.argv[1:] == ["--self-test"]:
        return 1 if self_test(root) else 0
    found = check(pathlib.Path(sys.argv[1]) if sys.argv[1:] else root)
    print("\n".join(found) if found else "every include keeps to its layer")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
