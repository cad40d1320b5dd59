"""Decoding that notices errors which FFmpeg's decoders conceal: they report them to its log, and hand out a frame."""

from collections.abc import Iterator
from typing import cast

import av
import av.logging
from av.container import InputContainer


def decode(stream: av.VideoStream) -> Iterator[tuple[list[av.VideoFrame], bool]]:
    """Decode a stream packet by packet; a packet holds a frame.

    Yields:
        (the frames that the decoder hands out, whether it reported an error about the packet or a frame).

    Raises:
        av.FFmpegError: a packet that the decoder refuses.
    """
    # Not "FRAME": threads of that kind report an error while a later packet is decoded.
    stream.thread_type = "SLICE"
    container = cast(InputContainer, stream.container)
    # Foreign libraries (libdav1d) report from threads of their own, and refuse what they cannot decode.
    own = not stream.codec_context.codec.name.startswith("lib")
    for packet in container.demux(stream):
        frames, reported = _decode(packet) if own else (packet.decode(), False)
        pictures = cast(list[av.VideoFrame], frames)
        yield pictures, reported or any(frame.is_corrupt for frame in pictures)


def _decode(packet: av.Packet) -> tuple[list[av.VideoFrame], bool]:
    """Decode a packet, and say whether an error was logged meanwhile; nothing is printed.

    PyAV counts errors only while it hears FFmpeg's log, and an encoder's thread that logs could then lock up with
    Python. So it hears it here alone.
    """
    level = av.logging.get_level()
    if level is None:
        av.logging.set_level(av.logging.PANIC)
    try:
        before = av.logging.get_last_error()[0]
        frames = packet.decode()
        return cast(list[av.VideoFrame], frames), av.logging.get_last_error()[0] > before
    finally:
        if level is None:
            av.logging.set_level(None)
