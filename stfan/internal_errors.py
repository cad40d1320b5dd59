"""Errors that nobody foresaw: one line for users; the traceback for those who set STFAN_TRACEBACK=1."""

import os

# What bad input, a full disk or little memory raise; torch's errors are RuntimeErrors.
FORESEEN = (OSError, ValueError, RuntimeError, FloatingPointError, MemoryError)


def traceback_wanted() -> bool:
    """Tell whether STFAN_TRACEBACK asks for the traceback of every error."""
    return os.environ.get("STFAN_TRACEBACK", "0") not in ("", "0")


def describe_internal(error: BaseException) -> str:
    """Put an error that is none of FORESEEN into one line, and say what to do about it."""
    words = f"internal error: {type(error).__name__}: {error}".removesuffix(": ")
    return f"{words} (a bug of stfan: please report it, with what is printed if STFAN_TRACEBACK=1 is set)"
