"""Training: it learns, its steps are right, and a run is what its recipe says."""

import pytest
import torch

from stfan.model import weights
from stfan.model.network import STFAN
from stfan.synthesis.export import synthesize_judging_set
from stfan.training.recipe import read

pytest.importorskip("accelerate")
from accelerate.state import AcceleratorState

from stfan.model.network import initialise
from stfan.training.card import build_card, judge
from stfan.training.checkpoint import latest
from stfan.training.loader import InfiniteBatchSampler
from stfan.training.setup import build_accelerator, build_network
from stfan.training.trainer import Trainer
from support import oracle
from support.discs import discs
from support.runs import small


def test_kaiming_as_pytorch_has_it():
    model = initialise(STFAN(), "kaiming", 0)
    convolution = model.reconstruction[1].conv1
    bound = (64 * 9) ** -0.5
    for tensor in (convolution.weight, convolution.bias):
        assert 0.9 * bound < tensor.abs().max() <= bound
    assert convolution.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    again, other = (initialise(STFAN(), "kaiming", seed).fusion.weight for seed in (0, 1))
    assert torch.equal(model.fusion.weight, again) and not torch.equal(again, other)


def test_draws_of_two_processes_are_those_of_one_with_twice_the_batch():
    def first(count, *arguments):
        return [batch for batch, _ in zip(InfiniteBatchSampler(*arguments), range(count), strict=False)]

    assert first(3, 0, 2, 0, 1) == [[0, 1], [2, 3], [4, 5]]
    two = zip(first(3, 0, 1, 0, 2), first(3, 0, 1, 1, 2), strict=True)
    assert [one + other for one, other in two] == [[0, 1], [2, 3], [4, 5]]
    assert first(1, 5, 2, 0, 1) == [[10, 11]]


def test_it_learns(clips, tmp_path):
    settings = {
        "window": 2,
        "initialisation": "identity",
        "learning_rate": 4e-4,
        "slow_lr_scale": 0.1,
        "clip_norm": 0.5,
    }
    trainer = Trainer(small(clips, iterations=60, noise=0.0, **settings), tmp_path, cpu=True)
    assert trainer.train()
    scores = next(point["test"] for point in trainer.curve if "test" in point)
    assert scores["output"]["psnr"] > scores["input"]["psnr"] + 0.2  # on a clip that it was not trained on


def test_mean_of_the_weights_and_slow_layers(clips, tmp_path):
    trainer = Trainer(
        small(clips, iterations=3, length=3, ema_decay=0.9, slow_lr_scale=0.5, learning_rate=1e-3),
        tmp_path,
        cpu=True,
    )
    seen, wanted = [], None
    rates = set()

    def look(trainer, loss):
        nonlocal wanted
        weight = trainer.model.features[1].weight.detach().clone()
        seen.append(weight)
        wanted = weight if wanted is None else 0.9 * wanted + 0.1 * weight
        rates.add(tuple(sorted(group["lr"] for group in trainer.optimiser.param_groups)))

    trainer.train(on_step=look)
    size = wanted.abs().max()  # of a mean: three terms of weights, each of a product and a sum
    mean = trainer.eval_model.features[1].weight.detach()
    oracle.assert_within(mean, wanted, oracle.spread(torch.float32, 2 * 3, size))
    assert not torch.equal(seen[0], seen[2]) and rates == {(5e-4, 1e-3)}
    exported = weights.load(tmp_path / "weights.safetensors").features[1].weight
    oracle.assert_within(exported, wanted, oracle.spread(torch.float16, 2 * 3, size))  # stored in half


def test_a_step_is_adams_whatever_the_layout_in_memory(clips, tmp_path):
    """Weights are channels_last, the kernel of the step ignores strides, and older checkpoints have other strides."""
    trainer = Trainer(small(clips, iterations=2), tmp_path, cpu=True)
    assert trainer.model.fusion.weight.is_contiguous(memory_format=torch.channels_last)
    twin = [torch.nn.Parameter(p.detach().clone().contiguous()) for p in trainer.model.parameters()]
    adam = torch.optim.Adam(twin, lr=trainer.recipe.learning_rate, betas=trainer.recipe.betas, fused=False)

    def step(trainer, loss):
        for one, other in zip(twin, trainer.model.parameters(), strict=True):
            one.grad = None if other.grad is None else other.grad.contiguous()
        adam.step()

    def compare():
        for one, other in zip(twin, trainer.model.parameters(), strict=True):
            # four steps of at most ten operations, each on a weight or on less
            allowed = oracle.spread(torch.float32, 4 * 10, one.detach().abs().max())
            oracle.assert_within(other.detach().contiguous(), one.detach(), allowed)

    trainer.train(on_step=step)
    compare()
    place = latest(tmp_path)
    state = torch.load(place / "state.pt")
    for held in state["optimiser"]["state"].values():
        held.update({name: held[name].contiguous() for name in ("exp_avg", "exp_avg_sq")})
    torch.save(state, place / "state.pt")
    AcceleratorState._reset_state(reset_partial_state=True)
    trainer = Trainer(trainer.recipe.changed({"iterations": 4}), tmp_path, cpu=True)
    trainer.load(place)
    trainer.train(on_step=step)
    compare()


def test_the_norm_of_the_gradient_is_limited(clips, tmp_path):
    norms = []

    def look(trainer, loss):
        norms.append(
            torch.stack([p.grad.norm() for p in trainer.model.parameters() if p.grad is not None])
            .norm()
            .item()
        )

    Trainer(small(clips, iterations=2, clip_norm=1e-3), tmp_path, cpu=True).train(on_step=look)
    assert norms == pytest.approx([1e-3] * 2, rel=1e-3)


def test_minutes_end_a_run_that_can_be_resumed(clips, tmp_path):
    trainer = Trainer(small(clips, iterations=1000), tmp_path, cpu=True)
    assert not trainer.train(minutes=1e-9)
    assert trainer.iteration == 4 and latest(tmp_path).name == "00000004"


def test_two_folders_are_a_data_set(clips, tmp_path):
    recipe = small(clips / "train" / "a" / "input", sharp=str(clips / "train" / "a" / "GT"), iterations=2)
    trainer = Trainer(recipe, tmp_path, cpu=True)
    said = []
    assert trainer.train(report=said.append) and "no clips to judge on" in said[0]


def test_tensorboard_has_the_scalars(clips, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    Trainer(small(clips, iterations=4), tmp_path, cpu=True).train()
    again = Trainer(small(clips, validate_every=4), tmp_path, cpu=True)
    again.load(latest(tmp_path))
    again.train()
    events = EventAccumulator(str(tmp_path)).Reload()
    assert {
        "train/loss",
        "train/mse",
        "train/learning_rate",
        "train/waited",
        "test/output_psnr (rgb8)",
    } <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("train/loss")] == [4, 8]
    assert len(events.Tags()["images"]) == 1


def test_the_compact_recipe_in_miniature(tmp_path):
    """From stored clips, judged by buckets, resumed in between as if it had not been interrupted."""
    pictures, cutouts = discs(tmp_path / "pictures", 3), discs(tmp_path / "cutouts", 2, 40, alpha=True)
    synthesize_judging_set(pictures, tmp_path / "judging", cutouts, clips=1, frames=2, size=16)
    where = {"data": str(pictures), "cutouts": str(cutouts), "validation": str(tmp_path / "judging")}
    where |= {"store": str(tmp_path / "store"), "sources": None, "clips": 2, "clip_length": 6}
    where |= {"clip_size": [24, 24], "crop": [16, 16], "iterations": 4, "checkpoint_every": 2}
    where |= {"synthesis.h264_part": 0.0}
    recipe = read(weights.PRETRAINED / "compact.toml").changed(where)

    def run(name, stop_at=4):
        AcceleratorState._reset_state(reset_partial_state=True)
        run = Trainer(recipe, tmp_path / name, cpu=True)
        if place := latest(tmp_path / name):
            run.load(place)
        run.train(stop=lambda: run.iteration >= stop_at)
        return run

    whole = run("whole")
    run("parts", stop_at=2)
    parts = run("parts")
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(parts.model.state_dict()[name], tensor), name
    card = build_card(whole, judge(whole))
    assert card["preset"] == "compact" and set(card["buckets"]) == {"clean", "noisy"}
    assert "gain" in whole.curve[-1]["buckets"]["noisy"]["8"]
    assert weights.load(tmp_path / "whole" / "weights.safetensors").preset == "compact"


def test_weights_of_another_preset_are_told_apart(tmp_path):
    weights.save(STFAN("compact"), tmp_path / "w.safetensors")
    recipe = small("unused", weights=str(tmp_path / "w.safetensors"), preset="official", synthetic=False)
    with pytest.raises(ValueError, match=r"preset is official, and weights=.* are of the preset compact"):
        build_network(recipe)


@pytest.mark.parametrize(("fast", "precision"), [(True, "bf16"), (False, "no")])
def test_auto_precision_asks_the_processor(monkeypatch, fast, precision):
    monkeypatch.setattr("stfan.training.setup.fast_bfloat16", lambda device: fast)
    assert build_accelerator(small("unused", precision="auto"), cpu=True).mixed_precision == precision


@pytest.mark.parametrize("optimiser", ["adam", "muon"])
def test_two_steps_on_a_device_and_on(clips, tmp_path, optimiser, device):
    """In bfloat16: what is saved is what there is, it goes on from there, and nothing of it leaves the device."""
    recipe = small(clips, iterations=4, window=2, precision="bfloat16", optimiser=optimiser, ema_decay=0.9)
    first = Trainer(recipe, tmp_path, cpu=device == "cpu")
    assert first.device.type == device and first.finite_check.steps == (1 if device == "cpu" else 50)
    assert not first.train(stop=lambda: first.iteration >= 2)
    AcceleratorState._reset_state(reset_partial_state=True)
    second = Trainer(recipe, tmp_path, cpu=device == "cpu")
    second.load(latest(tmp_path))
    assert second.iteration == 2
    for name, tensors in first._state_dicts().items():
        for key, tensor in second._state_dicts()[name].items():
            assert torch.equal(tensor, tensors[key]) and tensor.device.type in (device, "cpu")
    state = first.optimiser.state_dict()["state"]
    for index, held in second.optimiser.state_dict()["state"].items():
        for name, tensor in held.items():
            assert torch.equal(tensor.cpu(), state[index][name].cpu())
    before = second.model.fusion.weight.detach().clone()
    assert second.train() and not torch.equal(second.model.fusion.weight, before)
    assert all(p.isfinite().all() and p.device.type == device for p in second.model.parameters())
