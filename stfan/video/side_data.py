"""What FFmpeg's decoders hand out beside the pixels of a frame, and what of it is lost."""

import struct
from collections.abc import Mapping

import av
from av.sidedata.sidedata import Type

ALPHA_MODE = "alpha_mode"  # name of Matroska's metadata that says that VP8 or VP9 has an alpha channel
# Kinds whose loss is warned of, in the words of the warning; hdr.py warns of what is HDR's. docs/video.md lists all.
LOST = {
    Type.A53_CC: "closed captions in its frames",
    Type.AFD: "its active format description",
    Type.AMBIENT_VIEWING_ENVIRONMENT: "its ambient viewing environment",
    Type.DYNAMIC_HDR_VIVID: "its dynamic HDR metadata (HDR Vivid)",
    Type.GOP_TIMECODE: "the timecode in its frames",
    Type.ICC_PROFILE: "its colour profile",
    Type.PANSCAN: "its pan-and-scan window",
    Type.S12M_TIMECODE: "the timecode in its frames",
    Type.SPHERICAL: "its projection",
    Type.STEREO3D: "its arrangement in two views",
}
WHY = {
    Type.SPHERICAL: "players will not show it as a 360-degree video",
    Type.STEREO3D: "players will not show it as stereoscopic",
}
PANSCAN = struct.Struct("=3i")  # an identifier; width and height in sixteenths of a pixel
WHOLE_FRAME = 8  # an active format description that says nothing
TIMECODE = 0b111111111111_0_111111111111  # hours, minutes; a marker; seconds, frames: MPEG-2's, without its drop flag


def lost_side_data(frame: av.VideoFrame, held: Mapping[Type, bytes]) -> list[tuple[str, str]]:
    """List the side data of a frame that an output lacks, each with what that means.

    What says nothing is none of it: MPEG-2 has a window as large as the frame, and a timecode of 0.
    """
    lost = {kind: words for kind, words in LOST.items() if kind in held}
    if held.get(Type.AFD, b"")[:1] == bytes([WHOLE_FRAME]):
        del lost[Type.AFD]
    if Type.PANSCAN in lost and len(held[Type.PANSCAN]) >= PANSCAN.size:
        _, width, height = PANSCAN.unpack_from(held[Type.PANSCAN])
        if width in (0, 16 * frame.width) and height in (0, 16 * frame.height):
            del lost[Type.PANSCAN]
    if Type.GOP_TIMECODE in lost and not int.from_bytes(held[Type.GOP_TIMECODE][:8], "little") & TIMECODE:
        del lost[Type.GOP_TIMECODE]
    return list({words: (words, WHY.get(kind, "")) for kind, words in lost.items()}.values())
