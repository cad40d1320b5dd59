"""Training: the steps are correct, runs survive whatever happens, and the bundled weights have a card."""

import errno
import json
import os
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from stfan.data.paired_videos import find_videos
from stfan.model import weights
from stfan.model.deblurrer import Deblurrer
from stfan.model.network import STFAN
from stfan.synthesis.export import synthesize_judging_set, synthesize_set
from stfan.training import vgg
from stfan.training.losses import Loss, Perceptual
from stfan.training.recipe import read

pytest.importorskip("accelerate")
from accelerate.state import AcceleratorState

from stfan.model.network import initialise
from stfan.training import checkpoint
from stfan.training.card import build_card, build_record, card_text, data_provenance, hours_in_all, judge
from stfan.training.checkpoint import checkpoints, latest
from stfan.training.loader import InfiniteBatchSampler
from stfan.training.muon import Muon, is_matrix, orthogonalise
from stfan.training.setup import build_accelerator, build_network
from stfan.training.trainer import Trainer
from stfan.training.unroll import UnrolledLoss
from support import oracle
from support.discs import discs
from support.hostile import Hostile
from support.runs import small


@pytest.fixture(autouse=True)
def fresh():
    """Reset accelerate, which holds the first Accelerator's settings for all that follow in a process."""
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def clips(moving_clips):
    return moving_clips


def frames(count, seed=0, size=16, batch=1):
    return torch.rand(2, batch, count, 3, size, size, generator=torch.Generator().manual_seed(seed))


def test_kaiming_as_pytorch_has_it():
    model = initialise(STFAN(), "kaiming", 0)
    convolution = model.reconstruction[1].conv1
    bound = (64 * 9) ** -0.5
    for tensor in (convolution.weight, convolution.bias):
        assert 0.9 * bound < tensor.abs().max() <= bound
    assert convolution.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.02)
    again, other = (initialise(STFAN(), "kaiming", seed).fusion.weight for seed in (0, 1))
    assert torch.equal(model.fusion.weight, again) and not torch.equal(again, other)


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


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), RuntimeError("[enforce fail at inline_container.cc]")],
)
def test_a_full_disk_keeps_the_last_good_checkpoint(clips, tmp_path, monkeypatch, error):
    """Also when PyTorch reports it in words of its own."""
    trainer = Trainer(small(clips), tmp_path, cpu=True)
    save = torch.save

    def full(content, path):
        if content["iteration"] == 8:
            raise error
        save(content, path)

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match=r"00000008: cannot be written: .*last good checkpoint is .*00000004"):
        trainer.train()
    assert [place.name for place in (tmp_path / "checkpoints").iterdir()] == ["00000004"]
    again = Trainer(small(clips), tmp_path, cpu=True)
    again.load(latest(tmp_path))
    assert again.iteration == 4


def test_a_damaged_checkpoint_is_named_and_the_one_before_it(clips, tmp_path):
    trainer = Trainer(small(clips), tmp_path, cpu=True)
    trainer.train()
    (tmp_path / "checkpoints" / "1notes.txt").write_text("mine")
    (latest(tmp_path) / "model.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match=r"00000008: is damaged: .*remove it to go on from .*00000004"):
        trainer.load(latest(tmp_path))
    shutil.rmtree(latest(tmp_path))
    other = Trainer(small(clips, kernel_size=3), tmp_path, cpu=True)
    with pytest.raises(ValueError, match="00000004: is of another network"):
        other.load(latest(tmp_path))


@pytest.mark.parametrize("old", [True, False])
def test_a_checkpoint_with_code_in_it_is_refused_and_runs_nothing(tmp_path, old):
    place, mark = tmp_path / "checkpoints" / "00000008", tmp_path / "mark"
    place.mkdir(parents=True)
    save_file({"a": torch.ones(3)}, place / "model.safetensors")
    state = {"iteration": Hostile(mark)}
    torch.save(state, place / "state.pt", _use_new_zipfile_serialization=not old)
    with pytest.raises(ValueError) as caught:
        checkpoint.read(place, ["model"])
    words = f"{place}/state.pt: refused: to load it would call posix.system; there is no other"
    assert str(caught.value) == words and not mark.exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: [1, 2], "state.pt: must hold batches, curve, iteration, optimiser, processes"),
        (
            lambda state: {"iteration": 4},
            "state.pt: must hold batches, curve, iteration, optimiser, processes",
        ),
        (lambda state: state | {"optimiser": 3}, "00000004: is of another network: "),
        (lambda state: state | {"optimiser": {"state": {}}}, "00000004: is of another network: "),
    ],
)
def test_a_checkpoint_of_something_else_is_refused(clips, tmp_path, change, words):
    trainer = Trainer(small(clips, iterations=4), tmp_path, cpu=True)
    trainer.iteration = 4
    trainer.save()
    path = latest(tmp_path) / "state.pt"
    torch.save(change(torch.load(path)), path)
    with pytest.raises(ValueError, match=words):
        trainer.load(latest(tmp_path))


def test_files_of_a_run_may_be_read_by_whom_the_umask_says(clips, tmp_path):
    before = os.umask(0o022)
    try:
        Trainer(small(clips, iterations=4), tmp_path, cpu=True).save()
    finally:
        os.umask(before)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert {"weights.safetensors", "model.safetensors", "state.pt"} <= {path.name for path in files}
    assert {path.name: path.stat().st_mode & 0o777 for path in files} == {path.name: 0o644 for path in files}


def test_another_number_of_processes_is_another_run(clips, tmp_path):
    trainer = Trainer(small(clips, iterations=4), tmp_path, cpu=True)
    trainer.processes = 2
    trainer.save()
    with pytest.raises(ValueError, match="of a run with 2 processes, this one has 1"):
        Trainer(small(clips), tmp_path, cpu=True).load(latest(tmp_path))


def test_old_checkpoints_go(clips, tmp_path):
    Trainer(small(clips, iterations=16), tmp_path, cpu=True).train()
    assert [place.name for place in checkpoints(tmp_path)] == ["00000012", "00000016"]


def test_minutes_end_a_run_that_can_be_resumed(clips, tmp_path):
    trainer = Trainer(small(clips, iterations=1000), tmp_path, cpu=True)
    assert not trainer.train(minutes=1e-9)
    assert trainer.iteration == 4 and latest(tmp_path).name == "00000004"


def test_the_card_tells_what_eval_finds(clips, tmp_path):
    from stfan.evaluation.evaluate import evaluate
    from stfan.evaluation.metrics import PROTOCOLS

    trainer = Trainer(small(clips), tmp_path, cpu=True)
    trainer.train()
    card = json.loads(card_text(build_card(trainer, judge(trainer))))
    found = evaluate(
        Deblurrer(weights.load(tmp_path / "weights.safetensors")),
        find_videos(clips, "test").clips,
        PROTOCOLS["rgb8"],
    )
    for side in ("input", "output"):
        assert card["scores"]["overall"][side] == found["overall"][side]
    assert card["iterations"] == 8 and card["data"]["test_clips"] == 1
    record = build_record(trainer, found)
    assert record["recipe"]["iterations"] == 8 and record["test"] == ["d"]
    assert record["scores"]["d"]["output"] == found["clips"]["d"]["output"]


def test_no_card_of_older_weights(clips, tmp_path):
    trainer = Trainer(small(clips), tmp_path, cpu=True)
    (tmp_path / "weights.json").write_text("{}")
    trainer.save()
    assert not (tmp_path / "weights.json").exists()
    assert "scores" not in build_card(trainer)


def test_a_recipe_with_all_of_it(tmp_path):
    """Use synthetic clips, a loss of two terms, bfloat16, weights to begin from, sources, and validation clips."""
    pictures, rng = tmp_path / "pictures", np.random.default_rng(0)
    pictures.mkdir()
    for i in range(6):
        Image.fromarray(rng.integers(0, 255, (40, 48, 3), np.uint8)).save(pictures / f"{i}.png")
    synthesize_set(pictures, tmp_path / "set", 1, 2, 3, 16)
    weights.save(initialise(STFAN("compact", 3), "identity", 0), tmp_path / "first.safetensors")
    (tmp_path / "first.json").write_text('{"iterations": 7, "hours": 1, "begun_from": {"hours": 0.5}}')
    (tmp_path / "sources.json").write_text('{"0.png": "mine"}')
    drawn = Perceptual("random")
    names = vgg.names("{}.weight", "{}.bias")
    buffers = (drawn.get_buffer(name) for name in vgg.names("weight{}", "bias{}"))
    torch.save(
        {f"features.{name}": b for name, b in zip(names, buffers, strict=True)}, tmp_path / "vgg19.pth"
    )
    settings = {
        "synthetic": True,
        "perceptual_weight": 0.01,
        "backbone_weights": str(tmp_path / "vgg19.pth"),
        "precision": "bfloat16",
        "workers": 1,
    }
    files = {"weights": "first.safetensors", "sources": "sources.json", "validation": "set"}
    settings |= {name: str(tmp_path / file) for name, file in files.items()}
    recipe = small(pictures, window=3, gradient_checkpointing=True, iterations=4, **settings)
    trainer = Trainer(recipe, tmp_path / "run", cpu=True)
    assert trainer.model.kernel_size == 3 and trainer.train()
    scores = judge(trainer)
    card = json.loads(card_text(build_card(trainer, scores)))
    record = json.loads(json.dumps(build_record(trainer, scores)))
    assert {"loss", "mse", "perceptual"} <= set(record["curve"][0])
    first = str(tmp_path / "first.safetensors")
    assert card["begun_from"] == {"weights": first, "iterations": 7, "hours": 1.5}
    assert card["data"]["sources"] == {"0.png": "mine"}
    assert (card["data"]["pictures"], card["data"]["test_clips"], card["data"]["test_pictures"]) == (5, 2, 1)
    assert record["pictures"] == [f"{i}.png" for i in range(5)]
    assert [clip["pictures"] for clip in record["test"].values()] == [["5.png"]] * 2
    assert set(record["scores"]) == {"00000", "00001"}
    on_disk = data_provenance(small(tmp_path / "set"))
    assert len(on_disk["pictures"]) == 1 and set(on_disk["pictures"]) <= {f"{i}.png" for i in range(5)}
    assert on_disk["clips"] == record["test"]
    (tmp_path / "set" / "clips.json").write_text('{"clips": ["of another program"]}')
    assert data_provenance(small(tmp_path / "set")) == {}
    with pytest.raises(FileNotFoundError, match=r"nowhere\.json"):
        Trainer(recipe.changed({"sources": "nowhere.json"}), tmp_path / "run", cpu=True)


def test_one_gpu_has_a_number_in_the_card(clips, tmp_path, monkeypatch):
    trainer = Trainer(small(clips), tmp_path, cpu=True)
    trainer.device = torch.device("cuda")
    monkeypatch.setattr("stfan.training.card.devices", lambda: {"cpu": "slow", "cuda:0": "fast"})
    assert build_card(trainer)["device"] == "fast"


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


@pytest.mark.parametrize("name", weights.BUNDLED)
def test_bundled_weights_and_their_card(name):
    """The card is of a page, about this very file, and no clean bucket is worse than no network."""
    text = weights.locate(name).with_suffix(".json").read_text()
    card, model = json.loads(text), weights.load(name)
    assert len(text.splitlines()) <= 60 and text == card_text(card)
    assert card["parameters"] == weights.count(model) and card["preset"] == model.preset
    recipe = read(weights.PRETRAINED / card["recipe"])
    assert 0 < card["iterations"] <= recipe.iterations and card["hours"] > 0
    assert hours_in_all(card) >= card["hours"]
    buckets = [score for drifts in card["buckets"].values() for score in drifts.values()]
    clips = sum(score["clips"] for score in buckets)
    assert clips == card["data"]["test_clips"]
    assert all(score["gain"] > -0.1 for score in card["buckets"]["clean"].values())
    assert len(card["data"]["sources"]) > 0 and card["data"]["pictures"] > 0 < card["data"]["test_pictures"]


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
