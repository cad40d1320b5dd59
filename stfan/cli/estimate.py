"""How long the rest of a video takes, and how much memory: said once, after its first frames."""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass

FIRST = 3.0  # seconds of measuring
LONG = 20.0  # seconds: of shorter work nothing is said


@dataclass(frozen=True)
class Rest:
    """What follows the video that is measured.

    Attributes:
        frames: number of frames.
        work: the time they take, in frames of that video.
        files: number of files.
    """

    frames: int = 0
    work: float = 0.0
    files: int = 0


NOTHING = Rest()


class Estimate:
    """Measures the first frames, and says what the others will take.

    The first frame is left out, since memory is set up for it; frames are measured until FIRST seconds have passed.

    Args:
        total: number of frames of the video, None if it is not known.
        device: where the network runs.
        say: prints a line.
        clock: gives seconds.
        rest: of other videos, what follows.
        resumable: whether an interrupted run can be resumed.
    """

    def __init__(
        self,
        total: int | None,
        device: str,
        say: Callable[[str], object],
        clock: Callable[[], float] = time.monotonic,
        rest: Rest = NOTHING,
        resumable: bool = True,
    ):
        self.total, self.device, self._say, self._clock = total, device, say, clock
        self._rest, self._resumable = rest, resumable
        self._done, self._count, self._began, self._said = 0, 0, 0.0, False

    def start(self, resumed: int) -> None:
        """Begin after so many frames that an earlier run made."""
        self._done = resumed

    def add(self) -> None:
        """Count a frame; say the line when enough have been measured, and much is left."""
        if self._said:
            return
        self._done += 1
        self._count += 1
        now = self._clock()
        if self._count == 1:
            self._began = now
        elif now - self._began >= FIRST:
            self._said = True
            seconds = (now - self._began) / (self._count - 1)
            line = describe(seconds, self._done, self.total, peak_memory(self.device), self._rest)
            if line:
                self._say(line if self._resumable else line.split(";")[0])


def describe(
    seconds: float, done: int, total: int | None, memory: float | None, rest: Rest = NOTHING
) -> str | None:
    """Say how long a video takes, or return None where little is left of it.

    Args:
        seconds: time that a frame takes.
        done: number of frames that are there.
        total: number of all frames, None if it is not known.
        memory: bytes, None if they are not known.
        rest: what follows that video.
    """
    size = "" if memory is None else f", {memory / 1e9:.1f} GB"
    if total is None and not rest.files:
        return f"about {seconds:.2g} s a frame{size}; the file does not say how many frames it has"
    frames = max((total or 0) - done, 0)
    left = (frames + rest.work) * seconds
    files = f" in {rest.files + 1} files" if rest.files else ""
    if left < LONG:
        return None
    return (
        f"about {duration(left)} for {frames + rest.frames} frames{files}{size}; "
        "Ctrl+C keeps what is done, and --resume goes on from it"
    )


def duration(seconds: float) -> str:
    """Put a time into words, to two units: 50 s, 3 min 20 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min"


def peak_memory(device: str) -> float | None:
    """Return the most bytes held so far: on CUDA by torch, else by this process; None where the system does not say."""
    import torch

    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
