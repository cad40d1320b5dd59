"""How much a program has to ask of a GPU for a training step: it must be asked for sooner than the GPU has done it."""

import re

import pytest
import torch

from fac_ext.block_plan import BLOCK_BYTES
from stfan.training.meters import Meters

pytest.importorskip("accelerate")
from stfan.training.trainer import Trainer
from support.runs import small

# names of torch's profiler: what makes views or memory, or only asks
NO_WORK = re.compile(
    r"aten::(as_strided_?|view|_unsafe_view|reshape|_reshape_alias|expand|permute|transpose|t|mT|unbind|split|select|slice"
    r"|narrow|(un)?squeeze|unflatten|flatten|detach|alias|to|_to_copy|resize_|(new_)?empty\w*|item|_local_scalar_dense"
    r"|is_\w+|resolve_\w+|result_type|promote_types|scalar_tensor|logical_and|set_|chunk|lift_fresh)$"
)


def operators(function):
    """Count the operators of a call that compute, those alone that call no other: on a GPU about a launch each."""

    def works(event):
        return event.name.startswith(("aten::", "fac_ext::")) and not NO_WORK.match(event.name)

    def work_below(event):
        return any(works(child) or work_below(child) for child in event.cpu_children)

    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as trace:
        function()
    return sum(works(event) and not work_below(event) for event in trace.events())


def test_a_step_dispatches_as_little_for_many_sequences(clips, tmp_path, monkeypatch):
    """In 20 ms a GPU must have all of a step: 2,000 operators of 10 us. The foreach ones count for each tensor here."""
    monkeypatch.setattr("fac_ext.blocks.BIAS_IN_PRODUCT", set())
    monkeypatch.setitem(BLOCK_BYTES, "cpu", BLOCK_BYTES["others"])
    recipe = small(clips, length=5, window=5, optimiser="muon", ema_decay=0.9, clip_norm=3.0, iterations=9)
    trainer = Trainer(recipe, tmp_path, cpu=True)
    trainer.finite_check.steps = 50

    def step(batch):
        blurry, sharp = torch.rand(2, batch, 5, 3, 16, 16)
        sequences = {"blurry": blurry, "sharp": sharp, "name": ["one"] * batch}
        return lambda: trainer.train_on_sequence(sequences, Meters(), lambda trainer, loss: None)

    step(2)()
    few, more = operators(step(2)), operators(step(4))
    assert 1000 < few == more < 2000
