"""What an output's pixel format cannot hold of the input: bits, colour at full resolution, transparency."""

import logging

import av

from stfan.video.colour import bit_depth, is_yuv

log = logging.getLogger("stfan")


def pix_formats(codec: str) -> list[str]:
    """List the pixel formats that a video encoder takes, by name; none if there is no such encoder."""
    try:
        return [pix_format.name for pix_format in av.Codec(codec, "w").video_formats or ()]
    except av.codec.codec.UnknownCodecError:
        return []


def warn_of_losses(source: av.VideoFormat, codec: str, pix_fmt: str) -> None:
    """Warn of what frames of a pixel format lose as they are written in another, and name fields that keep it."""
    target = av.VideoFormat(pix_fmt)
    bits, left = bit_depth(source), bit_depth(target)
    chroma, chroma_left = _chroma(source), _chroma(target)
    if left < bits:
        advice = _suggest(codec, chroma, bits)
        log.warning("%s-bit input is written with %s bits per channel; %s", bits, left, advice)
    if chroma is not None and chroma_left is not None and any(map(int.__lt__, chroma_left, chroma)):
        name = _chroma_name(chroma) if is_yuv(source) else "RGB"
        words = "%s input is written with its colour at a lower resolution (%s); %s"
        log.warning(words, name, _chroma_name(chroma_left), _suggest(codec, chroma, bits, is_yuv(source)))
    if any(component.is_alpha for component in source.components) or source.has_palette:
        log.warning("its transparency, if it has any, is left out")


def _suggest(codec: str, chroma: tuple[int, int] | None, bits: int, yuv: bool = True) -> str:
    """Suggest fields of an Encoding that keep the colour samples and so many bits per channel, or as many as can be.

    More than 8 bits are for libx265: few players take them in H.264.
    """
    name = "yuv" + _chroma_name(chroma or (2, 1)).replace(":", "") + "p"
    if yuv and bits == 8:
        for encoder in (codec, "libx265"):
            if name in pix_formats(encoder):
                option = "" if encoder == codec else f"codec {encoder} with "
                return f"{option}pix_fmt {name} keeps it"
    deep = [n for n in (10, 12) if f"{name}{n}le" in pix_formats("libx265")] if yuv and bits > 8 else []
    if deep:
        best = min((n for n in deep if n >= bits), default=max(deep))
        return f"codec libx265 with pix_fmt {name}{best}le keeps {best}"
    return "lossless keeps them" if yuv else "lossless keeps it"


def _chroma(pix_format: av.VideoFormat) -> tuple[int, int] | None:
    """Return how many colour samples 4 x 2 pixels have, across and down; None for grey."""
    if pix_format.is_rgb or pix_format.has_palette:
        return 4, 2
    if len(pix_format.components) < 3:
        return None
    return pix_format.chroma_width(4), pix_format.chroma_height(2)


def _chroma_name(chroma: tuple[int, int]) -> str:
    """Name colour samples as the field does: (4, 2) is 4:4:4, (2, 2) is 4:2:2, (2, 1) is 4:2:0."""
    across, down = chroma
    return f"4:{across}:{across if down == 2 else 0}"
