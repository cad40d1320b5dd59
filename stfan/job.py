"""A video deblurred from beginning to end, so that what an interruption leaves is of use and the next run goes on."""

import json
import os
import shutil
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import av
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from stfan.encode import SEGMENT

try:
    import fcntl
except ImportError:  # Windows has none: nobody is locked out there
    fcntl = None

NETWORK = "network."  # begins the names of the Deblurrer's tensors
LOCK = "lock"  # the file in a Workplace that the run that has it holds locked


@dataclass
class Outcome:
    """What came of a run.

    Attributes:
        path: the result, or, where it is not whole, what there is of it.
        whole: whether all frames are in it.
        frames: how many are.
        resumed: how many of them an earlier run had made.
        saved: how many the next run will not have to make, where it is not whole.
        seconds: how long the others took.
    """

    path: Path
    whole: bool
    frames: int
    resumed: int
    saved: int
    seconds: float


class Workplace:
    """The folder OUT.partial, where a result is made, with all that it takes to go on; one run at a time has it.

    Args:
        out: the file or folder to come.
        job: {what: value} that the result depends on, as JSON has it.

    Attributes:
        frames: how many are safe.
    """

    def __init__(self, out, job):
        self.out, self.job, self.frames = out, json.loads(json.dumps(job)), 0
        self.folder = out.with_name(out.name + ".partial")
        self._state, self._lock = self.folder / "state.safetensors", None

    def begin(self, resume, overwrite):
        """Make the folder, or take up what is in it.

        Returns:
            the tensors of the last :meth:`save`, by name, or None if there was none.

        Raises:
            FileExistsError: out exists and overwrite is not set, or the folder does and neither is, or another run
                has it.
            ValueError: another job left the folder.
        """
        empty = self.out.is_dir() and not any(self.out.iterdir())
        if self.out.exists() and not (overwrite or empty):
            raise FileExistsError(f"{self.out}: exists already; --overwrite replaces it")
        if self.folder.exists():
            if self._state.exists():  # in a folder of somebody else's nothing is to be written
                self._take()
            frames, job, tensors = self._read()
            if frames and resume:
                self._compare(job)
                self.frames = frames
                return tensors
            if frames and not overwrite:
                raise FileExistsError(
                    f"{self.folder}: has {frames} frames of an interrupted run; --resume goes on from them, "
                    "--overwrite begins again"
                )
            if (self.folder / self.out.name).exists() and not (overwrite or resume):
                raise FileExistsError(
                    f"{self.folder}: holds what an interrupted run left; --overwrite begins again"
                )
            for left in self.folder.iterdir():
                if left.name != LOCK:
                    shutil.rmtree(left) if left.is_dir() else left.unlink()
        else:
            try:
                self.folder.mkdir()
            except FileExistsError:
                raise self._taken() from None
            self._take()
        self.save(0, {})
        return None

    def _take(self):
        """Lock the folder; the system lets go of it when the process ends, however it ends."""
        if fcntl is None:
            return
        self._lock = open(self.folder / LOCK, "wb")  # noqa: SIM115  for as long as the run goes on
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise self._taken() from None
        except OSError:  # a disk that knows no locks
            pass

    def _taken(self):
        return FileExistsError(f"{self.out}: another run is writing it")

    def close(self):
        """Let another run have the folder."""
        if self._lock:
            self._lock.close()

    def _read(self):
        try:
            with safe_open(self._state, "pt") as file:
                told = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return int(told["frames"]), json.loads(told["job"]), tensors
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise FileExistsError(
                f"{self.folder}: is in the way, and not what an interrupted run left"
            ) from error

    def _compare(self, job):
        other = [
            f"{key} was {job.get(key)} and is {self.job.get(key)}"
            for key in {**job, **self.job}
            if job.get(key) != self.job.get(key)
        ]
        if other:
            raise ValueError(
                f"{self.folder}: was begun otherwise ({'; '.join(other)}); --overwrite without --resume begins again"
            )

    def save(self, frames, tensors):
        """Write down that so many frames are safe, and what the next one needs; whole or not at all."""
        told = {"frames": str(frames), "job": json.dumps(self.job)}
        tensors = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        partial = self._state.with_suffix(".new")
        try:
            partial.write_bytes(save(tensors, told))
            os.replace(partial, self._state)
        finally:
            with suppress(OSError):
                partial.unlink(missing_ok=True)
        self.frames = frames

    def publish(self, result):
        """Give the result its name; a folder that has it keeps its other files."""
        if result.is_dir() and self.out.is_dir():
            for file in result.iterdir():
                os.replace(file, self.out / file.name)
        else:
            os.replace(result, self.out)
        self.remove()

    def remove(self):
        """All is done, or nothing worth keeping."""
        shutil.rmtree(self.folder)


def deblur(
    source,
    target,
    out,
    deblurrer,
    *,
    settings=None,
    resume=False,
    overwrite=False,
    on_start=lambda resumed: None,
    on_frame=lambda before, after: None,
    shown=lambda before, after: after,
    stop=lambda: False,
):
    """Deblur a source into a target, frame by frame; as many frames go out as came in.

    Args:
        source: a Source or Pictures.
        target: the VideoTarget or PictureTarget for it.
        out: the file or folder to write; it is there when it is whole, not before.
        deblurrer: maps a frame (3, H, W) in [0, 1] to the like; a Deblurrer, or what has its state and restore too.
        settings: {what: value} of all else that the result depends on; one run does not go on with another's.
        resume: go on from what an interrupted run of the same job left, if there is anything.
        overwrite: out may be replaced, and without resume what an interrupted run left.
        on_start: called with the number of frames that are there already.
        on_frame: called with each frame before and after.
        shown: what to write of a frame before and after.
        stop: asked after each frame; True ends the run and keeps what there is.

    Returns:
        an Outcome.

    Raises:
        ValueError, OSError, RuntimeError: of the input, the disk, the machine. What is safe is kept, and a note of
            the exception says where; if that is nothing, nothing is left.
    """
    if out.exists() and out.samefile(source.path):
        raise ValueError(f"{out}: would replace its own input")
    with closing(Workplace(out, source.identity() | target.job | (settings or {}))) as place:
        with _told(place.folder):
            saved = place.begin(resume, overwrite)
        try:
            with _told(place.folder):
                target.begin(place.folder, saved)
                outcome = _run(source, target, place, saved, deblurrer, on_start, on_frame, shown, stop)
                if outcome.whole:
                    place.publish(outcome.path)
                    outcome.path = out
                return outcome
        except BaseException as error:
            target.abandon()
            if place.frames:
                error.add_note(
                    f"({place.frames} frames are kept in {place.folder}; --resume goes on from them)"
                )
            else:
                with suppress(OSError):
                    place.remove()
            raise


def _run(source, target, place, saved, deblurrer, on_start, on_frame, shown, stop):
    frames = resumed = place.frames
    if saved:
        deblurrer.restore({k.removeprefix(NETWORK): v for k, v in saved.items() if k.startswith(NETWORK)})
    else:
        deblurrer.reset()
    on_start(resumed)
    began = time.monotonic()

    def checkpoint():
        tensors = {NETWORK + name: tensor for name, tensor in deblurrer.state().items()}
        place.save(frames, tensors | target.checkpoint())

    whole = True
    for like, before in source.frames(skip=resumed):
        after = deblurrer(before)
        target.write(like, shown(before, after))
        frames += 1
        if frames % SEGMENT == 0:
            checkpoint()
        on_frame(before, after)
        if stop():
            whole = False
            break
    if whole and frames % SEGMENT:
        checkpoint()
    path = target.finish(part=not whole)
    return Outcome(path, whole, frames, resumed, place.frames, time.monotonic() - began)


@contextmanager
def _told(folder):
    """Errors of the disk and of the encoder in one line that names the place."""
    try:
        yield
    except FileExistsError:
        raise
    except (av.FFmpegError, OSError) as error:
        raise OSError(f"{folder}: cannot be written: {error.strerror or error}") from error


def side_by_side(before, after):
    """Both, left and right: (3, H, 2 W)."""
    return torch.cat([before, after], 2)


def split(before, after):
    """The left half before and the right half after, with a white line between."""
    middle = before.shape[2] // 2
    both = torch.cat([before[..., :middle], after[..., middle:]], 2)
    both[..., middle : middle + 1] = 1
    return both


SHOWN = {None: lambda before, after: after, "side": side_by_side, "split": split}  # by --compare
