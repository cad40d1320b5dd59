"""A contact sheet of clips: what there is to learn from, on one picture."""

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from stfan.evaluation.metrics import psnr
from stfan.files import whole
from stfan.images import to_8bit

GAP, LINE = 4, 18  # pixels between pictures, and of a line of text
COLUMNS = 5  # frames of a clip
PAPER, INK = (255, 255, 255), (0, 0, 0)


def contact_sheet(items, path, columns=COLUMNS, side=256):
    """Write a PNG with a row for each clip: frames spread over it, blurry above and sharp below, under a label.

    The label is the clip's name and the PSNR (protocol rgb8) of its blurry frames, the mean and the range.

    Args:
        items: of "name", "blurry" and "sharp", (T, 3, h, w) in [0, 1] or uint8, as :class:`stfan.synthesis.dataset.Synthetic`
            gives them.
        path: of the file, whole or not at all; it is replaced if it exists.
        columns: frames of a clip, at most.
        side: of a frame that is larger, its longer side in pixels; it is reduced to that.

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
    with whole(path) as partial:
        sheet.save(partial)


def _row(item, columns, side):
    """The picture of one clip."""
    blurry, sharp = (
        frames / 255 if frames.dtype.itemsize == 1 else frames for frames in (item["blurry"], item["sharp"])
    )
    if blurry.shape != sharp.shape or blurry.dim() != 4 or not len(blurry):
        raise ValueError(
            f"{item['name']}: blurry and sharp must be (T, 3, h, w) alike, "
            f"got {tuple(blurry.shape)} and {tuple(sharp.shape)}"
        )
    height, width = blurry.shape[2:]
    reduction = max(1, max(height, width) / side)
    width, height = round(width / reduction), round(height / reduction)
    shown = np.linspace(0, len(blurry) - 1, min(columns, len(blurry))).round().astype(int)
    row = Image.new("RGB", (GAP + len(shown) * (width + GAP), LINE + 2 * (height + GAP)), PAPER)
    for column, t in enumerate(shown):
        for line, frames in enumerate((blurry, sharp)):
            picture = Image.fromarray(to_8bit(frames[t]).permute(1, 2, 0).numpy())
            if reduction > 1:
                picture = picture.resize((width, height))
            row.paste(picture, (GAP + column * (width + GAP), LINE + line * (height + GAP)))
    scores = psnr(blurry, sharp)
    label = f"{item['name']}   {scores.mean():.1f} dB ({scores.min():.1f} to {scores.max():.1f})"
    ImageDraw.Draw(row).text((GAP, 3), label, INK, ImageFont.load_default())
    return row
