"""Blurred and sharp clips to train on: pictures seen by a moving camera with an open shutter.

A window wanders over a picture, cut-outs over the window. Each frame is the mean, in linear light, of the sub-frames
that fall into the exposure; its target is the sub-frame in the middle. Then come sensor noise, 8 bits, compression.
Everything is drawn from a seed, so nothing needs to be stored.
"""

from pathlib import Path

import torch
from PIL import Image, UnidentifiedImageError
from torch.utils.data import Dataset

from stfan.synthesis.clip import SynthesisConfig, render_clip
from stfan.synthesis.rng import Rng, generator

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
HELD_OUT = slice(5, None, 6)  # of the pictures, in the order of their names: for test clips alone
PARTS = ("train", "test")


def synthesize(pictures, cutouts, frames, size, generator, settings=None, device="cpu"):
    """One clip.

    Args:
        pictures: of which one is drawn for each shot: (3, H, W) uint8 tensors or files.
        cutouts: of which the layers are drawn: (4, H, W) uint8 RGBA tensors or files; may be empty.
        frames: how many, T.
        size: (height, width) of a frame, or both as one number.
        generator: of all random numbers, on the CPU whatever the device.
        settings: a :class:`SynthesisConfig`, its defaults if None.
        device: what renders. The clips of two kinds of device differ in the last bit, here and there.

    Returns:
        blurry and sharp, (T, 3, height, width) uint8 each, on the CPU.

    Raises:
        ValueError: no pictures, or one that is smaller than a frame.
        OSError: a file can not be read.
    """
    if not len(pictures):
        raise ValueError("pictures: needs at least one, got none")
    draw, settings = Rng(generator), settings or SynthesisConfig()
    first = draw.randint(0, len(pictures) - 1)
    return render_clip(pictures, cutouts, first, frames, _pair(size), draw, settings, device)[:2]


class SyntheticDataset(Dataset):
    """Clips made while training, any number of them.

    All that is random in a clip comes from the seed and its number alone, so workers, their number and interruptions
    change nothing. In each round of as many clips as there are pictures every picture is first once.

    Args:
        pictures: a folder of pictures, or files.
        cutouts: a folder of pictures with an alpha channel, or files; None for none.
        length: frames of a clip, T.
        crop: (height, width) of a frame, or both as one number.
        seed: a number from 0.
        part: "test" for every sixth picture in the order of names, "train" for the others, None for all.
        settings: a :class:`SynthesisConfig`, its defaults if None.
        device: what renders; not a GPU where a DataLoader has workers. Clips of two kinds of device differ in the last bit.

    Raises (before anything is made):
        ValueError: too few pictures, one that is smaller than a frame, or a cut-out without an alpha channel.
        OSError: a folder is missing, or a file is no picture.
    """

    def __init__(
        self, pictures, cutouts=None, *, length=20, crop, seed=0, part=None, settings=None, device="cpu"
    ):
        if part not in (None, *PARTS):
            raise ValueError(f"part must be train, test or None, got {part!r}")
        if length < 1:
            raise ValueError(f"length must be 1 or more, got {length}")
        self.length, self.size, self.seed, self.part = length, _pair(crop), seed, part
        self.settings, self.device = settings or SynthesisConfig(), device
        self.pictures = find_pictures(pictures, self.size)
        if part is not None:
            if len(self.pictures) < 6:
                raise ValueError(f"{pictures}: needs at least 6 pictures to split, has {len(self.pictures)}")
            held_out = self.pictures[HELD_OUT]
            rest = [file for file in self.pictures if file not in held_out]
            self.pictures = held_out if part == "test" else rest
        self.cutouts = [] if cutouts is None else find_cutouts(cutouts)

    def __len__(self):
        return len(self.pictures)

    def __iter__(self):
        """One round."""
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, draw):
        """Clip number `draw`, from 0 without end.

        Returns:
            {"blurry", "sharp": (T, 3, h, w) float32 in [0, 1], "name": picture and number}
        """
        blurry, sharp, facts = self.clip(draw, self.device)
        name = f"{Path(facts['pictures'][0]).stem}-{draw}"
        return {"blurry": blurry.float() / 255, "sharp": sharp.float() / 255, "name": name}

    def clip(self, draw, device="cpu"):
        """Clip number `draw` in 8 bits, blurry and sharp, and what was drawn for it, by name."""
        if draw < 0:
            raise IndexError(f"clips are numbered from 0, got {draw}")
        turn, at = divmod(draw, len(self.pictures))
        order = torch.randperm(len(self.pictures), generator=self._generator(1, turn))
        numbers = Rng(self._generator(0, draw))
        blurry, sharp, facts = render_clip(
            self.pictures,
            self.cutouts,
            int(order[at]),
            self.length,
            self.size,
            numbers,
            self.settings,
            device,
        )
        for key, files in (("pictures", self.pictures), ("cutouts", self.cutouts)):
            facts[key] = [files[index].name for index in facts[key]]
        return blurry, sharp, facts

    def _generator(self, *numbers):
        part = 0 if self.part is None else 1 + PARTS.index(self.part)
        return generator(self.seed, part, *numbers)


def find_pictures(pictures, size):
    """The files of a folder, or those given, sorted by name; each is a picture of at least (height, width)."""
    files = _files(pictures)
    for file in files:
        (width, height), _ = _header(file)
        if height < size[0] or width < size[1]:
            raise ValueError(f"{file}: is {width}x{height}, smaller than the frames' {size[1]}x{size[0]}")
    return files


def find_cutouts(cutouts):
    """The files of a folder, or those given, sorted by name; each has an alpha channel."""
    files = _files(cutouts)
    for file in files:
        _, alpha = _header(file)
        if not alpha:
            raise ValueError(f"{file}: a cut-out needs an alpha channel, this has none")
    return files


def _files(given):
    if isinstance(given, str | Path):
        if not Path(given).is_dir():
            raise FileNotFoundError(f"{given}: no such folder")
        found = [
            file
            for file in Path(given).iterdir()
            if file.suffix.lower() in SUFFIXES and not file.name.startswith(".")
        ]
    else:
        found = [Path(file) for file in given]
    if not found:
        where = given if isinstance(given, str | Path) else "the list"
        raise ValueError(f"{where}: holds no pictures ({', '.join(SUFFIXES)})")
    return sorted(found, key=lambda file: (file.name, file))


def _header(file):
    """(width, height) of a picture, and whether it has an alpha channel."""
    try:
        with Image.open(file) as image:
            return image.size, image.has_transparency_data
    except (OSError, UnidentifiedImageError, Image.DecompressionBombError) as error:
        raise OSError(f"{file}: can not be read: {error}") from error


def _pair(size):
    size = (size, size) if isinstance(size, int) else tuple(size)
    if len(size) != 2 or min(size) < 2:
        raise ValueError(f"the size of a frame must be (height, width) of 2 pixels or more, got {size}")
    return size
