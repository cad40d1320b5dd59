"""A contact sheet: a few frames of each clip on one image."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from stfan.evaluation.metrics import psnr
from stfan.files import atomic_write
from stfan.images import to_8bit, to_pillow

GAP, LINE = 4, 18  # pixels between frames, and height of a line of text
COLUMNS = 5  # frames of a clip
PAPER, INK = (255, 255, 255), (0, 0, 0)


def contact_sheet(
    items: Iterable[Mapping[str, Any]], path: str | Path, columns: int = COLUMNS, side: int = 256
) -> None:
    """Write a PNG with a row for each clip: frames spread over it, blurry above and sharp below, under a label.

    The label is the clip's name and the PSNR (protocol rgb8) of its blurry frames, mean and range.

    Args:
        items: mappings with "name", "blurry" and "sharp", (T, 3, h, w) in [0, 1] or uint8, as
            :class:`stfan.synthesis.dataset.SyntheticDataset` gives them.
        path: the file, written atomically; it is replaced if it exists.
        columns: the most frames of a clip.
        side: the most pixels of a frame's longer side; larger frames are reduced.

    Raises:
        ValueError: path does not end in .png, there are no items, or blurry and sharp of one do not match.
    """
    if not str(path).lower().endswith(".png"):
        raise ValueError(f"{path}: a contact sheet must be a file that ends in .png")
    rows = [_row(item, columns, side) for item in items]
    if not rows:
        raise ValueError(f"{path}: there are no clips to show")
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), PAPER)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    with atomic_write(path) as partial:
        sheet.save(partial)


def _row(item: Mapping[str, Any], columns: int, side: int) -> Image.Image:
    """Draw one clip."""
    blurry, sharp = (_as_float(item[key]) for key in ("blurry", "sharp"))
    if blurry.shape != sharp.shape or blurry.dim() != 4 or not len(blurry):
        raise ValueError(
            f"{item['name']}: blurry and sharp must be (T, 3, h, w) alike, "
            f"got {tuple(blurry.shape)} and {tuple(sharp.shape)}"
        )
    height, width = blurry.shape[2:]
    reduction = max(1, max(height, width) / side)
    width, height = round(width / reduction), round(height / reduction)
    times = np.linspace(0, len(blurry) - 1, min(columns, len(blurry))).round().astype(int)
    row = Image.new("RGB", (GAP + len(times) * (width + GAP), LINE + 2 * (height + GAP)), PAPER)
    for column, t in enumerate(times):
        for line, frames in enumerate((blurry, sharp)):
            frame = to_pillow(to_8bit(frames[t]))
            if reduction > 1:
                frame = frame.resize((width, height))
            row.paste(frame, (GAP + column * (width + GAP), LINE + line * (height + GAP)))
    scores = psnr(blurry, sharp)
    label = f"{item['name']}   {scores.mean():.1f} dB ({scores.min():.1f} to {scores.max():.1f})"
    ImageDraw.Draw(row).text((GAP, 3), label, INK, ImageFont.load_default())
    return row


def _as_float(frames: torch.Tensor) -> torch.Tensor:
    return frames if frames.is_floating_point() else frames / 255
