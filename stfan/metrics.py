"""Quality measures. Protocol "rgb8": RGB frames rounded to 8 bits, no crop, the mean over a clip's frames."""

import torch


def to_8bit(frames):
    """Float frames in [0, 1] as they would be stored: clamped and rounded to uint8."""
    return (frames.clamp(0, 1) * 255).round().to(torch.uint8)


def psnr(output, target):
    """Peak signal-to-noise ratio in dB, each frame of (..., 3, H, W) alone, by protocol rgb8.

    10 log10(255^2 / MSE); inf where the frames are the same.
    """
    error = to_8bit(output).double() - to_8bit(target).double()
    return 10 * torch.log10(255**2 / error.square().mean((-3, -2, -1)))
