"""Tell which devices have kernels of ours. On any other the PyTorch expression runs, and a warning says so once."""

import warnings
from typing import TypedDict

import torch

from fac_ext import _C


class BuildInfo(TypedDict):
    """How the compiled half of fac_ext was built, and what it serves here.

    Attributes:
        version: of the package.
        cuda: the CUDA toolkit's version, None if it was built without one.
        cuda_architectures: what the CUDA kernels were compiled for, "" without them.
        cpu_simd: the CPU instruction set in use.
        kernels: the types of devices that run the kernels; the others run the PyTorch expression.
    """

    version: str
    cuda: str | None
    cuda_architectures: str
    cpu_simd: str
    kernels: tuple[str, ...]


def build_info() -> BuildInfo:
    """Return how fac_ext was built, and which types of devices run its kernels."""
    kernels = tuple(device for device in ("cpu", "cuda") if why_no_kernels(device) is None)
    return {**_C.build_info(), "kernels": kernels}


def why_no_kernels(device: str) -> str | None:
    """Return why a type of device runs the PyTorch expression, and how to get kernels; None if it has them."""
    if device in ("cpu", "meta"):
        return None
    if device != "cuda":
        return f"fac_ext has no kernels for {device}, only for CPUs and CUDA"
    if torch.version.hip:
        return "fac_ext has no kernels for ROCm, only for CPUs and CUDA"
    if _C.build_info()["cuda"] is None:
        toolkit = f"nvcc of CUDA {torch.version.cuda}" if torch.version.cuda else "nvcc"
        return (
            f"fac_ext was built without CUDA; for its kernels put {toolkit} on the PATH and reinstall fac_ext"
        )
    return None


_warned_of: set[str] = set()


def warn_of_expression(device: str) -> None:
    """Warn, once for a type of device, that the PyTorch expression runs there, and why."""
    if device not in _warned_of:
        _warned_of.add(device)
        reason = why_no_kernels(device)
        warnings.warn(
            f"fac: runs as a PyTorch expression on {device}, slower than kernels: {reason}", stacklevel=4
        )


# torch.compile would refuse the warning; so marked, it warns when it compiles. This is all that
# torch.compiler.assume_constant_result does, which imports the compiler, seconds, with fac_ext.
warn_of_expression._dynamo_marked_constant = True  # type: ignore[attr-defined]
