"""Write and read checkpoints of a run, RUN/checkpoints/<iteration>: tensors as safetensors, the rest by torch.save."""

import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor

from stfan.model.torch_files import Refused, load_torch_file

KEEP = 2  # number of checkpoints


def checkpoints(folder: str | Path) -> list[Path]:
    """List the checkpoints in a run's folder, the oldest first."""
    return sorted(
        path
        for path in Path(folder, "checkpoints").glob("[0-9]" * 8)
        if path.name.isdecimal() and path.is_dir()
    )


def latest(folder: str | Path) -> Path | None:
    """Return the newest checkpoint in a run's folder, or None."""
    return next(reversed(checkpoints(folder)), None)


def write(
    folder: str | Path, iteration: int, tensors: Mapping[str, Mapping[str, Tensor]], state: dict[str, Any]
) -> None:
    """Write a checkpoint, completely or not at all; delete all older ones but KEEP, and incomplete ones.

    Args:
        folder: of the run.
        iteration: names the checkpoint.
        tensors: {name of a file: state dict}.
        state: what else the run needs to go on.

    Raises:
        OSError: it cannot be written. The older ones are as they were.
        FloatingPointError: a tensor is not finite; nothing is written.
    """
    place = Path(folder, "checkpoints", f"{iteration:08d}")
    partial = place.with_name(f"{place.name}.partial")
    good = latest(folder)
    fallback = f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"
    for name, state_dict in tensors.items():
        for key, tensor in state_dict.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise FloatingPointError(
                    f"iteration {iteration}: {key} of the {name} is not finite; {fallback}"
                )
    try:
        for old in place.parent.glob("*.partial"):
            shutil.rmtree(old)
        partial.mkdir(parents=True)
        for name, state_dict in tensors.items():
            contiguous = {key: tensor.contiguous() for key, tensor in state_dict.items()}
            # Not save_file, whose files nobody else may read, whatever the umask.
            (partial / f"{name}.safetensors").write_bytes(save(contiguous))
        torch.save(state, partial / "state.pt")
        for path in partial.iterdir():
            with open(path, "r+b") as file:
                os.fsync(file.fileno())  # before the older checkpoint is deleted
        shutil.rmtree(place, ignore_errors=True)
        os.replace(partial, place)
    except Exception as error:  # of many types when a disk is full
        raise OSError(f"{place}: cannot be written: {_first_line(error)}; {fallback}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in checkpoints(folder)[:-KEEP]:
        shutil.rmtree(old)


def read(place: Path, names: Iterable[str]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Any]]:
    """Read a checkpoint: ({name: state dict}, state).

    Raises:
        ValueError: it is damaged, or contains code, of which none is run.
    """
    older = [other for other in checkpoints(place.parent.parent) if other < place]
    advice = f"remove it to go on from {older[-1]}" if older else "there is no other"
    try:
        tensors = {name: load_file(place / f"{name}.safetensors") for name in names}
        return tensors, load_torch_file(place / "state.pt")
    except Refused as error:
        raise ValueError(f"{place}/state.pt: {error}; {advice}") from error
    except Exception as error:  # of many types, as the bytes may be anything
        raise ValueError(f"{place}: is damaged: {_first_line(error)}; {advice}") from error


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__
