"""Errors in one line, with the option that mends them: only here does an error from below meet an option."""

from collections.abc import Callable
from typing import Any

from stfan.files import OutputExistsError
from stfan.internal_errors import FORESEEN, describe_internal
from stfan.video.errors import (
    ChangedSizeError,
    DamagedPartialError,
    EncodingError,
    IncompleteOutputError,
    KeptFramesError,
    OtherSettingsError,
    UnfinishedOutputError,
    count_frames,
    kept_frames,
)

BEGIN_AGAIN = "--overwrite without --resume begins again"


def _unfinished(error: UnfinishedOutputError) -> str:
    return f"{'--resume goes on from them, ' if error.frames else ''}--overwrite begins again"


def _encoding(error: EncodingError) -> str:
    names = [f"--{field.replace('_', '-')}" for field in error.fields]
    return f"leave out {' and '.join(names)}" if len(names) > 1 else f"change or leave out {names[0]}"


# What to do about an error, by its class; no words where the error itself says it.
HINTS: dict[type[Exception], Callable[[Any], str]] = {
    OutputExistsError: lambda error: "" if error.advice else "--overwrite replaces it",
    ChangedSizeError: lambda error: f"--end {error.end} ends before it",
    EncodingError: _encoding,
    UnfinishedOutputError: _unfinished,
    OtherSettingsError: lambda error: BEGIN_AGAIN,
    DamagedPartialError: lambda error: BEGIN_AGAIN,
    IncompleteOutputError: lambda error: (
        "take that file, or --resume --no-audio, or another container for --out"
    ),
}


def describe_error(error: BaseException) -> str:
    """Put an error into one line, with the option that mends it."""
    if isinstance(error, KeptFramesError):
        kept = f"the {count_frames(error.frames)} before it: {error.path}"
        if not error.playable:
            kept = f"{kept_frames(error.frames, error.path)}; --resume goes on from them"
        return f"{describe_error(error.cause)} ({kept})"
    if not isinstance(error, FORESEEN):
        return " ".join(describe_internal(error).split())
    words = str(error) or ("out of memory" if isinstance(error, MemoryError) else type(error).__name__)
    # Else it begins with "[Errno 2]".
    if isinstance(error, OSError) and error.strerror and error.filename:
        words = f"{error.filename}: {error.strerror}"
    hints = [hint(error) for kind, hint in HINTS.items() if isinstance(error, kind)]
    return " ".join("; ".join(filter(None, [words, *hints])).split())
