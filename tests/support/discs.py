"""Draw small pictures of discs, for synthetic clips."""

import numpy as np
from PIL import Image


def discs(folder, count, side=80, alpha=False):
    """Draw pictures of discs, or cut-outs of one disc, into a new folder."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:side, : side + 20]
    for i in range(count):
        image = np.full((side, side + 20, 4 if alpha else 3), 0 if alpha else 128, np.uint8)
        for _ in range(1 if alpha else 30):
            disc = (x - rng.integers(side)) ** 2 + (y - rng.integers(side)) ** 2 < rng.integers(9, 300)
            image[disc] = [*rng.integers(0, 255, 3), *([255] if alpha else [])]
        Image.fromarray(image).save(folder / f"{i:02d}.png")
    return folder
