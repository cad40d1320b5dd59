"""The terminal: consoles, log lines, progress bars, Ctrl+C and SIGTERM."""

import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

stderr_console = Console(stderr=True)


def stdout_console() -> Console:
    """Return a console for results: as wide as the terminal, or 120 columns in a file or pipe."""
    return Console(width=None if sys.stdout.isatty() else 120)


def print_line(console: Console, words: str) -> None:
    """Print a line that begins with "stfan:", above a progress bar if one is shown."""
    console.print(f"stfan: {words}", markup=False, highlight=False, soft_wrap=True)


class LogHandler(logging.Handler):
    """Prints log records on a console, unless quiet, and keeps the warnings.

    Attributes:
        warnings: the messages of all warnings.
        subject: what the records are about, such as the name of a file; it stands before those that do not begin with
            it.
    """

    def __init__(self, console: Console, quiet: bool = False, verbose: bool = False, subject: str = ""):
        super().__init__(logging.INFO if verbose else logging.WARNING)
        self.console, self.quiet, self.subject = console, quiet, subject
        self.warnings: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Handle one log record."""
        words = record.getMessage()
        if record.levelno >= logging.WARNING:
            self.warnings.append(words)
        if not self.quiet:
            print_line(self.console, words if words.startswith(self.subject) else f"{self.subject}: {words}")

    @contextmanager
    def attached(self) -> Iterator[Self]:
        """Handle the records of the logger "stfan" within the block."""
        logger = logging.getLogger("stfan")
        level = logger.level
        logger.setLevel(self.level)
        logger.addHandler(self)
        try:
            yield self
        finally:
            logger.removeHandler(self)
            logger.setLevel(level)


class ProgressBar:
    """Shows the frames that are done (or other units), how many a second, and the time left.

    Args:
        console: where to show it; nothing is shown if that is no terminal.
        name: what stands before the bar.
        total: number of frames, None if it is not known.
        visible: whether to show it at all.
        unit: what is counted.
        progress: another bar's, to show this one below it.

    Attributes:
        progress: the rich Progress; the bar is shown within ``with bar.progress:``.
    """

    def __init__(
        self,
        console: Console,
        name: str,
        total: int | None,
        visible: bool = True,
        unit: str = "frames",
        progress: Progress | None = None,
    ):
        self.progress = progress or Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[speed]}"),
            TextColumn("left:"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not (visible and console.is_terminal),
        )
        self._task = self.progress.add_task(name, total=total, speed="")
        self._count, self._started, self._unit = 0, 0.0, unit

    def start(self, done: int) -> None:
        """Start the clock; `done` is the number of frames that an earlier run made."""
        self.progress.update(self._task, completed=done)
        self._started = time.monotonic()

    def rename(self, name: str, done: int) -> None:
        """Show another name, and so many units as done."""
        self.progress.update(self._task, description=name, completed=done)

    def remove(self) -> None:
        """Show this bar no longer."""
        self.progress.remove_task(self._task)

    def advance(self, note: str = "") -> None:
        """Count one more frame, and show a note behind the speed."""
        self._count += 1
        speed = self._count / max(time.monotonic() - self._started, 1e-9)
        self.progress.update(self._task, advance=1, speed=f"{speed:.2f} {self._unit}/s{note}")


@contextmanager
def graceful_interrupt(console: Console, unit: str = "frame") -> Iterator[Callable[[], bool]]:
    """Within the block, let the first Ctrl+C or SIGTERM only ask for an end; the second raises KeyboardInterrupt.

    Yields:
        a function that says whether one of them came.
    """
    pressed = False

    def handle(*_: Any) -> None:
        nonlocal pressed
        pressed = True
        for number in handlers:
            signal.signal(number, signal.default_int_handler)
        print_line(console, f"stopping after this {unit}; press Ctrl+C again to stop at once")

    handlers = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: pressed
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
