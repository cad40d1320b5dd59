"""The card of the weights that a run makes: what they are, and where they are from."""

import json
from contextlib import suppress
from dataclasses import asdict
from datetime import date
from pathlib import Path

import torch

from stfan.devices import devices
from stfan.evaluation.buckets import bucket_scores
from stfan.evaluation.evaluate import evaluate
from stfan.evaluation.metrics import PROTOCOLS
from stfan.model import weights
from stfan.model.deblurrer import Deblurrer

PROTOCOL = PROTOCOLS["rgb8"]


def card(run, judge=True):
    """What the exported weights are, as JSON: recipe, data, device, curve, and scores on the clips kept apart."""
    device = f"cuda:{run.device.index or 0}" if run.device.type == "cuda" else "cpu"
    told = {
        "preset": run.model.preset,
        "parameters": weights.count(run.model),
        "recipe": asdict(run.recipe),
        "iterations": run.iteration,
        "processes": run.processes,
        "data": {"sequences": len(run.data), "test": sorted(run.clips), **run.provenance},
        "date": date.today().isoformat(),
        "device": devices()[device],
        "torch": torch.__version__,
        "curve": run.curve,
    }
    if run.recipe.synthetic:
        told["data"]["pictures"] = [path.name for path in run.data.pictures]
    if run.recipe.weights:
        with suppress(OSError, ValueError):
            told["begun_from"] = json.loads(Path(run.recipe.weights).with_suffix(".json").read_text())
    if run.clips and judge:  # the exported weights, which are rounded to half precision
        model = weights.load(run.folder / "weights.safetensors", run.device)
        told["scores"] = evaluate(Deblurrer(model), run.clips, PROTOCOL)
        if buckets := bucket_scores(told["scores"]):
            told["buckets"] = buckets
        for clip in told["scores"]["clips"].values():
            del clip["per_frame"]
    return told


def data_provenance(recipe):
    """What the card says of the data, read before the work: where it is from, and how the clips to judge on were made."""
    told, data = {}, None if recipe.synthetic else recipe.data
    judged, learnt = _made(recipe.validation or data), _made(data)
    if judged:
        told["clips"] = {name: facts for name, facts in judged.items() if name.startswith("test/")}
    if learnt:
        lists = [facts["pictures"] for name, facts in learnt.items() if name.startswith("train/")]
        told["pictures"] = sorted({picture for pictures in lists for picture in pictures})
    if recipe.sources:
        told["sources"] = json.loads(Path(recipe.sources).read_text())
    return told


def _made(root):
    """{clip: facts} of a set that stfan.synthesis has made, {} of any other."""
    made = root and Path(root, "clips.json")
    found = json.loads(made.read_text()) if made and made.exists() else {}
    return found["clips"] if {"settings", "clips"} <= set(found) else {}
