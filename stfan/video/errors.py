"""What can go wrong with an input, an encoding, an output written piece by piece: errors with fields, for advice."""

from collections.abc import Sequence
from pathlib import Path


def count_frames(number: int) -> str:
    """Put a number of frames into words: 1 frame, 2 frames."""
    return f"{number} frame{'s' * (number != 1)}"


class BrokenInputError(ValueError):
    """The input cannot be read from here on; the frames before are good."""


class ChangedSizeError(BrokenInputError):
    """The frames of a video change their size.

    Attributes:
        end: the time of the first frame of another size, in seconds from the first frame.
    """

    def __init__(self, path: Path, frame: int, size: tuple[int, int], before: tuple[int, int], end: float):
        sizes = [f"{width}x{height}" for width, height in (size, before)]
        super().__init__(f"{path}: frame {frame} is {sizes[0]}, those before it {sizes[1]}, until {end} s")
        self.end = end


class EncodingError(ValueError):
    """There is no such encoding.

    Attributes:
        fields: the fields of the Encoding that are wrong, or of which some are too many.
    """

    def __init__(self, words: str, *fields: str):
        super().__init__(words)
        self.fields = fields


class UnfinishedOutputError(FileExistsError):
    """An interrupted run left its folder, and the caller did not say what to do with it.

    Attributes:
        folder: the folder.
        frames: number of frames that can be resumed from; 0 if none.
    """

    def __init__(self, folder: Path, frames: int):
        what = (
            f"has {count_frames(frames)} of an interrupted run"
            if frames
            else "holds what an interrupted run left"
        )
        super().__init__(f"{folder}: {what}")
        self.folder, self.frames = folder, frames


class OtherSettingsError(ValueError):
    """The partial output was begun with other settings, or from another input.

    Attributes:
        folder: its folder.
        changes: a sentence for each setting that differs.
    """

    def __init__(self, folder: Path, changes: Sequence[str]):
        super().__init__(f"{folder}: was begun otherwise ({'; '.join(changes)})")
        self.folder, self.changes = folder, list(changes)


class DamagedPartialError(ValueError):
    """The partial output cannot be resumed."""


def kept_frames(frames: int, path: Path) -> str:
    """Say where frames are kept."""
    return f"{count_frames(frames)} {'is' if frames == 1 else 'are'} kept in {path}"


class KeptFramesError(RuntimeError):
    """A run failed, and frames of it are kept.

    Attributes:
        cause: the error that ended the run.
        frames: number of frames that are kept.
        path: the folder that the next run resumes from, or with `playable` a video file or folder of the frames.
        playable: whether the input ends the run at this frame each time, so that `path` is all there can be of it.
    """

    def __init__(self, cause: Exception, frames: int, path: Path, playable: bool = False):
        kept = f"the {count_frames(frames)} before it: {path}" if playable else kept_frames(frames, path)
        super().__init__(f"{cause} ({kept})")
        self.cause, self.frames, self.path, self.playable = cause, frames, path, playable


class KeptFramesInterrupt(KeyboardInterrupt):
    """Like :class:`KeptFramesError`, of a run that was interrupted at once.

    Attributes:
        frames: number of frames that are kept.
        path: the folder that the next run resumes from.
    """

    def __init__(self, frames: int, path: Path):
        super().__init__(kept_frames(frames, path))
        self.frames, self.path = frames, path


class ClosedPipeError(BrokenPipeError):
    """Whoever read standard output reads no more."""


class IncompleteOutputError(RuntimeError):
    """A file has all frames, but not the other streams that it should have, which its container refused.

    Attributes:
        path: the file, which plays.
        streams: what it lacks.
        reason: what the container said.
    """

    def __init__(self, path: Path, streams: Sequence[str], reason: str):
        super().__init__(f"{path}: has all frames, but not {', '.join(streams)}: {reason}")
        self.path, self.streams, self.reason = path, list(streams), reason
