"""Splits into training, validation and test videos: the JSON of STFAN's authors, and names known to be for testing."""

import json
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from stfan.files import atomic_write, read_json

PHASES = ("train", "valid", "test")
# The test videos of DVD (Su et al. 2017), which come in one folder with the others ...
DVD_TEST = {"720p_240fps_2", *(f"IMG_{n:04d}" for n in (3, 21, 30, 31, 32, 33, 37, 39, 49))}
# ... and those of GoPro (Nah et al. 2017): KAIR moves the test videos too into train_GT_with_val.
GOPRO_TEST = {
    *("GOPR0384_11_00", "GOPR0384_11_05", "GOPR0385_11_01", "GOPR0396_11_00", "GOPR0410_11_00"),
    *("GOPR0854_11_00", "GOPR0862_11_00", "GOPR0868_11_00", "GOPR0869_11_00", "GOPR0871_11_00"),
    "GOPR0881_11_01",
}


def read_split(path: str | Path) -> list[dict[str, Any]]:
    """Read which frames of which videos are for what: [{"name", "phase", "sample": [stem, ...]}, ...].

    This is the form of the JSON files that come with the authors' code of STFAN.

    Raises:
        ValueError: the file has another form, or lists a video or a frame twice.
    """
    return _checked(path, read_json(path))


def write_split(path: str | Path, entries: Iterable[dict[str, Any]]) -> None:
    """Write what :func:`read_split` reads.

    Raises:
        ValueError: as there.
    """
    entries = _checked(path, entries)
    with atomic_write(path) as partial:
        partial.write_text(json.dumps(entries, indent=4) + "\n")


def find_split(root: Path) -> Path | None:
    """Find the JSON file in a folder that is a split; None if there is none.

    Raises:
        ValueError: there are several.
    """
    splits = []
    for path in sorted(root.glob("[!.]*.json")):
        try:
            entries = read_json(path)
        except ValueError:
            continue
        if _is_split(entries):
            splits.append(path)
    if len(splits) > 1:
        names = ", ".join(path.name for path in splits)
        raise ValueError(f"{root}: holds several splits, {names}: give one of them as layout")
    return splits[0] if splits else None


def _is_split(value: Any) -> bool:
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(entry, dict) and {"name", "phase", "sample"} <= set(entry) for entry in value)
    )


def _checked(path: str | Path, entries: Any) -> list[dict[str, Any]]:
    """Return the entries, without other keys; raise ValueError if they make no sense."""
    if not _is_split(entries):
        raise ValueError(
            f'{path}: must be a list of {{"name", "phase", "sample": [stem, ...]}}, one at least'
        )
    checked: list[dict[str, Any]] = []
    seen = set()
    for entry in entries:
        name, phase, sample = (entry[key] for key in ("name", "phase", "sample"))
        if not isinstance(name, str):
            raise ValueError(f"{path}: the name of a video must be a string, got {name!r}")
        if phase not in PHASES:
            raise ValueError(f"{path}: video {name}: phase must be one of {', '.join(PHASES)}, got {phase!r}")
        if not isinstance(sample, list) or not sample or not all(isinstance(stem, str) for stem in sample):
            raise ValueError(f"{path}: video {name}: sample must be a list of frames' names without ending")
        twice = [stem for stem, times in Counter(sample).items() if times > 1]
        if twice or (name, phase) in seen:
            raise ValueError(f"{path}: lists {f'frame {twice[0]} of ' if twice else ''}{phase}/{name} twice")
        seen.add((name, phase))
        checked.append({"name": name, "phase": phase, "sample": list(sample)})
    return checked
