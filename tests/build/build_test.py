#!/usr/bin/env python3
"""Tests of how moraine is compiled, linked and consumed; each case is one ctest entry.

    build_test.py CASE --work FOLDER [--compiled ARCHIVE] [--cxx g++]

Exit code 77: skipped, with the reason printed. Small programs stand in units/.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
UNITS = ROOT / "tests" / "build" / "units"
CONSUMERS = ROOT / "examples" / "consumer"
EXPECTED = "loss 4.5\ngradient 5 4 4 4 3 4\n"
FLAGS = ["-std=c++20", "-O0", "-Wall", "-Wextra", "-I", str(ROOT / "include")]


class Failure(Exception):
    pass


def skip(why):
    print("skipped:", why)
    sys.exit(77)


def run(*command, ok=True, **more):
    """Output of a command; its failure is a failure of the case, unless ok is None."""
    words = [str(c) for c in command]
    print("+", " ".join(words), flush=True)
    done = subprocess.run(words, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, **more)
    if ok is not None and (done.returncode == 0) != ok:
        raise Failure(f"{words[0]} returned {done.returncode}:\n{done.stdout[-4000:]}")
    return done.stdout


def expect(output, text):
    if text not in output:
        raise Failure(f"expected {text!r} in\n{output}")


class Build:
    def __init__(self, options):
        self.work, self.cxx, self.compiled = options.work, options.cxx, options.compiled
        self.cuda_parts = None

    def compile(self, source, name, *flags):
        out = self.work / name
        warnings = run(self.cxx, *FLAGS, *flags, "-c", source, "-o", out)
        if "warning:" in warnings:
            raise Failure(warnings)
        return out

    def link(self, name, *what, ok=True):
        out = self.work / name
        return out if run(self.cxx, *what, "-pthread", "-o", out, ok=ok) is not None and ok else None


# ---- header-only and compiled


def available_headers(b):
    """Every header that can be compiled here: without the io headers whose packages are missing."""
    known, found = {}, []

    def missing(path, seen):
        if path in seen:
            return False
        seen.add(path)
        for target in re.findall(r"^\s*#\s*include\s*<([^>]+)>", path.read_text(), re.M):
            if target.startswith("moraine/"):
                if missing(ROOT / "include" / target, seen):
                    return True
            elif target not in known:
                text = f"#include <cstdio>\n#include <{target}>\n"
                command = [b.cxx, *FLAGS, "-E", "-x", "c++", "-", "-o", os.devnull]
                known[target] = subprocess.run(command, input=text, text=True, capture_output=True).returncode
            if known.get(target):
                print(f"left out: {path.name}, {target} is not installed")
                return True
        return False

    for path in sorted((ROOT / "include").rglob("*.hpp")):
        if not missing(path, set()):
            found.append(str(path.relative_to(ROOT / "include")))
    return found


def io_libraries(b):
    """Those of the readers' libraries that are installed."""
    libraries = []
    for library in ("tiff", "png", "jpeg", "z"):
        found = run(b.cxx, f"-print-file-name=lib{library}.so").strip()
        if "/" in found:
            libraries.append(f"-l{library}")
    return libraries


def two_units(b):
    """Two files that include every header link, and share one copy of every state."""
    everything = b.work / "everything.hpp"
    everything.write_text("".join(f"#include <{h}>\n" for h in available_headers(b)))
    objects = [
        b.compile(UNITS / "unit_a.cpp", "a.o", "-include", everything),
        b.compile(UNITS / "unit_b.cpp", "b.o", "-include", everything),
    ]
    app = b.link("app", *objects, *io_libraries(b))
    expect(run(app), "one copy of everything\n")


def debug_speed(b):
    """A user's own Debug build runs the kernels at nearly the speed of an optimised one: g++ by what
    the headers ask for, any compiler when it links moraine::compiled."""
    builds = {
        "-O2": [b.compile(UNITS / "kernel_speed.cpp", "speed_2.o", "-O2")],
        "-O0 and moraine::compiled": [
            b.compile(UNITS / "kernel_speed.cpp", "speed_c.o", "-O0", "-DMORAINE_COMPILED"),
            b.compiled,
        ],
    }
    if "clang" not in run(b.cxx, "--version"):
        builds["-O0"] = [b.compile(UNITS / "kernel_speed.cpp", "speed_0.o", "-O0", "-g")]
    apps = {n: b.link(f"speed_{i}", *what) for i, (n, what) in enumerate(builds.items())}
    best = dict.fromkeys(apps, 1e9)
    for _ in range(3):
        for name, app in apps.items():
            best[name] = min(best[name], float(run(app)))
    for name, seconds in best.items():
        print(f"{name}: {1e3 * seconds:.2f} ms, {seconds / best['-O2']:.2f} of -O2")
        if seconds > 2 * best["-O2"]:
            raise Failure(f"a block takes {seconds / best['-O2']:.1f} times as long with {name}")


def mixed(b):
    """Header-only and compiled objects in one program, in either order."""
    plain = b.compile(UNITS / "mixed_main.cpp", "plain.o")
    other = b.compile(UNITS / "mixed_other.cpp", "other.o", "-DMORAINE_COMPILED")
    for name, order in (("first", [plain, other]), ("second", [other, plain])):
        expect(run(b.link(name, *order, b.compiled)), "the same\n")
    # Without the archive, the compiled half must not link: what it needs is only promised.
    empty = b.work / "empty.cpp"
    empty.write_text("int main() {}\n")
    output = run(b.cxx, other, empty, "-pthread", "-o", b.work / "without", ok=False)
    expect(output, "undefined reference")


def hidden(b):
    """A shared library built with hidden visibility sees the same slots, device and exception."""
    flags = ["-fPIC", "-fvisibility=hidden", "-fvisibility-inlines-hidden"]
    plugin = b.compile(UNITS / "plugin.cpp", "plugin.o", *flags)
    library = b.link("libplugin.so", "-shared", plugin)
    main = b.compile(UNITS / "plugin_main.cpp", "main.o", *flags)
    linked = b.link("linked", main, library, f"-Wl,-rpath,{b.work}", "-ldl")
    expect(run(linked), "slot filled by the library\none device\ncaught its error\n")
    opened = b.compile(UNITS / "plugin_main.cpp", "opened.o", *flags, "-DOPEN_AT_RUN_TIME")
    app = b.link("opened", opened, "-ldl", "-rdynamic")
    expect(run(app, library), "slot filled by the library\none device\ncaught its error\n")


def refused(b):
    """What must not compile, does not, and says why."""
    for line, text in (
        ("add(Tensor<float>::ones({2}), Tensor<double>::ones({2}))", "no matching function"),
        ("Tensor<std::int64_t>::ones({2}).requires_grad()", "only floating tensors have gradients"),
        ("matmul(Tensor<float>::ones({2}), 3)", "no matching function"),
    ):
        unit = b.work / "refused.cpp"
        unit.write_text(f"#include <moraine/moraine.hpp>\nusing namespace moraine;\nauto f() {{ return {line}; }}\n")
        expect(run(b.cxx, *FLAGS, "-fsyntax-only", unit, ok=False), text)
    unit.write_text("#include <moraine/cuda.cuh>\n")
    expect(run(b.cxx, *FLAGS, "-fsyntax-only", unit, ok=False), "needs a CUDA compiler")


# ---- consumers

QUICK = ["-G", "Ninja", "-DCMAKE_CXX_FLAGS=-O0"]


def configure_and_run(b, name, *more, apps=("app",)):
    build = b.work / name
    output = run("cmake", "-S", CONSUMERS / name, "-B", build, *QUICK, f"-DCMAKE_CXX_COMPILER={b.cxx}", *more)
    run("cmake", "--build", build)
    for app in apps:
        expect(run(build / app), EXPECTED)
    return output


def installed(b):
    """Installs, and then moves what was installed: nothing in it may remember the place."""
    tree, first, moved = b.work / "tree", b.work / "first", b.work / "moved"
    off = [f"-DMORAINE_{x}=OFF" for x in ("TESTS", "EXAMPLES", "BENCH", "CUDA")]
    run("cmake", "-S", ROOT, "-B", tree, *QUICK, *off, f"-DCMAKE_INSTALL_PREFIX={b.work / 'never'}")
    run("cmake", "--build", tree)
    run("cmake", "--install", tree, "--prefix", first)
    first.rename(moved)
    for path in moved.rglob("*.cmake"):
        if str(b.work) in path.read_text():
            raise Failure(f"{path} remembers where it was built")
    return moved


def find_package(b):
    prefix = installed(b)
    configure_and_run(b, "find_package", f"-DCMAKE_PREFIX_PATH={prefix}", apps=("app", "app_compiled"))
    # Another minor version of a library before 1.0 is another library.
    source = b.work / "later"
    source.mkdir()
    (source / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.25)\nproject(x LANGUAGES CXX)\nfind_package(moraine 0.99 REQUIRED)\n"
    )
    run("cmake", "-S", source, "-B", source / "b", f"-DCMAKE_PREFIX_PATH={prefix}", ok=False)


def pkg_config(b):
    if not shutil.which("pkg-config"):
        skip("pkg-config is not installed")
    prefix = installed(b)
    environment = dict(os.environ, PKG_CONFIG_PATH=str(prefix / "share/pkgconfig"), CXX=b.cxx)
    run(CONSUMERS / "pkg_config" / "build.sh", b.work / "app", env=environment)
    expect(run(b.work / "app"), EXPECTED)


def plain_gpp(b):
    run(CONSUMERS / "plain_gpp" / "build.sh", b.work / "app", env=dict(os.environ, CXX=b.cxx))
    expect(run(b.work / "app"), EXPECTED)


def add_subdirectory(b):
    output = configure_and_run(b, "add_subdirectory", "-DMORAINE_CUDA=OFF")
    if "doctest" in output.lower():
        raise Failure("a subproject looked for what only our own tests need")


def fetch_content(b):
    configure_and_run(b, "fetch_content", "-DMORAINE_CUDA=OFF")


# ---- the CUDA seam

NOT_LINKED = "the CUDA backend is not linked"


def nvcc():
    for path in (shutil.which("nvcc"), "/usr/local/cuda/bin/nvcc"):
        if path and os.access(path, os.X_OK):
            return pathlib.Path(path)
    skip("no nvcc: the CUDA backend is compiled and linked only where it is installed")


def cuda_parts(b):
    """main.o by the C++ compiler, cuda.o by nvcc for sm_80 and sm_90, and the libraries' flags."""
    if b.cuda_parts:
        return b.cuda_parts
    compiler = nvcc()
    main = b.compile(UNITS / "cuda_main.cpp", "main.o")
    archs = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in (80, 90)]
    flags = ["-std=c++20", "-O1", "-I", ROOT / "include", *archs, "-ccbin", b.cxx, "-Xcompiler", "-fPIC"]
    cuda = b.work / "cuda.o"
    run(compiler, *flags, "-c", ROOT / "include/moraine/cuda.cu", "-o", cuda)
    home = compiler.resolve().parent.parent
    place = next((home / d for d in ("lib64", "lib") if (home / d / "libcublas.so").exists()), home / "lib64")
    libraries = [f"-L{place}", f"-Wl,-rpath,{place}", "-lcublas", "-lcudart"]
    b.cuda_parts = main, cuda, libraries, (compiler, *flags)
    return b.cuda_parts


def expect_backend(output):
    """The backend is linked: with a device its results are right, without one the driver's reason
    stands in the message and the CPU goes on."""
    if NOT_LINKED in output:
        raise Failure(f"the backend's registration was lost:\n{output}")
    if "cuda: available" in output:
        expect(output, "softmax on cuda agrees\n")
    else:
        expect(output, "cuda: not available\n")
        if not re.search(r"error: tensor: .*(driver|device)", output):
            raise Failure(f"expected the driver's reason in\n{output}")
    expect(output, "cpu works\n")


def cuda_objects(b):
    """The supported way: the backend as an object of the program."""
    main, cuda, libraries, _ = cuda_parts(b)
    expect_backend(run(b.link("app", main, cuda, *libraries)))
    # The same main.o without the backend says which file to add.
    expect(run(b.link("cpu_only", main)), NOT_LINKED + " -> compile include/moraine/cuda.cu")


def cuda_archive(b):
    """A static archive is not supported: the linker drops what nobody refers to, and the message
    must then say so. --whole-archive keeps it, as does a reference to the anchor."""
    main, cuda, libraries, _ = cuda_parts(b)
    archive = b.work / "libbackend.a"
    run("ar", "rcs", archive, cuda)
    expect(run(b.link("dropped", main, archive, *libraries)), NOT_LINKED)
    whole = ["-Wl,--whole-archive", archive, "-Wl,--no-whole-archive"]
    expect_backend(run(b.link("whole", main, *whole, *libraries)))
    expect_backend(run(b.link("anchored", main, "-Wl,-u,moraine_cuda_backend", archive, *libraries)))


def cuda_shared(b):
    """A shared library that holds only the backend, under --as-needed: the anchor keeps it."""
    main, cuda, libraries, _ = cuda_parts(b)
    library = b.link("libbackend.so", "-shared", cuda, *libraries)
    as_needed = ["-Wl,--as-needed", library, f"-Wl,-rpath,{b.work}"]
    expect(run(b.link("dropped", main, *as_needed)), NOT_LINKED)
    anchor = b.compile(UNITS / "cuda_anchor.cpp", "anchor.o")
    expect_backend(run(b.link("anchored", main, anchor, *as_needed)))


def cuda_user(b):
    """A user's own op in a .cu file of its own, beside cuda.cu."""
    _, cuda, libraries, compiler = cuda_parts(b)
    user = b.work / "user.o"
    run(*compiler, "-I", UNITS, "-c", UNITS / "user_op.cu", "-o", user)
    main = b.compile(UNITS / "user_main.cpp", "user_main.o")
    output = run(b.link("app", main, user, cuda, *libraries))
    expect(output, "cpu: 2 5 10\n")
    expect(output, "slot: filled\n")
    if "cuda: available" in output:
        expect(output, "cuda: 2 5 10\n")


def cuda_links(b):
    """All of these with one compilation of the backend."""
    for case in (cuda_objects, cuda_archive, cuda_shared, cuda_user):
        case(b)


def cuda_cmake(b):
    """moraine::cuda: of an installed package in a project that has CUDA, and of a subdirectory in
    one that has not."""
    compiler = nvcc()
    prefix = installed(b)
    for name, languages, how in (
        ("package", "CXX CUDA", "find_package(moraine REQUIRED)"),
        ("subdirectory", "CXX", f"add_subdirectory({ROOT} moraine)"),
    ):
        source = b.work / name
        source.mkdir()
        shutil.copy(UNITS / "cuda_main.cpp", source)
        (source / "CMakeLists.txt").write_text(
            f"cmake_minimum_required(VERSION 3.25)\nproject(x LANGUAGES {languages})\n{how}\n"
            "add_executable(app cuda_main.cpp)\ntarget_link_libraries(app PRIVATE moraine::cuda)\n"
        )
        run(
            *("cmake", "-S", source, "-B", source / "b", *QUICK, f"-DCMAKE_CUDA_COMPILER={compiler}"),
            *("-DCMAKE_CUDA_ARCHITECTURES=90", f"-DCMAKE_PREFIX_PATH={prefix}"),
        )
        run("cmake", "--build", source / "b")
        expect_backend(run(source / "b" / "app"))


CASES = {
    f.__name__: f
    for f in (
        two_units, debug_speed, mixed, hidden, refused, find_package, pkg_config, plain_gpp,
        add_subdirectory,
    )
    + (fetch_content, cuda_objects, cuda_archive, cuda_shared, cuda_user, cuda_links, cuda_cmake)
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("case", choices=CASES)
    parser.add_argument("--work", type=pathlib.Path, required=True)
    parser.add_argument("--compiled", type=pathlib.Path, help="the archive of moraine::compiled")
    parser.add_argument("--cxx", default="g++")
    options = parser.parse_args()
    options.work = options.work.resolve() / options.case
    shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True)
    try:
        CASES[options.case](Build(options))
    except Failure as failure:
        print("FAILED:", failure)
        sys.exit(1)
    print("passed")
    shutil.rmtree(options.work, ignore_errors=True)


if __name__ == "__main__":
    main()
