"""Writing video files, first half: frames are encoded into segments, each of which is decodable by itself.

The time of a frame in its segment is its number, in milliseconds; muxer.py gives the frames their own times.
"""

import logging
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import torch
from av.container import OutputContainer

from stfan.files import wait_for_disk
from stfan.video.colour import UNTAGGED, FromTensor, bit_depth, is_known_matrix
from stfan.video.decode_errors import QUIET
from stfan.video.errors import EncodingError
from stfan.video.frame_log import FrameLog, Samples
from stfan.video.hdr import hdr_options
from stfan.video.partial_output import SEGMENT_FRAMES
from stfan.video.pixel_formats import pix_formats, warn_of_losses
from stfan.video.pyav import rational
from stfan.video.reader import VideoReader

log = logging.getLogger("stfan")
FRAME_NUMBER = Fraction(1, 1000)  # the time base of Matroska, so that frame i is at time i
CODECS = {".webm": "libvpx-vp9"}  # by a file's suffix; libx264 for the others
CRF = {"libx264": 16, "libx265": 18, "libvpx-vp9": 20, "libsvtav1": 20}  # hardly visible losses
CRF |= {"h264_nvenc": 19, "hevc_nvenc": 21, "av1_nvenc": 26}  # not measured yet
# NVIDIA's encoders have their constant quality in "cq", which is a target of their variable bit rate.
NVENC = {"rc": "vbr", "b": 0}
CRF_MOST = {"libx264": 51, "libx264rgb": 51, "libx265": 51, "libvpx": 63, "libvpx-vp9": 63, "libsvtav1": 63}
CRF_MOST |= {"h264_nvenc": 51, "hevc_nvenc": 51, "av1_nvenc": 63}
# Options that encoders get beside the user's. They are not to write to the terminal. And x264 is to leave out its
# macroblock tree, which reads memory before it is written (seen with libx264 165: MALLOC_PERTURB_ changes the result).
ENCODER_DEFAULTS: dict[str, dict[str, Any]] = {
    "libx264": {"mbtree": 0},
    "libx265": {"x265-params": "log-level=error"},
    **dict.fromkeys(("h264_nvenc", "hevc_nvenc", "av1_nvenc"), NVENC),
}
# The presets of x264 and x265, which would write to the terminal if they got another.
PRESETS = "ultrafast, superfast, veryfast, faster, fast, medium, slow, slower, veryslow, placebo"
os.environ.setdefault("SVT_LOG", "1")


@dataclass(frozen=True)
class Encoding:
    """Says how to encode. What is None is chosen by the file's suffix, the codec and the input.

    Attributes:
        codec: name of one of FFmpeg's encoders.
        crf: its constant rate factor; a lower one gives better quality and a larger file.
        preset: its trade of time for size.
        pix_fmt: FFmpeg's name of the pixel format.
        lossless: short for codec "ffv1" with RGB as it comes from the network, rounded.
    """

    codec: str | None = None
    crf: int | None = None
    preset: str | None = None
    pix_fmt: str | None = None
    lossless: bool = False

    def resolve(self, suffix: str, width: int, height: int, like: av.VideoFrame) -> "Encoding":
        """Return the same with everything chosen, for frames of this size that are coded as `like`, a decoded frame.

        Raises:
            EncodingError: there is no such codec, or it lacks an option or the pixel format that is asked for.
        """
        if self.lossless and (self.codec or self.pix_fmt):
            raise EncodingError("lossless is ffv1 in RGB, of no other codec or pix_fmt", "codec", "pix_fmt")
        codec = self.codec or ("ffv1" if self.lossless else CODECS.get(suffix, "libx264"))
        formats = pix_formats(codec)
        if not formats:
            raise EncodingError(f"codec {codec}: no video encoder of this FFmpeg; try libx264", "codec")
        self._check_options(codec, formats)
        bits = bit_depth(like.format)
        if self.lossless:
            choice = "bgr0" if bits == 8 else f"gbrp{bits}le"
        else:
            choice = self.pix_fmt or ("yuv444p" if width % 2 or height % 2 else "yuv420p")
        pix_fmt = choice if choice in formats else formats[0]
        warn_of_losses(like.format, codec, pix_fmt)
        if not is_known_matrix(like):
            words = "the matrix of its colours (%d of H.273) is not known: they are read by that of BT.601"
            log.warning(words, int(like.colorspace))
        return Encoding(codec, CRF.get(codec) if self.crf is None else self.crf, self.preset, pix_fmt)

    def _check_options(self, codec: str, formats: list[str]) -> None:
        """Raise EncodingError if the codec lacks an option, a preset or the pixel format that is asked for."""
        private = av.CodecContext.create(codec, "w").supported_options.private
        names = {option.name for option in private}
        for name in ("crf", "preset"):
            if getattr(self, name) is not None and _option(name, codec) not in names:
                raise EncodingError(f"{name}: {codec} has no such option", name)
        most = CRF_MOST.get(codec)
        if self.crf is not None and most is not None and self.crf > most:
            raise EncodingError(f"crf must be from 0 to {most} for {codec}, got {self.crf}", "crf")
        if codec.startswith("libx26") and self.preset not in (None, *PRESETS.split(", ")):
            words = f"preset must be one of {codec}'s, {PRESETS}; got {self.preset!r}"
            raise EncodingError(words, "preset")
        if self.pix_fmt and self.pix_fmt not in formats:
            raise EncodingError(f"pix_fmt {self.pix_fmt}: {codec} takes {', '.join(formats)}", "pix_fmt")
        if codec.endswith("_nvenc"):
            _try_nvenc(codec)

    def add_stream(
        self,
        container: OutputContainer,
        rate: Fraction,
        width: int,
        height: int,
        tags: Mapping[str, Any],
        more: Mapping[str, str],
    ) -> av.VideoStream:
        """Add the stream that encodes so to an output container; everything must be chosen, see :meth:`resolve`.

        `more` are further options of the codec, lists with ":" between.
        """
        assert self.codec is not None and self.pix_fmt is not None
        rate = max(rate, Fraction(1)).limit_denominator(1001)  # the frames have their own times in the end
        stream = container.add_stream(self.codec, rate)
        assert isinstance(stream, av.VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, self.pix_fmt
        options = {_option("crf", self.codec): self.crf, "preset": self.preset} | ENCODER_DEFAULTS.get(
            self.codec, {}
        )
        for key, value in more.items():
            options[key] = f"{options[key]}:{value}" if key in options else value
        stream.options = {key: str(value) for key, value in options.items() if value is not None}
        stream.codec_context.time_base = 1 / rate
        stream.codec_context.thread_count = 4  # whatever the machine: the result depends on it
        for key, value in tags.items():
            setattr(stream.codec_context, key, value)
        return stream


def _option(name: str, codec: str) -> str:
    """Return a codec's own name of an option."""
    return "cq" if name == "crf" and codec.endswith("_nvenc") else name


def _try_nvenc(codec: str) -> None:
    """Raise ValueError without such an encoder: no NVIDIA GPU, one without it (A100, H100), or no driver."""
    context = av.CodecContext.create(codec, "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt, context.time_base = 256, 256, "yuv420p", Fraction(1, 25)
    try:
        context.open()
    except av.FFmpegError as error:
        words = f"codec {codec}: this machine's GPU and driver offer no such encoder; try libx264"
        raise ValueError(f"{words} ({error.strerror})") from error


class SegmentWriter:
    """Writes frames into the numbered files of a folder, each of which is a video by itself.

    Args:
        encoding: the resolved encoding.
        reader: the video that the frames are from.
        width, height: size of a frame.
        like: a decoded frame, whose colours are coded as the segments' are to be.

    Attributes:
        log: the frames of the open segment.
        aspect: width by height of a pixel; None if it is square or not known.
        tagged: whether the file should name the matrix or the range of its colours.
        reorder: the most frames by which one was written before others that are shown earlier.
    """

    folder: Path
    log: FrameLog

    def __init__(self, encoding: Encoding, reader: VideoReader, width: int, height: int, like: av.VideoFrame):
        assert encoding.pix_fmt is not None
        self.encoding, self.rate = encoding, reader.rate
        self.size, self.reorder = (width, height), 0
        self._to_frame = FromTensor(width, height, encoding.pix_fmt, like)
        self.tagged = self._to_frame.tags != UNTAGGED
        self._tags = self._to_frame.tags | {
            "color_primaries": reader.video.codec_context.color_primaries,
            "color_trc": reader.video.codec_context.color_trc,
        }
        assert encoding.codec is not None
        self._hdr = hdr_options(like, encoding.codec)
        aspect = rational(reader.video.sample_aspect_ratio)
        if aspect in (None, 1):
            self.aspect = None
        else:
            self.aspect = 1 / aspect if reader.source.orientation.turns % 2 else aspect
            self._tags["sample_aspect_ratio"] = self.aspect
        self._container: OutputContainer | None = None

    def __str__(self) -> str:
        choices = ", ".join(f"{k} {v}" for k, v in vars(self.encoding).items() if v not in (None, False))
        return f"{choices}, {self.size[0]}x{self.size[1]}"

    def add_stream(self, container: OutputContainer, **changes: Any) -> av.VideoStream:
        """Add the stream of a segment to an output container; `changes` are of the Encoding."""
        encoding = replace(self.encoding, **changes)
        return encoding.add_stream(container, self.rate, *self.size, self._tags, self._hdr)

    def begin(self, folder: Path) -> None:
        """Begin to write in a folder."""
        self.folder, self.log = folder, FrameLog(folder / "open.frames")

    def path(self, number: int) -> Path:
        """Return the path of a segment."""
        return self.folder / f"{number:05d}.mkv"

    def quantise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Round a frame (3, H, W) in [0, 1] to the samples that are encoded, on its device."""
        return self._to_frame.quantise(pixels)

    def write(self, samples: Samples, number: int) -> None:
        """Add a frame to the segment of this number; open the segment if none is open."""
        self._encode(samples, number)
        self.log.add(samples)

    def reopen(self, number: int, count: int) -> None:
        """Write the segment of this number anew, with the first `count` frames of its log.

        Raises:
            DamagedPartialError: the log does not hold them.
        """
        width, height = self.size
        for samples in self.log.load(count, self._to_frame.samples(torch.zeros(3, height, width))):
            self._encode(samples, number)

    def _encode(self, samples: Samples, number: int) -> None:
        if self._container is None:
            self._path = self.path(number)
            with QUIET:
                self._container = av.open(f"file:{self._path}", "w")
                self._stream = self.add_stream(self._container)
                self._container.start_encoding()
            self._frames = self._packets = 0
        frame = self._to_frame.frame(samples)
        frame.pts, frame.time_base = self._frames, self._stream.codec_context.time_base
        self._frames += 1
        self._mux(self._container, self._stream.encode(frame))

    def close(self) -> None:
        """Complete the open segment; the next frame opens another.

        Raises:
            RuntimeError: the encoder made fewer or more frames than it was given.
        """
        if self._container is None:
            return
        self._mux(self._container, self._stream.encode(None))
        with QUIET:
            self._container.close()
            del self._stream
            self._container = None
        wait_for_disk(self._path)
        self.log.clear()
        if self._packets != self._frames:
            raise RuntimeError(
                f"{self.encoding.codec} made {self._packets} frames of {self._frames}; take another codec"
            )

    def abandon(self) -> None:
        """Close the open segment as it is."""
        if self._container is not None:
            container, self._container = self._container, None
            with suppress(OSError):  # the disk is full, say
                container.close()

    def _mux(self, container: OutputContainer, packets: Iterable[av.Packet]) -> None:
        for packet in packets:
            assert packet.pts is not None
            self.reorder = max(self.reorder, self._packets - packet.pts)
            # The decoding times of x265 come from memory that was never written if there are only two frames.
            packet.dts = self._packets - SEGMENT_FRAMES
            packet.time_base = FRAME_NUMBER
            self._packets += 1
            container.mux(packet)
