"""What a run is fed with: the sequences that its recipe names, and which of them a process takes."""

import signal

from torch.utils.data import DataLoader

from stfan.data.paired_videos import find_videos
from stfan.data.sequences import SequenceDataset
from stfan.synthesis.dataset import SyntheticDataset
from stfan.synthesis.store import StoredClips


def sequences(recipe, device="cpu"):
    """The sequences to train on, and {clip: (blurry paths, sharp paths)} to judge on.

    device: what renders synthetic clips, where no other process does.
    """
    judged = recipe.validation
    if recipe.synthetic:
        data = synthetic(recipe, "cpu" if recipe.workers else device)
    else:
        root = (recipe.data, recipe.sharp) if recipe.sharp else recipe.data
        found = find_videos(root, None, recipe.layout, recipe.gopro_blur, strict=False)
        data = SequenceDataset(
            (found.only("train") if found.phases else found).raise_problems().videos,
            length=recipe.length,
            crop=recipe.crop,
            noise=recipe.noise,
            brightness=recipe.brightness,
            contrast=recipe.contrast,
            seed=recipe.seed,
            skip_corrupt=recipe.skip_corrupt,
        )
        if not judged and {"test", "valid"} & set(found.phases):
            return data, validation_clips(found)
    return data, validation_clips(
        find_videos(judged, gopro_blur=recipe.gopro_blur, strict=False)
    ) if judged else {}


def synthetic(recipe, device="cpu"):
    """The clips of a recipe's pictures: rendered anew for each sequence, or stored."""
    data = SyntheticDataset(
        recipe.data,
        recipe.cutouts,
        length=recipe.clip_length if recipe.clips else recipe.length,
        crop=recipe.clip_size if recipe.clips else recipe.crop,
        seed=recipe.seed,
        part="train" if recipe.hold_out else None,
        settings=recipe.synthesis,
        device=device,
    )
    if not recipe.clips:
        return data
    return StoredClips(
        recipe.store, data, recipe.clips, length=recipe.length, crop=recipe.crop, seed=recipe.seed
    )


def validation_clips(found):
    """The clips that are not for training: those for testing, or else for validation, or all if none is told apart."""
    phase = next((phase for phase in ("test", "valid") if phase in found.phases), None)
    return (found.only(phase) if phase else found).raise_problems().clips


class InfiniteBatchSampler:
    """The numbers of the sequences that one process takes: batch after batch, without end."""

    def __init__(self, first, batch, process, processes):
        self.first, self.batch, self.process, self.processes = first, batch, process, processes

    def __iter__(self):
        step = self.first
        while True:
            begin = (step * self.processes + self.process) * self.batch
            yield list(range(begin, begin + self.batch))
            step += 1


def loader(data, draws, workers, pinned):
    """The batches of these draws, read by so many processes beside this one."""
    return DataLoader(
        data,
        batch_sampler=draws,
        num_workers=workers,
        pin_memory=pinned,
        persistent_workers=workers > 0,
        worker_init_fn=ignore_sigint,
    )


def ignore_sigint(worker):
    """Ctrl+C is for the process that trains."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def next_batch(batches, hint):
    """The next batch; what a worker says of a file, without the worker's traceback."""
    try:
        return next(batches)
    except OSError as error:
        said = str(error).strip().splitlines()[-1].removeprefix("OSError: ")
        raise OSError(said + hint) from error
