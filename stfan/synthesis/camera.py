"""Random paths of a hand-held camera: it drifts and trembles, and a homography says what it sees at each instant."""

import math

import torch

FRAME_RATE = 30  # frames per second, by which the tremor's frequency is meant
MEMORY = (1.5, 6.0)  # frames within which a velocity is forgotten
TREMOR = (6.0, 12.0)  # Hz
TREMBLING = 0.12  # amplitude of the tremor in the pixels that the camera drifts in a frame
# What one pixel of drift comes with: x, y in pixels, radians, relative zoom, tilt to the right and down (see below).
RATES = torch.tensor([1, 1, 0.0012, 0.0006, 0.0004, 0.0004], dtype=torch.float64)
UNTILTED = torch.tensor([1, 1, 1, 1, 0, 0])
BOUND = 0.2  # of zoom and tilt, approached but never passed, however long the clip


def sample_camera_path(frames, steps, speed, draw):
    """A path of `steps` instants per frame.

    Each velocity is an Ornstein-Uhlenbeck process, so it changes smoothly and comes from nowhere in particular; a
    sine is added to the drift for the tremor of the hand.

    Args:
        speed: standard deviation of the drift along x and along y, in pixels per frame.

    Returns:
        (frames * steps, 6) float64: drift x, y in pixels, rotation in radians, logarithm of the zoom, tilt x, y (by
        what part the scale changes from the centre of a frame to the end of its longer side). The range of each is
        centred at 0.
    """
    instants = frames * steps
    keep = math.exp(-1 / (steps * draw.uniform(*MEMORY)))
    velocity = draw.normal(instants, 6).double()
    velocity[1:] *= math.sqrt(1 - keep**2)
    for now, before in zip(velocity[1:], velocity, strict=False):
        now.add_(before, alpha=keep)
    path = velocity.cumsum(0) * (speed / steps) * RATES
    time = torch.arange(instants, dtype=torch.float64) / steps
    for axis in (0, 1):
        phase = draw.uniform(0, 1) + time * draw.uniform(*TREMOR) / FRAME_RATE
        path[:, axis] += TREMBLING * speed * (2 * math.pi * phase).sin()
    path -= (path.amin(0) + path.amax(0)) / 2
    path[:, 3:] = BOUND * (path[:, 3:] / BOUND).tanh()
    return path


def homographies(path, size):
    """(instants, 3, 3) float64: from a frame's pixels to those of what is seen, x and y from the centre of each.

    Args:
        path: of :func:`sample_camera_path`.
        size: (height, width) of a frame.
    """
    x, y, angle, zoom, tilt_x, tilt_y = path.T
    cos, sin = zoom.exp() * angle.cos(), zoom.exp() * angle.sin()
    half = max(size) / 2
    rows = (cos, -sin, x), (sin, cos, y), (tilt_x / half, tilt_y / half, torch.ones_like(x))
    return torch.stack([torch.stack(row, -1) for row in rows], -2)
