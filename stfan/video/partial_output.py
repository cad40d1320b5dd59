"""The folder that a result is made in, so that what an interruption leaves is of use and the next run goes on."""

import json
import os
import shutil
from contextlib import suppress

from safetensors import SafetensorError, safe_open
from safetensors.torch import save

try:
    import fcntl
except ImportError:  # Windows has none: nobody is locked out there
    fcntl = None
SEGMENT = 50  # frames of a segment: so many an interruption can cost
LOCK = "lock"  # the file in a Workplace that the run that has it holds locked


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
