"""Test one wheel with several versions of torch, and a build against each; renew docs/wheels.md.

Opt-in with `make wheels`: each version is gigabytes of downloads, into an environment that is deleted again.
"""

import datetime
import json
import os
import sys
import venv

import pytest
import torch

from support.checkout import ROOT, copy_sources, replace_section, run

VERSIONS = ("==2.10.0", "==2.11.0", "==2.12.1", "==2.13.0", "")  # the last: the newest that pip gives
SMOKE = ROOT / "tests/packaging/smoke.py"


def smoke(python, folder):
    """Run smoke.py with a Python; return what it says it ran with."""
    lines = run(python, SMOKE, cwd=folder).splitlines()
    return json.loads(next(line for line in lines if line.startswith("{")))  # beside torch's warnings


def install(python, *packages, **environment):
    """Install packages, with these environment variables beside those of this process."""
    run(python, "-m", "pip", "install", "-q", "--no-cache-dir", *packages, env=os.environ | environment)


@pytest.mark.wheels
def test_one_wheel_and_a_build_with_every_torch(tmp_path):
    sources = copy_sources(tmp_path / "sources")
    run(sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--wheel-dir", tmp_path, sources)
    (wheel,) = tmp_path.glob("*.whl")
    rows = []
    for version in VERSIONS:
        folder = tmp_path / f"torch{version}"
        venv.create(folder, with_pip=True)
        python = folder / "bin" / "python"
        install(python, f"torch{version}", "numpy")
        install(python, "--no-deps", wheel)
        served = smoke(python, tmp_path)
        run(python, "-m", "pip", "uninstall", "-q", "-y", "fac-ext")
        # The CPU kernels alone: nvcc compiles the others without torch's headers but for one file.
        install(python, "--no-deps", copy_sources(folder / "sources", sources), FAC_EXT_CUDA="0")
        built = smoke(python, tmp_path)
        assert built["cuda"] is None
        assert served["torch"] == built["torch"] and version[2:] in built["torch"]
        rows.append(f"| {built['torch']} | {built['python']} | {built['cpu_simd']} | passed | passed |")
        run("rm", "-r", folder)
    table = "\n".join(rows)
    replace_section(
        "docs/wheels.md",
        "make wheels",
        f"""
Last run: {datetime.date.today()}, with `{wheel.name}` ({wheel.stat().st_size / 1e6:.1f} MB),
built with torch {torch.__version__} and CUDA {served["cuda"]} ({served["cuda_architectures"]}).

| torch | Python | CPU kernels | the wheel | a build of the CPU kernels |
|---|---|---|---|---|
{table}
""",
    )
