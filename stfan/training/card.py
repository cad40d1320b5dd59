"""Build the card of the weights that a run makes: what they are, and where they come from."""

import json
from contextlib import suppress
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import torch

from stfan.devices import devices
from stfan.evaluation.buckets import bucket_scores
from stfan.evaluation.evaluate import evaluate
from stfan.evaluation.metrics import PROTOCOLS
from stfan.files import read_json
from stfan.model import weights
from stfan.model.deblurrer import Deblurrer
from stfan.synthesis.dataset import SyntheticDataset
from stfan.synthesis.store import StoredClips
from stfan.training.recipe import Recipe

PROTOCOL = PROTOCOLS["rgb8"]


def build_card(trainer: Any, with_scores: bool = True) -> dict[str, Any]:
    """Describe the exported weights for JSON: recipe, data, device, curve, and scores on the validation clips.

    Args:
        trainer: the :class:`stfan.training.trainer.Trainer` that exported them.
        with_scores: score the weights on the validation clips, if there are any.
    """
    device = f"cuda:{trainer.device.index or 0}" if trainer.device.type == "cuda" else "cpu"
    card: dict[str, Any] = {
        "preset": trainer.model.preset,
        "parameters": weights.count(trainer.model),
        "recipe": asdict(trainer.recipe),
        "iterations": trainer.iteration,
        "processes": trainer.processes,
        "data": {"sequences": len(trainer.data), "test": sorted(trainer.clips), **trainer.provenance},
        "date": date.today().isoformat(),
        "device": devices()[device],
        "torch": torch.__version__,
        "curve": trainer.curve,
    }
    if isinstance(trainer.data, SyntheticDataset | StoredClips):
        card["data"]["pictures"] = [path.name for path in trainer.data.pictures]
    if trainer.recipe.weights:
        with suppress(OSError, ValueError):
            card["begun_from"] = read_json(weights.locate(trainer.recipe.weights).with_suffix(".json"))
    if trainer.clips and with_scores:
        # The exported weights, not the trainer's: they are rounded to half precision.
        model = weights.load(trainer.folder / "weights.safetensors", trainer.device)
        card["scores"] = evaluate(Deblurrer(model), trainer.clips, PROTOCOL)
        if buckets := bucket_scores(card["scores"]):
            card["buckets"] = buckets
        for clip in card["scores"]["clips"].values():
            del clip["per_frame"]
    return card


def data_provenance(recipe: Recipe) -> dict[str, Any]:
    """Say for the card where the data is from, and how the validation clips were made; read before the work begins."""
    provenance: dict[str, Any] = {}
    data = None if recipe.synthetic else recipe.data
    validation, training = _synthesis_facts(recipe.validation or data), _synthesis_facts(data)
    if validation:
        provenance["clips"] = {name: facts for name, facts in validation.items() if name.startswith("test/")}
    if training:
        lists = [facts["pictures"] for name, facts in training.items() if name.startswith("train/")]
        provenance["pictures"] = sorted({picture for pictures in lists for picture in pictures})
    if recipe.sources:
        provenance["sources"] = read_json(recipe.sources)
    return provenance


def _synthesis_facts(root: str | None) -> dict[str, Any]:
    """Read {clip: facts} of a data set that stfan.synthesis has made; return {} for any other."""
    path = Path(root, "clips.json") if root else None
    if path is None or not path.exists():
        return {}
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: must be a JSON object, got {json.dumps(content)[:40]}")
    if not {"settings", "clips"} <= set(content):
        return {}
    clips = content["clips"]
    if not isinstance(clips, dict):
        raise ValueError(f"{path}: clips must be a JSON object, got {json.dumps(clips)[:40]}")
    for name, facts in clips.items():
        pictures = facts.get("pictures") if isinstance(facts, dict) else None
        if not isinstance(pictures, list) or not all(isinstance(picture, str) for picture in pictures):
            raise ValueError(
                f'{path}: clip {name} must be {{"pictures": [name, ...], ...}}, got {json.dumps(facts)[:40]}'
            )
    return clips
