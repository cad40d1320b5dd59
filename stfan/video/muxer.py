"""Writing video files, second half: segments, frame times, sound and subtitles become one file."""

import heapq
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
from av.audio.resampler import AudioResampler
from av.container import InputContainer, OutputContainer
from av.stream import Stream

from stfan.video.encoder import SegmentWriter
from stfan.video.plan import TEE, Copy, Plan, add_copy, tee_name
from stfan.video.reader import ROUNDING, VideoReader
from stfan.video.times import NO_TIME

log = logging.getLogger("stfan")
OWN_TAGS = ("encoder", "major_brand", "minor_version", "compatible_brands")  # what each file says of itself
VIDEO_TAGS = ("language", "title")
EDIT_LISTS = ("mp4", "mov")  # formats that hide what comes before 0
APPLE = "com.apple.quicktime."  # begins the names of place, date with zone, maker and model
MAX_TIMESCALE = 1_000_000  # ticks per second of an MP4 file as a whole


def assemble(
    path: Path,
    reader: VideoReader,
    plan: Plan,
    segments: SegmentWriter,
    stamps: Sequence[int],
    incomplete: bool,
) -> None:
    """Write a video file of segments and of other streams of the input; no frame is encoded again.

    Args:
        path: the file to write.
        reader: the video that the frames are from.
        plan: what the file holds.
        segments: the writer of the segments.
        stamps: time of each frame, in the time base of the source's frames.
        incomplete: whether these are less than all frames to the input's end.

    Raises:
        RuntimeError: the segments hold fewer or more frames than there are times.
    """
    source = reader.source
    base = source.times.base
    last = source.times.duration(stamps[-1])
    steps = [*(after - before for before, after in pairwise(stamps)), last]
    begin, end = float(stamps[0] * base), float((stamps[-1] + last) * base)
    # A part begins with its first frame, else a stream that begins later would wait at its start.
    shift = stamps[0] * base if reader.start else source.begin
    times = [time - round(shift / base) for time in stamps]
    span = begin if reader.start else -math.inf, end if incomplete else math.inf
    whole = not (incomplete or reader.start)
    with (
        reader.open() as original,
        av.open(f"file:{segments.path(0)}") as first,
        _create(path, plan, segments, base, source.metadata) as out,
    ):
        video = _add_video(out, first, segments, base, plan.format)
        kept = (*VIDEO_TAGS, *(["timecode"] if not reader.start else []))
        video.metadata.update({k: v for k, v in source.stream_metadata.items() if k in kept})
        out.metadata.update({k: v for k, v in source.metadata.items() if k.lower() not in OWN_TAGS})
        if whole and plan.chapters:
            out.set_chapters(_earlier(source.chapters, shift))
        new: dict[int, tuple[Copy, Stream]] = {}
        for copy in plan.copies:
            stream = add_copy(copy, original.streams[copy.track.index], plan.format, out)
            if stream is not None:
                new[copy.track.index] = copy, stream
        packets = heapq.merge(
            _video_packets(segments, times, steps, base, video, plan.format in EDIT_LISTS),
            _copied_packets(original, new, *span, shift, plan.format in EDIT_LISTS),
            key=_decoding_time,
        )
        out.start_encoding()
        muxed = refused = 0
        for packet in _forward(packets):
            muxed += packet.stream is video
            try:
                out.mux(packet)
            except av.InvalidDataError:
                # of this packet or of one that waited in the muxer; the others still wait
                refused += 1
    if refused:
        what = f"{refused} damaged packet{'s' * (refused != 1)} of sound or subtitles"
        log.warning("%s left out: %s refuses what is in it", what, path.suffix)
        with av.open(f"file:{path}") as made:
            muxed = sum(packet.size > 0 for packet in made.demux(video=0))
    if muxed != len(times):
        raise RuntimeError(f"{path}: {len(times)} frames in, {muxed} out")


def _create(
    path: Path, plan: Plan, segments: SegmentWriter, base: Fraction, metadata: Any
) -> OutputContainer:
    if plan.tee:
        return av.open(tee_name(path), "w", format=TEE)
    options = {}
    if plan.format in EDIT_LISTS:
        options["movie_timescale"] = str(min(base.denominator, MAX_TIMESCALE))
        flags = []
        # Without it FFmpeg writes the colours only if matrix, primaries and transfer are all named.
        if segments.tagged:
            flags.append("write_colr")
        if any(name.startswith(APPLE) for name in metadata):
            flags.append("use_metadata_tags")  # else only iTunes' names are written
        if flags:
            options["movflags"] = "+".join(flags)
    return av.open(f"file:{path}", "w", format=plan.format, container_options=options)


def _earlier(chapters: Sequence[Any], shift: Fraction) -> list[Any]:
    """Return chapters that begin and end so many seconds earlier, none before 0."""
    return [
        chapter
        | {edge: max(chapter[edge] - round(shift / chapter["time_base"]), 0) for edge in ("start", "end")}
        for chapter in chapters
    ]


def _decoding_time(packet: av.Packet) -> Fraction:
    assert packet.dts is not None
    return packet.dts * packet.time_base


def _forward(packets: Iterator[av.Packet]) -> Iterator[av.Packet]:
    """Yield packets in the ticks of their new streams, where rounding must not make two times one."""
    last: dict[int, int] = {}
    for packet in packets:
        stream: Any = packet.stream
        unit = stream.time_base
        assert packet.dts is not None and packet.pts is not None and packet.time_base is not None
        dts = round(packet.dts * packet.time_base / unit)
        # texts may begin together
        least = last.get(stream.index, dts - 1) + (stream.type != "subtitle")
        if dts < least:
            packet.pts = max(round(packet.pts * packet.time_base / unit), least)
            packet.duration = round((packet.duration or 0) * packet.time_base / unit)
            packet.dts, packet.time_base = least, unit
            dts = least
        last[stream.index] = dts
        yield packet


def _add_video(
    out: OutputContainer, first: InputContainer, segments: SegmentWriter, base: Fraction, name: str
) -> av.VideoStream:
    """Add the video stream, like that of the first segment."""
    video = out.add_stream_from_template(first.streams.video[0], opaque=True)
    video.time_base = base
    if segments.aspect:
        video.codec_context.sample_aspect_ratio = segments.aspect
    if name in EDIT_LISTS and video.codec_context.name == "hevc":
        video.codec_context.codec_tag = "hvc1"  # which Apple's players ask for
    return video


def _video_packets(
    segments: SegmentWriter,
    times: list[int],
    steps: list[int],
    base: Fraction,
    stream: av.VideoStream,
    by_decoding: bool,
) -> Iterator[av.Packet]:
    """Yield the packets of all segments at their frames' times, each decoded no later than it is shown.

    `by_decoding` says that a file states how long a packet is decoded, not shown: then the last one lasts to the end.
    """
    count, least = 0, min(steps)
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
                packet.dts = times[written] if written >= 0 else times[0] + written * least
                packet.duration = steps[shown]
                count += 1
                if by_decoding and count == len(times):
                    packet.dts, packet.duration = packet.pts, times[-1] + steps[-1] - packet.pts
                packet.time_base, packet.stream = base, stream
                yield packet


def _copied_packets(
    container: InputContainer,
    new: dict[int, tuple[Copy, Stream]],
    begin: float,
    end: float,
    shift: Fraction,
    hides: bool,
) -> Iterator[av.Packet]:
    """Yield the packets of the copied streams that are heard or read from `begin` to `end`, earlier by `shift`.

    Args:
        container: the input.
        new: {index of a stream of the input: how it is copied, its stream in the output}.
        begin, end, shift: seconds.
        hides: whether the output's format has edit lists, which hide what comes before 0.
    """
    numbers = dict.fromkeys(new, -1)
    hidden = {index: _hidden(copy, hides) for index, (copy, _) in new.items()}
    resamplers: dict[int, AudioResampler] = {}
    try:
        packet: Any
        for packet in container.demux([container.streams[index] for index in new]) if new else ():
            index = packet.stream.index
            copy, stream = new[index]
            if packet.pts is None and packet.dts is None and packet.size == 0:
                continue
            numbers[index] += 1
            if copy.track.kind == "cover":
                packet.pts = packet.dts = 0
                packet.stream = stream
                yield packet
                continue
            offsets = copy.track.times.offsets
            offset = offsets[numbers[index]] if offsets and numbers[index] < len(offsets) else 0
            if packet.pts is None or offset == NO_TIME or numbers[index] in hidden[index]:
                continue
            text, unit = packet.stream.type == "subtitle", packet.time_base
            start = float((packet.pts + offset) * unit)
            stop = start + float((packet.duration or 0) * unit) if text else start
            if stop < begin - ROUNDING or start > end - ROUNDING:
                continue
            late = max(start, begin if text else start) - start  # a text is read from the first frame on
            moved = round((late - float(shift)) / unit) + offset
            times = packet.pts + moved, packet.pts + moved if packet.dts is None else packet.dts + moved
            duration = (packet.duration or copy.track.times.duration) - round(late / unit)
            if copy.codec and text:
                packet = _convert_subtitle(packet, stream)
            elif copy.codec:
                packet = _convert_sound(packet, stream, resamplers)
            if packet is None:
                continue
            packet.pts, packet.dts = times
            packet.duration, packet.time_base, packet.stream = duration, unit, stream
            yield packet
    except av.FFmpegError as error:
        log.warning("%s: sound and subtitles end early: %s", container.name, error.strerror)


def _hidden(copy: Copy, hides: bool) -> frozenset[int]:
    """Return the numbers of the packets of a stream that are not to be heard, by the input's edit list.

    The last one before the first that is heard stays: a decoder needs it. An edit list of the output hides those before
    0 itself.
    """
    packets = set(copy.track.discarded)
    first = next((number for number in range(copy.track.packets) if number not in packets), 0)
    return frozenset(n for n in packets if n > first or (not hides and n < first - 1))


def _convert_subtitle(packet: av.Packet, stream: Stream) -> av.Packet | None:
    """Encode a subtitle as another stream has it; return None for one that only ends the one before."""
    decoder: Any = packet.stream.codec_context
    encoder: Any = stream.codec_context
    subtitle = decoder.decode2(packet)
    if not subtitle:
        return None
    new: av.Packet = encoder.encode_subtitle(subtitle)
    return new


def _convert_sound(packet: Any, stream: Any, resamplers: dict[int, AudioResampler]) -> av.Packet | None:
    """Encode a packet of uncompressed sound as another stream has it."""
    encoder = stream.codec_context
    resampler = resamplers.setdefault(
        stream.index, AudioResampler(encoder.format, encoder.layout, encoder.sample_rate)
    )
    data = b""
    for decoded in packet.decode():
        for frame in resampler.resample(decoded):
            frame.pts = None
            data += b"".join(bytes(new) for new in stream.encode(frame))
    return av.Packet(data) if data else None
