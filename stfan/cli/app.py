"""The command line: its commands, one file each, and how errors are printed."""

import codecs
import io
import sys
import warnings
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from stfan.cli.data import data
from stfan.cli.deblur import deblur
from stfan.cli.evaluate import evaluate
from stfan.cli.export import export
from stfan.cli.hints import describe_error
from stfan.cli.info import info
from stfan.cli.outcome import end_closed_pipe
from stfan.cli.train import train
from stfan.cli.trial import trial
from stfan.internal_errors import traceback_wanted

PYTHONS_FORMAT = warnings.formatwarning


class Commands(TyperGroup):
    """All commands; an interrupt that a command leaves to others is said in one line."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was named."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            print("stfan: interrupted", file=sys.stderr)
            raise typer.Exit(130) from None
        except BrokenPipeError:
            end_closed_pipe()


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def print_version(wanted: bool) -> None:
    """Print the version of the package, and exit, if --version is given."""
    if wanted:
        from fac_ext import __version__

        print(f"stfan {__version__}")
        raise typer.Exit


app.add_typer(data, name="data")
app.add_typer(export, name="export")
app.command()(train)
app.command()(deblur)
app.command("try")(trial)
app.command("eval")(evaluate)
app.command()(info)


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, help="Print the version and exit.", callback=print_version),
    ] = False,
) -> None:
    """Video deblurring with STFAN."""


def format_warning(
    message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
) -> str:
    """Put a warning of the operator into a line like the others; all else as Python does."""
    words = str(message)
    return (
        f"stfan: {words}\n"
        if words.startswith("fac: ")
        else PYTHONS_FORMAT(message, category, filename, lineno, line)
    )


def encode_as_read(error: UnicodeError) -> tuple[str | bytes, int]:
    """Encode what is no text as the bytes that it was read from, and letters that a terminal lacks by their numbers."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.lookup_error("backslashreplace")(error)


def main() -> None:
    """Run the command line; an error is printed in one line and gives exit code 1.

    With STFAN_TRACEBACK=1 it is raised instead.
    """
    warnings.formatwarning = format_warning
    # Pillow's word on pictures that are large, and not too large: nobody can act on it.
    warnings.filterwarnings("ignore", "Image size")
    # Names of files may hold bytes that are no UTF-8; they are printed as they are.
    codecs.register_error("stfan", encode_as_read)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="stfan")
    try:
        app(prog_name="stfan")
    # A package that is missing or does not fit; stfan/__main__.py says which.
    except ImportError:
        raise
    except Exception as error:
        if traceback_wanted():
            raise
        print(f"stfan: {describe_error(error)}", file=sys.stderr)
        sys.exit(1)
