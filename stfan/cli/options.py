"""Options of more than one command."""

from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from stfan.devices import fast_bfloat16

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def choose_dtype(name, device):
    """The dtype to compute in, by its name in DTYPES; "auto" asks the device.

    On CUDA that is float16; on a CPU bfloat16 where it multiplies that fast (AVX512-BF16, AMX), else float32.
    """
    if name != "auto":
        return name
    if torch.device(device).type == "cuda":
        return "fp16"
    return "bf16" if fast_bfloat16(device) else "fp32"


def side(text):
    """A side of tiles as a Deblurrer takes it: None for auto, 0 for whole frames, or a multiple of 4."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) % 4:
        raise typer.BadParameter(f"must be auto, 0 or a multiple of 4, got {text!r}")
    return int(text)


Weights = Annotated[
    Path | None,
    typer.Option(help="A weight file, or one of the bundled ones: compact (default), article."),
]
Device = Annotated[str, typer.Option(help="auto (cuda where there is one), cpu, cuda or cuda:N.")]
Dtype = Annotated[
    Literal["auto", *DTYPES],
    typer.Option(help="Precision; auto: fp16 on CUDA, bf16 on a CPU that is fast in it, else fp32."),
]
Tile = Annotated[
    int | None,
    typer.Option(
        parser=side,
        metavar="[auto|0|N]",
        show_default="auto",
        help="auto: whole frames while they fit; 0: whole frames; N: tiles of N pixels a side, for less memory.",
    ),
]
Page = Annotated[Path | None, typer.Option(help="Also write an HTML page to look at.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")]
