"""stfan deblur."""

import hashlib
import logging
import re
import shlex
import shutil
import sys
from pathlib import Path
from typing import Annotated, Literal

import torch
import typer

from stfan.cli.console import Bar, Lines, screen, stoppable
from stfan.cli.options import DTYPES, Device, Dtype, Overwrite, Page, Tile, Weights, choose_dtype
from stfan.devices import check_device
from stfan.files import check_writable, to_json, whole

log = logging.getLogger("stfan")
PICTURES = (".png", ".jpg", ".jpeg")


def seconds(text):
    """A time as people write it, 90.5 or 1:30.5 or 0:01:30.5, in seconds."""
    parts = text.split(":")
    if len(parts) > 3 or not all(re.fullmatch(r"\d+(\.\d*)?", part) for part in parts):
        raise ValueError("neither seconds nor h:mm:ss")
    return sum(float(part) * 60**power for power, part in enumerate(reversed(parts)))


def deblur(
    source: Annotated[
        Path, typer.Argument(metavar="INPUT", help="A video, or a folder with a picture for each frame.")
    ],
    out: Annotated[
        Path | None,
        typer.Option("-o", "--out", help="The video or folder to write, INPUT_deblurred if not given."),
    ] = None,
    weights: Weights = None,
    device: Device = "auto",
    dtype: Dtype = "auto",
    tile: Tile = None,
    start: Annotated[
        float | None,
        typer.Option(parser=seconds, metavar="TIME", help="Seconds or h:mm:ss; of pictures, which, from 0."),
    ] = None,
    end: Annotated[
        float | None, typer.Option(parser=seconds, metavar="TIME", help="The first that is left out.")
    ] = None,
    max_frames: Annotated[int | None, typer.Option(min=1, help="Stop after so many frames.")] = None,
    codec: Annotated[str | None, typer.Option(help="FFmpeg's encoder, libx264 if not given.")] = None,
    crf: Annotated[int | None, typer.Option(min=0, help="Quality: less is better and larger.")] = None,
    preset: Annotated[str | None, typer.Option(help="The encoder's: slower is smaller.")] = None,
    pix_fmt: Annotated[str | None, typer.Option(help="FFmpeg's name of the pixels' format.")] = None,
    lossless: Annotated[bool, typer.Option("--lossless", help="RGB as computed, with ffv1.")] = False,
    no_audio: Annotated[bool, typer.Option("--no-audio", help="Leave out the sound.")] = False,
    compare: Annotated[
        Literal["side", "split"] | None, typer.Option(help="Write before and after: both, or half of each.")
    ] = None,
    reset_on_cut: Annotated[bool, typer.Option("--reset-on-cut", help="Start afresh at scene cuts.")] = False,
    picture: Annotated[
        Path | None, typer.Option(help="Also write a picture: the frame that changed most, before and after.")
    ] = None,
    report: Page = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on where the same command was interrupted.")
    ] = False,
    overwrite: Overwrite = False,
    quiet: Annotated[bool, typer.Option("-q", "--quiet", help="Say nothing but errors.")] = False,
    verbose: Annotated[bool, typer.Option("-v", "--verbose", help="Say what is chosen.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
):
    """Deblur a video or a folder of pictures: as many frames out as in; times, colours, sound, subtitles kept."""
    from stfan.evaluation.report import Report
    from stfan.model.deblurrer import Deblurrer
    from stfan.model.weights import count, load, locate
    from stfan.video import pipeline
    from stfan.video.encoder import Encoding
    from stfan.video.image_folder import Pictures, PictureTarget
    from stfan.video.reader import Source
    from stfan.video.writer import VideoTarget

    folder, encoding = source.is_dir(), Encoding(codec, crf, preset, pix_fmt, lossless)
    if out is None:
        ending = (
            ".mkv" if lossless else source.suffix if source.suffix.lower() in (".mkv", ".mov") else ".mp4"
        )
        out = (
            Path(f"{source.resolve()}_deblurred")
            if folder
            else source.with_name(f"{source.stem}_deblurred{ending}")
        )
    if folder and (encoding != Encoding() or no_audio):
        raise typer.BadParameter("how to encode and --no-audio are for videos; pictures keep their kind")
    if folder and any(at is not None and at % 1 for at in (start, end)):
        raise typer.BadParameter("--start and --end of pictures are whole numbers")
    if end is not None and end <= (start or 0):
        raise typer.BadParameter("--end must be later than --start")
    if quiet and verbose:
        raise typer.BadParameter("either --quiet or --verbose")
    check_picture(picture, source, overwrite or resume)
    check_writable("--report", report, ".html", overwrite or resume)
    device = check_device(device)
    dtype = choose_dtype(dtype, device)
    with Lines(screen, quiet, verbose).listening() as lines:
        if folder:
            frames = Pictures(source, int(start or 0), None if end is None else int(end), max_frames)
            target = PictureTarget(out)
        else:
            frames = Source(source, start or 0.0, end, max_frames)
            target = VideoTarget(out, frames, encoding, not no_audio, 2 if compare == "side" else 1)
        model = load(weights, device, DTYPES[dtype])
        with open(locate(weights), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        settings = {"weights": digest, "dtype": dtype, "compare": compare, "reset-on-cut": reset_on_cut}
        for name, value in {"device": device, **settings, **target.job}.items():
            log.info("%s: %s", name, value)
        facts = {"weights": str(weights or "bundled"), "parameters": count(model)}
        facts |= {"device": device, "dtype": dtype}
        page = report and Report(model, source.resolve().name, facts)
        best, bar = Most(), Bar(screen, source.name, frames.expected_frames, not quiet)

        def on_start(resumed):
            best.seen = resumed
            if page:
                page.first = resumed
            bar.start(resumed)

        def on_frame(before, after):
            best.see(before, after)
            if page:
                page.see(before, after)
            bar.step()

        try:
            with frames, bar.progress, stoppable(screen) as stop:
                outcome = pipeline.deblur(
                    frames,
                    target,
                    out,
                    Deblurrer(model, tile, reset_on_cut),
                    settings=settings,
                    resume=resume,
                    overwrite=overwrite,
                    on_start=on_start,
                    on_frame=on_frame,
                    shown=pipeline.SHOWN[compare],
                    stop=stop,
                )
        except KeyboardInterrupt as error:
            notes = getattr(error, "__notes__", ())
            say_interrupted("at once", *notes, *([f"to go on: {resuming()}"] if notes else []))
            raise typer.Exit(130) from error
        if not best.pair and (picture or page):
            log.warning("nothing for --picture or --report to show: an earlier run made all frames")
            picture = page = None
        if picture:
            best.save(picture)
        if page:
            page.write(report)
    speed = (outcome.frames - outcome.resumed) / outcome.seconds
    if as_json:
        result = {**vars(outcome), "path": str(outcome.path), "frames_per_second": speed, "device": device}
        print(to_json(result | {"warnings": lines.warnings, "resume": None if outcome.whole else resuming()}))
    elif outcome.whole and not quiet:
        print(f"{out}: {outcome.frames} frames, {speed:.2f} frames/s")
        if picture:
            print(f"{picture}: frame {best.frame}, before (left) and after (right)")
        if page:
            print(report)
    if not outcome.whole:
        say_interrupted(
            f"after {outcome.frames} frames; what there is: {outcome.path}",
            f"to go on from frame {outcome.saved}: {resuming()}",
        )
        raise typer.Exit(130)


def say_interrupted(*lines):
    """Say so, and how to go on."""
    print(f"stfan: interrupted {'; '.join(lines)}", file=sys.stderr)


def resuming():
    """The command that goes on where this one was interrupted."""
    name = Path(sys.argv[0]).name
    started = [name if shutil.which(name) == sys.argv[0] else sys.argv[0]]
    if name == "__main__.py":
        started = [sys.executable, "-m", "stfan"]
    return shlex.join([*started, *sys.argv[1:], *([] if "--resume" in sys.argv else ["--resume"])])


def check_picture(picture, source, overwrite):
    """Refuse, before any work is done, a picture that can not be written or must not be."""
    if picture is None:
        return
    if picture.suffix.lower() not in PICTURES or not picture.parent.is_dir():
        raise ValueError(
            f"{picture}: --picture must be a file in a folder that exists, {' or '.join(PICTURES)}"
        )
    if source.exists() and (
        (picture.exists() and picture.samefile(source)) or picture.parent.samefile(source)
    ):
        raise ValueError(f"{picture}: --picture would replace its own input, or be part of it")
    if picture.exists() and not overwrite:
        raise FileExistsError(f"{picture}: exists already; --overwrite replaces it")


class Most:
    """Of all frames the one that changed most, and what became of it."""

    def __init__(self):
        self.seen, self.change, self.frame, self.pair = 0, -1.0, None, None

    def see(self, before, after):
        change = float((after - before).abs().mean())
        if change > self.change:
            self.change, self.frame, self.pair = change, self.seen, (before, after)
        self.seen += 1

    def save(self, path):
        from stfan.images import to_8bit, write_image

        with whole(path) as partial:
            write_image(partial, to_8bit(torch.cat(self.pair, 2)))
