"""Derive LITTLE_BLUR of stfan/evaluation/edge_width.py from the clips of stfan data judging.

    stfan data judging PHOTOS CLIPS --cutouts CUTOUTS
    python benchmarks/blur_threshold.py CLIPS [JSON]

The width of a clip is the median of every third frame's. Clips with a drift of 4 and 8 pixels a frame are blurred, the
sharp frames of all clips with a drift are not (those of a drift are other pictures, so no clip counts twice). The
threshold is the largest multiple of 0.1 below which at most one in eight of the blurred clips lies.
"""

import json
import sys
from pathlib import Path
from statistics import median

from stfan.evaluation.edge_width import LITTLE_BLUR, edge_width
from stfan.images import open_rgb

MISTAKEN = 1 / 8  # of the blurred clips, at most


def width(folder):
    """Return the edge width of a folder of frames."""
    widths = [edge_width(open_rgb(path) / 255) for path in sorted(folder.iterdir())[1::3]]
    return median(width for width in widths if width is not None)


def main(root, path=None):
    clips = sorted((Path(root) / "test").iterdir())
    found = {(clip.name[:-3], side): [] for clip in clips for side in ("GT", "input")}
    for clip in clips:
        for side in ("GT", "input"):
            found[clip.name[:-3], side].append(width(clip / side))
    blurred = [w for (name, side), ws in found.items() if side == "input" and name[6] in "48" for w in ws]
    threshold = max(t / 10 for t in range(90) if sum(w < t / 10 for w in blurred) <= MISTAKEN * len(blurred))
    print(f"threshold {threshold} (in use: {LITTLE_BLUR}); below it:")
    below = {}
    for (name, side), widths in found.items():
        below.setdefault(name, {"clips": len(widths)})[side] = low = sum(w < threshold for w in widths)
        print(f"{name} {side}: {low} of {len(widths)}, median {median(widths):.2f}")
    if path:
        Path(path).write_text(json.dumps({"threshold": threshold, "below": below}, indent=1) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
