"""Turn light into the numbers in a file: the sRGB curve, highlights, sensor noise."""

import torch
from torch import Tensor

from stfan.rng import Rng

# Variance of the noise in linear light, with white at 1, at the highest gain: shot noise is proportional to light and
# gain, read noise to the square of the gain.
SHOT, READ = 2e-4, 2e-6
KNEE = 0.9  # linear light, mean of the channels, above which highlights may have been brighter than they were stored


def to_linear(srgb: Tensor) -> Tensor:
    """Convert sRGB values in [0, 1] to linear light (IEC 61966-2-1)."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


# Tables, so that a value does not depend on its neighbours: vectorised powers differ in the last bit from others.
LIGHT = to_linear(torch.arange(256, dtype=torch.float64) / 255).float()
BETWEEN = to_linear((torch.arange(255, dtype=torch.float64) + 0.5) / 255).float()


def srgb8_to_linear(image: Tensor) -> Tensor:
    """Convert 8-bit sRGB values to linear light in [0, 1], float32."""
    return LIGHT.to(image.device)[image.int()]


def linear_to_srgb8(light: Tensor) -> Tensor:
    """Convert linear light to the nearest 8-bit sRGB values; clip what is below 0 or above 1."""
    return torch.bucketize(light, BETWEEN.to(light.device), out_int32=True).to(torch.uint8)


def boost_highlights(light: Tensor, factor: float) -> Tensor:
    """Make highlights as bright as they may have been before they were clipped: (3, H, W) of [0, 1] to [0, factor].

    White becomes `factor` times as bright. Pixels whose channels have a mean below 0.9 stay as they are.
    """
    excess = ((light.mean(0, keepdim=True) - KNEE) / (1 - KNEE)).clamp(0, 1)
    return light * (1 + (factor - 1) * excess)


def add_sensor_noise(light: Tensor, gain: float, rng: Rng) -> Tensor:
    """Add Poisson-Gaussian noise to linear light (..., H, W), clip it, and convert it to 8-bit sRGB.

    Args:
        light: what reaches the sensor; white is 1.
        gain: from 0, no noise, to 1.
        rng: source of the noise.
    """
    variance = gain * SHOT * light + gain**2 * READ
    return linear_to_srgb8(light + variance.sqrt() * rng.normal(*light.shape).to(light.device))
