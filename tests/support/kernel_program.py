"""Compile the program around the kernels: csrc's CUDA source for the CPU, and the CPU kernels, without torch."""

import concurrent.futures
import hashlib
import os
import shutil

from support.checkout import ROOT, run

VERSIONS = ("baseline", "avx2", "avx512")  # of the CPU kernels, a source each
CPU_SOURCES = [ROOT / f"csrc/cpu/{name}.cpp" for name in ("fac_cpu", *VERSIONS)]


def kept(name, compiler, flags):
    """Where a program is that these flags make of csrc/ and tests/kernels: it exists if these were its sources."""
    sources = sorted(path for folder in ("csrc", "tests/kernels") for path in (ROOT / folder).rglob("*.*"))
    digest = hashlib.sha256(f"{flags} {run(compiler, '--version')}".encode())
    for path in sources:
        if path.suffix in (".h", ".cuh", ".cpp", ".cu"):
            digest.update(f"{path.relative_to(ROOT)}\n".encode() + path.read_bytes())
    return ROOT / "build" / "tests" / digest.hexdigest()[:16] / name


def keep(made, place):
    """Move a program to its place in one step, as two runs may make the same one."""
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.copy2(made, place.with_suffix(f".{os.getpid()}"))
    os.replace(place.with_suffix(f".{os.getpid()}"), place)


def build_program(version, folder):
    """Return the program with sanitizers, but for the versions of the CPU kernels that are not this one.

    It is kept in build/tests for the next run with the same sources; `folder` is for what is compiled.
    """
    plain = ("-std=c++20", "-Wall", "-Wextra", "-Wno-unknown-pragmas", "-Werror", "-fno-pie")
    sanitized = (
        *plain,
        "-Og",
        "-g1",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        f"-I{ROOT / 'tests/kernels'}",
    )
    assert version in VERSIONS
    sources = [
        ROOT / "tests/kernels/program.cpp",
        ROOT / "csrc/cpu/fac_cpu.cpp",
        ROOT / f"csrc/cpu/{version}.cpp",
    ]
    # the sanitized ones first: of an inline function that several have, the first stays
    flags = {source: sanitized for source in sources} | {
        source: plain for source in CPU_SOURCES if source not in sources
    }
    place = kept("program", "g++", (*plain, *sanitized, version))
    if not place.exists():
        objects = {source: folder / f"{source.stem}.o" for source in flags}
        with concurrent.futures.ThreadPoolExecutor() as pool:
            compiled = [
                pool.submit(run, "g++", *flags[source], "-c", source, "-o", out)
                for source, out in objects.items()
            ]
            for one in compiled:
                one.result()
        run("g++", *sanitized, *objects.values(), "-no-pie", "-o", folder / "program")
        keep(folder / "program", place)
    return place
