"""Training sequences: short runs of frames, augmented alike, as a function of (seed, draw) alone.

The draws 0, 1, 2, ... are what a training run consumes; nothing else is remembered between them. So a run that is
resumed at any draw, with any number of workers, sees the same bits as one that was never interrupted.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset

from stfan.data.paired_videos import Video
from stfan.images import image_size, open_rgb
from stfan.rng import seeded_generator

log = logging.getLogger("stfan")
GREY = (0.2989, 0.587, 0.114)  # weights of R, G and B, as torchvision has them
Range = tuple[float, float]


class SequenceDataset(Dataset[dict[str, Any]]):
    """Sequences of blurry and sharp frames, cut out of videos and augmented at random.

    Each video is cut into sequences of `length` frames from its beginning. If frames are left over, one more sequence
    ends at the last frame and overlaps the one before. A video with fewer frames goes forth and back (0 1 2 1 0 1 ...).
    A video in which numbers are missing is as many videos as it has runs of frames (see :attr:`Video.runs`).

    A draw is any number from 0 on. An epoch is len(self) draws, in which every sequence comes once, in an order of the
    epoch's own. Use ranges of draws as the sampler:
    ``DataLoader(sequences, sampler=range(start, stop), num_workers=4)``.

    The augmentation is that of the article on STFAN, drawn once for all frames of a sequence:

    * time is reversed with probability 1/2;
    * a factor b of the brightness and a factor c of the contrast are uniform in their ranges. x becomes b x, and that
      becomes c x + (1 - c) m, where m is the mean of its grey value (0.2989 R + 0.587 G + 0.114 B) over all blurry
      frames of the crop. These are torchvision's definitions, except that there is one mean, so that all frames and
      both sides go through the same map, and that clamping comes once, at the end;
    * frames are mirrored horizontally and vertically with probability 1/2 each;
    * the position of the crop is uniform.

    Both sides are clamped to [0, 1]. Then Gaussian noise of standard deviation `noise`, independent for every value
    of every frame, is added to the blurry side, which is clamped again. (The article says N(0, 0.01); the authors'
    code has a standard deviation of 0.0001, and the same noise on every frame.)

    Args:
        videos: at least one :class:`stfan.data.paired_videos.Video`.
        length: frames of a sequence.
        crop: (height, width) in pixels, multiples of 4.
        noise: standard deviation on a scale of [0, 1].
        brightness, contrast: (lowest, highest) factor.
        flips, reversal: whether to mirror, and to reverse time.
        seed: from 0 on.
        skip_corrupt: replace a sequence with an unreadable file by that of the next draw, and name the file in a
            warning of the logger "stfan", once in each process; otherwise such a file is an OSError.

    Raises:
        ValueError: an argument is out of its range, or frames are smaller than the crop.
        OSError: a first frame cannot be read, unless `skip_corrupt`.
    """

    def __init__(
        self,
        videos: Sequence[Video],
        *,
        length: int = 20,
        crop: tuple[int, int] = (320, 448),
        noise: float = 0.01,
        brightness: Range = (0.8, 1.2),
        contrast: Range = (0.8, 1.2),
        flips: bool = True,
        reversal: bool = True,
        seed: int = 0,
        skip_corrupt: bool = False,
    ):
        if length < 1:
            raise ValueError(f"length must be at least 1, got {length}")
        if len(crop) != 2 or min(crop) < 4 or any(side % 4 for side in crop):
            raise ValueError(f"crop must be (height, width), multiples of 4, got {crop}")
        for name, value in {"noise": (noise, noise), "brightness": brightness, "contrast": contrast}.items():
            if len(value) != 2 or not 0 <= value[0] <= value[1] < math.inf:
                raise ValueError(f"{name} must be finite, not negative, and a range in order, got {value}")
        if seed < 0:
            raise ValueError(f"seed must not be negative, got {seed}")
        self.crop, self.noise, self.brightness, self.contrast = tuple(crop), noise, brightness, contrast
        self.flips, self.reversal, self.seed, self.skip_corrupt = flips, reversal, seed, skip_corrupt
        self._sequences = [
            (video, [run[t] for t in frames])
            for video in videos
            for run in video.runs
            for frames in sequence_indices(len(run), length)
        ]
        if not self._sequences:
            raise ValueError("videos must hold one video at least, got none")
        self._epoch: int | None = None
        self._order: list[int] = []  # of that epoch
        self._warned: set[str] = set()
        for video in videos:
            try:
                self._frame_size(video.blurry[0])
            except OSError as error:
                self._raise_or_warn(error)

    def __len__(self) -> int:
        """Return the number of sequences of one epoch."""
        return len(self._sequences)

    def __getitem__(self, draw: int) -> dict[str, Any]:
        """Return {"blurry" and "sharp": (T, 3, h, w) float32 in [0, 1], "name": the video, and its first..last frame}.

        Raises:
            IndexError: draw is negative.
            OSError: a file cannot be read, or is of another size than the first of its sequence; names it.
            ValueError: the frames are smaller than the crop.
        """
        if draw < 0:
            raise IndexError(f"draw must not be negative, got {draw}")
        for other in range(draw, draw + len(self)):
            try:
                return self._load(other)
            except OSError as error:
                self._raise_or_warn(error)
        raise OSError(f"no sequence of draws {draw} to {draw + len(self) - 1} can be read")

    def _load(self, draw: int) -> dict[str, Any]:
        video, frames = self._sequences[self._shuffled(draw)]
        size = self._frame_size(video.blurry[frames[0]])
        generator = seeded_generator(self.seed, 1, draw, bits=32)
        uniforms = torch.rand(5, generator=generator, dtype=torch.float64).tolist()
        box = self._draw_box(size, generator)
        brightness, contrast = (
            low + (high - low) * u
            for (low, high), u in zip((self.brightness, self.contrast), uniforms[3:], strict=True)
        )
        axes = self._flipped_axes(*uniforms[:3])
        blurry, sharp = (
            torch.stack([open_rgb(side[i], box, size) for i in frames]).flip(axes)
            for side in (video.blurry, video.sharp)
        )
        # Whole numbers are summed, and each operation rounds by itself: the bits do not depend on threads.
        sums = blurry.sum((0, 2, 3), dtype=torch.int64).tolist()
        values = 255 * len(frames) * self.crop[0] * self.crop[1]
        grey = sum(weight * total for weight, total in zip(GREY, sums, strict=True)) / values
        factor, offset = brightness * contrast, (1 - contrast) * brightness * grey
        blurry, sharp = (
            side.float().div_(255).mul_(factor).add_(offset).clamp_(0, 1) for side in (blurry, sharp)
        )
        if self.noise:
            blurry.add_(torch.randn(blurry.shape, generator=generator).mul_(self.noise)).clamp_(0, 1)
        first, last = (video.blurry[i].stem for i in (min(frames), max(frames)))
        return {"blurry": blurry, "sharp": sharp, "name": f"{video.name} {first}..{last}"}

    def _draw_box(self, size: tuple[int, int], generator: torch.Generator) -> tuple[int, int, int, int]:
        """Draw where the crop is in a frame of (width, height): left, top, right, bottom."""
        width, height = size
        h, w = self.crop
        top, left = (
            int(torch.randint(room + 1, (), generator=generator)) for room in (height - h, width - w)
        )
        return left, top, left + w, top + h

    def _flipped_axes(self, backwards: float, mirror: float, upside_down: float) -> list[int]:
        """Return the axes of (T, 3, h, w) that are reversed, by three numbers in [0, 1)."""
        axes = [0] if self.reversal and backwards < 0.5 else []
        return axes + [axis for axis, u in ((2, upside_down), (3, mirror)) if self.flips and u < 0.5]

    def _shuffled(self, draw: int) -> int:
        """Return the number of the sequence that a draw takes."""
        epoch, position = divmod(draw, len(self))
        if epoch != self._epoch:
            self._order = torch.randperm(
                len(self), generator=seeded_generator(self.seed, 0, epoch, bits=32)
            ).tolist()
            self._epoch = epoch
        return self._order[position]

    def _frame_size(self, path: Path) -> tuple[int, int]:
        """Return (width, height) of a frame; raise ValueError if the crop does not fit in."""
        width, height = image_size(path)
        if self.crop[0] > height or self.crop[1] > width:
            raise ValueError(
                f"{path}: is {width}x{height}, smaller than the crop of {self.crop[1]}x{self.crop[0]}"
            )
        return width, height

    def _raise_or_warn(self, error: OSError) -> None:
        """Re-raise the current OSError, or with `skip_corrupt` warn about it once."""
        if not self.skip_corrupt:
            raise error
        if str(error) not in self._warned:
            self._warned.add(str(error))
            log.warning("%s; other sequences take its place", error)


def sequence_indices(frames: int, length: int) -> list[list[int]]:
    """Cut a video of so many frames into sequences: a list of frame numbers for each."""
    if 0 < frames < length:
        there_and_back = [*range(frames), *range(frames - 2, 0, -1)]
        return [[there_and_back[t % len(there_and_back)] for t in range(length)]]
    starts = [*range(0, frames - length + 1, length)]
    if frames % length:
        starts.append(frames - length)
    return [list(range(start, start + length)) for start in starts]
