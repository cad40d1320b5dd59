"""One deblurring job: what to read, by which network, how to write it, which part, and what to show of it."""

import hashlib
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from stfan.cli.options import resolve_dtype, torch_dtype
from stfan.devices import resolve_device
from stfan.video.encoder import Encoding
from stfan.video.image_folder import ImageFolderReader, ImageFolderWriter
from stfan.video.partial_output import PIPE
from stfan.video.pipe import PipeReader, PipeWriter
from stfan.video.pipeline import (
    COMPARISONS,
    DeblurResult,
    FrameObserver,
    FrameReader,
    FrameWriter,
    deblur_video,
)
from stfan.video.reader import VideoReader
from stfan.video.writer import VideoWriter

if TYPE_CHECKING:
    from stfan.model.deblurrer import Deblurrer
    from stfan.model.network import STFAN

log = logging.getLogger("stfan")
CHOSEN = Encoding()  # by the input and the output's name


class JobError(ValueError):
    """A job whose settings do not go together; the message names them as the fields are named."""


@dataclass(frozen=True)
class LoadedNetwork:
    """A network on its device, ready for any number of videos.

    Attributes:
        choice: what it was loaded by.
        model: an STFAN.
        device: where it runs, as torch names it.
        dtype: its precision: fp32, fp16 or bf16.
        digest: of the weight file.
    """

    choice: "NetworkChoice"
    model: "STFAN"
    device: str
    dtype: str
    digest: str

    def deblurrer(self) -> "Deblurrer":
        """Return a Deblurrer for another video."""
        from stfan.model.deblurrer import Deblurrer

        return Deblurrer(self.model, self.choice.tile, self.choice.reset_on_cut, self.choice.strength)


@dataclass(frozen=True)
class NetworkChoice:
    """Which weights, where and how precisely they run, and how frames go through them.

    Attributes:
        weights: a weight file, or the name of bundled weights; the default ones if None.
        device: a name that :func:`stfan.devices.resolve_device` takes.
        dtype: "auto", "fp32", "fp16", "bf16".
        tile, reset_on_cut, strength: see :class:`stfan.Deblurrer`.
    """

    weights: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    tile: int | None = None
    reset_on_cut: bool = False
    strength: float = 1.0

    def load(self) -> LoadedNetwork:
        """Load the network.

        Raises:
            ValueError, OSError: there is no such device or weight file.
        """
        from stfan.model.weights import load, locate

        device = resolve_device(self.device)
        dtype = resolve_dtype(self.dtype, device)
        model = load(self.weights, device, torch_dtype(dtype))
        with open(locate(self.weights), "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()[:16]
        return LoadedNetwork(self, model, device, dtype, digest)


@dataclass(frozen=True)
class Part:
    """Which frames to read: all if every field is None.

    Attributes:
        start, end: seconds from the first frame, or numbers of images of a folder; a frame at `end` is left out.
        max_frames: the most frames.
    """

    start: float | None = None
    end: float | None = None
    max_frames: int | None = None

    def check(self) -> None:
        """Raise JobError for an end before the start."""
        if self.end is not None and self.end <= (self.start or 0):
            raise JobError(f"end must be later than start, got {self.end:g} and {self.start or 0:g}")


@dataclass(frozen=True)
class Look:
    """What to show of the change.

    Attributes:
        compare: write before and after: "side" by side, or "split" in the middle; None writes the deblurred frame.
        picture: also write an image of the frame that changed most.
        report: also write an HTML report.
    """

    compare: Literal["side", "split"] | None = None
    picture: Path | None = None
    report: Path | None = None


@dataclass(frozen=True)
class DeblurJob:
    """Everything that one output depends on.

    Attributes:
        input: a video, or a folder with an image for each frame, or PIPE: y4m from standard input.
        output: the video or folder to write, or PIPE; :func:`default_output` if None.
        network: which network.
        encoding: how to encode a video.
        part: which frames.
        look: what to show of the change.
        sound: whether to copy the sound of a video.
        deinterlace: "auto": frames that are marked as interlaced; "off": none.
        resume, overwrite: see :func:`stfan.video.pipeline.deblur_video`.
    """

    input: Path
    output: Path | None = None
    network: NetworkChoice = NetworkChoice()
    encoding: Encoding = CHOSEN
    part: Part = Part()
    look: Look = Look()
    sound: bool = True
    deinterlace: Literal["auto", "off"] = "auto"
    resume: bool = False
    overwrite: bool = False

    @property
    def out(self) -> Path:
        """The output, named after the input if no other name was given."""
        return self.output or default_output(self.input, self.encoding.lossless)

    def check(self) -> None:
        """Raise JobError for settings that the input does not allow, and for an end before the start."""
        self.part.check()
        if PIPE in (self.input, self.out):
            self._check_pipes()
        if self.input.is_dir():
            if self.encoding != CHOSEN or not self.sound:
                raise JobError("encoding and sound are of videos; images keep their format")
            for name, time in (("start", self.part.start), ("end", self.part.end)):
                if time is not None and time % 1:
                    raise JobError(f"{name} of a folder must be a whole number, got {time:g}")

    def _check_pipes(self) -> None:
        """Raise JobError for what standard input and standard output do not allow."""
        if self.resume:
            raise JobError("resume is for files: a pipe cannot be read or written from its middle")
        if self.input == PIPE and self.part.start:
            raise JobError("start is for files: what reads a pipe begins with its first frame")
        if self.input == PIPE and (sys.stdin is None or sys.stdin.isatty()):
            raise JobError("input is a terminal, or closed; - reads y4m from a pipe")
        if self.out == PIPE and self.input.is_dir():
            raise JobError("output must be a folder if the input is one, got -")
        if self.out == PIPE and self.encoding != Encoding(pix_fmt=self.encoding.pix_fmt):
            raise JobError("codec, crf, preset and lossless are for files: a pipe gets y4m, of any pix_fmt")
        if self.out == PIPE and (sys.stdout is None or sys.stdout.isatty()):
            raise JobError("output is a terminal, or closed; - writes y4m into a pipe")

    def open(self) -> "OpenJob":
        """Open the input, and check that the output can be written; nothing is written yet.

        Raises:
            ValueError, OSError: the input cannot be read, or the output not written.
        """
        self.check()
        part = self.part
        if self.input.is_dir():
            last = None if part.end is None else int(part.end)
            images = ImageFolderReader(self.input, int(part.start or 0), last, part.max_frames)
            return OpenJob(self, images, ImageFolderWriter(self.out))
        video: VideoReader
        deinterlace = self.deinterlace == "auto"
        if self.input == PIPE:
            video = PipeReader(sys.stdin.buffer, part.end, part.max_frames, deinterlace)
        else:
            video = VideoReader(self.input, part.start or 0.0, part.end, part.max_frames, deinterlace)
        columns = 2 if self.look.compare == "side" else 1
        try:
            if self.out == PIPE:
                pipe = PipeWriter(sys.stdout.buffer, video, self.encoding.pix_fmt, columns)
                return OpenJob(self, video, pipe)
            return OpenJob(self, video, VideoWriter(self.out, video, self.encoding, self.sound, columns))
        except BaseException:
            video.__exit__(None, None, None)
            raise

    def run(self, network: LoadedNetwork | None = None) -> DeblurResult:
        """Do it; `network` saves loading `self.network` again for each of many jobs.

        Raises:
            see :func:`stfan.video.pipeline.deblur_video`.
        """
        opened = self.open()
        with opened.reader:
            return opened.run(network or self.network.load())


@dataclass(frozen=True)
class OpenJob:
    """A job whose input is open and whose output can be written. Close `reader` at the end, by a with statement."""

    job: DeblurJob
    reader: FrameReader[Any]
    writer: FrameWriter[Any]

    @property
    def plan(self) -> list[str]:
        """What becomes of each part of a video, a line each; nothing of a folder or pipe."""
        return [str(line) for line in self.writer.plan.lines] if isinstance(self.writer, VideoWriter) else []

    def settings(self, network: LoadedNetwork) -> dict[str, Any]:
        """Return what the result depends on, beside the input and the encoding: {option: value}."""
        return {
            "weights": network.digest,
            "dtype": network.dtype,
            "compare": self.job.look.compare,
            "reset-on-cut": network.choice.reset_on_cut,
            "strength": network.choice.strength,
        }

    def log_choices(self, network: LoadedNetwork) -> None:
        """Log with what choices the job runs."""
        choices = {"device": network.device} | self.settings(network) | dict(self.writer.settings)
        for name, value in choices.items():
            log.info("%s: %s", name, value)

    def run(
        self,
        network: LoadedNetwork,
        on_start: Callable[[int], object] = lambda resumed: None,
        observer: FrameObserver | None = None,
        stop: Callable[[], bool] = lambda: False,
    ) -> DeblurResult:
        """Deblur; the arguments are those of :func:`stfan.video.pipeline.deblur_video`."""
        job = self.job
        return deblur_video(
            self.reader,
            self.writer,
            job.out,
            network.deblurrer(),
            settings=self.settings(network),
            resume=job.resume,
            overwrite=job.overwrite,
            on_start=on_start,
            observer=observer,
            compose=COMPARISONS[job.look.compare],
            stop=stop,
        )


def default_output(source: Path, lossless: bool = False, word: str = "deblurred") -> Path:
    """Name an output after its input: INPUT_word, with a suffix that a video can be written to; a pipe's is a pipe."""
    if source == PIPE:
        return PIPE
    if source.is_dir():
        return Path(f"{source.resolve()}_{word}")
    return source.with_name(f"{source.stem}_{word}{video_suffix(source, lossless)}")


def video_suffix(source: Path, lossless: bool = False) -> str:
    """Choose the suffix of an output: that of the input where times and sound can be written to it, else .mp4."""
    if lossless:
        return ".mkv"
    return source.suffix if source.suffix.lower() in (".mkv", ".mov") else ".mp4"
