"""Recipes of short runs."""

from stfan.training.recipe import Recipe

SMALL = {
    "preset": "compact",
    "length": 4,
    "crop": (16, 16),
    "perceptual_weight": 0.0,
    "iterations": 8,
    "workers": 0,
    "log_every": 4,
    "checkpoint_every": 4,
    "validate_every": 0,
}


def small(clips, **settings):
    """Return the recipe of a short run."""
    return Recipe(**{"data": str(clips), **SMALL, **settings})
