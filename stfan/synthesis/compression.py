"""Compress frames and decode them again, for the traces that compression leaves."""

import io
from fractions import Fraction

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from stfan.images import to_8bit


def jpeg(frames: Tensor, quality: int) -> Tensor:
    """Compress frames (T, 3, H, W) uint8 to JPEG of a quality from 1 to 95, colours at half resolution."""
    decoded = []
    for frame in frames:
        file = io.BytesIO()
        Image.fromarray(frame.permute(1, 2, 0).numpy()).save(
            file, "jpeg", quality=quality, subsampling="4:2:0"
        )
        decoded.append(torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1))
    return torch.stack(decoded)


def h264(frames: Tensor, crf: int) -> Tensor:
    """Compress frames (T, 3, H, W) uint8 to H.264; needs PyAV.

    Args:
        frames: the clip.
        crf: constant rate factor from 0 to 51; lower gives better quality.
    """
    import av

    from stfan.video.colour import BT709, FromTensor, to_tensor
    from stfan.video.encoder import ENCODER_DEFAULTS

    height, width = frames.shape[2:]
    pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
    like = av.VideoFrame(width, height, pix_fmt)
    like.time_base, like.colorspace = Fraction(1, 25), BT709
    to_frame, file = FromTensor(width, height, pix_fmt, like), io.BytesIO()
    with av.open(file, "w", "matroska") as container:
        stream = container.add_stream("libx264", 25)
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        options = ENCODER_DEFAULTS["libx264"] | {"crf": crf, "preset": "veryfast"}
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
    with av.open(file, "r") as compressed:
        return torch.stack([to_8bit(to_tensor(frame)) for frame in compressed.decode(video=0)])
