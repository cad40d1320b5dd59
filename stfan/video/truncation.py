"""Detection of truncated video files by the sizes that their containers state, before anything is decoded.

A file that was cut off often plays without an error, only shorter. Streams that state no size (MPEG-TS, GIF) cannot be
checked.
"""

import os
from pathlib import Path
from typing import BinaryIO

UNKNOWN_LENGTH = 0xFFFFFFFF


def missing_bytes(path: str | Path) -> int:
    """Count the bytes that a file lacks by its own account; 0 if it is complete or does not say.

    Knows ISO media (MP4, MOV: the boxes of the top level), RIFF (AVI) and Matroska (MKV, WebM).
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF":
            end = _riff_end(int.from_bytes(head[4:8], "little"), size)
        elif head[:4] == b"\x1a\x45\xdf\xa3":
            end = _matroska_end(file)
        elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            end = _boxes_end(file, size)
        else:
            end = 0
    return max(end - size, 0)


def _riff_end(length: int, size: int) -> int:
    """Find the end of a RIFF chunk of a length that does not count its 8 bytes of header.

    One that was written to a pipe states the largest number or none, and some programs count the header too.
    """
    return 0 if length in (0, UNKNOWN_LENGTH) or length <= size else 8 + length


def _boxes_end(file: BinaryIO, size: int) -> int:
    """Find the end of the last ISO box.

    A box begins with its size in 4 bytes and a name. Size 1: the size follows in 8 more bytes. Size 0: the box goes on
    to the end of the file.
    """
    position = 0
    while position + 8 <= size:
        file.seek(position)
        length, name = int.from_bytes(file.read(4), "big"), file.read(4)
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        if length < 8 or (position + length > size and name not in (b"moov", b"mdat", b"moof")):
            return 0  # some other program's bytes behind the boxes
        position += length
    return position


def _matroska_end(file: BinaryIO) -> int:
    """Find the end of the segment, which follows the header.

    Both are an identifier of 4 bytes, a size, and as many bytes of data.
    """
    file.seek(4)
    file.seek(_vint(file) or 0, os.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return 0
    length = _vint(file)
    return 0 if length is None else file.tell() + length


def _vint(file: BinaryIO) -> int | None:
    """Read a size of variable length: as many zero bits as further bytes, a one, the number.

    All ones mean that the size is not known: None.
    """
    first = file.read(1)
    if not first or not first[0]:
        return None
    further = 8 - first[0].bit_length()
    number = int.from_bytes(bytes([first[0] & (0x7F >> further)]) + file.read(further), "big")
    return None if number == (1 << 7 * (further + 1)) - 1 else number
