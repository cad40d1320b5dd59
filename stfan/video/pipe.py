"""Video through pipes: YUV4MPEG2 (y4m) from standard input and to standard output.

A y4m stream has frames of one size, format and rate, and neither times nor sound. It names no matrix: RGB is made of it
and becomes it again by the same one.
"""

import tempfile
from collections.abc import Generator, Mapping
from fractions import Fraction
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

import av
import torch

from stfan.video.colour import CodedFrame, FromTensor, code_frame, with_chroma_location
from stfan.video.errors import BrokenInputError, ClosedPipeError
from stfan.video.partial_output import PIPE
from stfan.video.pixel_formats import warn_of_losses
from stfan.video.reader import ROUNDING, VideoReader

Y4M = "yuv4mpegpipe"  # FFmpeg's name of the format
STRICT = {"strict": "-1"}  # or FFmpeg writes only 8 bits
FORMATS = [f"yuv{colour}p{bits}" for bits in ("", "10le", "12le") for colour in ("420", "422", "444")]


class PipeReader(VideoReader):
    """Reads y4m, once and from its beginning.

    Args:
        file: where to read from, standard input say.
        end: seconds; frames before it are read.
        max_frames: the most frames to read.

    Raises:
        ValueError: it is no y4m.
    """

    def __init__(self, file: BinaryIO, end: float | None = None, max_frames: int | None = None):
        try:
            # Not the file itself, which PyAV would close.
            stream: Any = _Unseekable(file)
            self._pipe = av.open(stream, format=Y4M)
            self._frames = self._pipe.decode(video=0)
            self._first = next(self._frames, None)
        except av.FFmpegError as error:
            raise ValueError(f"{PIPE}: standard input is no y4m: {error.strerror}") from error
        if self._first is None:
            raise ValueError(f"{PIPE}: standard input holds no frames")
        # What a reader knows of a file it knows of this one, which has the first frame.
        self._folder = tempfile.TemporaryDirectory()
        first = Path(self._folder.name) / "first.y4m"
        video = self._pipe.streams.video[0]
        with av.open(f"file:{first}", "w", format=Y4M, options=STRICT) as container:
            copy = add_stream(
                container, Fraction(video.average_rate or 25), self._first.format.name, self._first
            )
            for frame in (self._first, None):
                container.mux(copy.encode(frame))
        super().__init__(first, 0.0, end, max_frames)
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
        assert self._first is not None
        frames = with_chroma_location(chain([self._first], self._frames), "rawvideo")
        try:
            for number, frame in enumerate(frames):
                late = self.end is not None and number / self.rate > self.end - ROUNDING
                if late or number == self.max_frames:
                    return
                yield frame, code_frame(frame)
        except av.FFmpegError as error:
            raise BrokenInputError(f"{PIPE}: broken or truncated: {error.strerror}") from error


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
        self._file: Any = _Unseekable(file)
        self._container = av.open(self._file, "w", format=Y4M, options=STRICT)
        self._stream = add_stream(self._container, reader.rate, pix_fmt, first, (width, height))
        self._count = 0

    def begin(self, folder: Path, saved: Mapping[str, torch.Tensor] | None) -> None:
        """Begin; the folder is not needed."""

    def quantise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Round a frame (3, H, W) in [0, 1] to the integers that are written, on its device."""
        return self._to_frame.quantise(pixels)

    def write(self, like: av.VideoFrame, samples: torch.Tensor) -> None:
        """Write a frame that :meth:`quantise` returned.

        Raises:
            ClosedPipeError: nobody reads it.
        """
        frame = self._to_frame.frame(samples.numpy())
        frame.pts, frame.time_base = self._count, self._stream.codec_context.time_base
        self._count += 1
        self._container.mux(self._stream.encode(frame))
        self._refuse_closed()

    def checkpoint(self, segment_ends: bool) -> dict[str, torch.Tensor]:
        """Return nothing: what is written is out of hand."""
        return {}

    def finish(self, incomplete: bool) -> Path:
        """Write what is left, and return the name of standard output."""
        self._container.mux(self._stream.encode(None))
        self._container.close()
        self._refuse_closed()
        return PIPE

    def _refuse_closed(self) -> None:
        if self._file.closed:
            raise ClosedPipeError(f"{PIPE}: closed at frame {self._count}")

    def abandon(self) -> None:
        """Close the stream."""
        self._container.close()


class _Unseekable:
    """A file for PyAV that it can neither seek in nor close.

    Attributes:
        closed: whether whoever read it reads no more. PyAV would make an error of its own of it.
    """

    closed = False

    def __init__(self, file: BinaryIO):
        self.read, self._file = file.read, file

    def write(self, data: bytes) -> int:
        """Write all bytes, now."""
        try:
            if not self.closed:
                self._file.write(data)
                self._file.flush()
        except BrokenPipeError:
            self.closed = True
        return len(data)


def add_stream(
    container: av.container.OutputContainer,
    rate: Fraction,
    pix_fmt: str,
    like: av.VideoFrame,
    size: tuple[int, int] | None = None,
) -> av.VideoStream:
    """Add the stream of a y4m file, with frames of the range of `like`."""
    stream = container.add_stream("rawvideo", rate)
    assert isinstance(stream, av.VideoStream)
    stream.width, stream.height = size or (like.width, like.height)
    stream.pix_fmt = pix_fmt
    stream.codec_context.time_base = 1 / Fraction(rate)
    stream.codec_context.color_range = like.color_range
    return stream
