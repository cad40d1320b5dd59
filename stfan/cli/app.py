"""The command line: its commands, one file each, and how errors are printed."""

import sys

import typer

from stfan.cli.data import data
from stfan.cli.deblur import deblur
from stfan.cli.evaluate import evaluate
from stfan.cli.export import export
from stfan.cli.info import info
from stfan.cli.train import train
from stfan.cli.trial import trial

app = typer.Typer(
    help="Video deblurring with STFAN.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(data, name="data")
app.add_typer(export, name="export")
app.command()(train)
app.command()(deblur)
app.command("try")(trial)
app.command("eval")(evaluate)
app.command()(info)


def main() -> None:
    """Run the command line; an error is printed in one line and gives exit code 1."""
    try:
        app(prog_name="stfan")
    except (OSError, ValueError, RuntimeError, FloatingPointError) as error:
        words = " ".join([str(error), *getattr(error, "__notes__", ())]).split()
        print(f"stfan: {' '.join(words)}", file=sys.stderr)
        sys.exit(1)
