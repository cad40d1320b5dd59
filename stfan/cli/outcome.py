"""How a run of stfan deblur ended, as it is printed: the last line, a JSON record, the command that resumes."""

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from stfan.video.errors import count_frames

if TYPE_CHECKING:
    from stfan.cli.job import LoadedNetwork
    from stfan.cli.run_monitor import RunMonitor
    from stfan.video.pipeline import DeblurResult

CLOSED_PIPE = 141  # as a shell has it of programs that SIGPIPE ends


def speed(result: "DeblurResult") -> float:
    """Return the frames per second of this run."""
    return (result.frames - result.resumed) / result.seconds


def last_line(result: "DeblurResult", monitor: "RunMonitor") -> str:
    """Say what was made, how fast, and what a user should know of it."""
    notes = result.damage + (monitor.words and f"; {monitor.words}")
    return f"{result.path}: {count_frames(result.frames)}, {speed(result):.2f} frames/s{notes}"


def json_record(
    result: "DeblurResult", network: "LoadedNetwork", monitor: "RunMonitor", warnings: list[str]
) -> dict[str, Any]:
    """Return what --json prints of a run, and how to resume it if it is not complete."""
    return {
        **vars(result),
        "path": str(result.path),
        "frames_per_second": speed(result),
        "device": network.device,
        "strength": network.choice.strength,
        **monitor.blur.facts,
        "warnings": warnings,
        "resume": resume_command() if result.saved and not result.complete else None,
    }


def interrupted_line(result: "DeblurResult") -> str:
    """Say what there is of an interrupted run, and how to resume it."""
    lines = [f"interrupted after {count_frames(result.frames)}{result.damage}"]
    if str(result.path) != "-":
        lines.append(f"the frames so far: {result.path}")
    if result.saved:
        lines.append(f"to resume from frame {result.saved}: {resume_command()}")
    return "; ".join(lines)


def interrupted_at_once(error: KeyboardInterrupt, resumable: bool, done: bool = False) -> str:
    """Say that a run was interrupted, where frames are kept, and how to resume it.

    Args:
        error: the interrupt.
        resumable: whether kept frames can be resumed from.
        done: whether there is something to resume without such frames: other videos.
    """
    from stfan.video.errors import KeptFramesInterrupt

    kept = isinstance(error, KeptFramesInterrupt)
    command = f"to resume: {resume_command()}" if resumable and (kept or done) else ""
    return "; ".join(filter(None, ["interrupted at once", str(error) if kept else "", command]))


def print_error(line: str) -> None:
    """Print a line on stderr that begins with the program's name."""
    print(f"stfan: {line}", file=sys.stderr, flush=True)


def end_closed_pipe() -> NoReturn:
    """End at once, as SIGPIPE would; or Python tries once more to write to standard output when it exits."""
    sys.stderr.flush()
    os._exit(CLOSED_PIPE)


def resume_command() -> str:
    """Return the command that goes on where this one was interrupted."""
    program = sys.argv[0]
    name = Path(program).name
    if name == "__main__.py":
        start = [sys.executable, "-m", "stfan"]
    else:
        start = [name if shutil.which(name) == program else program]
    words = sys.argv[1:]
    if "--resume" not in words:
        words.insert(words.index("--") if "--" in words else len(words), "--resume")
    return shlex.join([*start, *words])


def as_argument(path: Path) -> str:
    """Return a path so that no command takes it for an option."""
    return f"./{path}" if str(path).startswith("-") else str(path)
