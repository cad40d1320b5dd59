"""Steps that overlap: items made ahead in a thread, calls made behind in a thread. With depth 0 there is no thread."""

import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import closing, suppress
from queue import Empty, Queue
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class _End:
    """Ends a queue, by an error or without one."""

    def __init__(self, error: BaseException | None = None):
        self.error = error


class Ahead(Generic[T]):
    """Iterates over a generator's items, which a thread makes ahead; an error of theirs comes after the last item.

    Args:
        items: runs in the thread alone, until it is closed.
        depth: the most items that wait; 0 makes each when it is asked for, in the caller's thread.
    """

    def __init__(self, items: Generator[T, None, None], depth: int):
        self._items, self._stopped = items, False
        self._queue: Queue[T | _End] = Queue(depth)
        # A daemon: Ctrl+C may come while it is waited for, and the process must end all the same.
        self._thread = threading.Thread(target=self._fill, name="stfan input", daemon=True) if depth else None
        if self._thread:
            self._thread.start()

    def __iter__(self) -> Iterator[T]:
        if not self._thread:
            for item in self._items:
                yield item
                if self._stopped:
                    return
            return
        while True:
            got = self._queue.get()
            if isinstance(got, _End):
                if got.error:
                    raise got.error
                return
            yield got

    def _fill(self) -> None:
        end = _End()
        try:
            with closing(self._items):
                for item in self._items:
                    self._queue.put(item)
                    if self._stopped:
                        break
        except BaseException as error:
            end = _End(error)
        # Also of an error as it was closed, or nobody would know that there is no more.
        self._queue.put(end)

    def stop(self) -> None:
        """Make no further items; those that are made still come."""
        self._stopped = True

    def close(self) -> None:
        """End the thread, and forget the items that wait."""
        self._stopped = True
        if not self._thread:
            self._items.close()
        while self._thread and self._thread.is_alive():
            # It may wait for room.
            try:
                self._queue.get(timeout=0.01)
            except Empty:
                continue


class Behind:
    """Makes calls one after the other in a thread; after one that fails, no other is made.

    Args:
        depth: the most calls that wait; 0 makes each at once, in the caller's thread.
    """

    def __init__(self, depth: int):
        self._error: BaseException | None = None
        self._queue: Queue[tuple[Callable[..., Any], tuple[Any, ...]] | None] = Queue(depth)
        self._thread = (
            threading.Thread(target=self._work, name="stfan output", daemon=True) if depth else None
        )
        if self._thread:
            self._thread.start()

    def put(self, function: Callable[..., object], *args: Any) -> None:
        """Call the function after all before it; raise the error of an earlier call."""
        if not self._thread:
            function(*args)
            return
        self._raise()
        self._queue.put((function, args))

    def wait(self) -> None:
        """Return when all calls are made; raise the error of one that failed."""
        if self._thread:
            done = threading.Event()
            self._queue.put((done.set, ()))
            while not done.wait(0.1):
                self._raise()
            self._raise()

    def _raise(self) -> None:
        if self._error:
            raise self._error

    def _work(self) -> None:
        while (call := self._queue.get()) is not None:
            function, args = call
            if self._error is None:
                try:
                    function(*args)
                except BaseException as error:
                    self._error = error

    def close(self) -> None:
        """End the thread after the call that it makes, and forget those that wait."""
        if not self._thread:
            return
        while self._thread.is_alive():
            with suppress(Empty):
                self._queue.get_nowait()
            self._queue.put(None)
            self._thread.join(0.01)
