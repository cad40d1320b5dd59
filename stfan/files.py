"""Files that are there whole or not at all."""

import json
import math
import os
import shutil
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path):
    """A temporary name beside path, of a file or a folder, which becomes path when the block ends, and goes if it fails."""
    path = Path(path)
    partial = path.with_name(f".{path.stem}.partial{path.suffix}")
    try:
        yield partial
        os.replace(partial, path)
    finally:
        if partial.is_dir():
            shutil.rmtree(partial, ignore_errors=True)
        else:
            partial.unlink(missing_ok=True)


def check_writable(option, path, suffix, overwrite):
    """Refuse, before any work is done, a file that can not be written or must not be replaced; None is no file.

    Raises:
        ValueError: the name has another ending than suffix.
        OSError: the folder is missing, the path is a folder, or it exists and overwrite is not set.
    """
    if path is None:
        return
    if path.suffix.lower() != suffix:
        raise ValueError(f"{path}: {option} must be the name of a file that ends in {suffix}")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a folder")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path.parent}: no such folder")
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path}: exists already; --overwrite replaces it")


def to_json(value, **options):
    """JSON that every reader takes: numbers that are not finite become the strings inf, -inf and nan."""
    return json.dumps(_plain(value), **options)


def _plain(value):
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value
