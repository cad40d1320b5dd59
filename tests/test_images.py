"""Images are read as viewers show them, wherever they are read."""

import numpy as np
import pytest
import torch

pytest.importorskip("PIL", reason="Pillow is not installed")
from PIL import ExifTags, Image

from stfan.images import image_size, open_rgb, open_rgba


@pytest.mark.parametrize("ending", ["png", "tif", "webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_is_turned_by_its_exif_tag(tmp_path, ending, orientation):
    """The stored picture is the one that the tag turns into what is wanted."""
    wanted = np.random.default_rng(0).integers(0, 255, (6, 10, 3), np.uint8)
    turn = {1: lambda a: a, 2: lambda a: a[:, ::-1], 3: lambda a: a[::-1, ::-1], 4: lambda a: a[::-1]}
    for number, other in ((5, 1), (6, 4), (7, 3), (8, 2)):
        turn[number] = lambda a, other=other: turn[other](a.transpose(1, 0, 2))
    # what a tag does: 5 transposes, 6 turns clockwise, 7 transposes and turns by 180 degrees, 8 counter-clockwise
    stored = turn[{6: 6, 8: 8}.get(orientation, orientation)](wanted)
    if orientation in (6, 8):
        stored = np.rot90(wanted, 1 if orientation == 6 else -1)
    elif orientation == 7:
        stored = wanted.transpose(1, 0, 2)[::-1, ::-1]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    path = tmp_path / f"a.{ending}"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif, lossless=True)
    upright = torch.from_numpy(wanted).permute(2, 0, 1)
    assert image_size(path) == (10, 6)
    assert torch.equal(open_rgb(path), upright)
    assert torch.equal(open_rgb(path, (2, 1, 7, 5), (10, 6)), upright[:, 1:5, 2:7])
    assert torch.equal(open_rgba(path)[:3], upright)
