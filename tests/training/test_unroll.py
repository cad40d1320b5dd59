"""The loss over a sequence, window by window: its gradients, its border, its memory."""

import pytest
import torch
from torch.nn import functional as F

from stfan.model.deblurrer import Deblurrer
from stfan.model.network import STFAN
from stfan.training.losses import Loss

pytest.importorskip("accelerate")

from stfan.model.network import initialise
from stfan.training.unroll import UnrolledLoss
from support import oracle


def frames(count, seed=0, size=16, batch=1):
    return torch.rand(2, batch, count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_nothing_grows_over_a_long_sequence():
    """Check a network that has learnt nothing yet; test_model.py checks one that starts as the identity."""
    video = frames(30)[0][0]
    outputs = torch.stack([*map(Deblurrer(initialise(STFAN(), "kaiming", 0).eval()), video)])
    assert (outputs - video).abs().mean((1, 2, 3)).max() < 0.1


@pytest.mark.parametrize("recompute", [False, True])
def test_gradients_of_a_window_are_autograds(recompute):
    """Compare three frames with a loop of our own, and then one more that starts where they ended."""
    blurry, sharp = frames(4).double()
    model = initialise(STFAN("compact"), "identity", 0).double()
    window = UnrolledLoss(model, Loss(perceptual_weight=0.0), recompute)

    def by_hand(first, last, previous, output, state):
        total = 0
        for t in range(first, last):
            result, state = model(previous, blurry[:, t], output, state)
            total = total + F.mse_loss(result, sharp[:, t]) / (last - first)
            previous, output = blurry[:, t], result.clamp(0, 1)
        return total, (previous, output.detach(), state.detach())

    parameters = list(model.parameters())
    start = blurry[:, 0]
    wanted, carried = by_hand(0, 3, start, start, model.initial_state(start))
    loss, terms, given = window(blurry[:, :3], sharp[:, :3], None)
    # the window's losses are means of squares in float64; errors of the network count twice, and backward again
    rounding = oracle.network(model, torch.float64, frames=4 * 3)
    oracle.assert_within(loss, wanted, rounding * wanted.item())
    assert terms["mse"].item() == pytest.approx(wanted.item(), rel=rounding, abs=0)
    for one, other in zip(
        torch.autograd.grad(loss, parameters), torch.autograd.grad(wanted, parameters), strict=True
    ):
        oracle.assert_within(one, other, rounding * max(1, other.abs().max()))
    assert not any(tensor.requires_grad for tensor in given)
    wanted, _ = by_hand(3, 4, *carried)
    loss, _, _ = window(blurry[:, 3:], sharp[:, 3:], given)
    oracle.assert_within(loss, wanted, rounding * wanted.item())


def test_the_loss_leaves_a_border_out():
    """What the target is there changes nothing; one pixel further in it does."""
    model = initialise(STFAN("compact"), "identity", 0)
    blurry, sharp = frames(2)
    losses = []
    for place in (None, 3, 4):
        changed = sharp.clone()
        if place is not None:
            changed[..., place, :] += 1
        losses.append(
            UnrolledLoss(model, Loss(perceptual_weight=0.0), False, border=4)(blurry, changed, None)[0]
        )
    assert losses[0] == losses[1] != losses[2]


def test_recomputing_keeps_a_fraction():
    """Compare the bytes that autograd saves for the backward pass."""
    model = initialise(STFAN(), "identity", 0)
    blurry, sharp = frames(8, size=32)

    def saved(recompute):
        kept = {}

        def pack(tensor):
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            UnrolledLoss(model, Loss(perceptual_weight=0.0), recompute)(blurry, sharp, None)
        return sum(kept.values())

    assert saved(True) < saved(False) / 4
