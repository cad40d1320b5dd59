"""The facts of an input video, found once when it is opened: reader, writer, muxer and stfan info read them here."""

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import av.logging
import torch
from av.container import InputContainer
from av.sidedata.sidedata import Type
from av.stream import Discard, Disposition, Stream

from stfan.video.decode_errors import is_empty
from stfan.video.orientation import Orientation, find_orientation
from stfan.video.pyav import open_input, rational, side_data, tags
from stfan.video.side_data import ALPHA_MODE, lost_side_data
from stfan.video.times import NO_TIME, CopyTimes, FrameTimes, Packets, repair_copy_times, repair_frame_times
from stfan.video.truncation import missing_bytes

log = logging.getLogger("stfan")
# Formats without a rate of their own, for which FFmpeg puts 25. Their frames may know better.
RAW = ("cavsvideo", "dirac", "evc", "h264", "hevc", "m4v", "mpegvideo", "obu", "vc1", "vvc")
NEW_CLOCKS = ("mpeg", "mpegts")  # formats whose clock may be set anew
KEY_ID = "enc_key_id"  # metadata by which FFmpeg hands on that Matroska encrypts a stream
NO_KEY = "without its key no player can show it"
# With one "/", as a Path has it.
ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/")
# One file and no other: playlists could name any file of this machine, or addresses.
LISTS = {"hls", "concat", "dash", "sdp", "rtsp", "rtp", "sap", "imf", "vapoursynth", "avisynth"}
ALONE = {"protocol_whitelist": "file", "format_whitelist": ",".join(sorted(av.formats_available - LISTS))}
PLAYLIST = re.compile(rb"\s*(#EXTM3U|ffconcat|(<\?xml[^>]*>\s*)?<MPD|v=0\s)")
# What FFmpeg prints of a stream: PyAV tells neither the name of a codec without a decoder nor a container's crop.
PRINTED = re.compile(r"  Stream #0:(\d+)[^:]*: \w+: ([^ ,\n]+)")
PRINTED_TAG = re.compile(r"\(([^()]{1,16}?) / 0x[0-9A-F]+\)")
PRINTED_SIZE = re.compile(r", (\d+)x(\d+)")
PRINTED_CROP = re.compile(
    r"Frame Cropping: (\d+)/(\d+)/(\d+)/(\d+)", re.IGNORECASE
)  # left, right, top, bottom
KINDS = {"audio": "sound", "subtitle": "subtitles", "video": "further video"}
SAMPLES = 4  # packets of each stream that the output is tried with
FIRST_PACKETS = 300  # in which the first frame is looked for


class UnreadableVideoError(ValueError):
    """No frames can be read from a file.

    Attributes:
        path: the file.
        reason: what is wrong with it.
    """

    def __init__(self, path: Path, reason: str):
        super().__init__(f"{path}: {reason}")
        self.path, self.reason = path, reason


@dataclass(frozen=True)
class Crop:
    """The columns and rows at the edges of a frame that are not to be shown."""

    left: int = 0
    right: int = 0
    top: int = 0
    bottom: int = 0


@dataclass(frozen=True)
class Track:
    """A stream of the input beside the video.

    Attributes:
        index: its number in the file.
        kind: sound, subtitles, attachment, cover, chapters, timecode, further video or data.
        codec: name of its codec, or its tag in the file.
        language: three letters, None if not named.
        decodable: whether FFmpeg knows a decoder.
        times: when its packets are heard or read.
        packets: how many there are.
        discarded: numbers of the packets that an edit list hides, in ascending order.
        samples: its first packets.
    """

    index: int
    kind: str
    codec: str
    language: str | None
    decodable: bool
    times: CopyTimes
    packets: int
    discarded: Sequence[int]
    samples: Sequence[av.Packet]

    def __str__(self) -> str:
        return f"stream {self.index} ({', '.join(filter(None, (self.kind, self.codec, self.language)))})"


@dataclass(frozen=True)
class Source:
    """An input video.

    Attributes:
        path: the file.
        format: FFmpeg's name of its container.
        index: number of the stream of the video.
        codec: name of its codec.
        width, height: of a frame as it is stored, in pixels.
        rate: frames per second.
        times: when the frames are shown.
        counted: whether frames get these times in the order in which the decoder hands them out.
        frames: number of frames, as far as packets tell.
        hidden: number of frames that an edit list hides.
        crop: what of a frame is not shown.
        orientation: how a frame is turned to be upright.
        interlaced: whether the first frame is interlaced.
        begin: when the first of picture and sound begins, in seconds, at least 0.
        tracks: the other streams.
        metadata: of the container, {name: value}.
        stream_metadata: of the video.
        chapters: as PyAV has them.
        lost: what comes with the first frame and no output holds, each with what that means.
    """

    path: Path
    format: str
    index: int
    codec: str
    width: int
    height: int
    rate: Fraction
    times: FrameTimes
    counted: bool
    frames: int
    hidden: int
    crop: Crop
    orientation: Orientation
    interlaced: bool
    begin: Fraction
    tracks: tuple[Track, ...]
    metadata: Mapping[str, str]
    stream_metadata: Mapping[str, str]
    chapters: Sequence[Any]
    lost: Sequence[tuple[str, str]]

    @property
    def shown_size(self) -> tuple[int, int]:
        """Width and height of a frame as it is seen."""
        width = self.width - self.crop.left - self.crop.right
        height = self.height - self.crop.top - self.crop.bottom
        return (height, width) if self.orientation.turns % 2 else (width, height)

    def show(self, image: torch.Tensor) -> torch.Tensor:
        """Return an image (C, H, W), as it is stored, cropped and upright."""
        height, width = image.shape[1:]
        rows = slice(self.crop.top, height - self.crop.bottom)
        columns = slice(self.crop.left, width - self.crop.right)
        return self.orientation(image[:, rows, columns]).contiguous()


def open_video(path: Path) -> InputContainer:
    """Open a file as a video, and no other file that it may name.

    Raises:
        UnreadableVideoError: it is none that FFmpeg knows.
        OSError: it is missing.
    """
    try:
        return open_input(path, ALONE)
    except av.FFmpegError as error:
        with path.open("rb") as file:
            begin = file.read(256)
        if PLAYLIST.match(begin):
            words = (
                "is a playlist; give a video of it, or make one of them all: ffmpeg -i LIST -c copy one.mp4"
            )
            raise UnreadableVideoError(path, words) from error
        raise UnreadableVideoError(path, f"not a video, or truncated: {error.strerror}") from error


def probe(path: Path) -> Source:
    """Read the facts of a video: its packets, from the first to the last, and its first frame.

    Raises:
        UnreadableVideoError: the file is no video, is encrypted, has no decoder here, or is shorter than it says.
        OSError: it is missing.
    """
    if not path.is_file():
        if ADDRESS.match(str(path)):
            raise FileNotFoundError(f"{path}: is an address; download the video, and give the file")
        raise FileNotFoundError(f"{path}: {'is a folder' if path.is_dir() else 'no such file'}")
    missing = missing_bytes(path)
    if missing:
        raise UnreadableVideoError(path, f"truncated, {missing} bytes are missing")
    with open_video(path) as container:
        _refuse_image(path, container)
        printed = _printed(container)
        video = _choose_video(path, container, printed)
        if KEY_ID in video.metadata:
            raise UnreadableVideoError(path, f"is encrypted (Matroska); {NO_KEY}")
        return _read(path, container, video, printed)


def _refuse_image(path: Path, container: InputContainer) -> None:
    with path.open("rb") as file:
        begin = file.read(64)
    # PyAV 18's FFmpeg does not decode it; both releases shall do the same
    if begin[8:12] == b"WEBP" and b"ANIM" in begin:
        words = "is an animated WebP, which is not decoded; make a GIF, an APNG or a video of it"
        raise UnreadableVideoError(path, words)
    name = container.format.name
    if not (name.endswith("_pipe") or name == "image2"):
        return
    words = "is one picture; deblurring needs the frames of a video, or a folder with a picture of each"
    raise UnreadableVideoError(path, words)


@dataclass(frozen=True)
class _Printed:
    """What FFmpeg prints of a stream: codec, tag, size and crop."""

    codec: str
    tag: str
    size: tuple[int, int]
    crop: Crop


def _printed(container: InputContainer) -> dict[int, _Printed]:
    level = av.logging.get_level()
    av.logging.set_level(av.logging.INFO)
    try:
        opened: Any = container  # its stub lacks the method
        text: str = opened.dumps_format()
    finally:
        av.logging.set_level(level)
    found = {}
    for part in re.split(r"^(?=  Stream #)", text, flags=re.MULTILINE):
        stream = PRINTED.match(part)
        if stream is None:
            continue
        first = part.splitlines()[0]
        tag, size, crop = PRINTED_TAG.search(first), PRINTED_SIZE.search(first), PRINTED_CROP.search(part)
        found[int(stream[1])] = _Printed(
            stream[2],
            tag[1] if tag else stream[2],
            (int(size[1]), int(size[2])) if size else (0, 0),
            Crop(*map(int, crop.groups())) if crop else Crop(),
        )
    return found


def _choose_video(path: Path, container: InputContainer, printed: Mapping[int, _Printed]) -> av.VideoStream:
    """Choose the default video, or the largest of several or of none; a picture that is attached is none.

    Raises:
        UnreadableVideoError: there is no video, or it has no decoder.
    """
    videos = [s for s in container.streams.video if not _is_attached(s) and s.discard != Discard.all]
    if not videos:
        raise UnreadableVideoError(path, "holds no video stream")

    def preference(stream: av.VideoStream) -> tuple[bool, int]:
        if stream.codec_context is None:
            known = printed.get(stream.index)
            width, height = known.size if known else (0, 0)
        else:
            width, height = stream.width, stream.height
        return bool(stream.disposition & Disposition.default), width * height

    video: av.VideoStream = max(videos, key=preference)
    if video.codec_context is None:
        known = printed.get(video.index)
        if known is None:
            words = "a codec that this FFmpeg cannot decode"
        else:
            name = "" if known.codec == "none" else f" ({known.codec})"
            words = f"the codec {known.tag}{name}, which this FFmpeg cannot decode"
        raise UnreadableVideoError(path, f"its video has {words}")
    return video


def _is_attached(stream: Stream) -> bool:
    return bool(stream.disposition & (Disposition.attached_pic | Disposition.timed_thumbnails))


def _rate(container: InputContainer, video: av.VideoStream) -> Fraction:
    rates = [rational(video.average_rate), rational(video.guessed_rate)]
    if container.format.name in RAW:
        rates.reverse()
    return next(filter(None, rates), Fraction(25))


def _read(
    path: Path, container: InputContainer, video: av.VideoStream, printed: Mapping[int, _Printed]
) -> Source:
    """Read all packets, and decode the first frame."""
    streams = list(container.streams)
    packets = {s.index: Packets(rational(s.time_base) or Fraction(1)) for s in streams}
    samples: dict[int, list[av.Packet]] = {s.index: [] for s in streams}
    discarded: dict[int, list[int]] = {s.index: [] for s in streams}
    first, tried = None, 0
    try:
        for place, packet in enumerate(container.demux()):
            index = packet.stream.index
            if index == video.index and first is None and tried < FIRST_PACKETS:
                tried += 1
                first = None if is_empty(packet) else _first_frame(packet)
            if packet.size == 0 and packet.pts is None and packet.dts is None:
                continue
            if index == video.index and is_empty(packet):
                packets[index].lengthen(packet.duration)
                continue
            if index == video.index and packet.has_sidedata("encryption_info"):
                raise UnreadableVideoError(path, f"is encrypted (Common Encryption); {NO_KEY}")
            if packet.is_discard:
                discarded[index].append(len(packets[index].shown))
            packets[index].add(packet.pts, packet.dts, packet.duration, place)
            if index != video.index and len(samples[index]) < SAMPLES:
                samples[index].append(packet)
    except av.FFmpegError:
        pass  # whoever reads on will be told
    rate = _rate(container, video)
    shown = [time for time in packets[video.index].shown if time != NO_TIME]
    # AVI states when frames are decoded; of some codecs FFmpeg finds out when they are shown, of H.264 it does not.
    by_decoding = container.format.name == "avi" and all(a < b for a, b in pairwise(shown))
    counted = by_decoding and bool(video.codec_context.has_b_frames)
    new_clock = container.format.name in NEW_CLOCKS
    reordered = bool(video.codec_context.has_b_frames) and not counted
    # A packet of an MP4 file states the time to the next one that is decoded.
    length = video.duration if reordered and container.format.name.startswith("mov") else None
    times = repair_frame_times(packets[video.index], rate, reordered, new_clock, length)
    tracks = [
        _track(stream, packets[stream.index], samples[stream.index], discarded[stream.index], times, printed)
        for stream in streams
        if stream.index != video.index
    ]
    known = printed.get(video.index)
    kinds = side_data(first) if first else {}
    orientation = find_orientation(kinds.get(Type.DISPLAYMATRIX))
    lost = lost_side_data(first, kinds) if first else []
    if {name.lower(): value for name, value in video.metadata.items()}.get(ALPHA_MODE) == "1":
        lost.append(("its transparency", ""))
    count = len(packets[video.index].shown)
    return Source(
        path=path,
        format=container.format.name,
        index=video.index,
        codec=video.codec_context.name,
        width=video.width,
        height=video.height,
        rate=rate,
        times=times,
        counted=counted or times.times is None,
        frames=count - len(discarded[video.index]),
        hidden=len(discarded[video.index]),
        crop=known.crop if known else Crop(),
        orientation=orientation,
        interlaced=bool(first and first.interlaced_frame),
        begin=_begin(packets, streams, times),
        tracks=tuple(tracks),
        metadata=tags(container.metadata),
        stream_metadata=tags(video.metadata),
        chapters=[chapter | {"metadata": tags(chapter["metadata"])} for chapter in container.chapters()],
        lost=lost,
    )


def _first_frame(packet: av.Packet) -> av.VideoFrame | None:
    """Decode a packet of the video; return the frame that comes of it, if any."""
    try:
        frames: list[Any] = packet.decode()
    except av.FFmpegError:  # whoever reads the frames will be told
        return None
    return frames[0] if frames else None


def _track(
    stream: Stream,
    packets: Packets,
    samples: Sequence[av.Packet],
    discarded: Sequence[int],
    times: FrameTimes,
    printed: Mapping[int, _Printed],
) -> Track:
    known, kind = printed.get(stream.index), KINDS.get(stream.type, stream.type)
    if stream.discard == Discard.all:
        kind = "chapters"
    elif _is_attached(stream):
        kind = "cover"
    elif stream.type == "data" and "timecode" in stream.metadata:
        kind = "timecode"
    codec = getattr(stream.codec_context, "name", None)
    if codec is None and known:
        codec = known.tag if known.codec in ("none", "bin_data") else known.codec
    return Track(
        index=stream.index,
        kind=kind,
        codec=codec or "",
        language=tags(stream.metadata).get("language"),
        decodable=stream.codec_context is not None,
        times=repair_copy_times(packets, times.joins, overlapping=stream.type != "audio"),
        packets=len(packets.shown),
        discarded=discarded,
        samples=samples,
    )


def _begin(packets: Mapping[int, Packets], streams: Sequence[Stream], times: FrameTimes) -> Fraction:
    """Find when the first of picture and sound begins, in seconds; 0 if that is before 0 or not known."""
    begins = [min(times.times) * times.base] if times.times else [Fraction(0)]
    for stream in streams:
        # FFmpeg's start is later than the first packet where a decoder's delay comes first
        if stream.type == "audio" and stream.start_time is not None:
            begins.append(stream.start_time * packets[stream.index].base)
    return max(min(begins), Fraction(0))
