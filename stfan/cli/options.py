"""Options of the commands, and how their values are parsed."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeVar

import typer

from stfan.devices import fast_bfloat16

if TYPE_CHECKING:  # torch takes seconds to import, which --help and refusals need not wait for
    import torch

T = TypeVar("T")
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}  # torch's names


def parse_tile(text: str) -> int | None:
    """Parse --tile as a Deblurrer takes it: None for auto, 0 for whole frames, or a multiple of 4."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) % 4:
        raise typer.BadParameter(f"must be auto, 0 or a multiple of 4, got {text!r}")
    return int(text)


def resolve_dtype(dtype: str, device: str) -> str:
    """Return the dtype that --dtype names; "auto" asks the device.

    On CUDA that is fp16; on a CPU bf16 where it multiplies that fast (AVX512-BF16, AMX), else fp32.
    """
    if dtype != "auto":
        return dtype
    if device.startswith("cuda"):
        return "fp16"
    return "bf16" if fast_bfloat16(device) else "fp32"


def torch_dtype(dtype: str) -> "torch.dtype":
    """Return torch's dtype of the name that :func:`resolve_dtype` returns."""
    import torch

    named: torch.dtype = getattr(torch, DTYPES[dtype])
    return named


def parse_time(text: str) -> float:
    """Convert a time as people write it, 90.5 or 1:30.5 or 0:01:30.5, to seconds."""
    parts = text.split(":")
    if len(parts) > 3 or not all(re.fullmatch(r"\d{1,12}(\.\d*)?", part) for part in parts):
        raise ValueError("neither seconds nor h:mm:ss")
    return sum(float(part) * 60**power for power, part in enumerate(reversed(parts)))


def parse_path(text: str) -> Path:
    """Parse the path of a file, or "-" for a pipe; as a Path, "./-" would be the same."""
    path = Path(text)
    return path.absolute() if path == Path("-") and text != "-" else path


@dataclass(frozen=True)
class Shard:
    """The items that one of `count` processes takes: those whose number, counted from 0, is `index` modulo `count`."""

    index: int = 0
    count: int = 1

    def of(self, items: Sequence[T]) -> Sequence[T]:
        """Choose items; their order must be the same for all processes."""
        return items[self.index :: self.count]


def parse_shard(text: str) -> Shard:
    """Parse --shard, I/N: the number of a part, from 0, and how many parts there are."""
    found = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    if not found or int(found[1]) >= int(found[2]):
        raise typer.BadParameter(f"must be I/N with I from 0 to N - 1, got {text!r}")
    return Shard(int(found[1]), int(found[2]))


# Of several commands.
Weights = Annotated[
    Path | None,
    typer.Option(help="Weight file, or compact, the bundled weights (default)."),
]
Device = Annotated[
    str,
    typer.Option(help="auto (the first there is of cuda, xpu, mps, cpu), one of these, or cuda:N, xpu:N."),
]
Dtype = Annotated[
    Literal["auto", "fp32", "fp16", "bf16"],
    typer.Option(
        help="Precision of the network; auto: fp16 on CUDA, bf16 on a CPU that is fast in it, else fp32."
    ),
]
Tile = Annotated[
    int | None,
    typer.Option(
        parser=parse_tile,
        metavar="[auto|0|N]",
        show_default="auto",
        help="auto: whole frames while they fit in memory, then tiles; 0: whole frames; "
        "N: tiles of N pixels a side, which need less memory.",
    ),
]
Page = Annotated[Path | None, typer.Option(help="Also write an HTML report.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]

# Of stfan deblur.
Input = Annotated[
    Path, typer.Argument(metavar="INPUT", help="A video, or a folder with an image for each frame.")
]
Inputs = Annotated[
    list[Path],
    typer.Argument(
        parser=parse_path,
        metavar="INPUT...",
        help="A video, a folder with an image for each frame, or several videos and folders of videos.",
    ),
]
OutDir = Annotated[
    Path | None,
    typer.Option(
        parser=parse_path,
        metavar="PATH",
        help="Folder for the outputs of several INPUTs; those that are there are skipped.",
    ),
]
Recursive = Annotated[
    bool, typer.Option("--recursive", help="Take the videos of all folders in a folder, too.")
]
ShardOption = Annotated[
    Shard | None,
    typer.Option(parser=parse_shard, metavar="I/N", help="Take every N-th video only, from number I on."),
]
Out = Annotated[
    Path | None,
    typer.Option(
        "-o",
        "--out",
        parser=parse_path,
        metavar="PATH",
        help="Video or folder to write; INPUT_deblurred if not given.",
    ),
]
Start = Annotated[
    float | None,
    typer.Option(
        parser=parse_time,
        metavar="TIME",
        help="Where to begin: seconds or h:mm:ss; for an image folder, the number of an image, from 0.",
    ),
]
End = Annotated[
    float | None,
    typer.Option(parser=parse_time, metavar="TIME", help="Where to end; a frame at this time is left out."),
]
MaxFrames = Annotated[int | None, typer.Option(min=1, help="Stop after this many frames.")]
Codec = Annotated[
    str | None,
    typer.Option(help="FFmpeg encoder. Default: libx264; libvpx-vp9 for .webm; ffv1 with --lossless."),
]
Crf = Annotated[
    int | None, typer.Option(min=0, help="Constant rate factor: lower gives better quality, larger files.")
]
Preset = Annotated[str | None, typer.Option(help="Preset of the encoder: slower ones give smaller files.")]
PixFmt = Annotated[str | None, typer.Option(help="Pixel format, by FFmpeg's name.")]
Lossless = Annotated[bool, typer.Option("--lossless", help="Write RGB as it is computed, with ffv1.")]
NoAudio = Annotated[bool, typer.Option("--no-audio", help="Leave out the sound.")]
Compare = Annotated[
    Literal["side", "split"] | None,
    typer.Option(help="Write before and after: side by side, or the left half and the right half."),
]
Strength = Annotated[
    float,
    typer.Option(
        min=0,
        max=1.5,
        help="How much of what the network adds to a frame to write: 0 leaves it as it is, 1 adds all.",
    ),
]
Deinterlace = Annotated[
    Literal["auto", "off"],
    typer.Option(help="auto: make whole frames of those that are marked as interlaced; off: of none."),
]
ResetOnCut = Annotated[bool, typer.Option("--reset-on-cut", help="Reset the network's state at scene cuts.")]
Picture = Annotated[
    Path | None,
    typer.Option(help="Also write an image of the frame that changed most, before and after."),
]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where the same command was interrupted.")]
Quiet = Annotated[bool, typer.Option("-q", "--quiet", help="Print nothing but errors.")]
Verbose = Annotated[bool, typer.Option("-v", "--verbose", help="Print what is chosen.")]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
