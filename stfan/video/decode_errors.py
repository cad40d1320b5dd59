"""Decoding that notices errors which FFmpeg's decoders conceal: they report them to its log, and hand out a frame."""

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import cast

import av
import av.logging
from av.container import InputContainer

# Held while FFmpeg's log is heard, and while an encoder is opened or closed. PyAV does that with Python's lock held:
# a thread of the encoder that logs would wait for the lock, and the opening for the thread.
QUIET = threading.RLock()


@dataclass(frozen=True)
class PacketNumber:
    """The number of a packet among those of its stream.

    Each packet has an object of its own, since PyAV forgets one, as a number that others share, with its first packet.
    """

    number: int


def decode(stream: av.VideoStream) -> Iterator[tuple[list[av.VideoFrame], bool]]:
    """Decode a stream packet by packet; a packet holds a frame.

    A frame's `opaque` is the PacketNumber of its packet, where the decoder hands it on; empty packets do not count.

    Yields:
        (the frames that the decoder hands out, whether it reported an error about the packet or a frame).

    Raises:
        av.FFmpegError: a packet that the decoder refuses.
    """
    # Not "FRAME": threads of that kind report an error while a later packet is decoded.
    stream.thread_type = "SLICE"
    container = cast(InputContainer, stream.container)
    # Foreign libraries (libdav1d) report from threads of their own, and refuse what they cannot decode.
    decoder = stream.codec_context.codec.name
    own = not decoder.startswith("lib")
    stream.codec_context.copy_opaque = True
    whole = (packet for packet in container.demux(stream) if not is_empty(packet))
    for number, packet in enumerate(whole):
        packet.opaque = PacketNumber(number)
        frames, reported = _decode(packet, decoder) if own else (packet.decode(), False)
        pictures = cast(list[av.VideoFrame], frames)
        yield pictures, reported or any(frame.is_corrupt for frame in pictures)


def is_empty(packet: av.Packet) -> bool:
    """Say whether a packet only repeats the frame before, as in Theora; decoders refuse it. The last of all is none."""
    return packet.size == 0 and (packet.pts is not None or packet.dts is not None)


def _decode(packet: av.Packet, decoder: str) -> tuple[list[av.VideoFrame], bool]:
    """Decode a packet, and say whether the decoder logged an error meanwhile; nothing is printed.

    FFmpeg has one log for the whole process. It is heard here alone, while QUIET is held, and of what is heard only the
    lines count that begin with the decoder's name: an encoder's thread may log at the same time.
    """
    with QUIET:
        if av.logging.get_level() is not None:
            # The user hears it, and no line may be kept from him: all errors count.
            before = av.logging.get_last_error()[0]
            return cast(list[av.VideoFrame], packet.decode()), av.logging.get_last_error()[0] > before
        skips = av.logging.get_skip_repeated()
        av.logging.set_skip_repeated(False)
        av.logging.set_level(av.logging.ERROR)
        try:
            with av.logging.Capture(local=False) as lines:
                frames = packet.decode()
        finally:
            av.logging.set_level(None)
            av.logging.set_skip_repeated(skips)
    errors = (name for level, name, _ in lines if level <= av.logging.ERROR)
    return cast(list[av.VideoFrame], frames), decoder in errors
