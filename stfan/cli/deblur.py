"""The command stfan deblur."""

import hashlib
import logging
import shlex
import shutil
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import typer

from stfan.cli import options
from stfan.cli.blur_found import BlurFound
from stfan.cli.console import LogHandler, ProgressBar, graceful_interrupt, print_line, stderr_console
from stfan.cli.estimate import Estimate
from stfan.cli.most_changed import MostChangedFrame
from stfan.devices import resolve_device
from stfan.files import check_writable, to_json
from stfan.images import SUFFIXES

if TYPE_CHECKING:  # PyAV, which other commands do without, and torch, which takes seconds to import
    import torch

    from stfan.video.encoder import Encoding
    from stfan.video.pipeline import DeblurResult, FrameReader, FrameWriter

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
    from stfan.model.deblurrer import Deblurrer
    from stfan.video.encoder import Encoding

    encoding = Encoding(codec, crf, preset, pix_fmt, lossless)
    out = out or default_output(source, lossless)
    check_options(source, encoding, no_audio, start, end)
    if quiet and verbose:
        raise typer.BadParameter("give either --quiet or --verbose")
    check_picture(picture, source, overwrite or resume)
    check_writable("--report", report, ".html", overwrite or resume)
    device = resolve_device(device)
    precision = options.resolve_dtype(dtype, device)
    with LogHandler(stderr_console, quiet, verbose).attached() as handler:
        reader, writer = open_both(source, out, (start, end, max_frames), encoding, not no_audio, compare)
        model, settings = load_network(weights, device, precision)
        settings |= {"compare": compare, "reset-on-cut": reset_on_cut, "strength": strength}
        for name, value in {"device": device, **settings, **writer.settings}.items():
            log.info("%s: %s", name, value)
        watcher = Watcher(reader, device, strength, not quiet)
        if report:
            watcher.sample(model, str(weights or "bundled"), device, precision)
        job = {"settings": settings, "resume": resume, "overwrite": overwrite}
        deblurrer = Deblurrer(model, tile, reset_on_cut, strength)
        result = run(reader, writer, out, deblurrer, watcher, compare, job)
        files = watcher.save(picture, report)
    if as_json:
        print_json(result, {"device": device, "strength": strength} | watcher.blur.facts, handler.warnings)
    elif result.complete and not quiet:
        print("\n".join([last_line(result, watcher), *files]))
    if not result.complete:
        exit_interrupted(result)


def default_output(source: Path, lossless: bool) -> Path:
    """Name the output after the input: INPUT_deblurred, with a suffix that a video can be written to."""
    if source.is_dir():
        return Path(f"{source.resolve()}_deblurred")
    suffix = source.suffix if source.suffix.lower() in (".mkv", ".mov") else ".mp4"
    return source.with_name(f"{source.stem}_deblurred{'.mkv' if lossless else suffix}")


def check_options(
    source: Path, encoding: "Encoding", no_audio: bool, start: float | None, end: float | None
) -> None:
    """Raise BadParameter for options that the input does not allow, and for an end before the start."""
    from stfan.video.encoder import Encoding

    if source.is_dir():
        if encoding != Encoding() or no_audio:
            raise typer.BadParameter(
                "--codec, --crf, --preset, --pix-fmt, --lossless and --no-audio are for videos; "
                "images keep their format"
            )
        for option, time in (("--start", start), ("--end", end)):
            if time is not None and time % 1:
                raise typer.BadParameter(f"{option} of a folder must be a whole number, got {time:g}")
    if end is not None and end <= (start or 0):
        raise typer.BadParameter(f"--end must be later than --start, got {end:g} and {start or 0:g}")


def check_picture(picture: Path | None, source: Path, overwrite: bool) -> None:
    """Check, before any work is done, that --picture can be written and is no part of the input."""
    if picture is None:
        return
    if picture.parent.is_dir() and source.exists():
        is_source = picture.exists() and picture.samefile(source)
        if is_source or picture.parent.samefile(source):
            raise ValueError(f"{picture}: --picture would replace its own input, or be part of it")
    check_writable("--picture", picture, SUFFIXES, overwrite)


def open_both(
    source: Path,
    out: Path,
    part: tuple[float | None, float | None, int | None],
    encoding: "Encoding",
    sound: bool,
    compare: str | None,
) -> "tuple[FrameReader[Any], FrameWriter[Any]]":
    """Open the input, or the part (start, end, max_frames) of it, and the output."""
    from stfan.video.image_folder import ImageFolderReader, ImageFolderWriter
    from stfan.video.reader import VideoReader
    from stfan.video.writer import VideoWriter

    start, end, max_frames = part
    if source.is_dir():
        images = ImageFolderReader(source, int(start or 0), None if end is None else int(end), max_frames)
        return images, ImageFolderWriter(out)
    video = VideoReader(source, start or 0.0, end, max_frames)
    return video, VideoWriter(out, video, encoding, sound, 2 if compare == "side" else 1)


def load_network(weights: Path | None, device: str, precision: str) -> tuple[Any, dict[str, Any]]:
    """Load the network; return it and the settings that the result depends on."""
    from stfan.model.weights import load, locate

    model = load(weights, device, options.torch_dtype(precision))
    with open(locate(weights), "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
    return model, {"weights": digest, "dtype": precision}


class Watcher:
    """Shows progress and an estimate, and remembers what --picture and --report need."""

    def __init__(self, reader: "FrameReader[Any]", device: str, strength: float, visible: bool):
        self.name = reader.path.resolve().name
        total = reader.expected_frames
        self.bar = ProgressBar(stderr_console, reader.path.name, total, visible)
        say = partial(print_line, stderr_console) if visible else str
        self.estimate = Estimate(total, device, say)
        self.most_changed, self.blur = MostChangedFrame(), BlurFound(strength)
        self.report: Any = None

    def sample(self, model: Any, weights: str, device: str, precision: str) -> None:
        """Collect for a report, from now on."""
        from stfan.evaluation.report import Report
        from stfan.model.weights import count

        facts = {"weights": weights, "parameters": count(model), "device": device, "dtype": precision}
        title = f"{self.name}: what stfan deblur changed"
        self.report = Report(model, title, facts | {"strength": self.blur.strength})

    def start(self, resumed: int) -> None:
        """Begin after so many frames that an earlier run made."""
        self.most_changed.count = resumed
        if self.report:
            self.report.first = resumed
        self.estimate.start(resumed)
        self.bar.start(resumed)

    def add(self, before: "torch.Tensor", after: "torch.Tensor") -> None:
        """Take note of the next frame."""
        self.most_changed.add(before, after)
        self.blur.add(before)
        if self.report:
            self.report.add_frame(before, after)
        self.estimate.add()
        self.bar.advance()

    @property
    def words(self) -> str:
        """How much the frames changed, and whether there was little blur, as the last line and the report say it."""
        return self.most_changed.words + self.blur.note

    def save(self, picture: Path | None, report: Path | None) -> list[str]:
        """Write what was asked for, and return a line about each file."""
        if not self.most_changed.pair and (picture or report):
            log.warning("nothing for --picture or --report to show: an earlier run made all frames")
            return []
        lines = []
        if picture:
            self.most_changed.save(picture)
            lines.append(
                f"{picture}: frame {self.most_changed.frame}, before (left) and after (right), below at 4x what changed most"
            )
        if report:
            self.report.facts |= self.blur.facts
            self.report.summary = self.words
            self.report.write(report)
            lines.append(str(report))
        return lines


def run(
    reader: "FrameReader[Any]",
    writer: "FrameWriter[Any]",
    out: Path,
    deblurrer: Any,
    watcher: Watcher,
    compare: str | None,
    job: dict[str, Any],
) -> "DeblurResult":
    """Deblur with a progress bar until the end or Ctrl+C; `job` holds further options of deblur_video."""
    from stfan.video.pipeline import COMPARISONS, deblur_video

    try:
        with reader, watcher.bar.progress, graceful_interrupt(stderr_console) as stop:
            return deblur_video(
                reader,
                writer,
                out,
                deblurrer,
                on_start=watcher.start,
                on_frame=watcher.add,
                compose=COMPARISONS[compare],
                stop=stop,
                **job,
            )
    except KeyboardInterrupt as error:
        notes = getattr(error, "__notes__", ())
        print_interrupted("at once", *notes, *([f"to resume: {resume_command()}"] if notes else []))
        raise typer.Exit(130) from error


def speed(result: "DeblurResult") -> float:
    """Return the frames per second of this run."""
    return (result.frames - result.resumed) / result.seconds


def last_line(result: "DeblurResult", watcher: Watcher) -> str:
    """Say what was made, how fast, and what a user should know of it."""
    notes = result.damage + (watcher.words and f"; {watcher.words}")
    frames = "1 frame" if result.frames == 1 else f"{result.frames} frames"
    return f"{result.path}: {frames}, {speed(result):.2f} frames/s{notes}"


def print_json(result: "DeblurResult", choices: dict[str, Any], warnings: list[str]) -> None:
    """Print what the run made and with which choices, and how to resume it if it is not complete."""
    facts = {**vars(result), "path": str(result.path), "frames_per_second": speed(result), **choices}
    command = None if result.complete else resume_command()
    print(to_json(facts | {"warnings": warnings, "resume": command}))


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
