"""Describe the weights that a run exports: a card of a page for people, and a record of everything for research."""

import json
from collections.abc import Mapping
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
from stfan.files import read_json, to_json
from stfan.model import weights
from stfan.model.deblurrer import Deblurrer
from stfan.synthesis.dataset import SyntheticDataset
from stfan.synthesis.store import StoredClips
from stfan.training.recipe import Recipe

PROTOCOL = PROTOCOLS["rgb8"]


def judge(trainer: Any) -> dict[str, Any]:
    """Score the exported weights on the validation clips; return {} where there are none.

    Args:
        trainer: the :class:`stfan.training.trainer.Trainer` that exported them.
    """
    if not trainer.clips:
        return {}
    # The exported weights, not the trainer's: they are rounded to half precision.
    model = weights.load(trainer.folder / "weights.safetensors", trainer.device)
    return evaluate(Deblurrer(model), trainer.clips, PROTOCOL)


def build_card(trainer: Any, scores: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Describe the exported weights in a page of JSON: recipe, hours, data with licences, device, scores.

    Args:
        trainer: the :class:`stfan.training.trainer.Trainer` that exported them.
        scores: of :func:`judge`.
    """
    device = f"cuda:{trainer.device.index or 0}" if trainer.device.type == "cuda" else "cpu"
    provenance = trainer.provenance
    card: dict[str, Any] = {
        "preset": trainer.model.preset,
        "parameters": weights.count(trainer.model),
        "recipe": "recipe.toml",
        "iterations": trainer.iteration,
        "hours": round(hours(trainer.curve), 2),
        "processes": trainer.processes,
        "date": date.today().isoformat(),
        "device": devices()[device],
        "torch": torch.__version__,
    }
    if trainer.recipe.weights:
        card["begun_from"] = {"weights": trainer.recipe.weights}
        with suppress(OSError, ValueError):
            earlier = read_json(weights.locate(trainer.recipe.weights).with_suffix(".json"))
            card["begun_from"] |= {key: earlier[key] for key in ("date", "iterations") if key in earlier}
            card["begun_from"]["hours"] = hours_in_all(earlier)
    card["data"] = {"sequences": len(trainer.data), "pictures": len(_pictures(trainer))}
    if trainer.clips:
        card["data"] |= {
            "test_clips": len(trainer.clips),
            "test_pictures": len(validation_pictures(provenance)),
        }
    if "sources" in provenance:
        card["data"]["sources"] = provenance["sources"]
    if scores:
        card["scores"] = {key: scores[key] for key in ("protocol", "rule", "overall")}
        if buckets := bucket_scores(dict(scores)):
            card["buckets"] = buckets
    return card


def build_record(trainer: Any, scores: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Collect what the card leaves out: the whole recipe, the curve, the names of all pictures, each clip's scores."""
    record = {
        "recipe": asdict(trainer.recipe),
        "curve": trainer.curve,
        "pictures": _pictures(trainer),
        "test": trainer.provenance.get("clips", sorted(trainer.clips)),
    }
    if scores:
        sides = ("frames", "input", "output")
        record["scores"] = {
            name: {side: clip[side] for side in sides if side in clip}
            for name, clip in scores["clips"].items()
        }
    return record


def card_text(card: Mapping[str, Any]) -> str:
    """Write a card as JSON: what fits into 200 characters takes one line."""

    def text(value: Any, indent: str) -> str:
        line = to_json(value)
        if not isinstance(value, Mapping) or (indent and len(line) <= 200):
            return line
        inner = indent + " "
        lines = [f"{inner}{to_json(name)}: {text(part, inner)}" for name, part in value.items()]
        return "{\n" + ",\n".join(lines) + f"\n{indent}}}"

    return text(card, "") + "\n"


def hours(curve: list[dict[str, Any]]) -> float:
    """Compute the hours that a run took, from the rates of its curve."""
    total, last = 0.0, 0
    for point in curve:
        if "iterations_per_second" in point:
            total += (point["iteration"] - last) / point["iterations_per_second"] / 3600
            last = point["iteration"]
    return total


def hours_in_all(card: Mapping[str, Any]) -> float:
    """Add the hours of the weights that a run began from to its own."""
    return float(round(card.get("hours", 0) + card.get("begun_from", {}).get("hours", 0), 2))


def validation_pictures(provenance: Mapping[str, Any]) -> set[str]:
    """Return the names of the pictures that the validation clips show."""
    return {picture for clip in provenance.get("clips", {}).values() for picture in clip["pictures"]}


def _pictures(trainer: Any) -> list[str]:
    """List the names of the pictures that the training clips show; none for recorded pairs."""
    if isinstance(trainer.data, SyntheticDataset | StoredClips):
        return [path.name for path in trainer.data.pictures]
    return list(trainer.provenance.get("pictures", []))


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
