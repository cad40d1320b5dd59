"""How much blur stfan deblur finds in its input, and what it says when that is little."""

from statistics import median
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

EVERY = 10  # frames: of so many one is measured
SUGGESTED = 0.5  # the strength for an input with little blur


class BlurFound:
    """Measures every tenth frame of an input.

    Args:
        strength: that of the run.
    """

    def __init__(self, strength: float):
        self.strength, self._count = strength, 0
        self._widths: list[float] = []

    def add(self, frame: "torch.Tensor") -> None:
        """Take note of the next frame (3, H, W) in [0, 1]."""
        from stfan.evaluation.edge_width import edge_width

        if self._count % EVERY == 0 and (width := edge_width(frame)) is not None:
            self._widths.append(width)
        self._count += 1

    @property
    def note(self) -> str:
        """Words for an input with little blur, for the end of a line; none for others."""
        if not self._is_little:
            return ""
        found = "; little blur found"
        return found if self.strength <= SUGGESTED else f"{found}; --strength {SUGGESTED} suggested"

    @property
    def facts(self) -> dict[str, Any]:
        """The width of edges in pixels, None if none was measured, and whether it is little: for report and JSON."""
        width = round(median(self._widths), 2) if self._widths else None
        return {"edge_width": width, "little_blur": self._is_little}

    @property
    def _is_little(self) -> bool:
        from stfan.evaluation.edge_width import has_little_blur

        return has_little_blur(self._widths)
