"""Where `make gpu` and `make gpu-train` work: a copy of the tree with a built extension, and what the machine lacks."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path

from steps import Steps

ROOT = Path(__file__).resolve().parents[2]
NEEDED = ("numpy", "pybind11", "setuptools", "ninja", "pytest", "xdist", "hypothesis", "PIL", "safetensors")
TRAINING = ("accelerate", "tensorboard", "typer", "rich")
LEFT_OUT = {".git", ".gpu", ".venv", "build", "data", "runs", "demo"}  # of the root


def refusals(device: str, training: bool = False) -> list[str]:
    """Return what this machine lacks, a line each; nothing is begun before."""
    needed = NEEDED + (TRAINING if training else ())
    absent = [name for name in ("torch", *needed) if importlib.util.find_spec(name) is None]
    lines = [f"there is no {', '.join(absent)} for {sys.executable}"] if absent else []
    if "torch" in absent:
        return lines
    import torch

    version = tuple(map(int, re.findall(r"\d+", torch.__version__)[:2]))
    if version < (2, 10):
        lines.append(f"torch must be 2.10 or newer, is {torch.__version__}")
    if device == "cpu":
        return lines
    if not torch.cuda.is_available():
        lines.append(f"torch {torch.__version__} sees no GPU; DEVICE=cpu rehearses without one")
    nvcc = shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        lines.append("there is no nvcc on PATH, nor in /usr/local/cuda/bin")
    else:
        said = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
        release = (re.findall(r"release ([\d.]+)", said) or ["unknown"])[0]
        if torch.version.cuda and torch.version.cuda.split(".")[0] != release.split(".")[0]:
            lines.append(f"nvcc is of CUDA {release}, torch of CUDA {torch.version.cuda}")
    return lines


def copy_tree(tree: Path) -> Path:
    """Copy the checkout's sources, without what was built in it; return where they are."""

    def left_out(folder: str, names: list[str]) -> set[str]:
        built = {name for name in names if name == "__pycache__" or name.endswith((".so", ".egg-info"))}
        return built | (LEFT_OUT & set(names) if Path(folder) == ROOT else set())

    if not tree.exists():
        shutil.copytree(ROOT, tree, ignore=left_out)
    return tree


def build(steps: Steps, device: str, ready: Path | None, limit: float) -> bool:
    """Build the extension in the steps' tree, or take a ready one that loads; return whether there is one."""
    if list((steps.tree / "fac_ext").glob("_C*.so")):
        return True
    if ready:
        name = shutil.copy(ready, steps.tree / "fac_ext")
        if steps.run("ready extension", [sys.executable, "-c", LOAD, device], 60).code == 0:
            return True
        Path(name).unlink()
    command = [sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"]
    return steps.run("build", command, limit, FAC_EXT_CUDA="0" if device == "cpu" else "1").code == 0


# Loads the extension and calls a kernel of it.
LOAD = """
import sys, torch, fac_ext
made = fac_ext.fac(torch.ones(1, 1, 8, 8, device=sys.argv[1]), torch.ones(1, 9, 8, 8, device=sys.argv[1]), 3)
assert float(made.sum()) == 22 * 22
print(torch.__version__, fac_ext.build_info())
"""
