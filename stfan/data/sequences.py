"""Training sequences: short runs of frames with one random change for all of them, a function of (seed, draw) alone.

The draws 0, 1, 2, ... are what a run consumes; nothing else is remembered between them. So a run that goes on at any
draw, with any number of workers, sees the same bits as one that was never interrupted.
"""

import logging
import math

import numpy as np
import torch
from torch.utils.data import Dataset

from stfan.images import image_size, read_image

log = logging.getLogger("stfan")
GREY = (0.2989, 0.587, 0.114)  # weights of R, G and B, as torchvision has them


class Sequences(Dataset):
    """Sequences of blurry and sharp frames, cut out of videos and changed at random.

    Each video is cut into runs of `length` frames from its beginning; if frames are left over, one more run ends at
    the last frame, and overlaps the one before. A video with fewer frames goes forth and back (0 1 2 1 0 1 ...).

    A draw is any number from 0 on. An epoch is len(self) of them, in which every run comes once, in an order of its
    own. Use ranges of draws as the sampler: ``DataLoader(sequences, sampler=range(start, stop), num_workers=4)``.

    What is drawn for a sequence, once for all of its frames (the article on STFAN):

    * reversal of time, with probability 1/2;
    * a factor b of the brightness and a factor c of the contrast, uniform in their ranges: x becomes b x, and that
      becomes c x + (1 - c) m, where m is the mean of its grey value (0.2989 R + 0.587 G + 0.114 B) over all blurry
      frames of the crop. These are torchvision's definitions, but for one mean, so that all frames and both sides
      go through the same map, and for clamping once, at the end;
    * horizontal and vertical mirroring, with probability 1/2 each;
    * where the crop is.

    Both sides are clamped to [0, 1]. Then Gaussian noise of standard deviation `noise`, independent for every value
    of every frame, is added to the blurry side, which is clamped again. (The article says N(0, 0.01); the authors'
    code has a standard deviation of 0.0001, and the same noise on every frame.)

    Args:
        videos: :class:`stfan.data.paired_videos.Video` objects, one at least.
        length: frames of a sequence.
        crop: (height, width) in pixels, multiples of 4.
        noise: standard deviation on a scale of [0, 1].
        brightness, contrast: (lowest, highest) factor.
        flips, reversal: whether to mirror, and to reverse time.
        seed: from 0 on.
        skip_corrupt: a sequence with a file that can not be read is replaced by that of the next draw, and the file
            is named in a warning of the logger "stfan", once by each process; otherwise it is an OSError.

    Raises:
        ValueError: an argument out of its range; frames that are smaller than the crop.
        OSError: a first frame that can not be read, unless skip_corrupt.
    """

    def __init__(
        self,
        videos,
        *,
        length=20,
        crop=(320, 448),
        noise=0.01,
        brightness=(0.8, 1.2),
        contrast=(0.8, 1.2),
        flips=True,
        reversal=True,
        seed=0,
        skip_corrupt=False,
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
        self._runs = [(video, run) for video in videos for run in runs(len(video.blurry), length)]
        if not self._runs:
            raise ValueError("videos must hold one video at least, got none")
        self._epoch, self._order, self._warned = None, None, set()
        for video in videos:
            try:
                self._size(video.blurry[0])
            except OSError as error:
                self._corrupt(error)

    def __len__(self):
        """Sequences of one epoch."""
        return len(self._runs)

    def __getitem__(self, draw):
        """{"blurry" and "sharp": (T, 3, h, w) float32 in [0, 1], "name": the video, and its first..last frame}.

        Raises:
            IndexError: draw is negative.
            OSError: a file can not be read, or is of another size than the first of its sequence; names it.
            ValueError: the frames are smaller than the crop.
        """
        if draw < 0:
            raise IndexError(f"draw must not be negative, got {draw}")
        for other in range(draw, draw + len(self)):
            try:
                return self._item(other)
            except OSError as error:
                self._corrupt(error)
        raise OSError(f"no sequence of draws {draw} to {other} can be read")

    def _item(self, draw):
        video, run = self._runs[self._shuffled(draw)]
        width, height = size = self._size(video.blurry[run[0]])
        h, w = self.crop
        generator = _generator(self.seed, 1, draw)
        backwards, mirror, upside_down, b, c = torch.rand(
            5, generator=generator, dtype=torch.float64
        ).tolist()
        top, left = (
            int(torch.randint(room + 1, (), generator=generator)) for room in (height - h, width - w)
        )
        b, c = (low + (high - low) * u for (low, high), u in ((self.brightness, b), (self.contrast, c)))
        axes = [0] if self.reversal and backwards < 0.5 else []
        axes += [axis for axis, u in ((2, upside_down), (3, mirror)) if self.flips and u < 0.5]
        box = (left, top, left + w, top + h)
        blurry, sharp = (
            torch.stack([read_image(side[i], box, size) for i in run]).flip(axes)
            for side in (video.blurry, video.sharp)
        )
        # Whole numbers are summed, and each operation rounds by itself: the bits do not depend on threads.
        sums = blurry.sum((0, 2, 3), dtype=torch.int64).tolist()
        grey = sum(weight * total for weight, total in zip(GREY, sums, strict=True)) / (
            255 * len(run) * h * w
        )
        blurry, sharp = (
            side.float().div_(255).mul_(b * c).add_((1 - c) * b * grey).clamp_(0, 1)
            for side in (blurry, sharp)
        )
        if self.noise:
            blurry.add_(torch.randn(blurry.shape, generator=generator).mul_(self.noise)).clamp_(0, 1)
        first, last = (video.blurry[i].stem for i in (min(run), max(run)))
        return {"blurry": blurry, "sharp": sharp, "name": f"{video.name} {first}..{last}"}

    def _shuffled(self, draw):
        """Which run a draw is of."""
        epoch, place = divmod(draw, len(self))
        if epoch != self._epoch:
            self._order = torch.randperm(len(self), generator=_generator(self.seed, 0, epoch)).tolist()
            self._epoch = epoch
        return self._order[place]

    def _size(self, path):
        """(width, height) of a frame, if a crop fits in."""
        width, height = image_size(path)
        if self.crop[0] > height or self.crop[1] > width:
            raise ValueError(
                f"{path}: is {width}x{height}, smaller than the crop of {self.crop[1]}x{self.crop[0]}"
            )
        return width, height

    def _corrupt(self, error):
        """Called while an OSError is handled, which goes on, or is said once and forgotten."""
        if not self.skip_corrupt:
            raise error
        if str(error) not in self._warned:
            self._warned.add(str(error))
            log.warning("%s; other sequences take its place", error)


def runs(frames, length):
    """The frames' numbers of each run that a video is cut into."""
    if 0 < frames < length:
        there_and_back = [*range(frames), *range(frames - 2, 0, -1)]
        return [[there_and_back[t % len(there_and_back)] for t in range(length)]]
    starts = [*range(0, frames - length + 1, length)]
    if frames % length:
        starts.append(frames - length)
    return [list(range(start, start + length)) for start in starts]


def _generator(*numbers):
    """A torch.Generator for these numbers, unrelated to that for any others."""
    return torch.Generator().manual_seed(int(np.random.SeedSequence(numbers).generate_state(1)[0]))
