"""Synthetic clips to train on, blurred and sharp: pictures through the open shutter of a moving camera.

The camera moves over a picture, cut-outs move over the view. Each frame is the mean, in linear light, of the sub-frames
that fall into the exposure; its target is the sub-frame in the middle, or the view from the mean pose. Then come
sensor noise, 8 bits, compression. Everything is drawn from a seed, so nothing needs to be stored.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from stfan.images import SUFFIXES, image_files, image_size, open_image
from stfan.rng import Rng, seeded_generator
from stfan.synthesis.clip import Clip, Picture, SynthesisConfig, render_clip

HELD_OUT = slice(5, None, 6)  # of the pictures, in the order of their names: for test clips alone
PARTS = ("train", "test")

Files = str | Path | Sequence[str | Path]  # a folder, or files
Size = int | Sequence[int]


def synthesize(
    pictures: Sequence[Picture],
    cutouts: Sequence[Picture],
    frames: int,
    size: Size,
    generator: torch.Generator,
    settings: SynthesisConfig | None = None,
    device: str | torch.device = "cpu",
) -> tuple[Tensor, Tensor]:
    """Render one clip.

    Args:
        pictures: (3, H, W) uint8 tensors or files; one is drawn for each shot.
        cutouts: (4, H, W) uint8 RGBA tensors or files, from which the layers are drawn; may be empty.
        frames: number of frames, T.
        size: (height, width) of a frame, or both as one number.
        generator: source of all random numbers, on the CPU whatever the device.
        settings: a :class:`SynthesisConfig`, its defaults if None.
        device: what renders. The clips of two kinds of device differ in the last bit, here and there.

    Returns:
        blurry and sharp, (T, 3, height, width) uint8 each, on the CPU.

    Raises:
        ValueError: no pictures, or one that is smaller than a frame.
        OSError: a file cannot be read.
    """
    if not len(pictures):
        raise ValueError("pictures: needs at least one, got none")
    rng, settings = Rng(generator), settings or SynthesisConfig()
    first = rng.randint(0, len(pictures) - 1)
    return render_clip(pictures, cutouts, first, frames, _pair(size), rng, settings, device)[:2]


class SyntheticDataset(Dataset[dict[str, Any]]):
    """Clips that are made during training, any number of them.

    All that is random in a clip comes from the seed and its number alone, so workers, their number and interruptions
    change nothing. In each round of as many clips as there are pictures, every picture is first once.

    Args:
        pictures: a folder of pictures, or files.
        cutouts: a folder of pictures with an alpha channel, or files; None for none.
        length: number of frames of a clip, T.
        crop: (height, width) of a frame, or both as one number.
        seed: a number from 0.
        part: "test" for every sixth picture in the order of names, "train" for the others, None for all.
        settings: a :class:`SynthesisConfig`, its defaults if None.
        target: "middle" for the sub-frame in the middle of each exposure, "mean" for the view from its mean pose.
        device: what renders; not a GPU if a DataLoader has workers. Clips of two kinds of device differ in the last
            bit.

    Raises (before anything is made):
        ValueError: too few pictures, one that is smaller than a frame, or a cut-out without an alpha channel.
        OSError: a folder is missing, or a file is no picture.
    """

    def __init__(
        self,
        pictures: Files,
        cutouts: Files | None = None,
        *,
        length: int = 20,
        crop: Size,
        seed: int = 0,
        part: Literal["train", "test"] | None = None,
        settings: SynthesisConfig | None = None,
        target: Literal["middle", "mean"] = "middle",
        device: str | torch.device = "cpu",
    ):
        if part not in (None, *PARTS):
            raise ValueError(f"part must be train, test or None, got {part!r}")
        if length < 1:
            raise ValueError(f"length must be 1 or more, got {length}")
        self.length, self.size, self.seed, self.part = length, _pair(crop), seed, part
        self.settings, self.target, self.device = settings or SynthesisConfig(), target, device
        self.pictures = find_pictures(pictures, self.size)
        if part is not None:
            if len(self.pictures) < 6:
                raise ValueError(f"{pictures}: needs at least 6 pictures to split, has {len(self.pictures)}")
            held_out = self.pictures[HELD_OUT]
            rest = [file for file in self.pictures if file not in held_out]
            self.pictures = held_out if part == "test" else rest
        self.cutouts = [] if cutouts is None else find_cutouts(cutouts)

    def __len__(self) -> int:
        """Return the number of clips of one round: as many as there are pictures."""
        return len(self.pictures)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over one round."""
        return map(self.__getitem__, range(len(self)))

    def __getitem__(self, draw: int) -> dict[str, Any]:
        """Return clip number `draw`, from 0 without end.

        Returns:
            {"blurry", "sharp": (T, 3, h, w) float32 in [0, 1], "name": picture and number}
        """
        clip = self.render(draw, self.device)
        name = f"{Path(clip.facts['pictures'][0]).stem}-{draw}"
        sharp = clip.mean if self.target == "mean" else clip.middle
        return {"blurry": clip.blurry.float() / 255, "sharp": sharp.float() / 255, "name": name}

    def render(self, draw: int, device: str | torch.device = "cpu") -> Clip:
        """Render clip number `draw` in 8 bits; its facts have the pictures and the cut-outs by name."""
        if draw < 0:
            raise IndexError(f"clips are numbered from 0, got {draw}")
        turn, position = divmod(draw, len(self.pictures))
        order = torch.randperm(len(self.pictures), generator=self._generator(1, turn))
        clip = render_clip(
            self.pictures,
            self.cutouts,
            int(order[position]),
            self.length,
            self.size,
            Rng(self._generator(0, draw)),
            self.settings,
            device,
        )
        for key, files in (("pictures", self.pictures), ("cutouts", self.cutouts)):
            clip.facts[key] = [files[index].name for index in clip.facts[key]]
        return clip

    def _generator(self, *numbers: int) -> torch.Generator:
        part = 0 if self.part is None else 1 + PARTS.index(self.part)
        return seeded_generator(self.seed, part, *numbers)


def find_pictures(pictures: Files, size: tuple[int, int]) -> list[Path]:
    """List the files of a folder, or those given, by name; each must be a picture of (height, width) at least."""
    files = _list_files(pictures)
    for file in files:
        width, height = image_size(file)
        if height < size[0] or width < size[1]:
            raise ValueError(f"{file}: is {width}x{height}, smaller than the frames' {size[1]}x{size[0]}")
    return files


def find_cutouts(cutouts: Files) -> list[Path]:
    """List the files of a folder, or those given, sorted by name; each must have an alpha channel."""
    files = _list_files(cutouts)
    for file in files:
        with open_image(file) as image:
            has_alpha = image.has_transparency_data
        if not has_alpha:
            raise ValueError(f"{file}: a cut-out needs an alpha channel, this has none")
    return files


def _list_files(files: Files) -> list[Path]:
    if isinstance(files, str | Path):
        if not Path(files).is_dir():
            raise FileNotFoundError(f"{files}: no such folder")
        paths = image_files(Path(files))
    else:
        paths = [Path(file) for file in files]
    if not paths:
        where = files if isinstance(files, str | Path) else "the list"
        raise ValueError(f"{where}: holds no pictures ({', '.join(SUFFIXES)})")
    return sorted(paths, key=lambda file: (file.name, file))


def _pair(size: Size) -> tuple[int, int]:
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or min(pair) < 2:
        raise ValueError(f"the size of a frame must be (height, width) of 2 pixels or more, got {pair}")
    return pair
