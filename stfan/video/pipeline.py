"""Deblurring a video from its first frame to its last, so that an interrupted run can be resumed."""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

import av
import torch

from stfan.video.errors import DamagedPartialError, KeptFramesError, KeptFramesInterrupt
from stfan.video.partial_output import CHECKPOINT_SECONDS, SEGMENT_FRAMES, PartialOutput
from stfan.video.reader import BrokenInputError

NETWORK = "network."  # begins the names of the deblurrer's tensors
# What input, disk and machine raise; anything else is an error of this program, and keeps its type.
EXPECTED = (OSError, ValueError, RuntimeError, ArithmeticError, MemoryError)

Tag = TypeVar("Tag")  # what a reader hands to a writer with each frame: its time, or its name and format
TagOut = TypeVar("TagOut", covariant=True)
TagIn = TypeVar("TagIn", contravariant=True)


class FrameReader(Protocol[TagOut]):
    """The input of :func:`deblur_video`: a VideoReader or an ImageFolderReader."""

    path: Path
    damaged: int  # number of frames so far that were decoded with errors

    @property
    def expected_frames(self) -> int | None:
        """Number of frames for a progress bar, or None if it is not known."""

    def __enter__(self) -> Self:
        """Return itself."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the input."""

    def fingerprint(self) -> dict[str, Any]:
        """Return what tells this input from another; a run resumes only with the same."""

    def frames(self, skip: int = 0) -> Iterator[tuple[TagOut, torch.Tensor]]:
        """Yield (tag, tensor (3, H, W) in [0, 1]) of all frames but the first `skip`."""


class FrameWriter(Protocol[TagIn]):
    """The output of :func:`deblur_video`: a VideoWriter or an ImageFolderWriter."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the result depends on, beside the input."""

    def begin(self, folder: Path, saved: Mapping[str, torch.Tensor] | None) -> None:
        """Begin in a folder, or go on there from `saved`, which :meth:`checkpoint` returned."""

    def write(self, like: TagIn, pixels: torch.Tensor) -> None:
        """Add a frame (3, H, W) in [0, 1], with the tag of the frame that it is made from."""

    def checkpoint(self, segment_ends: bool) -> dict[str, torch.Tensor]:
        """Return what :meth:`begin` goes on from; all that was written is on the disk.

        Whether `segment_ends`, after SEGMENT_FRAMES frames or all, must depend on the number of frames alone: then the
        result does not depend on when it was interrupted.
        """

    def finish(self, incomplete: bool) -> Path:
        """Complete the file or folder, and return its path; `incomplete` says that the input holds more frames."""

    def abandon(self) -> None:
        """Close what is open, after an error."""


class FrameDeblurrer(Protocol):
    """Maps a frame (3, H, W) in [0, 1] to the like: a Deblurrer, or whatever has its state."""

    def __call__(self, frame: torch.Tensor) -> torch.Tensor:
        """Deblur the next frame."""

    def reset(self) -> None:
        """Begin a new video."""

    def state(self) -> dict[str, torch.Tensor]:
        """Return all that the next frame needs."""

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from what :meth:`state` returned."""


@dataclass
class DeblurResult:
    """What a run made.

    Attributes:
        path: the output, or what there is of it.
        complete: whether all frames are in it.
        frames: how many are.
        resumed: how many of them an earlier run had made.
        saved: how many the next run need not make again, if the output is not complete.
        seconds: time that the other frames took.
        damaged: how many frames of the input were decoded with errors.
    """

    path: Path
    complete: bool
    frames: int
    resumed: int
    saved: int
    seconds: float
    damaged: int = 0

    @property
    def damage(self) -> str:
        """Words on the damaged frames, for the end of a line; none if there are none."""
        return f"; {self.damaged} frames were decoded with errors" if self.damaged else ""


def show_after(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Return the deblurred frame alone."""
    return after


def side_by_side(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Put both frames beside each other, (3, H, 2 W): before on the left, after on the right."""
    return torch.cat([before, after], 2)


def split_screen(before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
    """Join the left half before and the right half after, with a white line between."""
    middle = before.shape[2] // 2
    both = torch.cat([before[..., :middle], after[..., middle:]], 2)
    both[..., middle : middle + 1] = 1
    return both


Compose = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
COMPARISONS: dict[str | None, Compose] = {  # by --compare
    None: show_after,
    "side": side_by_side,
    "split": split_screen,
}


def deblur_video(
    reader: FrameReader[Tag],
    writer: FrameWriter[Tag],
    out: Path,
    deblurrer: FrameDeblurrer,
    *,
    settings: Mapping[str, Any] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    on_start: Callable[[int], object] = lambda resumed: None,
    on_frame: Callable[[torch.Tensor, torch.Tensor], object] = lambda before, after: None,
    compose: Compose = show_after,
    stop: Callable[[], bool] = lambda: False,
) -> DeblurResult:
    """Deblur all frames of a reader into a writer; as many frames go out as came in.

    Args:
        reader: a VideoReader or an ImageFolderReader.
        writer: the VideoWriter or ImageFolderWriter for it.
        out: the file or folder to write; it gets this name only when it is complete.
        deblurrer: maps a frame (3, H, W) in [0, 1] to the like: a Deblurrer, or whatever has its state and restore too.
        settings: {name: value} of all else that the result depends on; a run with other settings is not resumed.
        resume: go on from what an interrupted run with the same settings left, if there is anything.
        overwrite: replace `out`, and without `resume` what an interrupted run left.
        on_start: called with the number of frames that are there already.
        on_frame: called with each frame before and after.
        compose: makes the frame to write from the frame before and after.
        stop: called after each frame; True ends the run and keeps all frames.

    Raises:
        ValueError, OSError, RuntimeError, ArithmeticError, MemoryError: of the input, the disk, the machine, before any
            frame was safe; nothing is left.
        KeptFramesError: the same when frames are safe. Where the input cannot be read on, what was made of the frames
            before is completed as after `stop`.
        KeptFramesInterrupt: Ctrl+C when frames are safe.
    """
    if out.exists() and out.samefile(reader.path):
        raise ValueError(f"{out}: would replace its own input")
    all_settings = reader.fingerprint() | dict(writer.settings) | dict(settings or {})
    with closing(PartialOutput(out, all_settings)) as partial:
        with _name_the_output(partial.folder):
            saved = partial.begin(resume, overwrite)
        try:
            with _name_the_output(partial.folder):
                writer.begin(partial.folder, saved)
                result = _run(reader, writer, partial, saved, deblurrer, on_start, on_frame, compose, stop)
                if result.complete:
                    partial.publish(result.path)
                    result.path = out
                return result
        except BaseException as error:
            writer.abandon()
            if isinstance(error, KeptFramesError | DamagedPartialError):
                raise
            if not partial.frames:
                with suppress(OSError):
                    partial.remove()
            elif isinstance(error, KeyboardInterrupt):
                raise KeptFramesInterrupt(partial.frames, partial.folder) from error
            elif isinstance(error, EXPECTED):
                raise KeptFramesError(error, partial.frames, partial.folder) from error
            raise


def _run(
    reader: FrameReader[Tag],
    writer: FrameWriter[Tag],
    partial: PartialOutput,
    saved: dict[str, torch.Tensor] | None,
    deblurrer: FrameDeblurrer,
    on_start: Callable[[int], object],
    on_frame: Callable[[torch.Tensor, torch.Tensor], object],
    compose: Compose,
    stop: Callable[[], bool],
) -> DeblurResult:
    frames = resumed = partial.frames
    if saved:
        deblurrer.restore({k.removeprefix(NETWORK): v for k, v in saved.items() if k.startswith(NETWORK)})
    else:
        deblurrer.reset()
    on_start(resumed)
    started = saved_at = now = time.monotonic()

    def checkpoint(segment_ends: bool) -> None:
        nonlocal saved_at
        tensors = {NETWORK + name: tensor for name, tensor in deblurrer.state().items()}
        partial.save(frames, tensors | writer.checkpoint(segment_ends))
        saved_at = time.monotonic()

    complete = True
    try:
        for tag, before in reader.frames(skip=resumed):
            after = deblurrer(before)
            writer.write(tag, compose(before, after))
            frames += 1
            frame_began, now = now, time.monotonic()
            if frames % SEGMENT_FRAMES == 0:
                checkpoint(segment_ends=True)
            # The next frame would end too late.
            elif now - saved_at + (now - frame_began) > CHECKPOINT_SECONDS:
                checkpoint(segment_ends=False)
            on_frame(before, after)
            if stop():
                complete = False
                break
    except BrokenInputError as error:
        if frames:
            raise KeptFramesError(error, frames, writer.finish(incomplete=True), playable=True) from error
        raise
    if frames % SEGMENT_FRAMES:
        checkpoint(segment_ends=complete)
    path = writer.finish(incomplete=not complete)
    seconds = time.monotonic() - started
    return DeblurResult(path, complete, frames, resumed, partial.frames, seconds, reader.damaged)


@contextmanager
def _name_the_output(folder: Path) -> Iterator[None]:
    """Turn errors of the disk and of the encoder into one line that names the folder."""
    try:
        yield
    except FileExistsError:
        raise
    except (av.FFmpegError, OSError) as error:
        raise OSError(f"{folder}: cannot be written: {error.strerror or error}") from error
