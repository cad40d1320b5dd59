"""Render clips once, keep them on the disk in 8 bits, and cut sequences from them, different ones in every draw."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from stfan.files import atomic_write, read_json
from stfan.rng import Rng, seeded_generator
from stfan.synthesis.dataset import SyntheticDataset


class StoredClips(Dataset[dict[str, Any]]):
    """Sequences cut from stored synthetic clips: rendering one takes as long as training on it, reading no time.

    Each draw takes a clip, in a new order in every round through all of them; a part of its frames, forwards or
    backwards; and of these a part of the picture, mirrored and turned by chance. All of it comes from the seed and the
    draw's number alone. A clip that is not in the folder yet is rendered and stored there.

    Args:
        folder: the folder of the clips, each a file of (3, T, 3, H, W) uint8: blurry, and both targets, the middle and
            the mean pose; made if it is missing.
        source: a :class:`stfan.synthesis.dataset.SyntheticDataset` that renders them.
        clips: number of clips.
        length: number of frames of a sequence, at most the source's.
        crop: (height, width) of a sequence, at most the source's.
        seed: a number from 0.

    Raises:
        ValueError: a sequence is longer or larger than the clips, or the folder holds clips of another source; the
            message names what differs.
    """

    def __init__(
        self,
        folder: str | Path,
        source: SyntheticDataset,
        clips: int,
        *,
        length: int,
        crop: tuple[int, int],
        seed: int = 0,
    ):
        self.folder, self.source, self.clips = Path(folder), source, clips
        self.length, self.crop, self.seed = length, tuple(crop), seed
        if length > source.length:
            raise ValueError(
                f"length must be at most the {source.length} frames of the stored clips, got {length}"
            )
        if any(side > full for side, full in zip(self.crop, source.size, strict=True)):
            raise ValueError(
                f"crop must be at most the {'x'.join(map(str, source.size))} of the stored clips, got {self.crop}"
            )
        self.pictures = source.pictures
        self._check_folder()

    def _check_folder(self) -> None:
        """Write clips.json, which says how the clips are made, or compare it with that of the folder's clips."""
        facts = {
            "frames": self.source.length,
            "size": list(self.source.size),
            "seed": self.source.seed,
            "part": self.source.part,
            "targets": ["middle", "mean"],
            "pictures": [path.name for path in self.source.pictures],
            "cutouts": [path.name for path in self.source.cutouts],
            "settings": json.loads(json.dumps(asdict(self.source.settings))),
        }
        card = self.folder / "clips.json"
        if card.exists():
            stored = read_json(card)
            if not isinstance(stored, dict):
                raise ValueError(f"{card}: must be a JSON object, got {json.dumps(stored)[:40]}")
            different = [name for name, value in facts.items() if stored.get(name) != value]
            if different:
                raise ValueError(
                    f"{self.folder}: its clips are made with other {' and '.join(different)}; take another folder"
                )
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(card) as partial:
            partial.write_text(json.dumps(facts, indent=1) + "\n")

    def __len__(self) -> int:
        """Return the number of clips."""
        return self.clips

    def load_clip(self, number: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Map clip `number` into memory, (3, T, 3, H, W) uint8; only what is used is read; render it if missing."""
        file = self.folder / f"{number:05d}.npy"
        if not file.exists():
            made = self.source.render(number, self.source.device)
            with atomic_write(file) as partial, open(partial, "wb") as output:
                np.save(output, torch.stack([made.blurry, made.middle, made.mean]).numpy())
        clip: np.ndarray[Any, np.dtype[np.uint8]] = np.load(file, mmap_mode="r")
        return clip

    def __getitem__(self, draw: int) -> dict[str, Any]:
        """Return sequence number `draw`, from 0 without end.

        Returns:
            {"blurry", "sharp": (T, 3, h, w) uint8, "name": clip and draw}
        """
        if draw < 0:
            raise IndexError(f"sequences are numbered from 0, got {draw}")
        turn, position = divmod(draw, self.clips)
        order = torch.randperm(self.clips, generator=seeded_generator(self.seed, 1, turn))
        number, rng = int(order[position]), Rng(seeded_generator(self.seed, 0, draw))
        clip = self.load_clip(number)
        whole, part = (self.source.length, *self.source.size), (self.length, *self.crop)
        first, top, left = (rng.randint(0, full - side) for full, side in zip(whole, part, strict=True))
        (height, width), last = self.crop, first + self.length
        pair = clip[
            [0, 2 if self.source.target == "mean" else 1],
            first:last,
            :,
            top : top + height,
            left : left + width,
        ]
        for axis in (1, 3, 4):  # backwards, upside down, mirrored
            if rng.chance(0.5):
                pair = np.flip(pair, axis)
        if height == width and rng.chance(0.5):
            pair = pair.swapaxes(3, 4)
        blurry, sharp = torch.from_numpy(np.array(pair, order="C"))
        return {"blurry": blurry, "sharp": sharp, "name": f"{number:05d}-{draw}"}
