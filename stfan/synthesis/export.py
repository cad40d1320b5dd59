"""Clips of pictures, or of a video, written to a folder."""

import json
from dataclasses import asdict, replace
from pathlib import Path

from stfan.files import atomic_write
from stfan.images import write_clip
from stfan.synthesis.clip import SynthesisConfig
from stfan.synthesis.dataset import PARTS, SyntheticDataset
from stfan.synthesis.frame_averaging import from_video


def synthesize_set(
    pictures,
    root,
    train=400,
    test=24,
    frames=10,
    size=192,
    seed=0,
    progress=iter,
    *,
    cutouts=None,
    settings=None,
    device="cpu",
):
    """Write clips to root/{train,test} in the layout of :mod:`stfan.images`.

    root/train/00017 is clip 17 of :class:`SyntheticDataset` with part "train", and so for "test". root/clips.json says how each
    came about. All of root is there or nothing.

    Args:
        pictures, cutouts, seed, settings: of :class:`SyntheticDataset`.
        root: the folder to make.
        train, test: numbers of clips.
        frames: of a clip.
        size: (height, width) of a frame, or both as one number.
        progress: wraps the list of clips as they are made, for a bar.
        device: what renders.

    Raises:
        FileExistsError: root exists.
        ValueError, OSError: as for :class:`SyntheticDataset`, before anything is written.
    """
    root = Path(root)
    if root.exists():
        raise FileExistsError(f"{root}: exists already; choose a new folder")
    made = {
        part: SyntheticDataset(
            pictures, cutouts, length=frames, crop=size, seed=seed, part=part, settings=settings
        )
        for part in PARTS
    }
    clips = {}
    with atomic_write(root) as partial:
        for part, draw in progress([("train", i) for i in range(train)] + [("test", i) for i in range(test)]):
            blurry, sharp, facts = made[part].clip(draw, device)
            name = f"{part}/{draw:05d}"
            write_clip(partial / name, blurry, sharp)
            clips[name] = {"draw": draw, **facts}
        card = {"frames": frames, "size": made["train"].size, "seed": seed}
        card |= {"settings": asdict(made["train"].settings), "clips": clips}
        (partial / "clips.json").write_text(json.dumps(card, indent=1) + "\n")


# What the clips to judge on have in common: blur alone, nothing compressed, from pictures that are crisp.
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
# Drift of the camera in pixels a frame. At 0 it stands still, and two cut-outs move by 2 to 8 pixels a frame.
BUCKETS = {
    0: replace(JUDGING, speed=(0.05, 0.05), layers=(2, 2), layer_speed=(40.0, 160.0)),
    2: replace(JUDGING, speed=(2.0, 2.0)),
    4: replace(JUDGING, speed=(4.0, 4.0)),
    8: replace(JUDGING, speed=(8.0, 8.0)),
}
NOISE = 0.5  # of the sensor's gain, in the noisy ones


def synthesize_judging_set(pictures, root, cutouts, clips=12, frames=8, size=192, seed=7, progress=iter):
    """Write clips to judge weights on: buckets of drift, each with and without sensor noise, to root/test.

    A clip is named drift-4-clean-00: the pixels a frame, whether there is noise, its number. The noisy clips are the
    clean ones with noise. root/clips.json says how each came about. All of root is there or nothing.

    Args:
        pictures, cutouts: of :class:`SyntheticDataset`; none of the pictures may be trained on.
        root: the folder to make.
        clips: of each bucket.
        frames, size, seed: of each clip.
        progress: wraps the list of clips as they are made, for a bar.

    Raises:
        FileExistsError: root exists.
        ValueError, OSError: as for :class:`SyntheticDataset`, before anything is written.
    """
    root = Path(root)
    if root.exists():
        raise FileExistsError(f"{root}: exists already; choose a new folder")
    made = {
        (drift, kind): SyntheticDataset(
            pictures,
            cutouts,
            length=frames,
            crop=size,
            seed=seed,
            settings=replace(settings, gain=(gain, gain)),
        )
        for drift, settings in BUCKETS.items()
        for kind, gain in (("clean", 0.0), ("noisy", NOISE))
    }
    facts = {}
    with atomic_write(root) as partial:
        for (drift, kind), draw in progress([(bucket, draw) for bucket in made for draw in range(clips)]):
            blurry, sharp, found = made[drift, kind].clip(draw)
            name = f"test/drift-{drift}-{kind}-{draw:02d}"
            write_clip(partial / name, blurry, sharp)
            facts[name] = {"draw": draw, **found}
        card = {"frames": frames, "size": size, "seed": seed}
        card |= {"settings": {str(drift): asdict(settings) for drift, settings in BUCKETS.items()}}
        (partial / "clips.json").write_text(json.dumps(card | {"clips": facts}, indent=1) + "\n")


def video_set(path, root, length=10, seed=0):
    """Write the clips that :func:`from_video` makes to root/train, in the layout of :mod:`stfan.images`.

    Raises:
        FileExistsError: root exists.
        ValueError, OSError: as there; nothing is left then.
    """
    root = Path(root)
    if root.exists():
        raise FileExistsError(f"{root}: exists already; choose a new folder")
    with atomic_write(root) as partial:
        for number, (blurry, sharp) in enumerate(from_video(path, length, seed=seed)):
            write_clip(partial / "train" / f"{number:05d}", blurry, sharp)
