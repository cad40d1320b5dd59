"""Deblurring a video from its first frame to its last, so that an interrupted run can be resumed."""

import time
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Generic, Protocol, Self, TypeVar

import av
import torch

from stfan.video.colour import CodedFrame
from stfan.video.errors import (
    BrokenInputError,
    ClosedPipeError,
    DamagedPartialError,
    KeptFramesError,
    KeptFramesInterrupt,
    count_frames,
)
from stfan.video.partial_output import (
    CHECKPOINT_SECONDS,
    PIPE,
    SEGMENT_FRAMES,
    NoPartialOutput,
    PartialOutput,
)
from stfan.video.stages import Ahead, Behind
from stfan.video.transfer import transfer_to

NETWORK = "network."  # begins the names of the deblurrer's tensors

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

    def coded_frames(self, skip: int = 0) -> Generator[tuple[TagOut, CodedFrame], None, None]:
        """Yield (tag, integers) of all frames but the first `skip`."""


class FrameWriter(Protocol[TagIn]):
    """The output of :func:`deblur_video`: a VideoWriter or an ImageFolderWriter."""

    @property
    def settings(self) -> Mapping[str, Any]:
        """What the result depends on, beside the input."""

    def begin(self, folder: Path, saved: Mapping[str, torch.Tensor] | None) -> None:
        """Begin in a folder, or go on there from `saved`, which :meth:`checkpoint` returned."""

    def quantise(self, pixels: torch.Tensor) -> torch.Tensor:
        """Round a frame (3, H, W) in [0, 1] to the integers that are written, on its device."""

    def write(self, like: TagIn, samples: torch.Tensor) -> None:
        """Add a frame that :meth:`quantise` returned, on the CPU, with the tag of the frame that it is made from."""

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

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    def launch(self, frame: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the next frame deblurred, and whether all is well, without waiting for the device."""

    def check_finite(self, finite: bool) -> None:
        """Raise FloatingPointError if all is not well."""

    def reset(self) -> None:
        """Begin a new video."""

    def state(self) -> dict[str, torch.Tensor]:
        """Return all that the next frame needs."""

    def restore(self, state: dict[str, torch.Tensor]) -> None:
        """Go on from what :meth:`state` returned."""


class FrameObserver(Protocol):
    """Takes note of frames as they are done."""

    def measure(self, before: torch.Tensor, after: torch.Tensor) -> torch.Tensor:
        """Return numbers (n,) about a frame, without waiting for its device."""

    def add(self, before: torch.Tensor, after: torch.Tensor, numbers: list[float]) -> None:
        """Take the next frame, before and after, and what :meth:`measure` returned of it."""


@dataclass(frozen=True)
class Overlap:
    """How far decoding, network and encoding run apart.

    Attributes:
        depth: frames that wait between two of them, which have a thread each; 0: one after the other in one thread.
        lag: frames that the network begins before the result of one is waited for.
    """

    depth: int
    lag: int


SERIAL = Overlap(depth=0, lag=0)
# On a CPU the steps would take each other's cores.
OVERLAPPED = Overlap(depth=3, lag=1)


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
        verb = "was" if self.damaged == 1 else "were"
        return f"; {count_frames(self.damaged)} {verb} decoded with errors" if self.damaged else ""


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
COMPARISONS: dict[str | None, Compose] = {  # by the value of Look.compare
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
    observer: FrameObserver | None = None,
    compose: Compose = show_after,
    stop: Callable[[], bool] = lambda: False,
    overlap: Overlap | None = None,
) -> DeblurResult:
    """Deblur all frames of a reader into a writer; as many frames go out as came in.

    Args:
        reader: a VideoReader or an ImageFolderReader.
        writer: the VideoWriter or ImageFolderWriter for it.
        out: the file or folder to write, which gets this name only when it is complete; PIPE for a PipeWriter.
        deblurrer: maps a frame (3, H, W) in [0, 1] to the like: a Deblurrer, or whatever has its state and restore too.
        settings: {name: value} of all else that the result depends on; a run with other settings is not resumed.
        resume: go on from what an interrupted run with the same settings left, if there is anything.
        overwrite: replace `out`, and without `resume` what an interrupted run left.
        on_start: called with the number of frames that are there already.
        on_frame: called with each frame before and after, on the network's device.
        observer: likewise, with what it measured; it need not wait for the device.
        compose: makes the frame to write from the frame before and after.
        stop: called after each frame; True ends the run and keeps all frames, those too that are decoded already.
        overlap: how far the steps run apart; OVERLAPPED on a GPU and SERIAL on a CPU if None.

    Raises:
        Exception: of the input, the disk, the machine, before any frame was safe; nothing is left.
        KeptFramesError: the same when frames are safe. Where the input cannot be read on, what was made of the frames
            before is completed as after `stop`.
        KeptFramesInterrupt: Ctrl+C when frames are safe.
    """
    if out != PIPE and out.exists() and reader.path.exists() and out.samefile(reader.path):
        raise ValueError(f"{out}: would replace its own input")
    all_settings = reader.fingerprint() | dict(writer.settings) | dict(settings or {})
    with closing(NoPartialOutput() if out == PIPE else PartialOutput(out, all_settings)) as partial:
        with _name_the_output(partial.folder):
            saved = partial.begin(resume, overwrite)
        try:
            with _name_the_output(partial.folder):
                writer.begin(partial.folder, saved)
                steps = _Steps(reader, writer, partial, deblurrer, compose, observer)
                overlap = overlap or (OVERLAPPED if deblurrer.device.type == "cuda" else SERIAL)
                result = steps.run(saved, overlap, on_start, on_frame, stop)
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
            elif isinstance(error, Exception):
                raise KeptFramesError(error, partial.frames, partial.folder) from error
            raise


@dataclass
class _Launched(Generic[Tag]):
    """A frame that the network works on."""

    tag: Tag
    before: torch.Tensor
    after: torch.Tensor
    # waits for: the samples to write, whether the network's numbers are finite, what the observer measured
    fetch: Callable[[], list[torch.Tensor]]
    numbers: list[float] = field(default_factory=list)


class _Steps(Generic[Tag]):
    """Decoding, network and encoding, each of which goes through the frames in their order."""

    def __init__(
        self,
        reader: FrameReader[Tag],
        writer: FrameWriter[Tag],
        partial: PartialOutput,
        deblurrer: FrameDeblurrer,
        compose: Compose,
        observer: FrameObserver | None,
    ):
        self.reader, self.writer, self.partial, self.deblurrer = reader, writer, partial, deblurrer
        self.compose, self.observer = compose, observer
        self.transfer = transfer_to(deblurrer.device)

    def run(
        self,
        saved: dict[str, torch.Tensor] | None,
        overlap: Overlap,
        on_start: Callable[[int], object],
        on_frame: Callable[[torch.Tensor, torch.Tensor], object],
        stop: Callable[[], bool],
    ) -> DeblurResult:
        frames = resumed = self.partial.frames
        if saved:
            state = {k.removeprefix(NETWORK): v for k, v in saved.items() if k.startswith(NETWORK)}
            self.deblurrer.restore(state)
        else:
            self.deblurrer.reset()
        on_start(resumed)
        started = saved_at = now = time.monotonic()
        complete = True
        launched: deque[_Launched[Tag]] = deque()
        with (
            closing(Behind(overlap.depth)) as output,
            closing(Ahead(self.reader.coded_frames(skip=resumed), overlap.depth)) as source,
        ):
            try:
                for tag, coded in source:
                    launched.append(self._launch(tag, coded))
                    frames += 1
                    frame_began, now = now, time.monotonic()
                    segment_ends = frames % SEGMENT_FRAMES == 0
                    # Or the next frame would end too late.
                    due = segment_ends or now - saved_at + (now - frame_began) > CHECKPOINT_SECONDS
                    done = self._write(launched, 0 if due else overlap.lag, output)
                    if due:
                        self._checkpoint(frames, segment_ends, output)
                        saved_at = time.monotonic()
                    self._observe(done, on_frame)
                    if complete and stop():
                        complete = False
                        source.stop()
            except BrokenInputError as error:
                self._observe(self._write(launched, 0, output), on_frame)
                output.wait()
                if frames and self.partial.out != PIPE:
                    path = self.writer.finish(incomplete=True)
                    raise KeptFramesError(error, frames, path, playable=True) from error
                raise
            except Exception:
                # What the writer was given is good.
                with suppress(Exception):
                    output.wait()
                raise
            self._observe(self._write(launched, 0, output), on_frame)
            if frames % SEGMENT_FRAMES:
                self._checkpoint(frames, complete, output)
            output.wait()
        path = self.writer.finish(incomplete=not complete)
        seconds = time.monotonic() - started
        # What reads a pipe begins with its first frame, whatever is kept.
        saved_frames = 0 if self.reader.path == PIPE else self.partial.frames
        return DeblurResult(path, complete, frames, resumed, saved_frames, seconds, self.reader.damaged)

    def _launch(self, tag: Tag, coded: CodedFrame) -> _Launched[Tag]:
        """Begin a frame on the network's device; nothing waits for it."""
        before = coded.coding.to_rgb(self.transfer.upload(coded.samples))
        after, finite = self.deblurrer.launch(before)
        results = [self.writer.quantise(self.compose(before, after)), finite]
        if self.observer:
            results.append(self.observer.measure(before, after))
        return _Launched(tag, before, after, self.transfer.download(*results))

    def _write(self, launched: deque[_Launched[Tag]], keep: int, output: Behind) -> list[_Launched[Tag]]:
        """Hand all but the last `keep` frames to the writer, and return them; what is not finite is not written."""
        done = []
        while len(launched) > keep:
            frame = launched.popleft()
            samples, finite, *numbers = frame.fetch()
            self.deblurrer.check_finite(bool(finite))
            frame.numbers = numbers[0].tolist() if numbers else []
            output.put(self.writer.write, frame.tag, samples)
            done.append(frame)
        return done

    def _observe(
        self, done: list[_Launched[Tag]], on_frame: Callable[[torch.Tensor, torch.Tensor], object]
    ) -> None:
        for frame in done:
            on_frame(frame.before, frame.after)
            if self.observer:
                self.observer.add(frame.before, frame.after, frame.numbers)

    def _checkpoint(self, frames: int, segment_ends: bool, output: Behind) -> None:
        """Save the state after so many frames, as soon as the writer has them: its calls are made in order."""
        state = {NETWORK + name: tensor for name, tensor in self.deblurrer.state().items()}

        def save() -> None:
            self.partial.save(frames, state | self.writer.checkpoint(segment_ends))

        output.put(save)


@contextmanager
def _name_the_output(folder: Path) -> Iterator[None]:
    """Turn errors of the disk and of the encoder into one line that names the folder."""
    try:
        yield
    except (FileExistsError, ClosedPipeError):
        raise
    except (av.FFmpegError, OSError) as error:
        raise OSError(f"{folder}: cannot be written: {error.strerror or error}") from error
