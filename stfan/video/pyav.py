"""What PyAV 18, the last for Python 3.11, and PyAV 19 do differently: tags, side data, numbers, formats."""

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.sidedata.sidedata import Type
from av.video.reformatter import Colorspace, VideoReformatter

RELEASES = (18, 19)  # all tests of tests/video and tests/cli pass with both; pyproject.toml asks for the same


def check_release(version: str) -> int:
    """Return PyAV's major version.

    Raises:
        ImportError: it is none of RELEASES.
    """
    release = int(version.split(".")[0])
    if release not in RELEASES:
        wanted = f"av>={RELEASES[0]},<{RELEASES[-1] + 1}"
        raise ImportError(
            f"PyAV {version} is installed, tested are {RELEASES[0]} to {RELEASES[-1]}; run: pip install '{wanted}'"
        )
    return release


# Bytes of a tag that are no UTF-8 become surrogates: PyAV 18 is asked for it, PyAV 19 has no other way.
_DECODING: dict[str, Any] = (
    {"metadata_errors": "surrogateescape"} if check_release(av.__version__) == 18 else {}
)


def open_input(path: str | Path, options: Mapping[str, str]) -> InputContainer:
    """Open a file for reading; read its tags, and its streams' and chapters', with :func:`tags`.

    Args:
        path: the file.
        options: of FFmpeg's demuxer.

    Raises:
        av.FFmpegError: FFmpeg cannot read it.
    """
    # "file:", or FFmpeg takes a name with a colon for an address.
    return av.open(f"file:{path}", options=dict(options), **_DECODING)


def tags(metadata: Mapping[str, str]) -> dict[str, str]:
    """Return tags that can be printed and written: bytes that are no UTF-8 are replaced by U+FFFD."""
    return {_replace_bytes(name): _replace_bytes(value) for name, value in metadata.items()}


def _replace_bytes(text: str) -> str:
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def side_data(frame: av.VideoFrame) -> dict[Type, bytes]:
    """Return a frame's side data, {kind: bytes}; nothing if one is of a kind that PyAV does not know."""
    try:
        data: Any = frame.side_data
    except ValueError:  # it lists all or none
        return {}
    # PyAV 18 iterates over the values, PyAV 19 over the keys.
    values = [data[item] if isinstance(item, Type) else item for item in data]
    return {value.type: bytes(value) for value in values}


def rational(value: Any) -> Fraction | None:
    """Convert a rational number of PyAV's, None if it is not set: PyAV 18 has None for it, PyAV 19 a zero."""
    return Fraction(value.numerator, value.denominator) if value else None


def reformat(
    frame: av.VideoFrame, format: str, matrix: Colorspace | None = None, interpolation: int | None = None
) -> av.VideoFrame:
    """Convert a frame to another pixel format, from and to one matrix.

    PyAV 19 has one scaler with threads for all frames, and a forked worker of a DataLoader, in which those threads do
    not run, would wait for them for ever. So each call has a scaler of its own, of one thread.
    """
    return VideoReformatter().reformat(frame, None, None, format, matrix, matrix, interpolation, threads=1)
