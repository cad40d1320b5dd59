"""What both calls train: the bundled recipe with more of everything, on clips of the packed pictures."""

import importlib.util
import re
import sys
from pathlib import Path

from steps import Steps

RECIPE = "stfan/model/pretrained/compact.toml"
GPU = ["batch=64", "crop=[128,128]", "length=5", "window=5", "workers=12", "log_every=50"]
TINY = ["batch=2", "crop=[32,32]", "length=3", "clip_length=3", "clip_size=[48,48]", "window=3", "workers=0"]
TINY += ["log_every=1"]
RATE = re.compile(r"([\d.]+) iterations/s")


def settings(data: Path, work: Path, clips: int, tiny: bool) -> list[str]:
    """Return the settings of the recipe on this machine. H.264 clips need PyAV."""
    found = [
        f"data={data / 'photos'}",
        f"cutouts={data / 'cutouts'}",
        f"store={work / 'clips'}",
        f"clips={clips}",
    ]
    found += ["validation=", "sources=", "validate_every=0", "checkpoint_every=500", *(TINY if tiny else GPU)]
    if importlib.util.find_spec("av") is None:
        found.append("synthesis.h264_part=0.0")
    # the last of a name counts
    return list({setting.partition("=")[0]: setting for setting in found}.values())


def render(clips: int, chosen: list[str]) -> list[str]:
    """Return the command that renders the clips."""
    return ["nice", sys.executable, "benchmarks/gpu/render.py", RECIPE, str(clips), *chosen]


def train(folder: Path, device: str, chosen: list[str], *options: str) -> list[str]:
    """Return the command that trains."""
    cpu = ["--cpu"] if device == "cpu" else []
    return [sys.executable, "-m", "stfan", "train", str(folder), "-c", RECIPE, *chosen, *cpu, *options]


def report_rate(steps: Steps, name: str, key: str) -> float | None:
    """Return the last rate in iterations/s that a training step reported, and put it into the report."""
    found = RATE.findall((steps.work / f"{name.replace(' ', '-')}.log").read_text(errors="replace"))
    if not found:
        return None
    steps.report[key] = float(found[-1])
    steps.write()
    return float(found[-1])


def measured_rate(steps: Steps, name: str) -> float | None:
    """Return the rate of a training step, and keep it for the next call."""
    rate = report_rate(steps, name, "iterations_per_second")
    if rate is not None:
        (steps.work / "rate").write_text(str(rate))
    return rate
