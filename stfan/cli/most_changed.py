"""The frame that changed most, and in it the detail that did: what --picture and --report show."""

import math
from pathlib import Path
from typing import TYPE_CHECKING

from stfan.files import atomic_write
from stfan.images import to_8bit, write_image

if TYPE_CHECKING:
    import torch


# How much frames changed, of 255 in the sixteenth that changed most, and what one sees of it in them side by side.
SEEN = ((0.25, "not visible"), (1.0, "hardly visible"), (3.0, "visible in details"), (math.inf, "visible"))


class MostChangedFrame:
    """Finds the frame that changed most, and says how much all did.

    Attributes:
        count: number of frames so far.
        frame: the number of that frame.
        pair: it before and after, (3, H, W) in [0, 1]; None before the first frame.
    """

    def __init__(self) -> None:
        self.count, self.frame, self.change = 0, 0, -1.0
        self._changes, self._most, self._compared = 0.0, 0.0, 0
        self.pair: tuple[torch.Tensor, torch.Tensor] | None = None

    @staticmethod
    def measure(before: "torch.Tensor", after: "torch.Tensor") -> "torch.Tensor":
        """Return the mean change of a frame and of its sixteenth that changed most, float64, on the frame's device."""
        import torch

        change = (after - before).abs().mean().double()
        return torch.stack([change, _changes_of_parts(before, after)[0].max()])

    def add(self, before: "torch.Tensor", after: "torch.Tensor", numbers: list[float] | None = None) -> None:
        """Compare the next frame with the one that changed most so far; `numbers` are those of :meth:`measure`."""
        change, most = numbers or self.measure(before, after).tolist()
        if change > self.change:
            self.change, self.frame, self.pair = change, self.count, (before, after)
        self.count += 1
        self._changes += change
        self._most += most
        self._compared += 1

    @property
    def words(self) -> str:
        """Say how much the frames changed, and whether one sees it; empty if there were none.

        The mean of whole frames, and of the sixteenth of each that changed most, by which it is judged: what moves
        may be small.
        """
        if not self._compared:
            return ""
        mean, part = (255 * total / self._compared for total in (self._changes, self._most))
        seen = next(words for most, words in SEEN if part <= most)
        return f"changed by {mean:.1f} of 255 on average and {part:.1f} where it changed most: {seen}"

    def save(self, path: Path) -> None:
        """Write an image file: the frame before and after; below, the sixteenth of it that changed most, enlarged."""
        import torch
        import torch.nn.functional as F

        assert self.pair is not None
        detail = most_changed_part(*self.pair)
        enlarged = [
            F.interpolate(frame[(slice(None), *detail)][None].float(), frame.shape[1:], mode="nearest")[0]
            for frame in self.pair
        ]
        rows = [torch.cat([frame.float() for frame in row], 2) for row in (self.pair, enlarged)]
        with atomic_write(path) as partial:
            write_image(partial, to_8bit(torch.cat(rows, 1)))


def most_changed_part(before: "torch.Tensor", after: "torch.Tensor") -> tuple[slice, slice]:
    """Find the rows and columns, a quarter of each, where two frames (3, H, W) differ most on average."""
    means, (height, width), (tops, lefts) = _changes_of_parts(before, after)
    row, column = divmod(int(means.argmax()), means.shape[1])
    top, left = int(tops[row]), int(lefts[column])
    return slice(top, top + height), slice(left, left + width)


def _changes_of_parts(
    before: "torch.Tensor", after: "torch.Tensor"
) -> tuple["torch.Tensor", tuple[int, int], tuple["torch.Tensor", "torch.Tensor"]]:
    """Compute the mean change of parts, a quarter of the rows and columns each; their size, and where they begin.

    They begin at every sixteenth; the last ones end where the frame does.
    """
    import torch
    import torch.nn.functional as F

    change = (after.float() - before.float()).abs().mean(0).double()
    sides = change.shape
    parts = max(1, sides[0] // 4), max(1, sides[1] // 4)
    tops, lefts = (
        torch.tensor([*range(0, side - part, max(1, part // 4)), side - part])
        for side, part in zip(sides, parts, strict=True)
    )
    above = F.pad(change.cumsum(0), (0, 0, 1, 0))
    bands = F.pad((above[tops + parts[0]] - above[tops]).cumsum(1), (1, 0))
    means = (bands[:, lefts + parts[1]] - bands[:, lefts]) / (parts[0] * parts[1])
    return means, parts, (tops, lefts)
