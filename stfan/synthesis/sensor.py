"""From light to the numbers in a file: the sRGB curve, highlights, sensor noise."""

import torch

# Variance of the noise in linear light, with white at 1, at the highest gain: shot noise is proportional to light and
# gain, read noise to the square of the gain.
SHOT, READ = 2e-4, 2e-6
KNEE = 0.9  # linear light, mean of the channels, from which on highlights may have been brighter than they were stored


def to_linear(srgb):
    """sRGB values in [0, 1] as linear light (IEC 61966-2-1)."""
    return torch.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


# By tables, so that a value does not depend on its neighbours: vectorised powers differ in the last bit from others.
LIGHT = to_linear(torch.arange(256, dtype=torch.float64) / 255).float()
BETWEEN = to_linear((torch.arange(255, dtype=torch.float64) + 0.5) / 255).float()


def srgb8_to_linear(image):
    """8-bit sRGB values as linear light in [0, 1], float32."""
    return LIGHT.to(image.device)[image.int()]


def linear_to_srgb8(light):
    """Linear light as the nearest 8-bit sRGB values; what is below 0 or above 1 is clipped."""
    return torch.bucketize(light, BETWEEN.to(light.device), out_int32=True).to(torch.uint8)


def boost_highlights(light, factor):
    """Highlights as bright as they may have been before they were clipped: (3, H, W) of [0, 1] to [0, factor].

    What is white becomes `factor` times as bright, what is below 0.9 in the mean of its channels stays.
    """
    over = ((light.mean(0, keepdim=True) - KNEE) / (1 - KNEE)).clamp(0, 1)
    return light * (1 + (factor - 1) * over)


def add_sensor_noise(light, gain, draw):
    """Linear light (..., H, W) as a sensor gives it, in 8-bit sRGB: with Poisson-Gaussian noise, and clipped.

    Args:
        gain: from 0, no noise, to 1.
        draw: a :class:`stfan.synthesis.rng.Rng`.
    """
    variance = gain * SHOT * light + gain**2 * READ
    return linear_to_srgb8(light + variance.sqrt() * draw.normal(*light.shape).to(light.device))
