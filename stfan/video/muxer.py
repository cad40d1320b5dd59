"""Video files out, second half: segments, the times of their frames, sound and subtitles become one file."""

import heapq
import io
import itertools
import logging
import math
from functools import partial
from itertools import pairwise

import av

from stfan.video.reader import ROUNDING

log = logging.getLogger("stfan")
FORMATS = {".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm"}
TEXT = {"mp4": "mov_text", "mov": "mov_text", "matroska": "subrip", "webm": "webvtt"}  # subtitles they take
OWN = ("encoder", "major_brand", "minor_version", "compatible_brands")  # what each file says of itself
ASPECT = ("h264", "hevc", "mpeg2video", "mpeg4")  # write the shape of the pixels into their streams
FINEST = 1_000_000  # ticks a second of a whole MP4


def plan(path, source, segments, sound=True):
    """Try on an empty file, before any work is done, what the one at `path` can hold.

    Args:
        path: the file to come.
        source: a Source.
        segments: the Segments to come.
        sound: whether sound goes along.

    Returns:
        the source's streams that go along.

    Raises:
        ValueError: it cannot hold the video so encoded.
    """
    suffix = path.suffix.lower()
    error = _trial(suffix, segments.add_to)
    if error:
        preset = segments.encoding.preset
        if preset is not None and _trial(suffix, partial(segments.add_to, preset=None)) is None:
            error = f"--preset {preset} is none of the codec's ({error})"
        raise ValueError(f"{path}: cannot be written by {segments}: {error}")
    taken = []
    for stream in source.carried:
        if stream.type == "audio" and not sound:
            continue
        if _trial(suffix, lambda container, stream=stream: _add(container, stream)):
            log.warning("%s is left out: %s does not take it, .mkv would", _words(stream), suffix)
        else:
            taken.append(stream)
    for stream in source.left:
        log.warning("%s is left out", _words(stream))
    codec = av.Codec(segments.encoding.codec, "w").canonical_name
    if segments.aspect and FORMATS[suffix] in ("matroska", "webm") and codec not in ASPECT:
        log.warning("the shape of its pixels, %s, is left out: %s does not write it", segments.aspect, codec)
    return taken


def _trial(suffix, add):
    """What is wrong with a file that has a stream as `add` adds it, or None."""
    try:
        with av.open(io.BytesIO(), "w", format=FORMATS[suffix]) as container:
            add(container)
            container.start_encoding()
    except (ValueError, av.FFmpegError) as error:
        return getattr(error, "strerror", None) or str(error)


def _words(stream):
    kind = {"audio": "sound", "subtitle": "subtitles", "video": "a further video"}.get(
        stream.type, stream.type
    )
    name = getattr(stream.codec_context, "name", None)
    return f"stream {stream.index} ({', '.join(filter(None, (kind, name, stream.language)))})"


def _add(container, stream):
    """Add a stream like this one: copied, or, if it is text that has to be, put into another form."""
    try:
        new = container.add_stream_from_template(stream, opaque=True)
    except ValueError:
        if stream.type != "subtitle" or not stream.codec_context.codec.text_sub:
            raise
        stream.codec_context.open(strict=False)
        new = container.add_stream(TEXT[container.format.name])
        new.codec_context.subtitle_header = stream.codec_context.subtitle_header
    new.metadata.update(stream.metadata)
    new.disposition = stream.disposition
    return new


def assemble(path, source, streams, segments, times, part):
    """Write a video file of segments and of the source's other streams; nothing is encoded again.

    Args:
        path: the file to write.
        source: the Source that the frames are from.
        streams: those of its streams that go along, of what :func:`plan` returned.
        segments: the Segments.
        times: of each frame, in the source's time base; None where it had none.
        part: whether these are less than all frames to the source's end.

    Raises:
        RuntimeError: the segments hold fewer or more frames than there are times.
    """
    times, base = repair(times, source)
    steps = [after - before for before, after in pairwise(times)] or [round(1 / source.rate / base)]
    begin, end = float(times[0] * base), float((times[-1] + steps[-1]) * base)
    shift = begin if source.start else 0  # what begins later shall not wait at its start
    times = [time - (times[0] if source.start else 0) for time in times]
    name = FORMATS[path.suffix.lower()]
    options = {"movie_timescale": str(min(base.denominator, FINEST))} if name in ("mp4", "mov") else {}
    if (
        options and segments.tagged
    ):  # else FFmpeg says so only if matrix, primaries and transfer are all named
        options["movflags"] = "write_colr"
    with (
        source.open() as original,
        av.open(f"file:{segments.path(0)}") as first,
        av.open(f"file:{path}", "w", format=name, container_options=options) as out,
    ):
        video = out.add_stream_from_template(first.streams.video[0], opaque=True)
        video.time_base = base
        if segments.aspect:
            video.codec_context.sample_aspect_ratio = segments.aspect
        if options and video.codec_context.name == "hevc":
            video.codec_context.codec_tag = "hvc1"  # which Apple's players ask for
        video.metadata.update({k: v for k, v in source.video.metadata.items() if k in ("language", "title")})
        out.metadata.update({k: v for k, v in original.metadata.items() if k.lower() not in OWN})
        if not (part or shift):
            out.set_chapters(original.chapters())
        new = {stream.index: _add(out, original.streams[stream.index]) for stream in streams}
        packets = heapq.merge(
            _frames(segments, times, steps, base, video),
            _others(original, new, begin if shift else -math.inf, end if part else math.inf, shift),
            key=lambda packet: packet.dts * packet.time_base,
        )
        out.start_encoding()
        muxed = 0
        for packet in packets:
            muxed += packet.stream is video
            out.mux(packet)
    if muxed != len(times):
        raise RuntimeError(f"{path}: {len(times)} frames in, {muxed} out")


def repair(times, source):
    """(times, time base) that only go forward: those of the source, or, if one of them fails, all by its rate."""
    if None not in times and all(before < after for before, after in pairwise(times)):
        return times, source.video.time_base
    rate = source.rate
    log.warning("its times go back or are missing: all frames are shown %.6g a second", rate)
    first = round(times[0] * source.video.time_base * rate) if times[0] is not None else 0
    return [first + index for index in range(len(times))], 1 / rate


def _frames(segments, times, steps, base, stream):
    """The packets of all segments, at their frames' times, each decoded no later than it is shown."""
    count = 0
    for number in itertools.count():
        begun = count
        if begun >= len(times):
            return
        with av.open(f"file:{segments.path(number)}") as container:
            for packet in container.demux(video=0):
                if packet.pts is None:
                    continue
                shown, written = begun + packet.pts, count - segments.reorder
                packet.pts = times[shown]
                packet.dts = times[written] if written >= 0 else times[0] + written * steps[0]
                packet.duration = steps[min(shown, len(steps) - 1)]
                packet.time_base, packet.stream = base, stream
                yield packet
                count += 1


def _others(container, new, begin, end, shift):
    """The packets of the streams that go along, of what is heard or read from begin to end, earlier by shift.

    All in seconds.
    """
    try:
        for packet in container.demux([container.streams[index] for index in new]) if new else ():
            if packet.pts is None:
                continue
            text, stream, unit = packet.stream.type == "subtitle", new[packet.stream.index], packet.time_base
            start = float(packet.pts * unit)
            stop = start + float((packet.duration or 0) * unit) if text else start
            if stop < begin - ROUNDING or start > end - ROUNDING:
                continue
            if text and stream.codec_context.name != packet.stream.codec_context.name:
                packet = _rewritten(packet, stream)
                if packet is None:
                    continue
            late = max(start, begin if text else start) - start  # read from the first frame on
            packet.pts += round((late - shift) / unit)
            packet.dts = packet.pts if packet.dts is None else packet.dts + round((late - shift) / unit)
            packet.duration = (packet.duration or 0) - round(late / unit)
            packet.stream = stream
            yield packet
    except av.FFmpegError as error:
        log.warning("%s: sound and subtitles end early: %s", container.name, error.strerror)


def _rewritten(packet, stream):
    """A subtitle in the form of another stream; None for one that only ends the one before."""
    subtitle = packet.stream.codec_context.decode2(packet)
    if not subtitle:
        return None
    new = stream.codec_context.encode_subtitle(subtitle)
    new.pts, new.dts, new.duration, new.time_base = packet.pts, packet.dts, packet.duration, packet.time_base
    return new
