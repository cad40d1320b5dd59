"""What FFmpeg's decoders hand out beside the pixels of a frame, and what becomes of it."""

ALPHA_MODE = "alpha_mode"  # name of Matroska's metadata that says that VP8 or VP9 has an alpha channel
# Kinds whose loss is warned of, by FFmpeg's names, in the words of the warning. docs/video.md has the table of all.
LOST = {
    "AFD": "its active format description",
    "AMBIENT_VIEWING_ENVIRONMENT": "its ambient viewing environment",
    "DOVI_METADATA": "its dynamic HDR metadata (Dolby Vision)",
    "DOVI_RPU_BUFFER": "its dynamic HDR metadata (Dolby Vision)",
    "DYNAMIC_HDR_PLUS": "its dynamic HDR metadata (HDR10+)",
    "DYNAMIC_HDR_VIVID": "its dynamic HDR metadata (HDR Vivid)",
    "GOP_TIMECODE": "the timecode in its frames",
    "ICC_PROFILE": "its colour profile",
    "PANSCAN": "its pan-and-scan window",
    "S12M_TIMECODE": "the timecode in its frames",
    "SPHERICAL": "its projection: players will not show it as a 360-degree video",
}
