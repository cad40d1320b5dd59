"""A step as one CUDA graph: a stand-in replays recorded operators on a CPU; a GPU's own capture where there is one."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

from stfan.training.graph import WARM_UP, GraphedStep, capture_cuda
from stfan.training.recipe import Recipe

pytest.importorskip("accelerate")
from accelerate.state import AcceleratorState

from stfan.training.checkpoint import latest
from stfan.training.trainer import Trainer
from support.runs import small


def places(tree):
    return {leaf.untyped_storage().data_ptr() for leaf in tree_flatten(tree)[0] if torch.is_tensor(leaf)}


class Recorder(TorchDispatchMode):
    """Records operators with their numbers and the places of their tensors, as a CUDA graph does; refuses to wait."""

    def __init__(self):
        super().__init__()
        self.records = []

    def __torch_dispatch__(self, op, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if op.name() == "aten::_local_scalar_dense":
            raise AssertionError("a recorded step waits for the device")
        made = op(*args, **kwargs)
        if not op.is_view and op.name() != "aten::detach":
            self.records.append((op, args, kwargs, made))
        return made

    def replay(self):
        for op, args, kwargs, before in self.records:
            inputs = places([args, kwargs])
            now = op(*args, **kwargs)
            for old, new in zip(tree_flatten(before)[0], tree_flatten(now)[0], strict=True):
                if torch.is_tensor(old) and not places(old) & inputs:
                    old.copy_(new)


def record(step):
    """Stand in for capture_cuda: what is recorded has run once, so the first replay does nothing."""
    recorder, replays = Recorder(), iter([lambda: None])
    with recorder:
        results = step()

    def replay():
        with torch.no_grad():
            next(replays, recorder.replay)()

    record.taken.append(recorder)
    return replay, results


@pytest.fixture(autouse=True)
def taken():
    record.taken = []
    return record.taken


def test_a_step_is_recorded_once_and_other_shapes_run_as_they_are(taken):
    total = torch.zeros(2)

    def step(arguments):
        total.add_(arguments[0].sum())
        return [arguments[0] * total[0], *arguments[1:]]

    graphed = GraphedStep(step, record)
    wanted = 0.0
    for i in range(WARM_UP + 4):
        wanted += 2 * i
        (result,) = graphed([torch.full((2,), float(i))])
        assert result.tolist() == [i * wanted] * 2 and total[0] == wanted
        assert len(taken) == (i >= WARM_UP)
    (other,) = graphed([torch.ones(3)])
    assert other.tolist() == [wanted + 3] * 3 and len(taken) == 1
    (result,) = graphed([torch.ones(2)])
    assert result.tolist() == [wanted + 5] * 2
    for _ in range(WARM_UP + 1):
        graphed([torch.ones(2), torch.ones(1)])
    assert len(taken) == 2


def test_a_result_may_be_a_part_of_an_argument():
    """It is an argument of the next call, as the last frame of a window is."""
    graphed = GraphedStep(lambda arguments: [arguments[0] * arguments[1], arguments[0][:]], record)
    previous = torch.ones(2)
    for i in range(1, WARM_UP + 5):
        product, previous = graphed([torch.full((2,), float(i)), previous])
        assert product.tolist() == [i * max(i - 1, 1)] * 2


def test_a_recorded_step_may_not_wait():
    graphed = GraphedStep(lambda arguments: [arguments[0] * arguments[0].sum().item()], record)
    for _ in range(WARM_UP):
        graphed([torch.ones(2)])
    with pytest.raises(AssertionError, match="waits for the device"):
        graphed([torch.ones(2)])


@pytest.mark.parametrize(("optimiser", "resumed_with"), [("adam", False), ("muon", True)])
def test_a_graph_changes_nothing(clips, tmp_path, monkeypatch, taken, optimiser, resumed_with, device):
    """The weights, their mean, the reports and the optimiser's state; also of a run resumed without it, or with it."""
    monkeypatch.setattr("stfan.training.graph.WARM_UP", 1)
    # powers of two, which a tensor of float32 holds as a number does
    monkeypatch.setattr(Recipe, "rate", lambda self, iteration: 0.5 ** (iteration % 3))
    rates = {"learning_rate": 2.0**-10, "slow_lr_scale": 0.5, "clip_norm": 0.01, "ema_decay": 0.5}
    steps = {"iterations": 9, "length": 6, "window": 2, "log_every": 3, "checkpoint_every": 3}
    recipe = small(clips, optimiser=optimiser, **rates, **steps)
    cpu = device == "cpu"
    plain = Trainer(recipe, tmp_path / "plain", cpu=cpu)
    plain.train()
    AcceleratorState._reset_state(reset_partial_state=True)
    graphed = Trainer(recipe, tmp_path / "graphed", cpu=cpu)
    graphed.use_graph(record if cpu else capture_cuda)
    graphed.train()
    assert set(graphed.graph.captured) == {2, 5} and len(taken) == (2 if cpu else 0)
    check_same(plain, graphed, cpu)
    AcceleratorState._reset_state(reset_partial_state=True)
    monkeypatch.setattr("stfan.training.graph.WARM_UP", 0)
    resumed = Trainer(recipe, tmp_path / "graphed", cpu=cpu)
    if resumed_with:
        resumed.use_graph(record if cpu else capture_cuda)
    resumed.load(tmp_path / "graphed/checkpoints/00000006")
    resumed.train()
    check_same(plain, resumed, cpu)


def check_same(one, other, exactly):
    """Compare two runs. A GPU's sums may have another order in a graph: a part of each step, of 1e-3."""
    allowed = 0 if exactly else 9 * 1e-3 / 50
    torch.testing.assert_close(other._state_dicts(), one._state_dicts(), rtol=0, atol=allowed)
    losses = [[point["loss"] for point in run.curve if "loss" in point] for run in (one, other)]
    assert len(losses[0]) == 3 and losses[1] == pytest.approx(losses[0], rel=0 if exactly else 0.05)
    counts = [{float(state["step"]) for state in run.optimiser.state.values()} for run in (one, other)]
    assert counts[0] == counts[1]


def test_what_is_not_finite_is_found_after_recorded_steps(clips, tmp_path, monkeypatch):
    """The weights are those of the last look, and the message names the step."""
    monkeypatch.setattr("stfan.training.graph.WARM_UP", 1)
    trainer = Trainer(small(clips, checkpoint_every=4), tmp_path, cpu=True)
    trainer.use_graph(record)
    scale, kept = torch.ones(()), {}
    inner = trainer.unrolled_loss.loss[0]
    trainer.unrolled_loss.loss[0] = lambda *sides: (inner(*sides)[0] * scale, {})

    def spoil(trainer, loss):
        if trainer.iteration == 4:
            kept.update({name: weight.clone() for name, weight in trainer.model.state_dict().items()})
        if trainer.iteration == 6:
            scale.fill_(torch.nan)

    with pytest.raises(
        FloatingPointError, match=r"iteration 6: not finite: loss nan.*those of iteration 4\."
    ):
        trainer.train(on_step=spoil)
    assert trainer.graph.captured and kept
    assert all(torch.equal(weight, kept[name]) for name, weight in trainer.model.state_dict().items())
    assert latest(tmp_path).name == "00000004"


def test_a_cpu_and_recomputing_have_no_graph(clips, tmp_path):
    assert Trainer(small(clips, cuda_graph=True), tmp_path, cpu=True).graph is None
    with pytest.raises(ValueError, match="cuda_graph and gradient_checkpointing exclude each other"):
        Recipe(cuda_graph=True, gradient_checkpointing=True)
