"""Options of more than one command."""

from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
AUTO_DTYPE = {"cpu": "fp32", "cuda": "fp16"}


def side(text):
    """A side of tiles as a Deblurrer takes it: None for auto, 0 for whole frames, or a multiple of 4."""
    if text == "auto":
        return None
    if not text.isdecimal() or int(text) % 4:
        raise typer.BadParameter(f"must be auto, 0 or a multiple of 4, got {text!r}")
    return int(text)


Weights = Annotated[Path | None, typer.Option(help="A weight file, the bundled one if not given.")]
Device = Annotated[str, typer.Option(help="auto (cuda where there is one), cpu, cuda or cuda:N.")]
Dtype = Annotated[
    Literal["auto", *DTYPES], typer.Option(help="To compute in; auto: fp16 on CUDA, fp32 on a CPU.")
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
