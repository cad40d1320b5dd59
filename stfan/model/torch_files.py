"""Load files of torch.save without running code from them, and without unpacking more than they hold."""

import pickle
import re
import warnings
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from stfan.files import first_names

ZIP = b"PK\x03\x04"  # begins the files that torch.save writes since 1.6


class Refused(Exception):
    """A file is none of torch.save's, or is damaged, or not safe to load; the message says why, without its name."""


def load_torch_file(path: Path, safe_globals: Sequence[Any] = ()) -> Any:
    """Load what torch.save wrote, onto the CPU.

    Args:
        path: the file.
        safe_globals: classes and functions that it may name, beside torch's own.

    Raises:
        Refused: it is damaged, or contains code, of which none is run, or unpacks to more than it holds.
        OSError: it cannot be read.
    """
    _check_zip(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(safe_globals)):
            warnings.simplefilter("ignore")  # about old formats: those that it cannot read raise an error
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError:
        raise
    except Exception as error:  # of many types, as the bytes may be anything
        code = re.search(r"GLOBAL (\S+)", str(error)) if isinstance(error, pickle.UnpicklingError) else None
        if code:
            raise Refused(f"refused: to load it would call {first_names(code.groups())}") from error
        raise Refused("neither safetensors nor PyTorch's, or damaged or truncated") from error


def _check_zip(path: Path) -> None:
    """Raise Refused for a zip file that unpacks to more than it holds; torch.save compresses nothing."""
    with open(path, "rb") as file:
        if file.read(len(ZIP)) != ZIP:
            return
        try:
            with zipfile.ZipFile(file) as archive:
                parts = archive.infolist()
        except Exception as error:  # of many types, as the bytes may be anything
            raise Refused("neither safetensors nor PyTorch's, or damaged or truncated") from error
    unpacked, size = sum(part.file_size for part in parts), path.stat().st_size
    if unpacked > size or any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise Refused(
            f"refused: a zip file that unpacks to {unpacked:,} bytes and has {size:,}; torch.save compresses nothing"
        )
