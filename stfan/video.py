"""Video files, streamed with PyAV: one frame in memory at a time, timestamps kept, sound copied as it is.

Colours go out through the matrix they came in by; video that names none is taken as BT.601, as FFmpeg does.
Both conversions are the exact ones: FFmpeg's quick way between RGB and YUV darkens the picture and is coarse with
its colours. On the way out the colour samples are put to the left of their pixels,
where every H.264 player looks for them and where FFmpeg, unasked, does not put them.
"""

import errno
import os
from contextlib import contextmanager, suppress
from pathlib import Path

import av
import numpy as np
import torch
from av.filter import Graph
from av.stream import Disposition
from av.video.reformatter import ColorRange, Interpolation

from stfan.containers import missing_bytes
from stfan.metrics import to_8bit

EXACT = (
    Interpolation.BICUBIC
    | Interpolation.ACCURATE_RND
    | Interpolation.FULL_CHR_H_INT
    | Interpolation.FULL_CHR_H_INP
)
NAMES = (".mp4", ".m4v", ".mov", ".mkv")  # of containers that keep H.264 and its times
MATRICES = {1: "bt709", 4: "fcc", 5: "bt470bg", 6: "smpte170m", 7: "smpte240m", 9: "bt2020nc"}  # ITU-T H.273
UNSPECIFIED = 2


class Source:
    """The video stream of an input file.

    Raises ValueError or OSError (PyAV's errors are of these kinds) for a file that is missing, no video, or
    shorter than it says.
    """

    def __init__(self, path):
        self.path = Path(path)
        if not self.path.is_file():
            raise FileNotFoundError(f"{path}: {'is a folder' if self.path.is_dir() else 'no such file'}")
        missing = missing_bytes(self.path)
        if missing:
            raise ValueError(f"{path}: truncated, {missing} bytes are missing")
        try:
            self.container = av.open(f"file:{path}")  # or FFmpeg takes a name with a colon for an address
        except av.FFmpegError as error:
            raise ValueError(f"{path}: not a video, or truncated: {error.strerror}") from error
        pictures = self.container.format.name.endswith("_pipe") or self.container.format.name == "image2"
        streams = [s for s in self.container.streams.video if not s.disposition & Disposition.attached_pic]
        if pictures or not streams:
            self.container.close()
            raise ValueError(f"{path}: holds no video stream")
        self.video = streams[0]
        self.video.thread_type = "AUTO"
        self.sound = list(self.container.streams.audio)

    @property
    def rate(self):
        """Frames per second, a Fraction."""
        return self.video.average_rate or self.video.guessed_rate or 25

    @property
    def expected_frames(self):
        """How many frames there should be, or None where the file does not say: for progress bars."""
        if self.video.frames:
            return self.video.frames
        return round(self.container.duration / av.time_base * self.rate) if self.container.duration else None

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.container.close()

    def packets(self):
        """(frame, None) and (None, sound packet) in the file's order."""
        end = 0
        try:
            for packet in self.container.demux([self.video, *self.sound]):
                if packet.stream.type == "audio":
                    if packet.dts is not None:
                        yield None, packet
                    continue
                for frame in packet.decode():
                    end = max(end, frame.time or 0)
                    yield frame, None
        except av.FFmpegError as error:
            raise ValueError(
                f"{self.path}: broken or truncated after {end:.2f} s: {error.strerror}"
            ) from error


def to_tensor(frame):
    """A decoded frame as it is shown, upright: (3, H, W) RGB in [0, 1]."""
    pixels = torch.from_numpy(frame.reformat(format="rgb24", interpolation=EXACT).to_ndarray())
    return torch.rot90(pixels, frame.rotation // 90).permute(2, 0, 1).float() / 255


def _to_yuv(width, height, pix_fmt, like):
    """A filter that takes RGB frames to pix_fmt with the matrix and the range of the decoded frame `like`."""
    graph = Graph()
    settings = {
        "out_color_matrix": MATRICES.get(int(like.colorspace), "bt601"),
        "out_range": "pc" if like.color_range == ColorRange.JPEG else "tv",
        "out_chroma_loc": "left",
        "flags": "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp",
    }
    graph.link_nodes(
        graph.add_buffer(
            width=width, height=height, format=av.VideoFormat("rgb24"), time_base=like.time_base
        ),
        graph.add("scale", ":".join(f"{key}={value}" for key, value in settings.items())),
        graph.add("format", f"pix_fmts={pix_fmt}"),
        graph.add("buffersink"),
    ).configure()
    return graph


def check_name(path):
    """Refuse, before any work is done, a file name that no video can be written to."""
    if path.suffix.lower() not in NAMES:
        raise ValueError(f"{path}: not the name of a video file; it should end in {', '.join(NAMES)}")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder")


class Sink:
    """An H.264 file with the frames given to it and a source's sound; it takes its name when all is written."""

    def __init__(self, path, source, crf=16):
        self.path, self.source, self.crf = Path(path), source, crf
        self._partial = self.path.with_name(f".{self.path.stem}.partial{self.path.suffix}")
        self._stream = self._last = None
        self._step = max(1, round(1 / (source.rate * source.video.time_base)))  # between the last two frames
        self._sound = {}
        self._early = []  # sound packets before the first frame
        self.frames = 0  # in the file so far; all of them once it is closed

    def __enter__(self):
        check_name(self.path)
        with self._told():
            self._container = av.open(f"file:{self._partial}", "w")
        return self

    def __exit__(self, kind, *_):
        try:
            if kind is None:
                self._finish()
        finally:
            with suppress(av.FFmpegError):
                self._container.close()
            self._partial.unlink(missing_ok=True)

    def _finish(self):
        if self._stream is None:
            raise ValueError(f"{self.source.path}: holds no frames")
        with self._told():
            self._mux_video(self._stream.encode(None))
            self._container.close()
        os.replace(self._partial, self.path)

    @contextmanager
    def _told(self):
        try:
            yield
        except (av.FFmpegError, ValueError) as error:
            reason = getattr(error, "strerror", None) or str(error)
            if self._sound and getattr(error, "errno", None) == errno.EINVAL:
                names = ", ".join(sound.codec_context.name for sound in self._sound)
                reason += f" (perhaps {self.path.suffix} does not take {names} sound; .mkv takes any)"
            raise OSError(f"{self.path}: cannot be written: {reason}") from error

    def _open_streams(self, height, width, frame):
        self._stream = self._container.add_stream("libx264", self.source.rate)
        self._stream.height, self._stream.width = height, width
        self._stream.pix_fmt = "yuv444p" if height % 2 or width % 2 else "yuv420p"
        self._stream.options = {"crf": str(self.crf), "preset": "medium"}
        context, theirs = self._stream.codec_context, self.source.video.codec_context
        context.time_base = frame.time_base
        context.color_range = frame.color_range
        context.colorspace = frame.colorspace if int(frame.colorspace) in MATRICES else UNSPECIFIED
        aspect = theirs.sample_aspect_ratio
        if aspect:
            context.sample_aspect_ratio = 1 / aspect if frame.rotation % 180 else aspect
        context.color_primaries = theirs.color_primaries
        context.color_trc = theirs.color_trc
        for sound in self.source.sound:
            self._sound[sound] = self._container.add_stream_from_template(sound)
        self._to_yuv = _to_yuv(width, height, self._stream.pix_fmt, frame)

    def write(self, pixels, like):
        """Add a frame (3, H, W) in [0, 1] with the time and the colour coding of the decoded frame `like`."""
        with self._told():
            if self._stream is None:
                self._open_streams(*pixels.shape[1:], like)
                for packet in self._early:
                    self.write_sound(packet)
            rgb = np.ascontiguousarray(to_8bit(pixels).permute(1, 2, 0).numpy())
            frame = av.VideoFrame.from_ndarray(rgb, "rgb24")
            frame.pts, frame.time_base = self._next_time(like.pts), like.time_base
            self._to_yuv.vpush(frame)
            self._mux_video(self._stream.encode(self._to_yuv.vpull()))

    def _next_time(self, pts):
        """The frame's own time, or, where it has none or goes back, as far behind the last as that was."""
        if pts is None or (self._last is not None and pts <= self._last):
            pts = 0 if self._last is None else self._last + self._step
        elif self._last is not None:
            self._step = pts - self._last
        self._last = pts
        return pts

    def _mux_video(self, packets):
        self._container.mux(packets)
        self.frames += len(packets)

    def write_sound(self, packet):
        """Copy a sound packet of the source as it is."""
        if self._stream is None:
            self._early.append(packet)
            return
        with self._told():
            packet.stream = self._sound[packet.stream]
            self._container.mux(packet)


def deblur_video(source, path, deblurrer, on_frame=lambda before, after: None, max_frames=None):
    """Deblur an open Source into a new file, frame by frame; as many frames go out as came in.

    Args:
        source: a Source.
        path: the file to write, its kind by its ending; nothing is there before all of it is.
        deblurrer: maps a frame (3, H, W) in [0, 1] to the like.
        on_frame: called with every frame before and after.
        max_frames: stop before the frame after so many.

    Returns:
        the number of frames.
    """
    frames = 0
    with Sink(path, source) as sink:
        for frame, sound in source.packets():
            if sound is not None:
                sink.write_sound(sound)
                continue
            if frames == max_frames:
                break
            before = to_tensor(frame)
            after = deblurrer(before)
            sink.write(after, frame)
            on_frame(before, after)
            frames += 1
    if sink.frames != frames:
        raise RuntimeError(f"{path}: {frames} frames in, {sink.frames} out")
    return frames
