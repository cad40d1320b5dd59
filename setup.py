"""Build fac_ext._C: the CPU kernels always, the CUDA kernels where nvcc is.

FAC_EXT_CUDA=0 leaves CUDA out, =1 demands it. TORCH_CUDA_ARCH_LIST is torch's own variable. Without it the visible GPUs
decide the architectures or, where there is none, a list that covers Turing to Blackwell.
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
ARCHS = ["75", "80", "90", "100", "120"]  # code for 80 runs on 86 and 89 too
PTX = ["80"]  # and of the last: for a GPU between two of ARCHS (11.0), and for those to come
STABLE_ABI = "-DTORCH_TARGET_VERSION=0x020a000000000000"  # torch 2.10
if not Path(sysconfig.get_path("include"), "Python.h").exists():
    sys.exit("fac_ext: Python's C headers are missing (Debian and Ubuntu: apt-get install python3-dev)")


def find_toolkit():
    """Return nvcc's version, the toolkit's root, its static runtime and the architectures, or raise LookupError."""
    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    on_path = None if home else shutil.which("nvcc")
    nvcc = on_path or shutil.which("nvcc", path=f"{home or '/usr/local/cuda'}/bin")
    if os.environ.get("FAC_EXT_CUDA") == "0":
        raise LookupError("FAC_EXT_CUDA=0")
    if nvcc is None:
        raise LookupError(f"no nvcc found{f' in CUDA_HOME={home}' if home else ''}")
    run = partial(subprocess.run, capture_output=True, text=True, check=True)
    version = re.search(r"release ([\d.]+)", run([nvcc, "--version"]).stdout).group(1)
    torch_cuda = torch.version.cuda
    if int(version.split(".")[0]) < 12:
        raise LookupError(f"nvcc is {version}, C++20 needs 12.0")
    if torch_cuda is not None and torch_cuda.split(".")[0] != version.split(".")[0]:
        raise LookupError(f"nvcc is {version}, torch's CUDA is {torch_cuda}")
    root = Path(
        re.search(r"TOP=(.*)", run([nvcc, "--dryrun", "-c", "-x", "cu", os.devnull]).stderr).group(1)
    ).resolve()
    places = (f"{place}/libcudart_static.a" for place in ("lib64", "lib", "targets/*/lib"))
    runtime = next((path for place in places for path in root.glob(place)), None)
    if runtime is None:
        raise LookupError(f"{root} has no libcudart_static.a")
    known = run([nvcc, "--list-gpu-code"]).stdout.split()
    return version, root, runtime, [arch for arch in ARCHS if f"sm_{arch}" in known]


def targets(machine, portable):
    """Return nvcc's flags for machine code and for PTX of architectures, and their names, "75 80+PTX 90"."""
    flags = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in machine]
    flags += [f"-gencode=arch=compute_{a},code=compute_{a}" for a in portable]
    return [*flags, "--threads=0"], " ".join(a + "+PTX" * (a in portable) for a in machine)


cuda = archs = why_not = ""
try:
    cuda, root, runtime, known = find_toolkit()
except LookupError as reason:
    why_not = str(reason)
    if os.environ.get("FAC_EXT_CUDA") == "1":
        sys.exit(f"fac_ext: FAC_EXT_CUDA=1, but {why_not}; set CUDA_HOME to a CUDA toolkit that fits")
sources = [
    *("csrc/cpu/fac_cpu.cpp", "csrc/cpu/baseline.cpp", "csrc/cpu/avx2.cpp", "csrc/cpu/avx512.cpp"),
    "csrc/bindings/ops.cpp",
]
flags = {
    "cxx": ["-O3", "-std=c++20", "-fvisibility=hidden", f"-fmacro-prefix-map={Path.cwd()}/=", STABLE_ABI],
    "nvcc": ["-O3", "-std=c++20"],
}
# Link all of libtorch, so that its CUDA half is in scope where it has one, but not libtorch_python: no stable ABI
link = ["-Wl,--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10"]
if cuda:
    cpp_extension.CUDA_HOME = str(root)  # torch leaves it empty in its CPU builds
    sources += ["csrc/cuda/fac_cuda.cu", "csrc/bindings/ops_cuda.cpp"]
    link += [str(runtime), "-lrt", "-ldl", "-lpthread"]
    archs = os.environ.get("TORCH_CUDA_ARCH_LIST", "")
    if not archs and torch.cuda.is_available():
        gpus = sorted({torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())})
        visible = [f"{major}{minor}" for major, minor in gpus]
        more, archs = targets(visible, visible[:1])
        flags["nvcc"] += more
    elif not archs:
        more, archs = targets(known, sorted({*PTX, known[-1]} & {*known}, key=int))
        flags["nvcc"] += more


class Build(cpp_extension.BuildExtension):
    def build_extensions(self):
        kinds = (
            f"CPU and CUDA kernels (CUDA {cuda}: {archs})" if cuda else f"the CPU kernels alone ({why_not})"
        )
        print(f"fac_ext: building {kinds} against torch {torch.__version__}", file=sys.stderr)
        super().build_extensions()


extension = Extension(
    "fac_ext._C",
    sources,
    language="c++",
    depends=sorted(str(path) for pattern in ("*.h", "*.cuh") for path in Path("csrc").rglob(pattern)),
    include_dirs=[pybind11.get_include(), *cpp_extension.include_paths()],
    library_dirs=cpp_extension.library_paths(),
    define_macros=[
        ("FAC_EXT_VERSION", f'"{VERSION}"'),
        ("FAC_EXT_CUDA", f'"{cuda}"'),
        ("FAC_EXT_ARCHS", f'"{archs}"'),
    ],
    extra_compile_args=flags,
    extra_link_args=link,
)
setup(ext_modules=[extension], cmdclass={"build_ext": Build})
