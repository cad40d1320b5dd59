"""Video through pipes: YUV4MPEG2 (y4m) from standard input and to standard output.

A y4m stream has frames of one size, format and rate, and neither times nor sound. It names no matrix: RGB is made of it
and becomes it again by the same one.
"""

import re
import tempfile
from collections.abc import Generator, Iterator, Mapping
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange

from stfan.video.colour import CodedFrame, FromTensor, bit_depth, code_frame, with_chroma_location
from stfan.video.deinterlace import deinterlace
from stfan.video.errors import BrokenInputError, ClosedPipeError
from stfan.video.partial_output import PIPE
from stfan.video.pixel_formats import warn_of_losses
from stfan.video.pyav import rational
from stfan.video.reader import ROUNDING, VideoReader

Y4M = "yuv4mpegpipe"  # FFmpeg's name of the format
FORMATS = [f"yuv{colour}p{bits}" for bits in ("", "10le", "12le") for colour in ("420", "422", "444")]
LINE = 1000  # bytes: more than the longest line that FFmpeg reads as a header
# Where the samples of a header's colour are, if not to the left. Programs that do not know it write "jpeg", too.
SITES = {b"420": "jpeg", b"420jpeg": "jpeg", b"420paldv": "paldv"}
RANGES = {ColorRange.MPEG: " XCOLORRANGE=LIMITED", ColorRange.JPEG: " XCOLORRANGE=FULL"}


class PipeReader(VideoReader):
    """Reads y4m, once and from its beginning.

    Args:
        file: where to read from, standard input say.
        end: seconds; frames before it are read.
        max_frames: the most frames to read.
        deinterlace: whether to deinterlace frames, if the header says that they are interlaced.

    Attributes:
        site: where the header has the colour samples of 4:2:0: jpeg, paldv or mpeg2.

    Raises:
        ValueError: it is no y4m.
    """

    def __init__(
        self,
        file: BinaryIO,
        end: float | None = None,
        max_frames: int | None = None,
        deinterlace: bool = True,
    ):
        self._input = _Input(file)
        try:
            stream: Any = self._input
            self._pipe = av.open(stream, format=Y4M)
            self._frames = self._decode()
            self._first = next(self._frames, None)
        except av.FFmpegError as error:
            raise ValueError(f"{PIPE}: standard input is no y4m: {error.strerror}") from error
        if self._first is None:
            raise ValueError(f"{PIPE}: standard input holds no frames")
        header = self._input.head.partition(b"\n")[0]
        colour = next((word[1:] for word in header.split() if word.startswith(b"C")), b"420")
        self.site = SITES.get(colour, "mpeg2")
        # What a reader knows of a file it knows of this one, which has the first frame.
        self._folder = tempfile.TemporaryDirectory()
        first = Path(self._folder.name) / "first.y4m"
        first.write_bytes(header + b"\nFRAME\n" + planes(self._first))
        super().__init__(first, 0.0, end, max_frames, deinterlace)
        self.path = PIPE

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        super().__exit__(kind, error, trace)
        self._pipe.close()
        self._folder.cleanup()

    @property
    def expected_frames(self) -> int | None:
        """Number of frames, if it is limited."""
        return self.max_frames

    def open(self) -> av.container.InputContainer:
        """Open a file with the first frame."""
        return av.open(f"file:{self._folder.name}/first.y4m")

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells this input from another: nothing does."""
        return {"end": self.end, "max-frames": self.max_frames}

    def coded_frames(self, skip: int = 0) -> Generator[tuple[av.VideoFrame, CodedFrame], None, None]:
        """Yield each frame and its integers.

        Raises:
            BrokenInputError: the stream ends within a frame.
        """
        frames = self._warn_of_interlacing(with_chroma_location(self._limited(), "rawvideo"))
        for frame in deinterlace(frames) if self.deinterlace else frames:
            yield frame, code_frame(frame)

    def _limited(self) -> Iterator[av.VideoFrame]:
        """Yield the frames before the end, with their numbers as times."""
        assert self._first is not None
        try:
            for number, frame in enumerate(chain([self._first], self._frames)):
                late = self.end is not None and number / self.rate > self.end - ROUNDING
                if late or number == self.max_frames:
                    return
                # The demuxer's times come from places in the stream, and go astray if frames have parameters.
                frame.pts, frame.time_base, frame.duration = number, self.source.times.base, 1
                yield frame
        except av.FFmpegError as error:
            raise BrokenInputError(f"{PIPE}: broken or truncated: {error.strerror}") from error

    def _decode(self) -> Iterator[av.VideoFrame]:
        """Yield all frames; FFmpeg alone would take a stream that ends within a frame for a whole one."""
        end: int | None = None
        for number, packet in enumerate(self._pipe.demux(video=0)):
            if packet.size:
                end = (packet.pos or 0) + packet.size
                decoded: list[Any] = packet.decode()
                yield from decoded
            elif end is not None and self._input.count > end:
                raise BrokenInputError(f"{PIPE}: broken or truncated: ends within frame {number}")


class PipeWriter:
    """Writes y4m.

    Args:
        file: where to write to, standard output say.
        reader: what the frames are from.
        pix_fmt: one of FORMATS; with 4:2:0 and 8 bits if None, or 4:4:4 where a side is odd.
        columns: how many frames stand side by side in one of the stream.

    Raises:
        ValueError: another pixel format.
    """

    settings: Mapping[str, Any] = {}

    def __init__(self, file: BinaryIO, reader: VideoReader, pix_fmt: str | None = None, columns: int = 1):
        first = reader.first_frame()
        width, height = reader.source.shown_size
        width *= columns
        pix_fmt = pix_fmt or ("yuv444p" if width % 2 or height % 2 else "yuv420p")
        if pix_fmt not in FORMATS:
            raise ValueError(f"{PIPE}: y4m must have a pixel format of {', '.join(FORMATS)}, got {pix_fmt}")
        warn_of_losses(first.format, "rawvideo", pix_fmt)
        self._to_frame = FromTensor(width, height, pix_fmt, first)
        # Without a buffer: what is in one when a disk is full, Python would write again as it exits.
        self._file: Any = getattr(file, "raw", file)
        self._header = header_of(reader, pix_fmt, width, height, first.color_range)
        self._count = 0

    def begin(self, folder: Path, saved: Mapping[str, torch.Tensor] | None) -> None:
        """Write the header; the folder is not needed."""
        self._send(self._header)

    def quantise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Round a frame (3, H, W) in [0, 1] to the integers that are written, on its device."""
        return self._to_frame.quantise(pixels)

    def write(self, like: av.VideoFrame, samples: torch.Tensor) -> None:
        """Write a frame that :meth:`quantise` returned.

        Raises:
            ClosedPipeError: nobody reads it.
        """
        self._count += 1
        self._send(b"FRAME\n" + planes(self._to_frame.frame(samples.numpy())))

    def checkpoint(self, segment_ends: bool) -> dict[str, torch.Tensor]:
        """Return nothing: what is written is out of hand."""
        return {}

    def finish(self, incomplete: bool) -> Path:
        """Return the name of standard output."""
        return PIPE

    def abandon(self) -> None:
        """Leave everything as it is."""

    def _send(self, data: bytes) -> None:
        """Write all bytes, now."""
        view = memoryview(data)
        try:
            while view:
                view = view[self._file.write(view) or 0 :]
        except BrokenPipeError as error:
            raise ClosedPipeError(f"{PIPE}: closed at frame {self._count}") from error


class _Input:
    """A file for PyAV that it can neither seek in nor close.

    Attributes:
        head: its first bytes, with the header of the stream.
        count: number of bytes that were read.
    """

    def __init__(self, file: BinaryIO):
        # What there is, or a frame would wait for the bytes of the next one.
        self._read = getattr(file, "read1", file.read)
        self.head, self.count = b"", 0

    def read(self, size: int) -> bytes:
        """Read up to so many bytes; none at the end."""
        data: bytes = self._read(size)
        self.count += len(data)
        if len(self.head) < LINE:
            self.head += data[:LINE]
        return data


def planes(frame: av.VideoFrame) -> bytes:
    """Return the samples of a frame, plane after plane, as y4m has them."""
    width = 1 if bit_depth(frame.format) == 8 else 2
    arrays = []
    for plane in frame.planes:
        buffer: Any = plane
        rows = np.frombuffer(buffer, np.uint8).reshape(plane.height, -1)
        arrays.append(rows[:, : plane.width * width].tobytes())
    return b"".join(arrays)


def header_of(reader: VideoReader, pix_fmt: str, width: int, height: int, color_range: int) -> bytes:
    """Return the first line of a y4m stream of frames of one of FORMATS, made of a reader's."""
    colour, bits = re.findall(r"\d+", pix_fmt + "p8")[:2]
    # The samples are where they were: to the left, or where the input's header says.
    site = reader.site if isinstance(reader, PipeReader) else "mpeg2"
    kind = colour + (f"p{bits}" if bits != "8" else site if colour == "420" else "")
    aspect = rational(reader.video.sample_aspect_ratio) or Fraction(0)
    if reader.source.orientation.turns % 2 and aspect:
        aspect = 1 / aspect
    shape = f"{aspect.numerator}:{aspect.denominator if aspect else 0}"
    rate = f"{reader.rate.numerator}:{reader.rate.denominator}"
    line = f"YUV4MPEG2 W{width} H{height} F{rate} Ip A{shape} C{kind} XYSCSS={kind.upper()}"
    return f"{line}{RANGES.get(ColorRange(color_range), '')}\n".encode()
