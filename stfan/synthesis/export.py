"""Write clips of pictures, or of a video, to a folder."""

import json
from collections.abc import Callable, Iterable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch

from stfan.files import atomic_write, refuse_existing
from stfan.images import write_clip
from stfan.synthesis.clip import SynthesisConfig
from stfan.synthesis.dataset import Files, Size, SyntheticDataset
from stfan.synthesis.frame_averaging import from_video


class Job(NamedTuple):
    """A clip to write: its name, the data set that renders it, its number there."""

    name: str
    dataset: SyntheticDataset
    draw: int


Progress = Callable[[list[Job]], Iterable[Job]]


def synthesize_set(
    pictures: Files,
    root: str | Path,
    train: int = 400,
    test: int = 24,
    frames: int = 10,
    size: Size = 192,
    seed: int = 0,
    progress: Progress = iter,
    *,
    cutouts: Files | None = None,
    settings: SynthesisConfig | None = None,
    device: str | torch.device = "cpu",
) -> None:
    """Write clips to root/{train,test} in the layout of :mod:`stfan.images`.

    root/train/00017 is clip 17 of :class:`SyntheticDataset` with part "train", and so for "test". root/clips.json says
    how each was made. Either all of root is written or nothing.

    Args:
        pictures, cutouts, seed, settings: of :class:`SyntheticDataset`.
        root: the folder to make.
        train, test: numbers of clips.
        frames: number of frames of a clip.
        size: (height, width) of a frame, or both as one number.
        progress: wraps the list of clips while they are made, for a progress bar.
        device: what renders.

    Raises:
        FileExistsError: root exists.
        ValueError, OSError: as for :class:`SyntheticDataset`, before anything is written.
    """
    root = Path(root)
    refuse_existing(root, "choose a new folder")
    training, testing = (
        SyntheticDataset(pictures, cutouts, length=frames, crop=size, seed=seed, part=part, settings=settings)
        for part in ("train", "test")
    )
    jobs = [Job(f"train/{draw:05d}", training, draw) for draw in range(train)]
    jobs += [Job(f"test/{draw:05d}", testing, draw) for draw in range(test)]
    card = {
        "frames": frames,
        "size": training.size,
        "seed": seed,
        "settings": asdict(training.settings),
    }
    _write_clips(root, jobs, card, progress, device)


# Common settings of the clips to judge on: blur alone, nothing compressed, from pictures that are crisp.
JUDGING = SynthesisConfig(
    exposure=(0.25, 0.95),
    sharp_part=0.0,
    crisp=0.25,
    scale=(1.0, 1.0),
    highlights=(1.0, 2.0),
    gain=(0.0, 0.0),
    compressed_part=0.0,
    cut_part=0.0,
    gap_part=0.0,
)
# By the drift of the camera in pixels a frame. At 0 it stands still, and two cut-outs move by 2 to 8 pixels a frame.
BUCKETS = {
    0: replace(JUDGING, speed=(0.05, 0.05), layers=(2, 2), layer_speed=(40.0, 160.0)),
    2: replace(JUDGING, speed=(2.0, 2.0)),
    4: replace(JUDGING, speed=(4.0, 4.0)),
    8: replace(JUDGING, speed=(8.0, 8.0)),
}
NOISE = 0.5  # the sensor's gain in the noisy clips


def synthesize_judging_set(
    pictures: Files,
    root: str | Path,
    cutouts: Files,
    clips: int = 12,
    frames: int = 8,
    size: Size = 192,
    seed: int = 7,
    progress: Progress = iter,
) -> None:
    """Write clips to judge weights on: buckets of drift, each with and without sensor noise, to root/test.

    A clip is named drift-4-clean-00: the pixels a frame, whether there is noise, its number. The noisy clips are the
    clean ones with noise. root/clips.json says how each was made. Either all of root is written or nothing.

    Args:
        pictures, cutouts: of :class:`SyntheticDataset`; none of the pictures may be used in training.
        root: the folder to make.
        clips: number of clips of each bucket.
        frames, size, seed: of each clip.
        progress: wraps the list of clips while they are made, for a progress bar.

    Raises:
        FileExistsError: root exists.
        ValueError, OSError: as for :class:`SyntheticDataset`, before anything is written.
    """
    root = Path(root)
    refuse_existing(root, "choose a new folder")
    jobs = []
    for drift, settings in BUCKETS.items():
        for kind, gain in (("clean", 0.0), ("noisy", NOISE)):
            chosen = replace(settings, gain=(gain, gain))
            dataset = SyntheticDataset(
                pictures, cutouts, length=frames, crop=size, seed=seed, settings=chosen
            )
            jobs += [Job(f"test/drift-{drift}-{kind}-{draw:02d}", dataset, draw) for draw in range(clips)]
    card = {
        "frames": frames,
        "size": size,
        "seed": seed,
        "settings": {str(drift): asdict(settings) for drift, settings in BUCKETS.items()},
    }
    _write_clips(root, jobs, card, progress, "cpu")


def video_set(
    path: str | Path,
    root: str | Path,
    length: int = 10,
    seed: int = 0,
    average: tuple[int, int] = (7, 13),
    fastest: float | None = None,
) -> None:
    """Write the clips that :func:`from_video` makes to root/train, in the layout of :mod:`stfan.images`.

    Raises:
        FileExistsError: root exists.
        ValueError, OSError: as for :func:`from_video`; nothing is left then.
    """
    root = Path(root)
    refuse_existing(root, "choose a new folder")
    with atomic_write(root) as partial:
        for number, (blurry, sharp) in enumerate(from_video(path, length, average, seed, fastest=fastest)):
            write_clip(partial / "train" / f"{number:05d}", blurry, sharp)


def _write_clips(
    root: Path, jobs: list[Job], card: dict[str, Any], progress: Progress, device: str | torch.device
) -> None:
    """Render clips into a new folder, and write the card beside them, with what was drawn for each."""
    facts = {}
    with atomic_write(root) as partial:
        for name, dataset, draw in progress(jobs):
            clip = dataset.render(draw, device)
            write_clip(partial / name, clip.blurry, clip.middle)
            facts[name] = {"draw": draw, **clip.facts}
        (partial / "clips.json").write_text(json.dumps(card | {"clips": facts}, indent=1) + "\n")
