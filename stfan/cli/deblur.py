"""The command stfan deblur."""

import logging
import shlex
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from stfan.cli import options
from stfan.cli.console import LogHandler, ProgressBar, graceful_interrupt, print_line, stderr_console
from stfan.cli.estimate import Estimate
from stfan.devices import resolve_device
from stfan.files import check_writable, to_json
from stfan.images import SUFFIXES
from stfan.video.errors import KeptFramesInterrupt

# PyAV, which other commands do without, and torch, which takes seconds to import.
if TYPE_CHECKING:
    from stfan.cli.job import DeblurJob, LoadedNetwork, OpenJob
    from stfan.cli.run_monitor import RunMonitor
    from stfan.video.pipeline import DeblurResult

log = logging.getLogger("stfan")


def deblur(
    source: options.Input,
    out: options.Out = None,
    weights: options.Weights = None,
    device: options.Device = "auto",
    dtype: options.Dtype = "auto",
    tile: options.Tile = None,
    start: options.Start = None,
    end: options.End = None,
    max_frames: options.MaxFrames = None,
    codec: options.Codec = None,
    crf: options.Crf = None,
    preset: options.Preset = None,
    pix_fmt: options.PixFmt = None,
    lossless: options.Lossless = False,
    no_audio: options.NoAudio = False,
    compare: options.Compare = None,
    reset_on_cut: options.ResetOnCut = False,
    strength: options.Strength = 1.0,
    picture: options.Picture = None,
    report: options.Page = None,
    resume: options.Resume = False,
    overwrite: options.Overwrite = False,
    quiet: options.Quiet = False,
    verbose: options.Verbose = False,
    as_json: options.Json = False,
) -> None:
    """Deblur a video or a folder of images: as many frames out as in; times, colours, sound, subtitles are kept."""
    from stfan.cli.job import DeblurJob, Look, NetworkChoice, Part
    from stfan.video.encoder import Encoding

    job = DeblurJob(
        source,
        out,
        NetworkChoice(weights, device, dtype, tile, reset_on_cut, strength),
        Encoding(codec, crf, preset, pix_fmt, lossless),
        Part(start, end, max_frames),
        Look(compare, picture, report),
        sound=not no_audio,
        resume=resume,
        overwrite=overwrite,
    )
    if quiet and verbose:
        raise typer.BadParameter("give either --quiet or --verbose")
    run_one(job, quiet, verbose, as_json)


def run_one(job: "DeblurJob", quiet: bool = False, verbose: bool = False, as_json: bool = False) -> None:
    """Run a job, print its result, and exit with code 130 if it was interrupted."""
    from stfan.cli.run_monitor import RunMonitor

    check_job(job)
    with LogHandler(stderr_console, quiet, verbose).attached() as handler:
        opened = job.open()
        with opened.reader as reader:
            network = job.network.load()
            log_choices(opened, network)
            total = reader.expected_frames
            bar = ProgressBar(stderr_console, reader.path.name, total, not quiet)
            estimate = Estimate(
                total, network.device, partial(print_line, stderr_console) if not quiet else str
            )
            monitor = RunMonitor(reader.path.resolve().name, network, job.look, bar, estimate)
            try:
                with bar.progress, graceful_interrupt(stderr_console) as stop:
                    result = opened.run(network, monitor.start, monitor.add, stop)
            except KeyboardInterrupt as error:
                kept = [str(error), f"to resume: {resume_command()}"]
                print_interrupted("at once", *(kept if isinstance(error, KeptFramesInterrupt) else []))
                raise typer.Exit(130) from error
        files = monitor.save()
    if as_json:
        print(to_json(json_record(result, network, monitor, handler.warnings)))
    elif result.complete and not quiet:
        print("\n".join([last_line(result, monitor), *files]))
    if not result.complete:
        exit_interrupted(result)


def check_job(job: "DeblurJob") -> None:
    """Check, before any work is done, what can be checked without opening the input.

    Raises:
        typer.BadParameter: settings that do not go together.
        ValueError, OSError: a file that cannot be written.
    """
    from stfan.cli.job import JobError

    try:
        job.check()
    except JobError as error:
        raise typer.BadParameter(f"{error}; see stfan deblur --help") from error
    replace = job.overwrite or job.resume
    check_picture(job.look.picture, job.input, replace)
    check_writable("--report", job.look.report, ".html", replace)
    # Before the input is opened: a device that there is not takes no time to refuse.
    resolve_device(job.network.device)


def log_choices(opened: "OpenJob", network: "LoadedNetwork") -> None:
    """Log with what choices a job runs."""
    choices = {"device": network.device} | opened.settings(network) | dict(opened.writer.settings)
    for name, value in choices.items():
        log.info("%s: %s", name, value)


def check_picture(picture: Path | None, source: Path, overwrite: bool) -> None:
    """Check, before any work is done, that --picture can be written and is no part of the input."""
    if picture is None:
        return
    if picture.parent.is_dir() and source.exists():
        is_source = picture.exists() and picture.samefile(source)
        if is_source or picture.parent.samefile(source):
            raise ValueError(f"{picture}: --picture would replace its own input, or be part of it")
    check_writable("--picture", picture, SUFFIXES, overwrite)


def speed(result: "DeblurResult") -> float:
    """Return the frames per second of this run."""
    return (result.frames - result.resumed) / result.seconds


def last_line(result: "DeblurResult", monitor: "RunMonitor") -> str:
    """Say what was made, how fast, and what a user should know of it."""
    notes = result.damage + (monitor.words and f"; {monitor.words}")
    frames = "1 frame" if result.frames == 1 else f"{result.frames} frames"
    return f"{result.path}: {frames}, {speed(result):.2f} frames/s{notes}"


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
        "resume": None if result.complete else resume_command(),
    }


def exit_interrupted(result: "DeblurResult") -> NoReturn:
    """Print what there is and how to resume, and exit with code 130."""
    print_interrupted(
        f"after {result.frames} frames{result.damage}",
        f"the frames so far: {result.path}",
        f"to resume from frame {result.saved}: {resume_command()}",
    )
    raise typer.Exit(130)


def print_interrupted(when: str, *notes: str) -> None:
    """Print when the run was interrupted, and how to resume it."""
    print(f"stfan: interrupted {'; '.join((when, *notes))}", file=sys.stderr)


def resume_command() -> str:
    """Return the command that goes on where this one was interrupted."""
    program = sys.argv[0]
    name = Path(program).name
    if name == "__main__.py":
        start = [sys.executable, "-m", "stfan"]
    else:
        start = [name if shutil.which(name) == program else program]
    return shlex.join([*start, *sys.argv[1:], *([] if "--resume" in sys.argv else ["--resume"])])
