"""Checkpoints of a run, RUN/checkpoints/<iteration>: tensors as safetensors, the rest as PyTorch writes it."""

import os
import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

KEPT = 2


def checkpoints(folder):
    """The checkpoints in a run's folder, the oldest first."""
    return sorted(
        path
        for path in Path(folder, "checkpoints").glob("[0-9]" * 8)
        if path.name.isdecimal() and path.is_dir()
    )


def latest(folder):
    """The newest checkpoint in a run's folder, or None."""
    return next(reversed(checkpoints(folder)), None)


def write(folder, iteration, tensors, state):
    """Write a checkpoint, whole or not at all; older ones than KEPT go, and what was left half-written.

    Args:
        folder: of the run.
        iteration: names it.
        tensors: {name of a file: state dict}.
        state: what else there is to remember.

    Raises:
        OSError: it can not be written. The older ones are as they were.
        FloatingPointError: a tensor is not finite, of which nothing is written.
    """
    place = Path(folder, "checkpoints", f"{iteration:08d}")
    partial = place.with_name(f"{place.name}.partial")
    good = latest(folder)
    kept = f"the last good checkpoint is {good}" if good else "there is no checkpoint yet"
    for name, held in tensors.items():
        for key, tensor in held.items():
            if tensor.is_floating_point() and not tensor.isfinite().all():
                raise FloatingPointError(f"iteration {iteration}: {key} of the {name} is not finite; {kept}")
    try:
        for old in place.parent.glob("*.partial"):
            shutil.rmtree(old)
        partial.mkdir(parents=True)
        for name, held in tensors.items():
            held = {key: tensor.contiguous() for key, tensor in held.items()}
            save_file(held, partial / f"{name}.safetensors")
        torch.save(state, partial / "state.pt")
        for file in partial.iterdir():
            with open(file, "r+b") as written:
                os.fsync(written.fileno())  # before the older checkpoint goes
        shutil.rmtree(place, ignore_errors=True)
        os.replace(partial, place)
    except Exception as error:  # of many types where a disk is full
        raise OSError(f"{place}: can not be written: {_first_line(error)}; {kept}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    for old in checkpoints(folder)[:-KEPT]:
        shutil.rmtree(old)


def read(place, names):
    """({name: state dict}, state) of a checkpoint.

    Raises:
        ValueError: it is damaged.
    """
    try:
        tensors = {name: load_file(place / f"{name}.safetensors") for name in names}
        return tensors, torch.load(place / "state.pt", map_location="cpu", weights_only=True)
    except Exception as error:  # of many types where the bytes are any
        older = [other for other in checkpoints(place.parent.parent) if other < place]
        way_out = f"remove it to go on from {older[-1]}" if older else "there is no other"
        raise ValueError(f"{place}: is damaged: {_first_line(error)}; {way_out}") from error


def _first_line(error):
    return str(error).partition("\n")[0] or type(error).__name__
