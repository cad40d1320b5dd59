"""Builds fac_ext._C: the CPU kernels always, the CUDA kernels where nvcc is.

FAC_EXT_CUDA=0 leaves CUDA out, =1 demands it. TORCH_CUDA_ARCH_LIST is torch's own variable; without it the
visible GPU decides, or, where there is none, a list that covers Turing to Blackwell.
"""

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from functools import partial
from pathlib import Path

import pybind11
import torch
from setuptools import Extension, setup
from torch.utils import cpp_extension

VERSION = re.search(r'^version = "(.+)"', Path("pyproject.toml").read_text(), re.M).group(1)
ARCHS = ["75", "80", "86", "89", "90", "100", "120"]  # and PTX of the last
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # torch 2.10
if not Path(sysconfig.get_path("include"), "Python.h").exists():
    sys.exit("fac_ext: Python's C headers are missing (Debian and Ubuntu: apt-get install python3-dev)")


def find_toolkit():
    """(version, root, reason): the CUDA toolkit to build with, or (None, None, why there is none)."""
    wanted = os.environ.get("FAC_EXT_CUDA")
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    on_path = None if home else shutil.which("nvcc")
    nvcc = on_path or shutil.which("nvcc", path=f"{home or '/usr/local/cuda'}/bin")
    if wanted == "0":
        reason = "FAC_EXT_CUDA=0"
    elif nvcc is None:
        reason = f"no nvcc found{f' in CUDA_HOME={home}' if home else ''}"
    else:
        say = partial(subprocess.run, capture_output=True, text=True, check=True)
        version = re.search(r"release ([\d.]+)", say([nvcc, "--version"]).stdout).group(1)
        root = re.search(r"TOP=(.*)", say([nvcc, "--dryrun", "-c", "-x", "cu", os.devnull]).stderr).group(1)
        theirs = torch.version.cuda
        if theirs is None or theirs.split(".")[0] == version.split(".")[0]:
            return version, Path(root).resolve(), None
        reason = f"nvcc is {version}, torch's CUDA is {theirs}"
    if wanted == "1":
        sys.exit(f"fac_ext: FAC_EXT_CUDA=1, but {reason}; set CUDA_HOME to a CUDA toolkit that fits")
    return None, None, reason


cuda, toolkit, reason = find_toolkit()
archs = ""
sources = ["csrc/fac_cpu.cpp", "csrc/ops.cpp"]
flags = {"cxx": ["-O3", "-std=c++20", "-fvisibility=hidden", STABLE_ABI], "nvcc": ["-O3", "-std=c++20"]}
# libtorch whole, so that its CUDA half is in scope where it has one; not libtorch_python, which has no stable ABI
link = ["-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10"]
if cuda:
    cpp_extension.CUDA_HOME = str(toolkit)  # torch leaves it empty in its CPU builds
    sources += ["csrc/fac_cuda.cu", "csrc/ops_cuda.cpp"]
    places = ("lib64", "lib", "targets/*/lib")
    runtime = next(path for place in places for path in toolkit.glob(f"{place}/libcudart_static.a"))
    link += [str(runtime), "-lrt", "-ldl", "-lpthread"]
    archs = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    if not archs and torch.cuda.is_available():
        archs = ".".join(map(str, torch.cuda.get_device_capability()))
        flags["nvcc"] += ["-arch=sm_" + archs.replace(".", "")]
    elif not archs:
        archs = " ".join(ARCHS) + "+PTX"
        flags["nvcc"] += [f"-gencode=arch=compute_{a},code=sm_{a}" for a in ARCHS]
        flags["nvcc"] += [f"-gencode=arch=compute_{ARCHS[-1]},code=compute_{ARCHS[-1]}", "--threads=0"]


class Build(cpp_extension.BuildExtension):
    def build_extensions(self):
        kinds = (
            f"CPU and CUDA kernels (CUDA {cuda}: {archs})" if cuda else f"the CPU kernels alone ({reason})"
        )
        print(f"fac_ext: building {kinds} against torch {torch.__version__}", file=sys.stderr)
        super().build_extensions()


extension = Extension(
    "fac_ext._C",
    sources,
    language="c++",
    depends=["csrc/fac.h", "csrc/geometry.h", "csrc/ops.h"],
    include_dirs=[*cpp_extension.include_paths(), pybind11.get_include()],
    library_dirs=cpp_extension.library_paths(),
    define_macros=[
        ("FAC_EXT_VERSION", f'"{VERSION}"'),
        ("FAC_EXT_CUDA", f'"{cuda or ""}"'),
        ("FAC_EXT_ARCHS", f'"{archs}"'),
    ],
    extra_compile_args=flags,
    extra_link_args=link,
)
setup(ext_modules=[extension], cmdclass={"build_ext": Build})
