"""What a run says of itself while it goes on."""

import time
from contextlib import contextmanager


class Meters:
    """Means of what is seen, and where the time goes, since they were asked for last."""

    def __init__(self):
        self._begin()

    def _begin(self):
        self.sums, self.count, self.waited, self.started = {}, 0, 0.0, time.monotonic()

    @contextmanager
    def waiting(self):
        """A block in which one waits for data."""
        started = time.monotonic()
        yield
        self.waited += time.monotonic() - started

    def see(self, values):
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0) + value
        self.count += 1

    def means(self):
        return {name: total / self.count for name, total in self.sums.items()}

    def times(self):
        passed = max(time.monotonic() - self.started, 1e-9)
        told = {"iterations_per_second": self.count / passed, "waited": self.waited / passed}
        self._begin()
        return told
