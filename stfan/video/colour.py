"""Colour conversion between RGB and the YUV of video files, both ways by the formulas of ITU-T H.273.

FFmpeg's scaler is used only to bring the colour samples to full resolution and back. Its own conversion from RGB makes
the colour of full-range video half a level too low, and its conversion to RGB in 16 bits darkens 8-bit video by as
much. Video that names no matrix is taken as BT.601, as FFmpeg does.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import av
import numpy as np
import torch
from av.filter import Graph
from av.video.reformatter import ColorRange, Colorspace, Interpolation
from numpy.typing import NDArray

from stfan.video.pyav import reformat

WEIGHTS = {  # matrix coefficients of H.273: the parts of red and blue in luma
    1: (0.2126, 0.0722),
    4: (0.30, 0.11),
    7: (0.212, 0.087),
    9: (0.2627, 0.0593),
    10: (0.2627, 0.0593),  # with constant luminance; read as without, it comes out as it went in
}
BT601 = (0.299, 0.114)
SCALED = (0, 1, 2, 4, 5, 6, 7, 9)  # matrices that FFmpeg's scaler knows; it refuses frames of others
BT709, UNSPECIFIED = 1, 2
UNTAGGED: dict[str, Any] = {"colorspace": UNSPECIFIED, "color_range": ColorRange.UNSPECIFIED}
DEPTHS = (8, 9, 10, 12, 14, 16)
# Codecs that say where their colour samples are.
WITH_CHROMA_LOCATION = ("h264", "hevc", "mjpeg", "mpeg1video", "mpeg2video", "mpeg4")
EXACT = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)


@dataclass(frozen=True)
class CodedFrame:
    """A decoded frame as integers, which go to the network's device as they are.

    Attributes:
        samples: Y, Cb, Cr or G, B, R at full resolution, (3, H, W) uint8 or uint16, as the frame is stored.
        coding: how they become RGB.
    """

    samples: torch.Tensor
    coding: "SampleCoding"

    @property
    def shown_size(self) -> tuple[int, int]:
        """Height and width, upright."""
        height, width = self.coding.show(torch.zeros(self.samples.shape)).shape[1:]
        return height, width


@dataclass(frozen=True)
class SampleCoding:
    """How integers become colours.

    Attributes:
        bits: of a sample.
        matrix: levels and weights of luma and colour; None for G, B, R.
        show: turns the stored picture upright.
    """

    bits: int
    matrix: "tuple[_Levels, tuple[float, float]] | None"
    show: Callable[[torch.Tensor], torch.Tensor]

    def to_rgb(self, samples: torch.Tensor) -> torch.Tensor:
        """Convert samples (3, H, W) to RGB in [0, 1], upright, float32, on their device."""
        if samples.dtype == torch.uint16:
            # Devices calculate with few unsigned types.
            samples = samples.view(torch.int16).to(torch.int32) & 0xFFFF
        values = samples.float()
        if self.matrix:
            return self.show(_to_rgb(values, *self.matrix)).contiguous()
        return self.show(values[[2, 0, 1]] / ((1 << self.bits) - 1)).contiguous()


def as_stored(image: torch.Tensor) -> torch.Tensor:
    """Return an image as it is."""
    return image


def code_frame(frame: av.VideoFrame, show: Callable[[torch.Tensor], torch.Tensor] = as_stored) -> CodedFrame:
    """Take the integers out of a decoded frame, with all the bits it has; `show` crops it and turns it upright."""
    yuv, bits = is_yuv(frame.format), bit_depth(frame.format)
    if is_grey(frame.format):
        yuv = True
        samples = _planes(reformat(frame, "gray" if bits == 8 else f"gray{bits}le"), bits)
    else:
        # Colours stay what they are, but the scaler refuses matrices that it does not know.
        matrix = None if int(frame.colorspace) in SCALED else Colorspace.ITU601
        planar = reformat(frame, _planar(yuv, bits), matrix, EXACT)
        samples = _planes(planar, bits)
    levels = (_levels(bits, is_full_range(frame)), _luma_weights(frame.colorspace)) if yuv else None
    return CodedFrame(samples, SampleCoding(bits, levels, show))


def to_tensor(frame: av.VideoFrame) -> torch.Tensor:
    """Convert a decoded frame to (3, H, W) RGB in [0, 1], as it is stored, with all the bits it has."""
    coded = code_frame(frame)
    return coded.coding.to_rgb(coded.samples)


def with_chroma_location(frames: Iterable[av.VideoFrame], codec: str) -> Iterator[av.VideoFrame]:
    """Yield decoded frames that say where their colour samples are.

    If the codec does not say it, they are to the left of their pixels, where players look for them and where nearly
    all video has them. FFmpeg's scaler would take them for centred.
    """
    graph = shape = None
    for frame in frames:
        if codec not in WITH_CHROMA_LOCATION:
            if shape != (frame.width, frame.height, frame.format.name):
                shape = frame.width, frame.height, frame.format.name
                graph = _graph(frame, frame.format, ("setparams", "chroma_location=left"))
            assert graph is not None
            graph.vpush(frame)
            frame = graph.vpull()
        yield frame


class FromTensor:
    """Converts tensors (3, H, W) in [0, 1] to video frames of a pixel format.

    They are coded as the decoded frame `like` is. The colour samples are put to the left of their pixels, where players
    look for them, or for JPEG's formats between the pixels.

    Attributes:
        tags: what a file should say of its colours: colorspace, color_range.
    """

    def __init__(self, width: int, height: int, pix_fmt: str, like: av.VideoFrame):
        target = av.VideoFormat(pix_fmt)
        self._yuv, self._depth = is_yuv(target), bit_depth(target)
        full = is_full_range(like) or pix_fmt.startswith("yuvj")
        matrix = int(like.colorspace) if is_yuv(like.format) or is_grey(like.format) else BT709
        self._weights, self._levels = _luma_weights(matrix), _levels(self._depth, full)
        self.tags = UNTAGGED
        if self._yuv:
            self.tags = {"colorspace": matrix, "color_range": ColorRange.JPEG if full else like.color_range}
        span = "pc" if full or not self._yuv else "tv"
        site = "center" if pix_fmt.startswith("yuvj") else "left"
        scale = f"in_range={span}:out_range={span}:out_chroma_loc={site}"
        self._graph = _graph(
            like,
            av.VideoFormat(_planar(self._yuv, self._depth)),
            ("scale", f"{scale}:flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"),
            ("format", f"pix_fmts={pix_fmt}"),
            size=(width, height),
        )

    def __call__(self, pixels: torch.Tensor) -> av.VideoFrame:
        """Return the frame; it has no time stamp of its own yet."""
        return self.frame(self.samples(pixels))

    def samples(self, pixels: torch.Tensor) -> NDArray[np.uint8 | np.uint16]:
        """Return what :meth:`frame` makes the frame of: (3, H, W), rounded to the bits of the format."""
        samples: NDArray[np.uint8 | np.uint16] = self.quantise(pixels).cpu().numpy()
        return samples

    def quantise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return the same as uint8 or uint16, on the device of the pixels."""
        rgb = pixels.detach().float().clamp(0, 1)
        if self._yuv:
            values = _to_yuv(rgb, self._levels, self._weights)
        else:
            values = rgb[[1, 2, 0]] * ((1 << self._depth) - 1)
        whole = values.round().to(torch.int32)
        # Devices calculate with few unsigned types: of 16 bits those above 32767 wrap around.
        return whole.to(torch.uint8) if self._depth == 8 else whole.to(torch.int16).view(torch.uint16)

    def frame(self, samples: NDArray[np.uint8 | np.uint16]) -> av.VideoFrame:
        """Return the frame of the samples; it has no time stamp of its own yet."""
        frame = av.VideoFrame(samples.shape[2], samples.shape[1], _planar(self._yuv, self._depth))
        for plane, channel in zip(frame.planes, samples, strict=True):
            rows = np.zeros((plane.height, plane.line_size), np.uint8).view(_sample_type(self._depth))
            rows[:, : plane.width] = channel
            buffer: Any = rows
            plane.update(buffer)
        frame.pts = 0
        self._graph.vpush(frame)
        return self._graph.vpull()


def is_known_matrix(frame: av.VideoFrame) -> bool:
    """Say whether a frame's colours are read by its own matrix, and not by that of BT.601 for want of it."""
    return not is_yuv(frame.format) or int(frame.colorspace) in (*SCALED, *WEIGHTS)


def is_yuv(pix_format: av.VideoFormat) -> bool:
    """Say whether a format codes luma and colour; other formats are RGB, grey or have a palette."""
    return len(pix_format.components) >= 3 and not pix_format.is_rgb and not pix_format.has_palette


def is_grey(pix_format: av.VideoFormat) -> bool:
    """Say whether a format has luma alone, perhaps with transparency."""
    return len(pix_format.components) < 3 and not pix_format.is_rgb and not pix_format.has_palette


def bit_depth(pix_format: av.VideoFormat) -> int:
    """Return the bits of a sample, rounded up to a depth that planar formats come in."""
    bits = max(component.bits for component in pix_format.components)
    return next((known for known in DEPTHS if known >= bits), DEPTHS[-1])


def is_full_range(frame: av.VideoFrame) -> bool:
    """Say whether the luma goes from 0 to 255 and not from 16 to 235; grey does unless it says otherwise."""
    if is_grey(frame.format):
        return frame.color_range != ColorRange.MPEG
    return frame.color_range == ColorRange.JPEG or frame.format.name.startswith("yuvj")


def _graph(
    like: av.VideoFrame,
    pix_format: av.VideoFormat,
    *filters: tuple[str, str],
    size: tuple[int, int] | None = None,
) -> Graph:
    """Chain FFmpeg's filters for frames of a format; time base and, if none is given, size are those of `like`."""
    width, height = size or (like.width, like.height)
    graph = Graph()
    source = graph.add_buffer(width=width, height=height, format=pix_format, time_base=like.time_base)
    graph.link_nodes(source, *(graph.add(*step) for step in filters), graph.add("buffersink")).configure()
    return graph


def _planar(yuv: bool, bits: int) -> str:
    """Name the pixel format with three full planes of so many bits."""
    return ("yuv444p" if yuv else "gbrp") + ("" if bits == 8 else f"{bits}le")


def _sample_type(bits: int) -> type[np.uint8] | type[np.uint16]:
    return np.uint8 if bits == 8 else np.uint16


def _planes(frame: av.VideoFrame, bits: int) -> torch.Tensor:
    """Return the samples of a frame's three full planes, (3, H, W) uint8 or uint16; luma alone gets colour's zeros."""
    sources: list[Any] = list(frame.planes[:3])
    planes = [np.frombuffer(plane, _sample_type(bits)).reshape(plane.height, -1) for plane in sources]
    full = [plane[:, : frame.width] for plane in planes]
    if len(full) == 1:
        full += [np.full_like(full[0], 1 << (bits - 1))] * 2
    return torch.from_numpy(np.stack(full))


def _luma_weights(matrix: int) -> tuple[float, float]:
    """Return the parts of red and blue in luma."""
    return WEIGHTS.get(int(matrix), BT601)


class _Levels(NamedTuple):
    """The samples that stand for certain values, by section 8.3 of H.273."""

    black: int  # luma 0
    luma: int  # luma 1 less luma 0
    grey: int  # no colour
    colour: int  # the range of Cb and Cr
    highest: int


def _levels(bits: int, full: bool) -> _Levels:
    unit, highest = 1 << (bits - 8), (1 << bits) - 1
    if full:
        return _Levels(0, highest, 128 * unit, highest, highest)
    return _Levels(16 * unit, 219 * unit, 128 * unit, 224 * unit, highest)


def _to_rgb(planes: torch.Tensor, levels: _Levels, weights: tuple[float, float]) -> torch.Tensor:
    """Convert samples of Y, Cb, Cr (3, H, W) to RGB in [0, 1]."""
    kr, kb = weights
    luma = (planes[0] - levels.black) / levels.luma
    cb, cr = (planes[1:] - levels.grey) / levels.colour
    red, blue = luma + (2 - 2 * kr) * cr, luma + (2 - 2 * kb) * cb
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    return torch.stack([red, green, blue]).clamp(0, 1)


def _to_yuv(rgb: torch.Tensor, levels: _Levels, weights: tuple[float, float]) -> torch.Tensor:
    """Convert RGB (3, H, W) in [0, 1] to samples of Y, Cb, Cr, not yet rounded."""
    kr, kb = weights
    red, green, blue = rgb
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    cb, cr = (blue - luma) / (2 - 2 * kb), (red - luma) / (2 - 2 * kr)
    y = levels.black + levels.luma * luma
    samples = torch.stack([y, levels.grey + levels.colour * cb, levels.grey + levels.colour * cr])
    return samples.clamp(0, levels.highest)
