"""The command stfan export onnx."""

from pathlib import Path
from typing import Annotated

import typer

from stfan.cli.options import Overwrite
from stfan.files import check_writable

export = typer.Typer(no_args_is_help=True)


@export.callback()
def formats() -> None:
    """Write the network in other formats."""  # a group of one command needs this to be a group


@export.command()
def onnx(
    weights: Annotated[Path, typer.Argument(help="Weight file, or compact, the bundled weights.")],
    out: Annotated[Path, typer.Argument(help="The .onnx file to write.")],
    overwrite: Overwrite = False,
) -> None:
    """Write one step of the network as ONNX: standard nodes, frames of any size, float32."""
    from stfan.model.onnx_export import export_onnx
    from stfan.model.weights import load

    check_writable("OUT", out, ".onnx", overwrite)
    export_onnx(load(weights), out)
    print(
        f"{out}: {out.stat().st_size / 2**20:.1f} MiB, inputs frame, previous, previous_output, state, first"
    )
