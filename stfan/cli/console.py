"""What a run shows and hears: a bar that moves, warnings as they come, and Ctrl+C."""

import logging
import signal
import time
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

screen = Console(stderr=True)


def say(console, words):
    """A line of ours, even while a bar moves."""
    console.print(f"stfan: {words}", markup=False, highlight=False, soft_wrap=True)


class Lines(logging.Handler):
    """Prints the log on a console, if not quiet, and keeps its warnings."""

    def __init__(self, console, quiet, verbose):
        super().__init__(logging.INFO if verbose else logging.WARNING)
        self.console, self.quiet, self.warnings = console, quiet, []

    def emit(self, record):
        if record.levelno >= logging.WARNING:
            self.warnings.append(record.getMessage())
        if not self.quiet:
            say(self.console, record.getMessage())

    @contextmanager
    def listening(self):
        """Hears what stfan has to say within the block."""
        log = logging.getLogger("stfan")
        before = log.level
        log.setLevel(self.level)
        log.addHandler(self)
        try:
            yield self
        finally:
            log.removeHandler(self)
            log.setLevel(before)


class Bar:
    """Frames done, or other units, how many a second of this run, and the time that is left."""

    def __init__(self, console, name, total, shown, unit="frames"):
        columns = TextColumn("{task.fields[speed]}"), TextColumn("left:"), TimeRemainingColumn()
        name_column = TextColumn("{task.description}", markup=False)
        self.progress = Progress(
            *(name_column, BarColumn(), MofNCompleteColumn(), *columns),
            console=console,
            transient=True,
            disable=not (shown and console.is_terminal),
        )
        self._task = self.progress.add_task(name, total=total, speed="")
        self._done, self._began, self._unit = 0, None, unit

    def start(self, resumed):
        """So many are there already."""
        self.progress.update(self._task, completed=resumed)
        self._began = time.monotonic()

    def step(self, words=""):
        """One more, and what there is to say of it."""
        self._done += 1
        speed = self._done / max(time.monotonic() - self._began, 1e-9)
        self.progress.update(self._task, advance=1, speed=f"{speed:.2f} {self._unit}/s{words}")


@contextmanager
def stoppable(console, unit="frame"):
    """Within the block the first Ctrl+C is a wish, and the second one is Python's.

    Yields:
        a function that says whether it was pressed.
    """
    wishes = []

    def wish(*_):
        wishes.append(True)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        say(console, f"ending after this {unit}; Ctrl+C again: at once")

    before = signal.signal(signal.SIGINT, wish)
    try:
        yield lambda: bool(wishes)
    finally:
        signal.signal(signal.SIGINT, before)
