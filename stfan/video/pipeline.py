"""A video deblurred from beginning to end, so that what an interruption leaves is of use and the next run goes on."""

import time
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import av
import torch

from stfan.video.partial_output import SEGMENT, Workplace

NETWORK = "network."  # begins the names of the Deblurrer's tensors


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
