"""The frames of the open segment, uncompressed: a resumed run encodes them again, so that the file is the same."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stfan.files import wait_for_disk
from stfan.video.errors import DamagedPartialError

Samples = NDArray[np.uint8 | np.uint16]  # (3, H, W)
MEMORY = 128 << 20  # bytes of frames that wait in memory


class FrameLog:
    """Keeps the frames of one segment in memory, and on demand in a file.

    The file may end with frames, or with a part of one, that no state counts: they are written anew.

    Args:
        path: the file; it is made by the first :meth:`save`.

    Attributes:
        saved: number of frames in the file.
    """

    def __init__(self, path: Path):
        self.path, self.saved = path, 0
        self._waiting: list[Samples] = []

    def add(self, samples: Samples) -> None:
        """Add the next frame."""
        self._waiting.append(samples)
        if len(self._waiting) * samples.nbytes > MEMORY:
            self._write()

    def save(self) -> None:
        """Bring all frames to the disk."""
        self._write()
        if self.saved:
            wait_for_disk(self.path)

    def _write(self) -> None:
        if self._waiting:
            with self.path.open("r+b" if self.saved else "wb") as file:
                file.seek(self.saved * self._waiting[0].nbytes)
                file.truncate()
                for samples in self._waiting:
                    file.write(np.ascontiguousarray(samples).data)
            self.saved += len(self._waiting)
            self._waiting = []

    def clear(self) -> None:
        """Begin another segment; the file goes on to hold the last one until it is written."""
        self.saved, self._waiting = 0, []

    def load(self, count: int, blank: Samples) -> Iterator[Samples]:
        """Yield the first `count` frames of the file, each of the shape and type of `blank`; go on after them.

        Raises:
            DamagedPartialError: the file holds less.
        """
        size = self.path.stat().st_size if self.path.exists() else 0
        if size < count * blank.nbytes:
            raise DamagedPartialError(
                f"{self.path}: must hold {count} frames, {count * blank.nbytes} bytes, has {size}"
            )
        if not count:
            return
        with self.path.open("rb") as file:
            for _ in range(count):
                data = bytearray(file.read(blank.nbytes))
                yield np.frombuffer(data, blank.dtype).reshape(blank.shape)
        self.saved = count
