"""How a frame is turned and mirrored to be upright, by the display matrix that comes with it."""

import math
import struct
from typing import NamedTuple

import torch

MATRIX = struct.Struct("=9i")  # a b u, c d v, x y w of libavutil/display.h: x' = a x + c y, y' = b x + d y
SQUARE = 1.0  # degrees: an angle that is off a quarter turn by more is warned of


class Orientation(NamedTuple):
    """What makes a frame upright.

    Attributes:
        mirror: whether left and right change places, before the frame is turned.
        turns: quarter turns, counter-clockwise.
        off: degrees by which the frame would have to be turned further; it is not.
    """

    mirror: bool = False
    turns: int = 0
    off: float = 0.0

    def __call__(self, image: torch.Tensor) -> torch.Tensor:
        """Return an image (C, H, W) upright."""
        if self.mirror:
            image = image.flip(2)
        return torch.rot90(image, self.turns, (1, 2))

    def __str__(self) -> str:
        words = [f"turned by {90 * self.turns} degrees"] if self.turns else []
        return " and ".join((["mirrored"] if self.mirror else []) + words) or "as stored"


def find_orientation(matrix: bytes | None) -> Orientation:
    """Return the mirroring and the nearest quarter turn that a display matrix asks for."""
    if matrix is None or len(matrix) < MATRIX.size:
        return Orientation()
    a, b, _, c, d, *_ = MATRIX.unpack_from(matrix)
    mirror = a * d - b * c < 0
    if mirror:
        a, b = -a, -b
    if a == b == 0:
        return Orientation()
    angle = -math.degrees(math.atan2(b, a))
    turns = round(angle / 90)
    off = angle - 90 * turns
    return Orientation(mirror, turns % 4, off if abs(off) > SQUARE else 0.0)
