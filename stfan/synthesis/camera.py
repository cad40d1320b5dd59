"""Sample paths of a hand-held camera: it drifts and trembles, and a homography says what it shows at each instant."""

import math

import torch
from torch import Tensor

from stfan.rng import Rng

FRAME_RATE = 30  # frames per second, to which the tremor's frequency refers
MEMORY = (1.5, 6.0)  # number of frames within which a velocity is forgotten
TREMOR = (6.0, 12.0)  # Hz
TREMBLING = 0.12  # amplitude of the tremor, relative to the pixels that the camera drifts in a frame
# What comes with one pixel of drift: x, y in pixels, radians, relative zoom, tilt to the right and down (see below).
RATES = torch.tensor([1, 1, 0.0012, 0.0006, 0.0004, 0.0004], dtype=torch.float64)
UNTILTED = torch.tensor([1, 1, 1, 1, 0, 0])
BOUND = 0.2  # of zoom and tilt, approached but never passed, however long the clip


def sample_camera_path(frames: int, steps: int, speed: float, rng: Rng) -> Tensor:
    """Sample a path of `steps` instants per frame.

    Each velocity is an Ornstein-Uhlenbeck process: it changes smoothly and prefers no direction. A sine is added to
    the drift for the tremor of the hand.

    Args:
        frames: number of frames.
        steps: number of instants per frame.
        speed: standard deviation of the drift along x and along y, in pixels per frame.
        rng: source of the random numbers.

    Returns:
        (frames * steps, 6) float64: drift x, y in pixels, rotation in radians, logarithm of the zoom, tilt x, y (the
        relative change of the scale from the centre of a frame to the end of its longer side). The range of each is
        centred at 0.
    """
    instants = frames * steps
    keep = math.exp(-1 / (steps * rng.uniform(*MEMORY)))
    velocity = rng.normal(instants, 6).double()
    velocity[1:] *= math.sqrt(1 - keep**2)
    for now, before in zip(velocity[1:], velocity, strict=False):
        now.add_(before, alpha=keep)
    path = velocity.cumsum(0) * (speed / steps) * RATES
    time = torch.arange(instants, dtype=torch.float64) / steps
    for axis in (0, 1):
        phase = rng.uniform(0, 1) + time * rng.uniform(*TREMOR) / FRAME_RATE
        path[:, axis] += TREMBLING * speed * (2 * math.pi * phase).sin()
    path -= (path.amin(0) + path.amax(0)) / 2
    path[:, 3:] = BOUND * (path[:, 3:] / BOUND).tanh()
    return path


def homographies(path: Tensor, size: tuple[int, int]) -> Tensor:
    """Convert a path to homographies from a frame's pixels to those that it shows, x and y from the centre of each.

    Args:
        path: from :func:`sample_camera_path`.
        size: (height, width) of a frame.

    Returns:
        (instants, 3, 3) float64.
    """
    x, y, angle, zoom, tilt_x, tilt_y = path.T
    cos, sin = zoom.exp() * angle.cos(), zoom.exp() * angle.sin()
    half = max(size) / 2
    rows = (cos, -sin, x), (sin, cos, y), (tilt_x / half, tilt_y / half, torch.ones_like(x))
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
