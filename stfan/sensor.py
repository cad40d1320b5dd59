"""From light to the numbers in a file: the sRGB curve, highlights, sensor noise, compression."""

import io
from fractions import Fraction

import numpy as np
import torch
from PIL import Image

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


def decode(image):
    """8-bit sRGB values as linear light in [0, 1], float32."""
    return LIGHT.to(image.device)[image.int()]


def encode(light):
    """Linear light as the nearest 8-bit sRGB values; what is below 0 or above 1 is clipped."""
    return torch.bucketize(light, BETWEEN.to(light.device), out_int32=True).to(torch.uint8)


def glare(light, factor):
    """Highlights as bright as they may have been before they were clipped: (3, H, W) of [0, 1] to [0, factor].

    What is white becomes `factor` times as bright, what is below 0.9 in the mean of its channels stays.
    """
    over = ((light.mean(0, keepdim=True) - KNEE) / (1 - KNEE)).clamp(0, 1)
    return light * (1 + (factor - 1) * over)


def expose(light, gain, draw):
    """Linear light (..., H, W) as a sensor gives it, in 8-bit sRGB: with Poisson-Gaussian noise, and clipped.

    Args:
        gain: from 0, no noise, to 1.
        draw: a :class:`stfan.motion.Draw`.
    """
    variance = gain * SHOT * light + gain**2 * READ
    return encode(light + variance.sqrt() * draw.normal(*light.shape).to(light.device))


def jpeg(frames, quality):
    """Frames (T, 3, H, W) uint8 after JPEG of a quality from 1 to 95, colours at half resolution."""
    decoded = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(
            file, "jpeg", quality=quality, subsampling="4:2:0"
        )
        decoded.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))
    return torch.stack(decoded)


def h264(frames, crf):
    """Frames (T, 3, H, W) uint8 after H.264 of a constant rate factor from 0 to 51, less is better; needs PyAV."""
    import av

    from stfan.colour import BT709, FromTensor, to_tensor
    from stfan.encode import TOLD
    from stfan.metrics import to_8bit

    height, width = frames.shape[2:]
    pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
    like = av.VideoFrame(width, height, pix_fmt)
    like.time_base, like.colorspace = Fraction(1, 25), BT709
    to_frame, file = FromTensor(width, height, pix_fmt, like), io.BytesIO()
    with av.open(file, "w", "matroska") as container:
        stream = container.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        options = TOLD["libx264"] | {"crf": crf, "preset": "veryfast"}
        stream.options = {key: str(value) for key, value in options.items()}
        stream.codec_context.thread_count = 1  # the result depends on it
        for key, value in to_frame.tags.items():
            setattr(stream.codec_context, key, value)
        for t, pixels in enumerate(frames):
            frame = to_frame(pixels / 255)
            frame.pts, frame.time_base = t, Fraction(1, 25)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    file.seek(0)
    with av.open(file) as container:
        return torch.stack([to_8bit(to_tensor(frame)) for frame in container.decode(video=0)])
