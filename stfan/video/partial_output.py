"""The folder that an output is made in, so that an interrupted run leaves something useful and can be resumed."""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from stfan.files import atomic_write, refuse_existing, wait_for_disk
from stfan.video.errors import OtherSettingsError, UnfinishedOutputError

# What an interruption can cost at most: so many frames, the frames of a segment, or so many seconds of work.
SEGMENT_FRAMES = 50
CHECKPOINT_SECONDS = 60.0
PIPE = Path("-")  # stands for standard input and standard output
LOCK = "lock"  # the file in the folder that a run holds locked


class PartialOutput:
    """The folder OUT.partial, which holds an unfinished output and the state to resume from.

    One run at a time has it: it holds a lock, which the system releases when the process ends, however it ends.

    Args:
        out: the file or folder to make.
        settings: {name: value} of all that the result depends on; JSON must be able to hold them.

    Attributes:
        frames: number of frames that are safely on the disk.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]):
        self.out, self.settings, self.frames = out, json.loads(json.dumps(dict(settings))), 0
        self.folder = out.with_name(out.name + ".partial")
        self._state = self.folder / "state.safetensors"
        # Without flock, a soft lock would outlive a killed process: better none.
        self._lock = FileLock(self.folder / LOCK, timeout=0, fallback_to_soft=False)

    def begin(self, resume: bool, overwrite: bool) -> dict[str, torch.Tensor] | None:
        """Make the folder, or go on with what is in it.

        Returns:
            the tensors of the last :meth:`save`, by name, or None to begin from nothing.

        Raises:
            FileExistsError: `out` exists and `overwrite` is not set, or another run has the folder.
            UnfinishedOutputError: the folder exists, and neither `resume` nor `overwrite` is set.
            OtherSettingsError: the folder was left by a run with other settings.
        """
        empty = self.out.is_dir() and not any(self.out.iterdir())
        if not (overwrite or empty):
            refuse_existing(self.out)
        if self.folder.exists():
            if self._state.exists():  # nothing is written to a folder that is somebody else's
                self._take_lock()
            frames, settings, tensors = self._read()
            if frames and resume:
                self._compare(settings)
                self.frames = frames
                return tensors
            if frames and not overwrite:
                raise UnfinishedOutputError(self.folder, frames)
            if (self.folder / self.out.name).exists() and not (overwrite or resume):
                raise UnfinishedOutputError(self.folder, 0)
            self._clear()
        else:
            try:
                self.folder.mkdir()
            except FileExistsError:
                raise self._locked_out() from None
            self._take_lock()
        self.save(0, {})
        return None

    def _take_lock(self) -> None:
        (self.folder / LOCK).touch()
        try:
            self._lock.acquire()
        except Timeout:
            raise self._locked_out() from None
        except OSError:  # a disk that knows no locks
            pass

    def _locked_out(self) -> FileExistsError:
        return FileExistsError(f"{self.out}: another run is writing it")

    def close(self) -> None:
        """Let another run have the folder."""
        self._lock.release(force=True)

    def _clear(self) -> None:
        """Delete everything in the folder but the lock."""
        for path in self.folder.iterdir():
            if path.name != LOCK:
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _read(self) -> tuple[int, dict[str, Any], dict[str, torch.Tensor]]:
        try:
            with safe_open(self._state, "pt") as file:
                metadata = file.metadata()
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return int(metadata["frames"]), json.loads(metadata["settings"]), tensors
        except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
            raise FileExistsError(
                f"{self.folder}: is in the way, and not what an interrupted run left"
            ) from error

    def _compare(self, settings: Mapping[str, Any]) -> None:
        """Raise OtherSettingsError unless the settings are those of this run."""
        changes = [
            f"{key} was {settings.get(key)} and is {self.settings.get(key)}"
            for key in {**settings, **self.settings}
            if settings.get(key) != self.settings.get(key)
        ]
        if changes:
            raise OtherSettingsError(self.folder, changes)

    def save(self, frames: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Record, in one atomic write, that so many frames are safe, and the tensors that the next frame needs."""
        metadata = {"frames": str(frames), "settings": json.dumps(self.settings)}
        copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        with atomic_write(self._state) as partial:
            partial.write_bytes(save(copies, metadata))
            wait_for_disk(partial)
        self.frames = frames

    def publish(self, result: Path) -> None:
        """Rename the result to `out` and delete the rest; a folder that has that name keeps its other files."""
        if result.is_file():
            wait_for_disk(result)
        if result.is_dir() and self.out.is_dir():
            for file in result.iterdir():
                os.replace(file, self.out / file.name)
        else:
            os.replace(result, self.out)
        self.remove()

    def remove(self) -> None:
        """Delete the folder."""
        self._clear()
        self.close()  # before its lock goes: Windows deletes no open file
        with suppress(FileNotFoundError):
            shutil.rmtree(self.folder)


def remove_published(out: Path) -> None:
    """Delete what a run left that was killed after it had renamed its result to the file `out`.

    Its state is older than `out`; that of a run which was to replace `out` is younger, and stays.
    """
    partial = PartialOutput(out, {})
    state = partial.folder / "state.safetensors"
    # It is not there; or another run has the folder, or is about to delete it.
    with suppress(OSError), closing(partial):
        if out.is_file() and state.stat().st_mtime_ns <= out.stat().st_mtime_ns:
            partial._take_lock()
            partial.remove()


class NoPartialOutput(PartialOutput):
    """Takes the place of a PartialOutput where the output is a pipe: nothing is kept, and nothing can be resumed."""

    def __init__(self) -> None:
        super().__init__(PIPE, {})
        self.folder = PIPE

    def begin(self, resume: bool, overwrite: bool) -> None:
        """Begin from nothing."""

    def save(self, frames: int, tensors: Mapping[str, torch.Tensor]) -> None:
        """Forget it."""

    def publish(self, result: Path) -> None:
        """Leave everything as it is."""

    def remove(self) -> None:
        """Leave everything as it is."""
