"""Compile and install the package."""

import os
import re
import runpy
import subprocess
import sys

import pytest
import torch
from torch.utils import cpp_extension

from fac_ext import build_info
from support.checkout import ROOT, copy_sources, run


def test_build_info_says_what_was_built():
    info = build_info()
    assert set(info) == {"version", "cuda", "cuda_architectures", "cpu_simd", "kernels"}
    assert re.search(rf'^version = "{info["version"]}"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert (info["cuda"] is None) == (info["cuda_architectures"] == "")


@pytest.mark.long
@pytest.mark.network
def test_pip_install_needs_no_second_torch_and_works_from_any_folder(tmp_path):
    """Install as a user does, in pip's isolated environment, without nvcc."""
    source = copy_sources(tmp_path / "source")
    target = tmp_path / "site"
    environment = os.environ | {"FAC_EXT_CUDA": "0"}
    pip = (sys.executable, "-m", "pip", "install", "-v", "--no-deps", "--target", target, source)
    said = run(*pip, env=environment)
    assert (
        "fac_ext: building the CPU kernels alone (FAC_EXT_CUDA=0) against torch " + torch.__version__ in said
    )
    assert "Collecting torch" not in said
    code = "import fac_ext, torch; x = torch.ones(1, 1, 2, 2); print(fac_ext.fac(x, x, 1).sum().item(), fac_ext.build_info()['cuda'])"
    for folder in (tmp_path, source):  # in the source folder the uncompiled package comes first on the path
        # -S: without this environment's site-packages, where the package is installed too; torch is put back
        site = os.path.dirname(os.path.dirname(torch.__file__))
        path = os.pathsep.join([str(folder), str(target), site])
        said = run(sys.executable, "-S", "-c", code, cwd=folder, env=os.environ | {"PYTHONPATH": path})
        assert said.split()[-2:] == ["4.0", "None"]


def fake_toolkit(folder, version, architectures):
    """Write an nvcc that answers as one of that version would."""
    (folder / "bin").mkdir()
    (folder / "lib64").mkdir()
    (folder / "lib64" / "libcudart_static.a").touch()
    nvcc = folder / "bin" / "nvcc"
    nvcc.write_text(
        f"""#!/bin/sh
case "$1" in
--version) echo "Cuda compilation tools, release {version}, V{version}.1" ;;
--dryrun) echo "#$ TOP={folder}" >&2 ;;
--list-gpu-code) echo {architectures} ;;
esac
"""
    )
    nvcc.chmod(0o755)


@pytest.fixture
def setup(monkeypatch):
    """setup(CUDA_HOME=...) -> the variables of setup.py, run in this process with that environment."""

    def run(**environment):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", ["setup.py", "--name"])
        monkeypatch.setattr(cpp_extension, "CUDA_HOME", None)  # so that what it sets is gone afterwards
        monkeypatch.delenv("FAC_EXT_CUDA", raising=False)
        for name, value in environment.items():
            monkeypatch.setenv(name, str(value))
        return runpy.run_path("setup.py")

    return run


@pytest.mark.parametrize(
    ("version", "architectures", "words"),
    [
        ("12.4", "sm_50 sm_75 sm_80 sm_90", "75 80+PTX 90+PTX"),
        ("11.8", "sm_75 sm_80", "nvcc is 11.8, C++20 needs 12.0"),
    ],
)
def test_an_older_nvcc_builds_what_it_can(tmp_path, setup, version, architectures, words):
    if torch.version.cuda:
        pytest.skip("a torch with CUDA takes the nvcc of its own version only")
    fake_toolkit(tmp_path, version, architectures)
    made = setup(CUDA_HOME=tmp_path)
    assert words == made["archs"] or words in made["why_not"]


def test_every_visible_gpu_gets_code(tmp_path, setup, monkeypatch):
    """Show two GPUs of three to a build: machine code for both kinds, and PTX of the older."""
    fake_toolkit(tmp_path, torch.version.cuda or "13.0", "sm_75 sm_80 sm_90")
    seen = [(9, 0), (8, 6), (9, 0)]
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: len(seen))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda i=0: seen[i])
    made = setup(CUDA_HOME=tmp_path, TORCH_CUDA_ARCH_LIST="")
    assert made["archs"] == "86+PTX 90"
    codes = re.findall(r",code=(\w+)", " ".join(made["flags"]["nvcc"]))
    assert codes == ["sm_86", "sm_90", "compute_86"]


def test_without_torch_the_build_asks_for_it():
    """Ask the build hooks before torch can be imported."""
    code = (
        "import build_backend as b; print(b.get_requires_for_build_wheel(), b.get_requires_for_build_sdist())"
    )
    hide = (
        "from importlib.machinery import PathFinder as P; find = P.find_spec; "
        "P.find_spec = lambda name, *a: None if name.startswith('torch') else find(name, *a); "
    )
    assert run(sys.executable, "-c", code, cwd=ROOT).strip() == "[] []"
    assert run(sys.executable, "-c", hide + code, cwd=ROOT).strip() == "['torch>=2.10'] ['torch>=2.10']"


def test_cuda_can_be_demanded(tmp_path):
    """Report FAC_EXT_CUDA=1 without an nvcc as an error in words."""
    environment = os.environ | {"FAC_EXT_CUDA": "1", "CUDA_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "setup.py", "--name"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert f"FAC_EXT_CUDA=1, but no nvcc found in CUDA_HOME={tmp_path}; set CUDA_HOME" in done.stderr


@pytest.fixture
def pythons():
    return runpy.run_path(str(ROOT / ".ci" / "pythons"))


def test_the_smoke_test_names_tests_that_exist(pythons):
    for test in pythons["SMOKE"]:
        file, _, name = test.partition("::")
        assert f"def {name}(" in (ROOT / file).read_text() if name else (ROOT / file).is_file(), test


def test_pythons_are_found_on_path_and_of_pyenv(tmp_path, monkeypatch, pythons):
    """Make three of them, of which the newest patch counts, and a shim that runs none."""
    path, pyenv = tmp_path / "bin", tmp_path / "pyenv" / "versions"
    for file, code in (
        (path / "python3.97", "exit 0"),
        (path / "python3.98", "exit 127"),
        (pyenv / "3.98.2" / "bin" / "python", "exit 0"),
        (pyenv / "3.98.10" / "bin" / "python", "exit 0"),
    ):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{code}\n")
        file.chmod(0o755)
    monkeypatch.setenv("PATH", str(path))
    monkeypatch.setenv("PYENV_ROOT", str(pyenv.parent))
    found = [pythons["find"](version) for version in ("3.97", "3.98", "3.99")]
    assert found == [str(path / "python3.97"), str(pyenv / "3.98.10" / "bin" / "python"), None]


def test_a_python_that_is_not_there_is_named():
    done = subprocess.run(
        [sys.executable, ROOT / ".ci" / "pythons", "python3.99"], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (1, ".ci/pythons: no such Python: python3.99\n")
