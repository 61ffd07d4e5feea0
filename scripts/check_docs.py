#!/usr/bin/env python3
"""What the documents say in code is so.

    check_docs.py [--compiler g++] [--quick] [DOCUMENT ...]

- A cpp block below `<!-- from FILE -->` stands in FILE, line for line (indentation and comment
  marks apart).
- Blocks below `<!-- file: PATH -->` are files: they are laid over the repository, in a folder of
  their own; headers compile, and tests/*/*_test.cpp pass.
- In the tables of a document with a `<!-- declarations` comment, the code in the second column
  compiles after those declarations, row by row.
- Links to files of the repository lead somewhere.
--quick leaves out what needs a compiler.
"""

import argparse
import os
import pathlib
import re
import shlex
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent


def flat(text):
    lines = (re.sub(r"^\s*(//)?\s*", "", l).rstrip() for l in text.splitlines())
    return "\n".join(re.sub(r"\s+", " ", l) for l in lines if l)


def marked(text, mark):
    return re.findall(r"<!-- " + mark + r"\s*(\S+) -->\s*```cpp\n(.*?)```", text, re.S)


def rows(text):
    """(line number, code) of the second column of every table."""
    for i, line in enumerate(text.splitlines(), 1):
        cells = [c.strip() for c in re.split(r"(?<!\\)\|", line)]
        if line.startswith("|") and len(cells) > 2 and not re.match(r"[-: ]+$", cells[1]):
            for code in re.findall(r"`([^`]+)`", cells[2]):
                yield i, code.replace("\\|", "|")


def compile_(compiler, flags, cwd):
    common = ["-std=c++20", "-Wall", "-Wextra", f"-I{ROOT}/include"]
    run = subprocess.run([*compiler, *flags, *common], capture_output=True, text=True, cwd=cwd)
    return None if run.returncode == 0 else "\n".join(run.stderr.splitlines()[:12])


def check(document, compiler, quick, found):
    text = document.read_text()
    name = document.relative_to(ROOT)
    prose = re.sub(r"```.*?```|`[^`\n]*`", "", text, flags=re.S)
    for target in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", prose):
        if not (document.parent / target).exists():
            found.append(f"{name}: the link {target} leads nowhere")
    for source, block in marked(text, "from"):
        if not (ROOT / source).exists() or flat(block) not in flat((ROOT / source).read_text()):
            found.append(f"{name}: not in {source}:\n{block}")
    if quick:
        return
    files = marked(text, "file:")
    declarations = re.search(r"<!-- declarations\n(.*?)-->", text, re.S)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        for path, block in files:
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(block)
        for path in (p for p, _ in files if p.endswith("_test.cpp")):
            if not (folder / "tests/op_case.hpp").exists():
                os.symlink(ROOT / "tests/op_case.hpp", folder / "tests/op_case.hpp")
            sources = [path, str(ROOT / "tests/op_case.cpp"), str(ROOT / "tests/main.cpp")]
            flags = [*sources, "-O1", "-Iinclude", "-pthread", "-o", "test"]
            error = compile_(compiler, flags, folder)
            if error:
                found.append(f"{name}: {path} does not compile:\n{error}")
                continue
            run = subprocess.run(["./test"], cwd=folder, capture_output=True, text=True)
            if run.returncode:
                found.append(f"{name}: {path} does not pass:\n{run.stdout[-2000:]}")
        if declarations:
            uses = "\n".join(f"#line {i} \"{name}\"\n{{ {code}; }}" for i, code in rows(text))
            (folder / "rows.cpp").write_text(declarations[1] + "void rows() {\n" + uses + "\n}\n")
            flags = ["rows.cpp", "-fsyntax-only", "-Wno-unused"]
            error = compile_(compiler, flags, folder)
            if error:
                found.append(f"{name}: a row does not compile:\n{error}")
            if not uses:
                found.append(f"{name}: declarations, but no rows")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("documents", nargs="*", type=pathlib.Path)
    options = parser.parse_args()
    documents = [d.resolve() for d in options.documents] or sorted((ROOT / "docs").rglob("*.md"))
    found = []
    for document in documents:
        check(document, shlex.split(options.compiler), options.quick, found)
    for f in found:
        print(f)
    print(f"{len(documents)} documents, {len(found)} wrong")
    return 1 if found or not documents else 0


if __name__ == "__main__":
    sys.exit(main())
