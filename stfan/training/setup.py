"""Build what a run needs, as its recipe says: accelerator, network, optimiser."""

from datetime import timedelta
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
from torch import nn

from stfan.devices import fast_bfloat16, resolve_device
from stfan.model import weights
from stfan.model.network import STFAN, initialise, last_conv
from stfan.training.muon import Muon, is_matrix
from stfan.training.recipe import Recipe

TIMEOUT = timedelta(hours=12)  # for which the other processes wait while one of them validates


def build_accelerator(recipe: Recipe, cpu: bool) -> Any:
    """Build the Accelerator of a recipe's precision and window."""
    device = "cpu" if cpu else resolve_device("auto")
    is_half = recipe.precision == "bfloat16" or (recipe.precision == "auto" and fast_bfloat16(device))
    # In a window of one frame the layer that makes the next state has no part in the loss.
    unused = 1 in (recipe.window, recipe.length % recipe.window)
    return Accelerator(
        cpu=cpu,
        mixed_precision="bf16" if is_half else "no",
        kwargs_handlers=[
            DistributedDataParallelKwargs(find_unused_parameters=unused),
            InitProcessGroupKwargs(timeout=TIMEOUT),
        ],
    )


def build_network(recipe: Recipe) -> STFAN:
    """Build the network that a recipe begins with.

    Raises:
        ValueError: weights of another preset than the recipe's.
    """
    if not recipe.weights:
        return initialise(STFAN(recipe.preset, recipe.kernel_size), recipe.initialisation, recipe.seed)
    model = weights.load(recipe.weights).train()
    if model.preset != recipe.preset:
        raise ValueError(
            f"recipe: preset is {recipe.preset}, and weights={recipe.weights} are of the preset {model.preset}"
        )
    return model


def build_optimiser(model: STFAN, recipe: Recipe) -> torch.optim.Adam:
    """Build the optimiser; the slow layers, which make the filters and the state, are in groups of their own."""
    layers = [last_conv(model.align), last_conv(model.deblur), model.align_summary, model.fusion]
    slow = {id(parameter) for layer in layers if layer is not None for parameter in layer.parameters()}
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    for parameter in model.parameters():
        scale = recipe.slow_lr_scale if id(parameter) in slow else 1.0
        key = scale, recipe.optimiser == "muon" and is_matrix(parameter)
        groups.setdefault(key, []).append(parameter)
    kind = Muon if recipe.optimiser == "muon" else torch.optim.Adam
    return kind(
        [
            {"params": members, "scale": scale, "matrices": matrices}
            for (scale, matrices), members in groups.items()
        ],
        betas=recipe.betas,
        fused=True,
    )
