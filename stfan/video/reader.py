"""Reading video files: frames are decoded with PyAV one after the other."""

import logging
import math
from collections.abc import Generator, Iterable, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import torch
from av.container import InputContainer

from stfan.video.colour import CodedFrame, code_frame, with_chroma_location
from stfan.video.decode_errors import PacketNumber, decode
from stfan.video.deinterlace import deinterlace
from stfan.video.errors import BrokenInputError, ChangedSizeError
from stfan.video.source import Source, open_video, probe

log = logging.getLogger("stfan")
ROUNDING = 1e-6  # seconds


class VideoReader:
    """Reads the frames of a video file, or of a part of it.

    Args:
        path: the file.
        start, end: seconds from the first frame; frames from `start` on and before `end` are read.
        max_frames: the most frames to read.
        deinterlace: whether to deinterlace frames that are marked as interlaced.

    Attributes:
        source: the facts of the file, found once.
        video: the stream that is read.
        damaged: number of frames so far that were decoded with errors.

    Raises:
        ValueError, OSError: the file is missing, no video, or shorter than it says. (PyAV's errors are of these kinds.)
    """

    def __init__(
        self,
        path: str | Path,
        start: float = 0.0,
        end: float | None = None,
        max_frames: int | None = None,
        deinterlace: bool = True,
    ):
        self.path, self.start, self.end, self.max_frames = Path(path), start, end, max_frames
        self.source: Source = probe(self.path)
        self.container = open_video(self.path)
        self.video = self._video(self.container)
        self.deinterlace, self.damaged, self._warned = deinterlace, 0, False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.container.close()

    def open(self) -> InputContainer:
        """Open the file once more, from its beginning."""
        return open_video(self.path)

    def _video(self, container: InputContainer) -> av.VideoStream:
        (video,) = (stream for stream in container.streams.video if stream.index == self.source.index)
        return video

    @property
    def rate(self) -> Fraction:
        """Frames per second."""
        return self.source.rate

    @property
    def expected_frames(self) -> int | None:
        """Number of frames for a progress bar, or None if the file does not say."""
        total = self.source.frames
        if self.start or self.end is not None:
            known, base = self.source.times.times, self.source.times.base
            times = range(total) if known is None else sorted(known)[self.source.hidden :]
            first = times[0] if times else 0
            total = sum(self._selects(float((time - first) * base)) for time in times)
        return min(filter(None, (total, self.max_frames)), default=None)

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells this input from another; a run resumes only with the same."""
        state = self.path.stat()
        return {
            "input": f"{state.st_size} bytes of {state.st_mtime_ns}",
            "start": self.start,
            "end": self.end,
            "max-frames": self.max_frames,
            "deinterlace": self.deinterlace,
        }

    def frames(self, skip: int = 0) -> Iterator[tuple[av.VideoFrame, torch.Tensor]]:
        """Yield each frame and its tensor (3, H, W) in [0, 1], upright, without the first `skip` frames.

        The times of the frames are those of the source, repaired where need be.

        Raises:
            BrokenInputError: see :meth:`coded_frames`.
        """
        for frame, coded in self.coded_frames(skip):
            yield frame, coded.coding.to_rgb(coded.samples)

    def coded_frames(self, skip: int = 0) -> Generator[tuple[av.VideoFrame, CodedFrame], None, None]:
        """Yield each decoded frame and its integers, without the first `skip` frames.

        Raises:
            BrokenInputError: the file cannot be decoded from here on, or its frames change their size.
        """
        size = None
        for index, (frame, shown) in enumerate(self._selected()):
            size = size or (frame.width, frame.height)
            if size != (frame.width, frame.height):
                end = math.floor(shown * 1000) / 1000
                raise ChangedSizeError(self.path, index, (frame.width, frame.height), size, end)
            if index >= skip:
                yield frame, code_frame(frame, self.source.show)

    def first_frame(self) -> av.VideoFrame:
        """Decode the first frame."""
        first = next(self._selected(), None)
        if first is None:
            part = " there, from start to end" if self.start or self.end is not None else ""
            raise ValueError(f"{self.path}: holds no frames{part}")
        return first[0]

    def _selects(self, shown: float) -> bool:
        """Say whether a frame at so many seconds from the first is to be read."""
        return shown > self.start - ROUNDING and (self.end is None or shown <= self.end - ROUNDING)

    def _selected(self) -> Iterator[tuple[av.VideoFrame, float]]:
        """Yield the frames from start to end, each with its time in seconds from the file's first frame."""
        origin = None
        count = 0
        for frame in self._decoded():
            assert frame.pts is not None and frame.time_base is not None
            time = frame.pts * frame.time_base
            origin = time if origin is None else origin
            shown = float(time - origin)
            if self.end is not None and shown > self.end - ROUNDING:
                return
            if self._selects(shown):
                yield frame, shown
                count += 1
                if count == self.max_frames:
                    return

    def _decoded(self) -> Iterator[av.VideoFrame]:
        end = 0.0
        with self.open() as container:
            stream = self._video(container)
            try:
                frames = self._timed(self._count_damaged(stream))
                frames = self._warn_of_interlacing(with_chroma_location(frames, stream.codec_context.name))
                for frame in deinterlace(frames) if self.deinterlace else frames:
                    end = max(end, frame.time or 0)
                    yield frame
            except av.FFmpegError as error:
                raise BrokenInputError(
                    f"{self.path}: broken or truncated after {end:.2f} s: {error.strerror}"
                ) from error

    def _timed(self, frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """Give the frames the times and durations of the source, each later than the one before."""
        times, durations, base = self.source.times.times, self.source.times.durations, self.source.times.base
        in_order = sorted(times or ()) if self.source.counted else ()
        last = packet = None
        for number, frame in enumerate(frames):
            if times is None:
                time, duration = number, 1
            else:
                # a decoder that does not hand on a packet's number hands out its frames in their order
                after = -1 if packet is None else packet
                packet = frame.opaque.number if isinstance(frame.opaque, PacketNumber) else after + 1
                place = min(number if self.source.counted else packet, len(times) - 1)
                time, duration = (in_order or times)[place], durations[place]
            if last is not None:
                time = max(time, last + 1)
            last = time
            frame.pts, frame.time_base, frame.duration = time, base, duration
            yield frame

    def _count_damaged(self, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
        self.damaged = 0
        for frames, damaged in decode(stream):
            self.damaged += damaged
            yield from frames

    def _warn_of_interlacing(self, frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """Warn once, at the first frame that holds two half pictures of different times."""
        for frame in frames:
            if frame.interlaced_frame and not self._warned:
                self._warned = True
                done = (
                    "deinterlaced, by bwdif"
                    if self.deinterlace
                    else "deblurred and written as if they were not"
                )
                log.warning("its frames are interlaced, and are %s", done)
            yield frame
