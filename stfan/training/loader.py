"""Load training data: build the data sets that a recipe names, and share their sequences among processes."""

import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from stfan.data.paired_videos import PairedDataset, find_videos
from stfan.data.sequences import SequenceDataset
from stfan.synthesis.dataset import SyntheticDataset
from stfan.synthesis.store import StoredClips
from stfan.training.recipe import Recipe

TrainingSet = SequenceDataset | SyntheticDataset | StoredClips
Clips = dict[str, tuple[tuple[Path, ...], tuple[Path, ...]]]  # {name: (blurry paths, sharp paths)}


def build_datasets(recipe: Recipe, device: str | torch.device = "cpu") -> tuple[TrainingSet, Clips]:
    """Build the data set to train on, and find the clips to validate on.

    Args:
        recipe: names the data.
        device: renders synthetic clips, unless worker processes do, on the CPU.
    """
    if recipe.synthetic:
        return build_synthetic(recipe, "cpu" if recipe.workers else device), _separate_validation(recipe)
    root = (recipe.data, recipe.sharp) if recipe.sharp else recipe.data
    dataset = find_videos(root, None, recipe.layout, recipe.gopro_blur, strict=False)
    sequences = SequenceDataset(
        (dataset.only("train") if dataset.phases else dataset).raise_problems().videos,
        length=recipe.length,
        crop=recipe.crop,
        noise=recipe.noise,
        brightness=recipe.brightness,
        contrast=recipe.contrast,
        seed=recipe.seed,
        skip_corrupt=recipe.skip_corrupt,
    )
    if not recipe.validation and {"test", "valid"} & set(dataset.phases):
        return sequences, validation_clips(dataset)
    return sequences, _separate_validation(recipe)


def build_synthetic(recipe: Recipe, device: str | torch.device = "cpu") -> SyntheticDataset | StoredClips:
    """Build the clips of a recipe's pictures: rendered anew for each sequence, or stored."""
    dataset = SyntheticDataset(
        recipe.data,
        recipe.cutouts,
        length=recipe.clip_length if recipe.clips else recipe.length,
        crop=recipe.clip_size if recipe.clips else recipe.crop,
        seed=recipe.seed,
        part="train" if recipe.hold_out else None,
        settings=recipe.synthesis,
        target=recipe.target,
        device=device,
    )
    if recipe.store is None:
        return dataset
    return StoredClips(
        recipe.store, dataset, recipe.clips, length=recipe.length, crop=recipe.crop, seed=recipe.seed
    )


def _separate_validation(recipe: Recipe) -> Clips:
    """Find the clips of the recipe's data set for validation; none if it names none."""
    if not recipe.validation:
        return {}
    return validation_clips(find_videos(recipe.validation, gopro_blur=recipe.gopro_blur, strict=False))


def validation_clips(dataset: PairedDataset) -> Clips:
    """Return the test clips of a data set, or else those for validation, or all if it has no phases."""
    phase = next((phase for phase in ("test", "valid") if phase in dataset.phases), None)
    return (dataset.only(phase) if phase else dataset).raise_problems().clips


class InfiniteBatchSampler:
    """Infinite batch sampler over the indices of one process.

    Args:
        first: number of the first batch.
        batch: number of indices of a batch.
        process: rank of this process.
        processes: number of processes.
    """

    def __init__(self, first: int, batch: int, process: int, processes: int):
        self.first, self.batch, self.process, self.processes = first, batch, process, processes

    def __iter__(self) -> Iterator[list[int]]:
        """Yield lists of indices; in each step the processes take successive batches."""
        step = self.first
        while True:
            begin = (step * self.processes + self.process) * self.batch
            yield list(range(begin, begin + self.batch))
            step += 1


def build_loader(
    dataset: Dataset[dict[str, Any]], sampler: InfiniteBatchSampler, workers: int, pin_memory: bool
) -> "DataLoader[dict[str, Any]]":
    """Build a loader of the sampler's batches, with so many worker processes beside this one."""
    return DataLoader(
        dataset,
        batch_sampler=sampler,  # type: ignore[arg-type]  # it has no length
        num_workers=workers,
        pin_memory=pin_memory,
        persistent_workers=workers > 0,
        worker_init_fn=ignore_sigint,
    )


def ignore_sigint(worker: int) -> None:
    """Ignore Ctrl+C in a worker process: it is for the process that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def next_batch(batches: Iterator[dict[str, Any]], hint: str) -> dict[str, Any]:
    """Return the next batch; turn a worker's error about a file into one line, without the worker's traceback."""
    try:
        return next(batches)
    except OSError as error:
        message = str(error).strip().splitlines()[-1].removeprefix("OSError: ")
        raise OSError(message + hint) from error
