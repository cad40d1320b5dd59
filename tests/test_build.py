"""How the package is compiled and installed, and the CUDA source as far as a machine without a GPU can see it."""

import ctypes
import os
import re
import shutil
import subprocess
import sys

import pytest
import torch

import oracle
from conftest import ROOT
from fac_ext import build_info
from test_fac import CASES, MODES, tensors

ARCHITECTURES = ("75", "80", "90", "100", "120")


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, **options)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


def test_cpu_kernels_compile_without_torch(tmp_path):
    run(
        "g++",
        "-std=c++20",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-c",
        ROOT / "csrc/fac_cpu.cpp",
        "-o",
        tmp_path / "cpu.o",
    )


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc on this machine")
def test_cuda_kernels_compile_without_torch_and_spill_nothing(tmp_path):
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHITECTURES]
    source, out = ROOT / "csrc/fac_cuda.cu", tmp_path / "cuda.o"
    said = run("nvcc", "-O3", "-std=c++20", "-Xptxas", "-v", "--threads=0", *targets, "-c", source, "-o", out)
    spills = re.findall(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads", said)
    assert len(spills) == len(ARCHITECTURES) * 3 * 2 * 4  # operators, types, kernel sizes 3, 5, 7 and any
    assert set(spills) == {("0", "0", "0")}


@pytest.fixture(scope="module")
def cuda_on_cpu(tmp_path_factory):
    library = tmp_path_factory.mktemp("cuda_on_cpu") / "library.so"
    here = ROOT / "tests/cuda_on_cpu"
    flags = ("-std=c++20", "-O1", "-Wall", "-Wno-unknown-pragmas", "-Werror", "-fPIC", "-shared")
    run("g++", *flags, f"-I{here}", f"-I{ROOT / 'csrc'}", here / "library.cpp", "-o", library)
    return ctypes.CDLL(library)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("shape", "k"), [*CASES, ((1, 2, 24, 17), 3), ((70000, 1, 1, 2), 1)])
def test_the_cuda_source_computes_the_operator(cuda_on_cpu, shape, k, mode):
    """The very kernels, run thread after thread on the CPU; with guards around what they write."""
    input, filters, grad = (tensor.detach() for tensor in tensors(shape, k))
    small = input.numel() < 1000
    exact = (
        oracle.fac_and_gradients(input, filters, grad, k, mode)
        if small
        else (input * filters, grad * filters, input * grad)
    )
    sizes = (ctypes.c_int64 * 6)(*shape, k, MODES.index(mode))
    operands = ((input, filters), (filters, grad), (input, grad))
    for name, (a, b), right in zip(("forward", "grad_input", "grad_filters"), operands, exact, strict=True):
        guarded = torch.full((right.numel() + 128,), torch.nan, dtype=torch.float64)
        out = guarded[64 : 64 + right.numel()]
        function = getattr(cuda_on_cpu, name)
        function.restype = ctypes.c_char_p
        error = function(sizes, *(ctypes.c_void_p(tensor.data_ptr()) for tensor in (a, b, out)))
        assert error is None
        torch.testing.assert_close(out.view(right.shape), right, rtol=1e-12, atol=1e-12)
        assert guarded[:64].isnan().all() and guarded[64 + right.numel() :].isnan().all()


def test_build_info_says_what_was_built():
    info = build_info()
    assert set(info) == {"version", "cuda", "cuda_architectures", "cpu_simd"}
    assert re.search(rf'^version = "{info["version"]}"$', (ROOT / "pyproject.toml").read_text(), re.M)
    assert (info["cuda"] is None) == (info["cuda_architectures"] == "")


@pytest.mark.network
def test_pip_install_needs_no_second_torch_and_works_from_any_folder(tmp_path):
    """As a user does it, in pip's isolated environment, without nvcc."""
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns(".git", ".venv", "build", "*.so", "*.egg-info", "demo", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignore)
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
    """An nvcc that answers as one of that version would."""
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


@pytest.mark.parametrize(
    ("version", "architectures", "words"),
    [
        ("12.4", "sm_50 sm_75 sm_80 sm_90", "'75 80 90+PTX'"),
        ("11.8", "sm_75 sm_80", "nvcc is 11.8, C++20 needs 12.0"),
    ],
)
def test_an_older_nvcc_builds_what_it_can(tmp_path, version, architectures, words):
    if torch.version.cuda:
        pytest.skip("a torch with CUDA takes the nvcc of its own version only")
    fake_toolkit(tmp_path, version, architectures)
    code = "import sys, runpy; sys.argv = ['setup.py', '--name']; s = runpy.run_path('setup.py'); print(repr(s['archs']), s['why_not'])"
    said = run(sys.executable, "-c", code, cwd=ROOT, env=os.environ | {"CUDA_HOME": str(tmp_path)})
    assert words in said


def test_without_torch_the_build_asks_for_it():
    """The hooks answer before torch is there to be imported."""
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
    """FAC_EXT_CUDA=1 without an nvcc is an error in words."""
    environment = os.environ | {"FAC_EXT_CUDA": "1", "CUDA_HOME": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "setup.py", "--name"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode != 0
    assert f"FAC_EXT_CUDA=1, but no nvcc found in CUDA_HOME={tmp_path}; set CUDA_HOME" in done.stderr
