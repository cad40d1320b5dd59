"""Muon: its steps against their statement and against Adam; its launches are few."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

pytest.importorskip("accelerate")
from accelerate.state import AcceleratorState

from stfan.training.checkpoint import latest
from stfan.training.muon import Muon, is_matrix, orthogonalise
from stfan.training.trainer import Trainer
from support import oracle
from support.runs import small


def test_muon_steps_are_orthogonal_and_as_large_as_adams(clips, tmp_path):
    """The others are Adam's; a resumed run has the same bits (the momenta are in its checkpoint)."""
    recipe = small(clips, preset="compact", iterations=4, length=2, optimiser="muon", learning_rate=1e-3)
    before, moved = {}, {}

    def look(trainer, loss):
        if trainer.iteration == 1:
            moved.update({name: p.detach() - before[name] for name, p in trainer.model.named_parameters()})

    whole = Trainer(recipe, tmp_path / "whole", cpu=True)
    before.update({name: p.detach().clone() for name, p in whole.model.named_parameters()})
    whole.train(on_step=look)
    matrices = [name for name, p in whole.model.named_parameters() if is_matrix(p)]
    assert len(matrices) > 10
    for name in matrices:
        step = moved[name].flatten(1)
        if not step.any():
            continue  # in the first frame some layers have no gradient
        values = torch.linalg.svdvals(step) / (1e-3 * 0.2 * max(step.shape) ** 0.5)
        assert values.max() < 1.3 and values[0] > 0.6
    assert any(moved[name].any() for name in moved.keys() - set(matrices))
    part = Trainer(recipe, tmp_path / "part", cpu=True)
    part.train(stop=lambda: part.iteration >= 2)
    AcceleratorState._reset_state(reset_partial_state=True)
    resumed = Trainer(recipe, tmp_path / "part", cpu=True)
    resumed.load(latest(tmp_path / "part"))
    assert 0 < resumed.iteration < 4
    resumed.train()
    for one, other in zip(whole.model.parameters(), resumed.model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_muon_is_its_statement_and_adam():
    """Three steps: of a layer's weight by the momentum, written out; of a bias by Adam, to the bit."""
    weight, bias = (
        torch.nn.Parameter(torch.randn(size, dtype=torch.float64)) for size in ((16, 2, 3, 3), 16)
    )
    wanted, twin = weight.detach().flatten(1).clone(), torch.nn.Parameter(bias.detach().clone())
    groups = [{"params": [weight], "matrices": True}, {"params": [bias], "matrices": False}]
    muon, adam = Muon(groups, lr=0.01, fused=True), torch.optim.Adam([twin], lr=0.01, fused=True)
    momentum = torch.zeros(16, 18, dtype=torch.float64)
    for _ in range(3):
        weight.grad, bias.grad = torch.randn_like(weight), torch.randn_like(bias)
        twin.grad, gradient = bias.grad.clone(), weight.grad.flatten(1)
        momentum = 0.95 * momentum + 0.05 * gradient
        wanted -= 0.01 * 0.2 * 18**0.5 * orthogonalise(0.05 * gradient + 0.95 * momentum)
        muon.step()
        adam.step()
    # Fifteen products of matrices a step; what is added is less than what it is added to.
    allowed = oracle.spread(torch.float64, 3 * 15 * 18, wanted.abs().max())
    oracle.assert_within(weight.detach().flatten(1), wanted, allowed)
    assert torch.equal(bias, twin)


class Launches(TorchDispatchMode):
    """Counts what would be a kernel's launch on a GPU: operators that compute or copy."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        if not op.is_view and not op.name().startswith(("profiler::", "aten::_unsafe_view", "aten::empty")):
            self.names.append(op.name())
        return op(*args, **(kwargs or {}))


def test_muon_multiplies_matrices_of_one_shape_together(clips, tmp_path):
    """34 layers one after the other are 784 launches; one of foreach counts once, though it may be a few."""
    trainer = Trainer(small(clips, optimiser="muon", slow_lr_scale=0.5), tmp_path, cpu=True)
    for parameter in trainer.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    matrices = [p for p in trainer.model.parameters() if is_matrix(p)]
    trainer.optimiser.step()
    for parameter in trainer.model.parameters():
        parameter.grad = torch.randn_like(parameter)
    with Launches() as launches:
        trainer.optimiser.step()
    assert len(matrices) == 34 and 150 < len(launches.names) < 200


@pytest.mark.parametrize("shape", [(48, 432), (600, 48), (48, 48)])
def test_orthogonalise(shape):
    """The polynomial brings singular values from 0.02 to 1 of the norm to 0.65 to 1.25, and keeps their vectors."""
    left, values, right = torch.linalg.svd(torch.randn(shape, dtype=torch.float64), full_matrices=False)
    matrix = (left * values.clamp(min=0.05 * values.norm())) @ right
    new = left.T @ orthogonalise(matrix) @ right.T
    diagonal = new.diagonal()
    assert 0.65 < diagonal.min() and diagonal.max() < 1.25
    allowed = oracle.spread(torch.float64, 5 * 3 * max(shape), 1.25)
    oracle.assert_within(new, torch.diag(diagonal), allowed)
