"""Reading video files: frames are decoded with PyAV one after the other."""

import logging
import math
import re
import shlex
from collections.abc import Generator, Iterator
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
import torch
from av.container import InputContainer
from av.stream import Disposition, Stream

from stfan.video.colour import CodedFrame, code_frame, with_chroma_location
from stfan.video.decode_errors import decode
from stfan.video.pyav import open_input, rational
from stfan.video.truncation import missing_bytes

log = logging.getLogger("stfan")
# Formats without a rate of their own, for which FFmpeg puts 25. Their frames may know better.
RAW = ("cavsvideo", "dirac", "evc", "h264", "hevc", "m4v", "mpegvideo", "obu", "vc1", "vvc")
COPIED = ("audio", "subtitle", "attachment")  # kinds of streams that are copied to the output
# With one "/", as a Path has it.
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
ROUNDING = 1e-6  # seconds


class BrokenInputError(ValueError):
    """The input cannot be read from here on; the frames before are good."""


# One file and no other: playlists could name any file of this machine, or addresses.
LISTS = {"hls", "concat", "dash", "sdp", "rtsp", "rtp", "sap", "imf", "vapoursynth", "avisynth"}
ALONE = {"protocol_whitelist": "file", "format_whitelist": ",".join(sorted(av.formats_available - LISTS))}
PLAYLIST = re.compile(rb"\s*(#EXTM3U|ffconcat|(<\?xml[^>]*>\s*)?<MPD|v=0\s)")


class VideoReader:
    """Reads the frames of a video file, or of a part of it.

    Args:
        path: the file.
        start, end: seconds from the first frame; frames from `start` on and before `end` are read.
        max_frames: the most frames to read.

    Attributes:
        video: the stream that is read.
        copied: the streams that can be copied to an output: sound, subtitles, attachments.
        dropped: all other streams.
        damaged: number of frames so far that were decoded with errors.
        begin: time of the first frame that was read, in seconds, as it is in the file or by the rate.
        regular: whether all frames so far, those before `start` too, had times and those went forward.

    Raises:
        ValueError, OSError: the file is missing, no video, or shorter than it says. (PyAV's errors are of these kinds.)
    """

    def __init__(
        self, path: str | Path, start: float = 0.0, end: float | None = None, max_frames: int | None = None
    ):
        self.path, self.start, self.end, self.max_frames = Path(path), start, end, max_frames
        if not self.path.is_file():
            if ADDRESS.match(str(path)):
                raise FileNotFoundError(f"{path}: is an address; download the video, and give the file")
            raise FileNotFoundError(f"{path}: {'is a folder' if self.path.is_dir() else 'no such file'}")
        missing = missing_bytes(self.path)
        if missing:
            raise ValueError(f"{path}: truncated, {missing} bytes are missing")
        self.container = self.open()
        is_image = self.container.format.name.endswith("_pipe") or self.container.format.name == "image2"
        streams = self.container.streams
        videos = [s for s in streams.video if not s.disposition & Disposition.attached_pic]
        if is_image or not videos:
            self.container.close()
            if is_image:
                words = "is one picture; deblurring needs the frames of a video, or a folder with a picture of each"
                raise ValueError(f"{path}: {words}")
            raise ValueError(f"{path}: holds no video stream")
        self.video, self.damaged, self._interlaced = videos[0], 0, False
        self.begin, self.regular = 0.0, True
        self.copied: list[Stream] = [s for s in streams if s.type in COPIED]
        self.dropped: list[Stream] = [s for s in streams if s not in (self.video, *self.copied)]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.container.close()

    def open(self) -> InputContainer:
        """Open the file once more, from its beginning."""
        try:
            return open_input(self.path, ALONE)
        except av.FFmpegError as error:
            with self.path.open("rb") as file:
                begin = file.read(256)
            if PLAYLIST.match(begin):
                words = "is a playlist; give a video of it, or make one of them all: ffmpeg -i LIST -c copy one.mp4"
                raise ValueError(f"{self.path}: {words}") from error
            raise ValueError(f"{self.path}: not a video, or truncated: {error.strerror}") from error

    @property
    def rate(self) -> Fraction:
        """Frames per second."""
        rates = [rational(self.video.average_rate), rational(self.video.guessed_rate)]
        if self.container.format.name in RAW:
            rates.reverse()
        return next(filter(None, rates), Fraction(25))

    @property
    def expected_frames(self) -> int | None:
        """Number of frames for a progress bar, or None if the file does not say."""
        total = self.video.frames or None
        if total is None and self.container.duration:
            total = round(self.container.duration / av.time_base * self.rate) or None
        if self.start or self.end is not None:
            first, last = (  # frame n is shown n / rate seconds after the first: as _selected has it
                None if time is None else max(0, math.floor((time - ROUNDING) * float(self.rate)) + 1)
                for time in (self.start, self.end)
            )
            last = min(filter(None, (total, last)), default=None)
            total = last and max(last - (first or 0), 1)
        return min(filter(None, (total, self.max_frames)), default=None)

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells this input from another; a run resumes only with the same."""
        state = self.path.stat()
        return {
            "input": f"{state.st_size} bytes of {state.st_mtime_ns}",
            "start": self.start,
            "end": self.end,
            "max-frames": self.max_frames,
        }

    def frames(self, skip: int = 0) -> Iterator[tuple[av.VideoFrame, torch.Tensor]]:
        """Yield each decoded frame and its tensor (3, H, W) in [0, 1], without the first `skip` frames.

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
                raise BrokenInputError(
                    f"{self.path}: frame {index} is {frame.width}x{frame.height}, those before it "
                    f"{size[0]}x{size[1]}; --end {math.floor(shown * 1000) / 1000} ends before it"
                )
            if index >= skip:
                yield frame, code_frame(frame)

    def first_frame(self) -> av.VideoFrame:
        """Decode the first frame."""
        first = next(self._selected(), None)
        if first is None:
            part = " there, from --start to --end" if self.start or self.end is not None else ""
            raise ValueError(f"{self.path}: holds no frames{part}")
        return first[0]

    def _selected(self) -> Iterator[tuple[av.VideoFrame, float]]:
        """Yield the frames from start to end, each with its time in seconds from the file's first frame.

        From the first wrong time on, the rate says when frames are shown, and :attr:`regular` is False.
        """
        regular, origin, last, count = True, 0.0, None, 0
        for index, frame in enumerate(self._decoded()):
            time = frame.time
            if index == 0:
                origin = time or 0.0
            regular = regular and time is not None and (last is None or time > last)
            last = time
            shown = time - origin if regular and time is not None else float(index / self.rate)
            if self.end is not None and shown > self.end - ROUNDING:
                return
            if shown > self.start - ROUNDING:
                self.regular = regular
                if count == 0:
                    self.begin = origin + shown
                yield frame, shown
                count += 1
                if count == self.max_frames:
                    return

    def _decoded(self) -> Iterator[av.VideoFrame]:
        end = 0.0
        with self.open() as container:
            (stream,) = (s for s in container.streams.video if s.index == self.video.index)
            try:
                for frame in with_chroma_location(self._count_damaged(stream), stream.codec_context.name):
                    end = max(end, frame.time or 0)
                    self._warn_of_interlacing(frame)
                    yield frame
            except av.FFmpegError as error:
                raise BrokenInputError(
                    f"{self.path}: broken or truncated after {end:.2f} s: {error.strerror}"
                ) from error

    def _count_damaged(self, stream: av.VideoStream) -> Iterator[av.VideoFrame]:
        self.damaged = 0
        for frames, damaged in decode(stream):
            self.damaged += damaged
            yield from frames

    def _warn_of_interlacing(self, frame: av.VideoFrame) -> None:
        """Warn once, at the first frame that holds two half pictures of different times."""
        if frame.interlaced_frame and not self._interlaced:
            self._interlaced = True
            log.warning(
                "its frames are interlaced, and are deblurred and written as if they were not; deinterlace first: "
                "ffmpeg -i %s -vf bwdif -crf 12 -c:a copy progressive.mkv",
                shlex.quote(str(self.path)),
            )
