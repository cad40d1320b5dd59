"""Video files out, first half: frames are encoded into segments, each of which is decodable by itself.

The times of a segment's frames are their numbers, in milliseconds; muxer.py gives them their own.
"""

import logging
import os
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction

import av

from stfan.video.colour import UNTAGGED, FromTensor, depth
from stfan.video.partial_output import SEGMENT

log = logging.getLogger("stfan")
NUMBER = Fraction(1, 1000)  # the time base in which Matroska counts, so that frame i is at i
CODECS = {".webm": "libvpx-vp9"}  # by a file's ending; libx264 for the others
CRF = {"libx264": 16, "libx265": 18, "libvpx-vp9": 20, "libsvtav1": 20}  # hardly visible losses
# What encoders are told beside the user's wishes: not to write to the terminal, and of x264 to leave out its macroblock
# tree, which reads memory before it is written (seen with libx264 165: MALLOC_PERTURB_ changes the result).
TOLD = {"libx264": {"mbtree": 0}, "libx265": {"x265-params": "log-level=error"}}
# Of x264 and x265, which would write to the terminal if they were given another.
PRESETS = "ultrafast, superfast, veryfast, faster, fast, medium, slow, slower, veryslow, placebo"
os.environ.setdefault("SVT_LOG", "1")


def pix_formats(codec):
    """The names of the pixel formats that a video encoder takes; none if there is no such encoder."""
    try:
        return [pix_format.name for pix_format in av.Codec(codec, "w").video_formats or ()]
    except av.codec.codec.UnknownCodecError:
        return []


def deeper(bits):
    """How to keep so many bits a colour, or as many as can be, in words."""
    deep = {n: f"yuv420p{n}le" for n in (10, 12) if f"yuv420p{n}le" in pix_formats("libx265")}
    kept = min((n for n in deep if n >= bits), default=max(deep, default=None))
    if kept is None:
        return "--lossless keeps them"
    return f"--codec libx265 --pix-fmt {deep[kept]} keeps {kept}"


@dataclass(frozen=True)
class Encoding:
    """How to encode; what is None is chosen by the file's ending, the codec and the input.

    codec is the name of one of FFmpeg's encoders; crf its constant quality, less is better; preset its trade of
    time for size; lossless stands for codec "ffv1" with RGB as it comes from the network, rounded.
    """

    codec: str | None = None
    crf: int | None = None
    preset: str | None = None
    pix_fmt: str | None = None
    lossless: bool = False

    def settle(self, suffix, width, height, like):
        """The same with everything chosen, for frames like the decoded frame `like` but of this size.

        Raises:
            ValueError: there is no such codec, or it lacks the option or the pixel format that is asked for.
        """
        if self.lossless and (self.codec or self.pix_fmt):
            raise ValueError("--lossless is ffv1 in RGB: leave out --codec and --pix-fmt")
        codec = self.codec or ("ffv1" if self.lossless else CODECS.get(suffix, "libx264"))
        formats = pix_formats(codec)
        if not formats:
            raise ValueError(f"--codec {codec}: no video encoder of this FFmpeg; try libx264")
        options = {option.name for option in av.CodecContext.create(codec, "w").supported_options.private}
        for name in ("crf", "preset"):
            if getattr(self, name) is not None and name not in options:
                raise ValueError(f"--{name}: {codec} has no such option")
        if codec.startswith("libx26") and self.preset not in (None, *PRESETS.split(", ")):
            raise ValueError(f"--preset must be one of {codec}'s, {PRESETS}; got {self.preset!r}")
        even = not (width % 2 or height % 2)
        if self.pix_fmt and self.pix_fmt not in formats:
            raise ValueError(f"--pix-fmt {self.pix_fmt}: {codec} takes {', '.join(formats)}")
        bits = depth(like.format)
        if self.lossless:
            wanted = ["bgr0" if bits == 8 else f"gbrp{bits}le"]
        else:
            wanted = [self.pix_fmt or ("yuv420p" if even else "yuv444p")]
        pix_fmt = next(name for name in [*wanted, *formats] if name in formats)
        kept = depth(av.VideoFormat(pix_fmt))
        if kept < bits:
            log.warning("%s-bit input is written with %s bits a colour; %s", bits, kept, deeper(bits))
        return Encoding(codec, CRF.get(codec) if self.crf is None else self.crf, self.preset, pix_fmt)

    def add_to(self, container, source, width, height, tags):
        """The stream in an output container that encodes so; needs everything chosen."""
        rate = source.rate.limit_denominator(1001)
        stream = container.add_stream(self.codec, rate)
        stream.width, stream.height, stream.pix_fmt = width, height, self.pix_fmt
        options = {"crf": self.crf, "preset": self.preset} | TOLD.get(self.codec, {})
        stream.options = {key: str(value) for key, value in options.items() if value is not None}
        stream.codec_context.time_base = 1 / rate
        stream.codec_context.thread_count = 4  # whatever the machine: the result depends on it
        for key, value in tags.items():
            setattr(stream.codec_context, key, value)
        return stream


class Segments:
    """Numbered files in a folder, each with so many encoded frames.

    Attributes:
        folder: where they are, to be set before the first is written.
        aspect: of a pixel, width by height; None if it is square or not known.
        tagged: whether matrix or range of the colours are to be told.
        reorder: by how many frames, at most, one was written before others that are shown earlier.
    """

    def __init__(self, encoding, source, width, height, like):
        self.folder, self.encoding, self.source = None, encoding, source
        self.size, self.reorder = (width, height), 0
        self._to_frame = FromTensor(width, height, encoding.pix_fmt, like)
        self.tagged = self._to_frame.tags != UNTAGGED
        self._tags = self._to_frame.tags | {
            "color_primaries": source.video.codec_context.color_primaries,
            "color_trc": source.video.codec_context.color_trc,
        }
        aspect = source.video.sample_aspect_ratio
        self.aspect = None if aspect in (None, 0, 1) else 1 / aspect if like.rotation % 180 else aspect
        if self.aspect:
            self._tags["sample_aspect_ratio"] = self.aspect
        self._container = None

    def __str__(self):
        chosen = ", ".join(f"{k} {v}" for k, v in vars(self.encoding).items() if v not in (None, False))
        return f"{chosen}, {self.size[0]}x{self.size[1]}"

    def add_to(self, container, **changes):
        """The stream in an output container that encodes as the segments are, but for changes of the Encoding."""
        return replace(self.encoding, **changes).add_to(container, self.source, *self.size, self._tags)

    def path(self, number):
        return self.folder / f"{number:05d}.mkv"

    def write(self, pixels, number):
        """Add a frame (3, H, W) in [0, 1] to the segment of this number, begun if need be."""
        if self._container is None:
            self._container = av.open(f"file:{self.path(number)}", "w")
            self._stream = self.add_to(self._container)
            self._frames = self._packets = 0
        frame = self._to_frame(pixels)
        frame.pts, frame.time_base = self._frames, self._stream.codec_context.time_base
        self._frames += 1
        self._mux(self._stream.encode(frame))

    def close(self):
        """End the segment that is begun; the next frame begins another.

        Raises:
            RuntimeError: the encoder made fewer or more frames of those it was given.
        """
        if self._container is None:
            return
        self._mux(self._stream.encode(None))
        self._container.close()
        self._container = None
        if self._packets != self._frames:
            raise RuntimeError(
                f"{self.encoding.codec} made {self._packets} frames of {self._frames}; take another --codec"
            )

    def abandon(self):
        """Let go of the segment that is begun, as it is."""
        if self._container is not None:
            container, self._container = self._container, None
            with suppress(OSError):  # the disk is full, say
                container.close()

    def _mux(self, packets):
        for packet in packets:
            self.reorder = max(self.reorder, self._packets - packet.pts)
            # x265's own are of memory never written if it has two frames
            packet.dts = self._packets - SEGMENT
            packet.time_base = NUMBER
            self._packets += 1
            self._container.mux(packet)
