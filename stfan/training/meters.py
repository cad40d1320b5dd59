"""Measure how a run goes: means of its values, its speed, its time of waiting for data."""

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor


class Meters:
    """Means of values, and where the time goes, since the last call of :meth:`times`."""

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self._sums: dict[str, Tensor] = {}
        self._count, self._waited, self._started = 0, 0.0, time.monotonic()

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Count the time within the block as time of waiting for data."""
        started = time.monotonic()
        yield
        self._waited += time.monotonic() - started

    def update(self, values: Mapping[str, Tensor]) -> None:
        """Add the values of one iteration."""
        for name, value in values.items():
            self._sums[name] = self._sums.get(name, 0) + value
        self._count += 1

    def means(self) -> dict[str, Tensor]:
        """Return the mean of each value over the iterations."""
        return {name: total / self._count for name, total in self._sums.items()}

    def times(self) -> dict[str, float]:
        """Return the iterations per second and the part of the time that was waited, and begin anew."""
        elapsed = max(time.monotonic() - self._started, 1e-9)
        times = {"iterations_per_second": self._count / elapsed, "waited": self._waited / elapsed}
        self._reset()
        return times
