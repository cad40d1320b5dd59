"""Files and folders: atomic writes, checks before the work begins, JSON that every reader takes."""

import json
import math
import os
import secrets
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; rename it to `path` on success, delete it on failure.

    The block may make a file or a folder of that name. Processes may write the same file at once: the last one wins.
    One that is killed leaves the temporary file, a hidden one.
    """
    path = Path(path)
    # a name has at most 255 bytes, and a character up to 4
    partial = path.with_name(f".{path.stem[:40]}.{secrets.token_hex(4)}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            with suppress(OSError):  # it must not hide the error that is on its way
                partial.unlink(missing_ok=True)


def wait_for_disk(path: Path) -> None:
    """Return when a file's content is on the disk, where a power cut leaves it."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


class OutputExistsError(FileExistsError):
    """An output exists, and the caller did not ask to replace it.

    Attributes:
        path: the output.
        advice: what to do about it; None where it may be replaced.
    """

    def __init__(self, path: Path, advice: str | None = None):
        super().__init__(f"{path}: exists already{'' if advice is None else f'; {advice}'}")
        self.path, self.advice = path, advice


def refuse_existing(path: Path, advice: str | None = None) -> None:
    """Raise OutputExistsError if `path` exists."""
    if path.exists():
        raise OutputExistsError(path, advice)


def check_parent(path: Path) -> None:
    """Raise FileNotFoundError or PermissionError if the folder that `path` is to be in is missing or read-only."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder")
    if not os.access(path.parent, os.W_OK):
        raise PermissionError(f"{path.parent}: cannot be written to; choose another folder for {path.name}")


def check_writable(option: str, path: Path | None, suffixes: str | tuple[str, ...], overwrite: bool) -> None:
    """Check, before any work is done, that a file can be written; None stands for no file.

    Raises:
        ValueError: the name has none of the suffixes.
        OSError: the folder is missing, the path is a folder, or it exists and `overwrite` is not set.
    """
    if path is None:
        return
    suffixes = (suffixes,) if isinstance(suffixes, str) else suffixes
    if path.suffix.lower() not in suffixes:
        raise ValueError(f"{path}: {option} must be the name of a file that ends in {', '.join(suffixes)}")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder")
    check_parent(path)
    if not overwrite:
        refuse_existing(path)


def visible_files(folder: Path) -> Iterator[Path]:
    """Yield what is in a folder, without hidden files and folders (.DS_Store, ._00030.jpg)."""
    return (path for path in folder.iterdir() if not path.name.startswith("."))


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or nested so deeply that it cannot be parsed; the message names the file.
    """
    try:
        return json.loads(Path(path).read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: is not JSON: {error}") from error


def to_json(value: Any, **options: Any) -> str:
    """Dump JSON without NaN and Infinity: they become the strings nan, inf and -inf."""
    return json.dumps(_finite(value), **options)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def first_names(names: Iterable[str]) -> str:
    """List the first three names, escaped, since a file may name what it holds anything, and count the others."""
    names = list(names)
    first = [repr(name)[1:-1][:100] for name in names[:3]]
    return ", ".join(first) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
