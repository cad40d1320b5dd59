"""What is not finite stops a run, and is never saved."""

import pytest
import torch

from stfan.model import weights

pytest.importorskip("accelerate")

from stfan.training.checkpoint import latest
from stfan.training.trainer import Trainer
from support.runs import small


class Spoilt(torch.autograd.Function):
    """Multiplies by 1 forward and by infinity backward."""

    @staticmethod
    def forward(context, value):
        return value.clone()

    @staticmethod
    def backward(context, grad):
        return grad * torch.inf


@pytest.mark.parametrize("spoil", [lambda loss: loss * torch.nan, Spoilt.apply], ids=["loss", "gradient"])
@pytest.mark.parametrize(("steps", "good"), [(1, 5), (3, 4), (50, 4)])
def test_what_is_not_finite_stops_and_poisons_nothing(clips, tmp_path, spoil, steps, good):
    """Look at every step, as on a CPU, or every third; and at each checkpoint, before a GPU's 50 steps are over."""
    trainer = Trainer(small(clips, ema_decay=0.5), tmp_path, cpu=True)
    trainer.finite_check.steps = steps
    before = {}

    def spoil_fifth(trainer, loss):
        if trainer.iteration == good:
            before.update({name: tensor.clone() for name, tensor in trainer.eval_model.state_dict().items()})
            before.update({f"model.{name}": w.clone() for name, w in trainer.model.state_dict().items()})
        if trainer.iteration == 5:
            inner = trainer.unrolled_loss.loss[0]
            trainer.unrolled_loss.loss[0] = lambda output, truth: (spoil(inner(output, truth)[0]), {})

    with pytest.raises(
        FloatingPointError,
        match=r"iteration 5: not finite: loss \S+, its gradient's norm (nan|inf) on [abc] 0000.*"
        rf"are those of iteration {good}\.",
    ):
        trainer.train(on_step=spoil_fifth)
    after = {f"model.{name}": tensor for name, tensor in trainer.model.state_dict().items()}
    after.update(trainer.eval_model.state_dict())
    assert before.keys() == after.keys() and all(torch.equal(after[name], before[name]) for name in before)
    assert latest(tmp_path).name == "00000004"


def test_looking_at_losses_less_often_changes_nothing(clips, tmp_path):
    runs = [Trainer(small(clips, ema_decay=0.5), tmp_path / str(steps), cpu=True) for steps in (1, 3)]
    for run, steps in zip(runs, (1, 3), strict=True):
        run.finite_check.steps = steps
        run.train()
    for one, other in zip(*(run.eval_model.parameters() for run in runs), strict=True):
        assert torch.equal(one, other)


def test_weights_that_are_not_finite_are_not_saved(clips, tmp_path):
    trainer = Trainer(small(clips, iterations=12), tmp_path, cpu=True)

    def spoil(trainer, loss):
        if trainer.iteration == 8:
            with torch.no_grad():
                trainer.model.fusion.bias[3] = torch.inf

    with pytest.raises(FloatingPointError, match=r"fusion.bias of the model is not finite.*00000004"):
        trainer.train(on_step=spoil)
    assert [place.name for place in (tmp_path / "checkpoints").iterdir()] == ["00000004"]
    assert weights.load(tmp_path / "weights.safetensors")
