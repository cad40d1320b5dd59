"""The command stfan deblur."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stfan.cli import options
from stfan.cli.console import LogHandler, ProgressBar, graceful_interrupt, print_line, stderr_console
from stfan.cli.estimate import Estimate
from stfan.cli.outcome import (
    end_closed_pipe,
    interrupted_at_once,
    interrupted_line,
    json_record,
    last_line,
    print_error,
)
from stfan.devices import resolve_device
from stfan.files import check_writable, to_json
from stfan.images import SUFFIXES
from stfan.video.errors import ClosedPipeError

# PyAV, which other commands do without, and torch, which takes seconds to import.
if TYPE_CHECKING:
    from stfan.cli.job import DeblurJob


def deblur(
    inputs: options.Inputs,
    out: options.Out = None,
    out_dir: options.OutDir = None,
    recursive: options.Recursive = False,
    shard: options.ShardOption = None,
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
    deinterlace: options.Deinterlace = "auto",
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
    """Deblur videos, or a folder of images: as many frames out as in; times, colours, sound, subtitles are kept."""
    from stfan.cli.job import DeblurJob, Look, NetworkChoice, Part
    from stfan.cli.library import is_library, plan_jobs
    from stfan.cli.library_run import LibraryRun
    from stfan.video.encoder import Encoding
    from stfan.video.partial_output import PIPE

    job = DeblurJob(
        inputs[0],
        out,
        NetworkChoice(weights, device, dtype, tile, reset_on_cut, strength),
        Encoding(codec, crf, preset, pix_fmt, lossless),
        Part(start, end, max_frames),
        Look(compare, picture, report),
        sound=not no_audio,
        deinterlace=deinterlace,
        resume=resume,
        overwrite=overwrite,
    )
    if quiet and verbose:
        raise typer.BadParameter("give either --quiet or --verbose")
    folder = inputs[0].is_dir() and is_library(inputs[0], recursive)
    if len(inputs) == 1 and out_dir is None and not folder:
        if recursive or shard:
            raise typer.BadParameter("--recursive and --shard are for several videos")
        run_one(job, quiet, verbose, as_json)
        return
    if picture or report:
        raise typer.BadParameter("--picture and --report are for one video")
    if PIPE in (*inputs, out, out_dir):
        raise typer.BadParameter("- is for one video: as the one INPUT, or with -o")
    if (out and out_dir) or (len(inputs) > 1 and not out_dir):
        raise typer.BadParameter("several INPUTs need --out-dir, and no -o")
    with usage_errors():
        job.part.check()
    out_dir, shard = out_dir or job.out, shard or options.Shard()
    with LogHandler(stderr_console, quiet, verbose).attached():
        jobs = shard.of(plan_jobs(inputs, out_dir, job, recursive))
    mark = out_dir / f".stfan-overwrite-{shard.index}-{shard.count}"
    LibraryRun(jobs, mark, quiet, verbose, as_json).run()


def run_one(job: "DeblurJob", quiet: bool = False, verbose: bool = False, as_json: bool = False) -> None:
    """Run a job, print its result, and exit with code 130 if it was interrupted."""
    from stfan.cli.run_monitor import RunMonitor
    from stfan.video.partial_output import PIPE

    check_job(job)
    resumable = PIPE not in (job.input, job.out)
    with LogHandler(stderr_console, quiet, verbose, str(job.input)).attached() as handler:
        opened = job.open()
        with opened.reader as reader:
            network = job.network.load()
            opened.log_choices(network)
            total = reader.expected_frames
            bar = ProgressBar(stderr_console, reader.path.name, total, not quiet)
            say = str if quiet else partial(print_line, stderr_console)
            estimate = Estimate(total, network.device, say, resumable=resumable)
            monitor = RunMonitor(
                reader.path.resolve().name, network, job.look, bar, estimate, plan=opened.plan
            )
            try:
                with bar.progress, graceful_interrupt(stderr_console) as stop:
                    result = opened.run(network, monitor.start, monitor, stop)
            except KeyboardInterrupt as error:
                print_error(interrupted_at_once(error, resumable))
                raise typer.Exit(130) from error
            except ClosedPipeError:
                result = None
        if result is None:
            end_closed_pipe()
        files = monitor.save()
    file = sys.stderr if job.out == PIPE else sys.stdout
    if as_json:
        print(to_json(json_record(result, network, monitor, handler.warnings)), file=file)
    elif result.complete and not quiet:
        print("\n".join([last_line(result, monitor), *files]), file=file)
    if not result.complete:
        print_error(interrupted_line(result))
        raise typer.Exit(130)


def check_job(job: "DeblurJob") -> None:
    """Check, before any work is done, what can be checked without opening the input.

    Raises:
        typer.BadParameter: settings that do not go together.
        ValueError, OSError: a file that cannot be written.
    """
    with usage_errors():
        job.check()
    replace = job.overwrite or job.resume
    check_picture(job.look.picture, job.input, replace)
    check_writable("--report", job.look.report, ".html", replace)
    # Before the input is opened: a device that there is not takes no time to refuse.
    resolve_device(job.network.device)


@contextmanager
def usage_errors() -> Iterator[None]:
    """Turn settings that do not go together into an error of the command line."""
    from stfan.cli.job import JobError

    try:
        yield
    except JobError as error:
        raise typer.BadParameter(str(error)) from error


def check_picture(picture: Path | None, source: Path, overwrite: bool) -> None:
    """Check, before any work is done, that --picture can be written and is no part of the input."""
    if picture is None:
        return
    if picture.parent.is_dir() and source.exists():
        is_source = picture.exists() and picture.samefile(source)
        if is_source or picture.parent.samefile(source):
            raise ValueError(f"{picture}: --picture would replace its own input, or be part of it")
    check_writable("--picture", picture, SUFFIXES, overwrite)
