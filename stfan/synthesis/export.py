"""Clips of pictures, or of a video, written to a folder."""

import json
from dataclasses import asdict
from pathlib import Path

from stfan.files import atomic_write, refuse_existing
from stfan.images import write_clip
from stfan.synthesis.dataset import PARTS, Synthetic
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

    root/train/00017 is clip 17 of :class:`Synthetic` with part "train", and so for "test". root/clips.json says how each
    came about. All of root is there or nothing.

    Args:
        pictures, cutouts, seed, settings: of :class:`Synthetic`.
        root: the folder to make.
        train, test: numbers of clips.
        frames: of a clip.
        size: (height, width) of a frame, or both as one number.
        progress: wraps the list of clips as they are made, for a bar.
        device: what renders.

    Raises:
        FileExistsError: root exists.
        ValueError, OSError: as for :class:`Synthetic`, before anything is written.
    """
    root = Path(root)
    refuse_existing(root, "choose a new folder")
    made = {
        part: Synthetic(pictures, cutouts, length=frames, crop=size, seed=seed, part=part, settings=settings)
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


def video_set(path, root, length=10, seed=0):
    """Write the clips that :func:`from_video` makes to root/train, in the layout of :mod:`stfan.images`.

    Raises:
        FileExistsError: root exists.
        ValueError, OSError: as there; nothing is left then.
    """
    root = Path(root)
    refuse_existing(root, "choose a new folder")
    with atomic_write(root) as partial:
        for number, (blurry, sharp) in enumerate(from_video(path, length, seed=seed)):
            write_clip(partial / "train" / f"{number:05d}", blurry, sharp)
