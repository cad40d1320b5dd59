"""Is a file all there? Its container's own sizes tell, before anything is decoded: a cut-off video often plays
without a word of complaint, only shorter. Of streams that state no size (MPEG-TS, GIF) nobody can know.
"""

import os


def missing_bytes(path):
    """How many bytes a file lacks by its own account, 0 where it is whole or does not say.

    Knows ISO media (MP4, MOV: the boxes of the top level), RIFF (AVI) and Matroska (MKV, WebM).
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        head = file.read(12)
        if head[:4] == b"RIFF":
            end = 8 + int.from_bytes(head[4:8], "little")
        elif head[:4] == b"\x1a\x45\xdf\xa3":
            end = _matroska_end(file)
        elif head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"):
            end = _boxes_end(file, size)
        else:
            end = 0
    return max(end - size, 0)


def _boxes_end(file, size):
    """The end of the last box: each starts with its size in 4 bytes (1: in 8 more, 0: to the file's end) and a name."""
    at = 0
    while at + 8 <= size:
        file.seek(at)
        length, name = int.from_bytes(file.read(4), "big"), file.read(4)
        if length == 1:
            length = int.from_bytes(file.read(8), "big")
        if length < 8 or (at + length > size and name not in (b"moov", b"mdat", b"moof")):
            return 0  # some other program's bytes behind the boxes
        at += length
    return at


def _matroska_end(file):
    """The end of the segment, behind the header: both are an identifier of 4 bytes, a size, and so much data."""
    file.seek(4)
    file.seek(_length(file) or 0, os.SEEK_CUR)
    if file.read(4) != b"\x18\x53\x80\x67":
        return 0
    length = _length(file)
    return 0 if length is None else file.tell() + length


def _length(file):
    """A size of variable length: as many zero bits as further bytes, a one, the number; all ones: not known."""
    first = file.read(1)
    if not first or not first[0]:
        return None
    further = 8 - first[0].bit_length()
    number = int.from_bytes(bytes([first[0] & (0x7F >> further)]) + file.read(further), "big")
    return None if number == (1 << 7 * (further + 1)) - 1 else number
