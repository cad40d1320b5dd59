"""Writing video files, second half: segments, frame times, sound and subtitles become one file."""

import heapq
import io
import itertools
import logging
import math
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer
from av.stream import Stream

from stfan.video.encoder import SegmentWriter
from stfan.video.pyav import rational, tags
from stfan.video.reader import ROUNDING, VideoReader

log = logging.getLogger("stfan")
FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
TEXT_CODECS = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}  # by format
OWN_TAGS = ("encoder", "major_brand", "minor_version", "compatible_brands")  # what each file says of itself
WITH_ASPECT = ("h264", "hevc", "mpeg2video", "mpeg4")  # write the shape of the pixels into their streams
MAX_TIMESCALE = 1_000_000  # ticks per second of an MP4 file as a whole
KINDS = {"audio": "sound", "subtitle": "subtitles", "video": "a further video"}


def plan(path: Path, reader: VideoReader, segments: SegmentWriter, sound: bool = True) -> list[Stream]:
    """Try on an empty file, before any work is done, what the file at `path` can hold.

    Args:
        path: the file to make.
        reader: the video that the frames are from.
        segments: the writer of its segments.
        sound: whether to copy the sound.

    Returns:
        the streams of the input that are copied.

    Raises:
        ValueError: the file cannot hold the video so encoded.
    """
    suffix = path.suffix.lower()
    error = _trial(suffix, segments.add_stream)
    if error:
        preset = segments.encoding.preset
        if preset is not None and not _trial(suffix, partial(segments.add_stream, preset=None)):
            error = f"--preset {preset} is none of the codec's ({error})"
        raise ValueError(f"{path}: cannot be written by {segments}: {error}")
    copied = []
    for stream in reader.copied:
        if stream.type == "audio" and not sound:
            continue
        if _trial(suffix, partial(_add_copy, stream)):
            log.warning("%s is left out: %s does not take it, .mkv would", _describe(stream), suffix)
        else:
            copied.append(stream)
    for stream in reader.dropped:
        log.warning("%s is left out", _describe(stream))
    assert segments.encoding.codec is not None
    codec = av.Codec(segments.encoding.codec, "w").canonical_name
    if segments.aspect and FORMATS[suffix] in ("matroska", "webm") and codec not in WITH_ASPECT:
        log.warning("the shape of its pixels, %s, is left out: %s does not write it", segments.aspect, codec)
    return copied


def _trial(suffix: str, add: Callable[[OutputContainer], Any]) -> str | None:
    """Return what is wrong with a file that has a stream as `add` adds it, or None."""
    try:
        with av.open(io.BytesIO(), "w", format=FORMATS[suffix]) as container:
            add(container)
            container.start_encoding()
    except (ValueError, av.FFmpegError) as error:
        return getattr(error, "strerror", None) or str(error)
    return None


def _describe(stream: Stream) -> str:
    kind = KINDS.get(stream.type, stream.type)
    name = getattr(stream.codec_context, "name", None)
    return f"stream {stream.index} ({', '.join(filter(None, (kind, name, tags(stream.metadata).get('language'))))})"


def _add_copy(stream: Stream, container: OutputContainer) -> Stream:
    """Add a stream to a container: copied or, for text that the format does not take, of another codec."""
    new: Any
    try:
        new = container.add_stream_from_template(stream, opaque=True)
    except ValueError:
        if stream.type != "subtitle" or not stream.codec_context.codec.text_sub:
            raise
        decoder: Any = stream.codec_context
        decoder.open(strict=False)
        new = container.add_stream(TEXT_CODECS[container.format.name])
        new.codec_context.subtitle_header = decoder.subtitle_header
    new.metadata.clear()
    new.metadata.update(tags(stream.metadata))
    new.disposition = stream.disposition
    return new


def assemble(
    path: Path,
    reader: VideoReader,
    streams: Sequence[Stream],
    segments: SegmentWriter,
    times: Sequence[int | None],
    incomplete: bool,
) -> None:
    """Write a video file of segments and of other streams of the input; nothing is encoded again.

    Args:
        path: the file to write.
        reader: the video that the frames are from.
        streams: the streams to copy, as :func:`plan` returned them.
        segments: the writer of the segments.
        times: of each frame, in the input's time base; None where it had none.
        incomplete: whether these are less than all frames to the input's end.

    Raises:
        RuntimeError: the segments hold fewer or more frames than there are times.
    """
    stamps, base = repair_times(times, reader)
    steps = [after - before for before, after in pairwise(stamps)] or [round(1 / reader.rate / base)]
    begin, end = float(stamps[0] * base), float((stamps[-1] + steps[-1]) * base)
    # A part begins with its first frame, else a stream that begins later would wait at its start.
    shift = stamps[0] * base if reader.start else _first_time(reader)
    stamps = [time - round(shift / base) for time in stamps]
    span = begin if reader.start else -math.inf, end if incomplete else math.inf
    name = FORMATS[path.suffix.lower()]
    options = {}
    if name in ("mp4", "mov"):
        options["movie_timescale"] = str(min(base.denominator, MAX_TIMESCALE))
        # Without it FFmpeg writes the colours only if matrix, primaries and transfer are all named.
        if segments.tagged:
            options["movflags"] = "write_colr"
    with (
        reader.open() as original,
        av.open(f"file:{segments.path(0)}") as first,
        av.open(f"file:{path}", "w", format=name, container_options=options) as out,
    ):
        video = _add_video(out, first, segments, base)
        video.metadata.update(
            {k: v for k, v in tags(reader.video.metadata).items() if k in ("language", "title")}
        )
        out.metadata.update({k: v for k, v in tags(original.metadata).items() if k.lower() not in OWN_TAGS})
        if not (incomplete or reader.start):
            out.set_chapters(_earlier(original.chapters(), shift))
        new = {stream.index: _add_copy(original.streams[stream.index], out) for stream in streams}
        packets = heapq.merge(
            _video_packets(segments, stamps, steps, base, video),
            _copied_packets(original, new, *span, float(shift)),
            key=_decoding_time,
        )
        out.start_encoding()
        muxed = 0
        for packet in packets:
            muxed += packet.stream is video
            out.mux(packet)
    if muxed != len(stamps):
        raise RuntimeError(f"{path}: {len(stamps)} frames in, {muxed} out")


def _first_time(reader: VideoReader) -> Fraction:
    """Return when the first of picture and sound begins, in seconds; 0 if that is before 0 or not known."""
    streams = [reader.video, *(stream for stream in reader.copied if stream.type == "audio")]
    times = [s.start_time * s.time_base for s in streams if s.start_time is not None and s.time_base]
    return max(min(times, default=Fraction(0)), Fraction(0))


def _earlier(chapters: list[Any], shift: Fraction) -> list[Any]:
    """Return chapters that begin and end so many seconds earlier, none before 0."""
    return [
        chapter
        | {edge: max(chapter[edge] - round(shift / chapter["time_base"]), 0) for edge in ("start", "end")}
        | {"metadata": tags(chapter["metadata"])}
        for chapter in chapters
    ]


def _decoding_time(packet: av.Packet) -> Fraction:
    assert packet.dts is not None
    return packet.dts * packet.time_base


def _add_video(
    out: OutputContainer, first: InputContainer, segments: SegmentWriter, base: Fraction
) -> av.VideoStream:
    """Add the video stream, like that of the first segment."""
    video = out.add_stream_from_template(first.streams.video[0], opaque=True)
    video.time_base = base
    if segments.aspect:
        video.codec_context.sample_aspect_ratio = segments.aspect
    if out.format.name in ("mp4", "mov") and video.codec_context.name == "hevc":
        video.codec_context.codec_tag = "hvc1"  # which Apple's players ask for
    return video


def repair_times(times: Sequence[int | None], reader: VideoReader) -> tuple[list[int], Fraction]:
    """Return times that only go forward, and their time base.

    They are the input's; if the reader met one that is missing or goes back, all are made anew by the frame rate, from
    the time by which the reader selected the first.
    """
    stamps = [time for time in times if time is not None]
    base = rational(reader.video.time_base)
    assert base is not None
    if reader.regular:
        return stamps, base
    rate = reader.rate
    log.warning("its times go back or are missing: all frames are shown %.6g a second", rate)
    first = round(reader.begin * rate)
    return [first + index for index in range(len(times))], 1 / rate


def _video_packets(
    segments: SegmentWriter, times: list[int], steps: list[int], base: Fraction, stream: av.VideoStream
) -> Iterator[av.Packet]:
    """Yield the packets of all segments at their frames' times, each decoded no later than it is shown."""
    count = 0
    for number in itertools.count():
        first = count  # of this segment
        if first >= len(times):
            return
        with av.open(f"file:{segments.path(number)}") as container:
            for packet in container.demux(video=0):
                if packet.pts is None:
                    continue
                shown, written = first + packet.pts, count - segments.reorder
                packet.pts = times[shown]
                packet.dts = times[written] if written >= 0 else times[0] + written * steps[0]
                packet.duration = steps[min(shown, len(steps) - 1)]
                packet.time_base, packet.stream = base, stream
                yield packet
                count += 1


def _copied_packets(
    container: InputContainer, new: dict[int, Stream], begin: float, end: float, shift: float
) -> Iterator[av.Packet]:
    """Yield the packets of the copied streams that are heard or read from `begin` to `end`, earlier by `shift`.

    Args:
        container: the input.
        new: {index of a stream of the input: its stream in the output}.
        begin, end, shift: seconds.
    """
    try:
        packet: Any
        for packet in container.demux([container.streams[index] for index in new]) if new else ():
            if packet.pts is None:
                continue
            text, stream, unit = packet.stream.type == "subtitle", new[packet.stream.index], packet.time_base
            start = float(packet.pts * unit)
            stop = start + float((packet.duration or 0) * unit) if text else start
            if stop < begin - ROUNDING or start > end - ROUNDING:
                continue
            if text and stream.codec_context.name != packet.stream.codec_context.name:
                converted = _convert_subtitle(packet, stream)
                if converted is None:
                    continue
                packet = converted
            late = max(start, begin if text else start) - start  # a text is read from the first frame on
            packet.pts += round((late - shift) / unit)
            packet.dts = packet.pts if packet.dts is None else packet.dts + round((late - shift) / unit)
            packet.duration = (packet.duration or 0) - round(late / unit)
            packet.stream = stream
            yield packet
    except av.FFmpegError as error:
        log.warning("%s: sound and subtitles end early: %s", container.name, error.strerror)


def _convert_subtitle(packet: av.Packet, stream: Stream) -> av.Packet | None:
    """Encode a subtitle as another stream has it; return None for one that only ends the one before."""
    decoder: Any = packet.stream.codec_context
    encoder: Any = stream.codec_context
    subtitle = decoder.decode2(packet)
    if not subtitle:
        return None
    new: av.Packet = encoder.encode_subtitle(subtitle)
    new.pts, new.dts, new.duration, new.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
    return new
