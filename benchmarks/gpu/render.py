"""Render the stored clips of a recipe with all cores: python render.py RECIPE COUNT [NAME=VALUE ...]"""

import os
import sys
import time
from multiprocessing import get_context
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

from stfan.training import recipe
from stfan.training.loader import build_synthetic

STORED: Any = None  # a worker's clips


def clips(path: str, settings: list[str]):
    """Return a recipe's stored clips."""
    return build_synthetic(recipe.read(path).changed(settings))


def begin(path: str, settings: list[str]) -> None:
    """Open the clips in a worker process."""
    global STORED
    STORED = clips(path, settings)


def render(number: int) -> None:
    """Render a clip, unless it is there."""
    STORED.load_clip(number)


def main() -> None:
    """Render clips 0 to COUNT - 1."""
    path, count, *settings = sys.argv[1:]
    started = time.monotonic()
    clips(path, settings)  # writes the folder's card once
    cores = max(len(os.sched_getaffinity(0)) - 2, 1)
    with get_context("spawn").Pool(cores, begin, (path, settings)) as pool:
        for _ in pool.imap_unordered(render, range(int(count)), 4):
            pass
    print(f"{count} clips in {time.monotonic() - started:.0f} s on {cores} cores")


if __name__ == "__main__":
    main()
