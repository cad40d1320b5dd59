"""HDR10's static metadata: the display that a video was mastered on, and how bright its content is.

Encoders are told of them in options of their own; the input's frames carry them as structures of FFmpeg
(libavutil/mastering_display_metadata.h).
"""

import logging
import struct

import av
from av.sidedata.sidedata import Type

from stfan.video.pyav import side_data

log = logging.getLogger("stfan")
# Rationals: x, y of red, green, blue, white; the least and the most light; and whether either is known.
DISPLAY = struct.Struct("=20i2i")
LIGHT = struct.Struct("=2I")  # of the brightest pixel, of the brightest frame, in cd/m2
DYNAMIC = {
    Type.DYNAMIC_HDR_PLUS: "HDR10+",
    Type.DOVI_METADATA: "Dolby Vision",
    Type.DOVI_RPU_BUFFER: "Dolby Vision",
}
# (option, name of the display, name of the light) by encoder.
OPTIONS = {
    "libx265": ("x265-params", "master-display", "max-cll"),
    "libx264": ("x264-params", "mastering-display", "cll"),
    "libsvtav1": ("svtav1-params", "mastering-display", "content-light"),
}


def hdr_options(frame: av.VideoFrame, codec: str) -> dict[str, str]:
    """Return the options by which an encoder writes a decoded frame's HDR10 metadata; warn of what is left out."""
    found = side_data(frame)
    dynamic = sorted({name for kind, name in DYNAMIC.items() if kind in found})
    if dynamic:
        log.warning("its dynamic HDR metadata (%s) is left out", ", ".join(dynamic))
    display = _display(found.get(Type.MASTERING_DISPLAY_METADATA), codec)
    light = found.get(Type.CONTENT_LIGHT_LEVEL)
    if not (display or light):
        return {}
    if codec not in OPTIONS:
        log.warning(
            "its HDR10 metadata (mastering display, content light level) is left out: stfan cannot hand it to %s; "
            "codec libx265 with pix_fmt yuv420p10le keeps it",
            codec,
        )
        return {}
    option, display_name, light_name = OPTIONS[codec]
    values = [f"{display_name}={display}"] if display else []
    if light:
        values.append("{}={},{}".format(light_name, *LIGHT.unpack_from(light)))
    return {option: ":".join(values)}


def _display(data: bytes | None, codec: str) -> str | None:
    """Describe a mastering display as an encoder's option has it; None if it is not wholly known."""
    if data is None or len(data) < DISPLAY.size:
        return None
    *numbers, primaries, luminance = DISPLAY.unpack_from(data)
    if not (primaries and luminance) or 0 in numbers[1::2]:
        if primaries or luminance:
            log.warning("its mastering display is left out: only a part of it is known")
        return None
    values = [above / below for above, below in zip(numbers[::2], numbers[1::2], strict=True)]
    red, green, blue, white, (least, most) = (values[i : i + 2] for i in range(0, 10, 2))
    # x264 and x265 count in the units of H.265's D.3.28, 0.00002 and 0.0001 cd/m2; SVT-AV1 in ones.
    x, y, light = (1, 1, 1) if codec == "libsvtav1" else (50000, 50000, 10000)
    show = "{:.6g}" if codec == "libsvtav1" else "{:.0f}"
    pairs = {"G": green, "B": blue, "R": red, "WP": white}
    words = [f"{name}({show.format(a * x)},{show.format(b * y)})" for name, (a, b) in pairs.items()]
    return "".join([*words, f"L({show.format(most * light)},{show.format(least * light)})"])
