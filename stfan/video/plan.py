"""What an output file will hold of its input, tried on empty files before any frame is computed."""

import io
import logging
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import av
from av.container import InputContainer, OutputContainer
from av.stream import Disposition, Stream

from stfan.video.encoder import SegmentWriter
from stfan.video.pyav import tags
from stfan.video.source import RAW, Crop, Source, Track

log = logging.getLogger("stfan")
FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
TEXT_CODECS = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}  # by format
WITH_ASPECT = ("h264", "hevc", "mpeg2video", "mpeg4")  # write the shape of the pixels into their streams
# Takes any codec, hands all to Matroska's muxer, which writes more than it says if it is asked; but loses chapters.
TEE = "tee"
# What PCM becomes where a container does not take it, by the format of its samples.
PCM = {"s32": "pcm_s32le", "flt": "pcm_f32le", "dbl": "pcm_f64le"}
DISCS = ("pcm_bluray", "pcm_dvd")  # of up to 24 bits
COVER_TYPES = {"mjpeg": ("cover.jpg", "image/jpeg"), "png": ("cover.png", "image/png")}

Fate = Literal["kept", "converted", "applied", "left out"]


class OutputRefusedError(ValueError):
    """A file cannot hold the video as it is to be encoded.

    Attributes:
        path: the file.
        reason: what its container or encoder says.
        preset: the encoder's preset, if that alone is wrong.
    """

    def __init__(self, path: Path, segments: SegmentWriter, reason: str, preset: str | None):
        words = reason if preset is None else f"{preset} is no preset of the codec ({reason})"
        super().__init__(f"{path}: cannot be written by {segments}: {words}")
        self.path, self.reason, self.preset = path, reason, preset


@dataclass(frozen=True)
class Copy:
    """A stream of the input that goes into the output.

    Attributes:
        track: the stream.
        codec: what it is converted to; None if it is copied as it is.
        attached: whether it is written into the header, and not as packets.
    """

    track: Track
    codec: str | None = None
    attached: bool = False


@dataclass(frozen=True)
class Line:
    """What becomes of one part of the input, and why."""

    what: str
    fate: Fate
    why: str = ""

    def __str__(self) -> str:
        verb = "are" if self.what.startswith(("times", "chapters", "closed captions")) else "is"
        return f"{self.what} {verb} {self.fate}{': ' if self.why else ''}{self.why}"


@dataclass(frozen=True)
class Plan:
    """What an output holds.

    Attributes:
        format: FFmpeg's name of the container.
        copies: the streams beside the video.
        tee: whether the container is written through FFmpeg's tee, which asks it for no codec.
        chapters: whether its chapters are those of the input.
        lines: what becomes of each part of the input.
        warnings: the lines that are not as one would expect.
    """

    format: str
    copies: tuple[Copy, ...]
    tee: bool
    chapters: bool
    lines: tuple[Line, ...]
    warnings: tuple[Line, ...]


def make_plan(
    path: Path, source: Source, original: InputContainer, segments: SegmentWriter, sound: bool
) -> Plan:
    """Find what the file at `path` can hold.

    Args:
        path: the file to make.
        source: the facts of the input.
        original: the input.
        segments: the writer of the segments.
        sound: whether to copy the sound.

    Raises:
        OutputRefusedError: the file cannot hold the video so encoded.
    """
    suffix = path.suffix.lower()
    name = FORMATS[suffix]
    error = _trial(name, segments.add_stream)
    if error:
        preset = segments.encoding.preset
        fits = preset is not None and not _trial(name, partial(segments.add_stream, preset=None))
        raise OutputRefusedError(path, segments, error, preset if fits else None)
    warnings, copies, tee = _video_warnings(source, segments, name), [], False
    lines = [*_video_lines(source), *warnings]
    for track in source.tracks:
        if track.kind == "sound" and not sound:
            continue
        copy, through_tee = _find_copy(track, original, name)
        line = _line(track, copy, source, original, suffix)
        lines.append(line)
        if line.fate == "left out" or track.times.left_out or (copy and copy.codec and track.kind == "sound"):
            warnings.append(line)
        if copy:
            copies.append(copy)
            tee |= through_tee
    if source.chapters:
        lines.append(Line("chapters", "left out" if tee else "kept"))
        if tee:
            warnings.append(
                Line("chapters", "left out", "the sound beside which they stand needs another way to write")
            )
    return Plan(name, tuple(copies), tee, bool(source.chapters) and not tee, tuple(lines), tuple(warnings))


def _video_lines(source: Source) -> list[Line]:
    times = source.times
    seconds = float(source.frames / source.rate)
    if times.times:
        seconds = float((max(times.times) - min(times.times)) * times.base)
    width, height = source.shown_size
    lines = [
        Line(
            f"stream {source.index} (video, {source.codec}): {source.frames} frames, {width}x{height}, {seconds:.6g} s",
            "kept",
        )
    ]
    if source.orientation.mirror or source.orientation.turns:
        lines.append(Line("orientation", "applied", str(source.orientation)))
    if source.crop != Crop():
        edges = ", ".join(f"{count} at the {edge}" for edge, count in vars(source.crop).items() if count)
        lines.append(Line("crop", "applied", f"{edges} are cut off"))
    if source.interlaced:
        lines.append(Line("interlaced frames", "converted", "each becomes a whole one by bwdif"))
    return lines


def _video_warnings(source: Source, segments: SegmentWriter, name: str) -> list[Line]:
    """List what the output lacks of the video itself."""
    lines = []
    times, off = source.times, source.orientation.off
    if times.times is None:
        if source.format not in RAW:
            words = f"{source.rate} a second: most of their times are missing or go back"
            lines.append(Line("times of the frames", "converted", words))
    elif times.repaired:
        words = f"{times.repaired} of {source.frames} are missing or go back, and are put between their neighbours"
        lines.append(Line("times of the frames", "converted", words))
    if times.joins:
        count = "once" if len(times.joins) == 1 else f"{len(times.joins)} times"
        words = (
            f"its clock begins anew {count}, as in joined recordings: each part is shown after the one before"
        )
        lines.append(Line("times", "converted", words))
    if off:
        lines.append(Line(f"a turn by {abs(off):.3g} degrees", "left out", "only quarter turns are made"))
    lines += [Line(words, "left out", why) for words, why in source.lost]
    codec = av.Codec(segments.encoding.codec or "", "w").canonical_name
    if segments.aspect and name in ("matroska", "webm") and codec not in WITH_ASPECT:
        lines.append(
            Line(f"the shape of its pixels, {segments.aspect},", "left out", f"{codec} does not write it")
        )
    return lines


def _line(track: Track, copy: Copy | None, source: Source, original: InputContainer, suffix: str) -> Line:
    """Say what becomes of a stream, and why."""
    what = str(track)
    if copy is None:
        if track.kind == "chapters" and source.chapters:
            return Line(what, "kept", "as chapters")
        if track.kind == "timecode":
            return Line(what, "kept", "as the timecode of the video")
        if not track.decodable and track.kind in ("sound", "subtitles"):
            return Line(what, "left out", "this FFmpeg has no decoder for it")
        if track.kind in ("sound", "subtitles", "attachment", "cover"):
            other = ".mkv"
            would = suffix != other and _find_copy(track, original, FORMATS[other])[0]
            return Line(
                what, "left out", f"{suffix} does not take it" + (f", {other} would" if would else "")
            )
        return Line(what, "left out", "one video is written" if track.kind == "further video" else "")
    if copy.codec:
        return Line(what, "converted", f"to {copy.codec}, which {suffix} takes")
    if track.times.left_out:
        words = f"but for {track.times.left_out} of {track.packets} packets, which lie over others"
        return Line(what, "kept", words)
    return Line(what, "kept")


def _find_copy(track: Track, original: InputContainer, name: str) -> tuple[Copy | None, bool]:
    """Return how a format takes a stream, None if it does not, and whether it has to be written through tee."""
    stream = original.streams[track.index]
    if track.kind == "attachment":
        return (Copy(track, attached=True) if name == "matroska" and track.codec is not None else None), False
    if track.kind == "cover":
        return _find_cover(track, name), False
    if track.kind not in ("sound", "subtitles") or not track.decodable:
        return None, False
    copy = Copy(track)
    if not _trial(name, partial(add_copy, copy, stream, name), track.samples):
        return copy, False
    codec = stream.codec_context.codec
    if track.kind == "subtitles":
        if codec.text_sub:
            copy = Copy(track, TEXT_CODECS[name])
            return (None if _trial(name, partial(add_copy, copy, stream, name)) else copy), False
        return None, False
    if name == "matroska" and not _trial_tee(partial(add_copy, copy, stream, name), track.samples):
        return copy, True
    if track.codec.startswith("pcm_") and codec.lossless:
        copy = Copy(track, pcm_of(stream))
        return (None if _trial(name, partial(add_copy, copy, stream, name)) else copy), False
    return None, False


def _find_cover(track: Track, name: str) -> Copy | None:
    if name == "mp4" and track.codec in COVER_TYPES and track.samples:
        return Copy(track)
    if name == "matroska" and track.codec in COVER_TYPES and track.samples:
        return Copy(track, attached=True)
    return None


def pcm_of(stream: Stream) -> str:
    """Name the PCM that holds all bits of a stream of lossless sound."""
    decoder: Any = stream.codec_context
    samples = decoder.format.packed.name
    if samples == "s32" and ("24" in decoder.name or decoder.name in DISCS):
        return "pcm_s24le"
    return PCM.get(samples, "pcm_s16le")


def add_copy(copy: Copy, stream: Stream, name: str, container: OutputContainer) -> Stream | None:
    """Add a stream of the input to a container of the format `name`; None if it is in the header.

    Raises:
        ValueError, av.FFmpegError: the format does not take it.
    """
    new: Any
    if copy.attached:
        if copy.track.kind == "cover":
            title, mimetype = COVER_TYPES[copy.track.codec]
            container.add_attachment(title, mimetype, bytes(copy.track.samples[0]))
        else:
            attachment: Any = stream
            title = tags(attachment.metadata).get("filename") or f"attachment {copy.track.index}"
            mimetype = tags(attachment.metadata).get("mimetype") or "application/octet-stream"
            container.add_attachment(title, mimetype, attachment.data)
        return None
    if copy.codec is None:
        new = container.add_stream_from_template(stream, opaque=True)
    elif copy.track.kind == "sound":
        decoder: Any = stream.codec_context
        new = container.add_stream(copy.codec, decoder.sample_rate)
        new.codec_context.layout = decoder.layout
    else:
        decoder = stream.codec_context
        decoder.open(strict=False)
        new = container.add_stream(copy.codec)
        new.codec_context.subtitle_header = decoder.subtitle_header
    new.metadata.clear()
    new.metadata.update(tags(stream.metadata))
    new.disposition = Disposition.attached_pic if copy.track.kind == "cover" else stream.disposition
    return new


def _trial(name: str, add: Callable[[OutputContainer], Any], packets: Sequence[av.Packet] = ()) -> str | None:
    """Return what is wrong with a file that has a stream as `add` adds it, with its first packets; or None."""
    return _try_packets(lambda: av.open(io.BytesIO(), "w", format=name), add, packets)


def _trial_tee(add: Callable[[OutputContainer], Any], packets: Sequence[av.Packet]) -> str | None:
    with tempfile.TemporaryDirectory() as folder:
        return _try_packets(
            lambda: av.open(tee_name(Path(folder) / "trial.mkv"), "w", format=TEE), add, packets
        )


def tee_name(path: Path) -> str:
    """Name a Matroska file as FFmpeg's tee takes it."""
    return "[f=matroska]" + "".join(f"\\{c}" if c in "\\'|[] " else c for c in f"file:{path}")


def _try_packets(
    opened: Callable[[], OutputContainer], add: Callable[[OutputContainer], Any], packets: Sequence[av.Packet]
) -> str | None:
    try:
        with opened() as container:
            stream = add(container)
            container.start_encoding()
            for number, packet in enumerate(packets):
                copy = av.Packet(bytes(packet))
                copy.pts = copy.dts = number
                copy.time_base, copy.is_keyframe, copy.stream = stream.time_base, packet.is_keyframe, stream
                container.mux(copy)
    except (ValueError, av.FFmpegError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None
