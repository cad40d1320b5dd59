"""The network agrees with the article's, built afresh; its start, its gradients, its errors."""

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from fac_ext import fac_reference
from stfan import STFAN, Deblurrer
from stfan.model.network import PRESETS, initialise
from support import oracle


def conv(inputs, outputs, stride=1):
    return nn.Conv2d(inputs, outputs, 3, stride, 1)


class Residual(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.body = nn.Sequential(conv(channels, channels), nn.LeakyReLU(0.1), conv(channels, channels))

    def forward(self, x):
        return self.body(x) + x


def stage(first, channels):
    return nn.Sequential(first, Residual(channels), Residual(channels))


class Article(nn.Module):
    """The article's network from plain layers and fac_reference. Two defects are corrected: no layer is unused, and
    the kernel size is passed on. Layers are made in the order in which STFAN makes its own."""

    def __init__(self, k):
        super().__init__()
        self.k = k
        self.image = nn.Sequential(
            stage(conv(3, 32), 32), stage(conv(32, 64, 2), 64), stage(conv(64, 128, 2), 128)
        )
        self.images = nn.Sequential(
            stage(conv(9, 32), 32), stage(conv(32, 64, 2), 64), stage(conv(64, 128, 2), 128)
        )
        self.alignment = nn.Sequential(stage(conv(128, 128), 128), nn.Conv2d(128, 128 * k * k, 1))
        self.condition = nn.Conv2d(128 * k * k, 128, 1)
        self.deblurring = nn.Sequential(stage(conv(256, 128), 128), nn.Conv2d(128, 128 * k * k, 1))
        self.memory = conv(256, 128)
        self.up_half = nn.ConvTranspose2d(256, 64, 4, 2, 1)
        self.at_half = nn.Sequential(Residual(64), Residual(64))
        self.up_full = nn.ConvTranspose2d(64, 32, 3, 2, 1)
        self.at_full = nn.Sequential(Residual(32), Residual(32))
        self.residual = conv(32, 3)

    def forward(self, previous, current, previous_output, state):
        height, width = current.shape[2:]
        seen = self.images(torch.cat((previous_output, previous, current), dim=1))
        align = self.alignment(seen)
        deblur = self.deblurring(torch.cat((seen, self.condition(align)), dim=1))
        fused = torch.cat(
            (fac_reference(state, align, self.k), fac_reference(self.image(current), deblur, self.k)), dim=1
        )
        x = self.at_half(self.up_half(fused, output_size=(height // 2, width // 2)))
        x = self.at_full(self.up_full(x, output_size=(height, width)))
        return self.residual(x) + current, self.memory(fused)


def count_flops():
    """Count a network's FLOPs; of the filters, as of all layers, the convolution that makes them."""

    def prediction(input, hidden, weight, *others, **keywords):
        return 2 * weight[0] * hidden[0] * hidden[1] * hidden[2] * hidden[3]

    return FlopCounterMode(display=False, custom_mapping={torch.ops.fac_ext.predicted: prediction})


def twins(k):
    ours, theirs = STFAN(kernel_size=k).double(), Article(k).double()
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            other.copy_(mine)
    return ours, theirs


@pytest.mark.parametrize("k", [3, 5])
def test_it_is_the_articles_network(k):
    ours, theirs = twins(k)
    previous, current, previous_output = torch.rand(3, 2, 3, 24, 20, dtype=torch.float64)
    state = torch.randn(2, 128, 6, 5, dtype=torch.float64)
    for _ in range(3):
        mine, other = (
            ours(previous, current, previous_output, state),
            theirs(previous, current, previous_output, state),
        )
        for a, b in zip(mine, other, strict=True):
            size = max(1, b.abs().max())
            oracle.assert_within(a, b, oracle.network(ours, torch.float64, frames=3, size=size))
        previous_output, state = mine
        previous, current = current, previous


@pytest.mark.parametrize("preset", PRESETS)
def test_its_size_is_what_its_description_says(preset):
    model, counts = STFAN(preset), []
    for side in (32, 64):
        frame = torch.zeros(1, 3, side, side)
        state = model.initial_state(frame)
        with count_flops() as counter, torch.no_grad():
            model(frame, frame, frame, state)
        counts.append(counter.get_total_flops())
    words = next(line for line in STFAN.__doc__.splitlines() if line.split()[:1] == [preset]).split()
    parameters, kiloflops, channels = (int(word.replace(",", "")) for word in words[1:])
    assert sum(p.numel() for p in model.parameters()) == parameters
    # what each frame costs whatever its size, to fold two layers into one, is in both counts
    assert round((counts[1] - counts[0]) / (64**2 - 32**2) / 1000) == kiloflops
    assert state.shape == (1, channels, 16, 16) and model.channels == channels


def test_compact_has_no_layer_at_the_frames_size():
    """Check that no convolution has more than half the frame's height, and that the cost is within bounds."""
    model, heights = STFAN("compact").eval(), []
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda _, inputs, output: heights.append(output.shape[2]))
    frame = torch.rand(1, 3, 32, 24)
    with count_flops() as counter, torch.no_grad():
        model(frame, frame, frame, torch.zeros(1, model.channels, 8, 6))
    assert max(heights) == 16
    assert 60e3 <= counter.get_total_flops() / (32 * 24) <= 120e3


def test_without_a_state_it_is_the_first_frame():
    for preset in PRESETS:
        model, frame = STFAN(preset).eval(), torch.rand(2, 3, 16, 24)
        with torch.no_grad():
            wanted = model(frame, frame, frame, model.initial_state(frame))
            for result, right in zip(model(frame, frame, frame), wanted, strict=True):
                assert torch.equal(result, right)


def test_the_old_state_and_the_last_frames_show_in_what_compact_makes():
    model = initialise(STFAN("compact"), "identity", 0).double()
    inputs = [torch.rand(1, 3, 16, 16, dtype=torch.float64) for _ in range(3)]
    inputs.append(torch.rand(1, model.channels, 4, 4, dtype=torch.float64))
    for tensor in inputs:
        tensor.requires_grad_()
    output, state = model(*inputs)
    for result in (output, state):
        grads = torch.autograd.grad(result.square().sum(), inputs, retain_graph=True)
        assert all(grad.abs().max() > 0 for grad in grads)


def test_first_state_comes_from_the_frames_own_features():
    ours, theirs = twins(5)
    frame = torch.rand(1, 3, 16, 24, dtype=torch.float64)
    features = theirs.image(frame)
    wanted = theirs.memory(torch.cat((features, features), dim=1))
    allowed = oracle.network(ours, torch.float64, size=max(1, wanted.abs().max()))
    oracle.assert_within(ours.initial_state(frame), wanted, allowed)


@pytest.mark.parametrize("preset", PRESETS)
def test_two_frames_reach_every_weight(preset):
    """Use two frames: the next state's layer learns from the next frame alone, and one would leave it unchanged."""
    model = initialise(STFAN(preset), "identity", 0)
    frames, target = torch.rand(2, 1, 3, 16, 16), torch.rand(1, 3, 16, 16)
    state = model.initial_state(frames[0]).detach()
    output, state = model(frames[0], frames[0], frames[0], state)
    output, _ = model(frames[0], frames[1], output, state)
    (output - target).abs().mean().backward()
    still = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0]
    assert still == []


@pytest.mark.parametrize("preset", PRESETS)
def test_initialised_it_changes_little_and_stays_put(preset):
    model = initialise(STFAN(preset), "identity", 0)
    video = torch.rand(30, 3, 32, 32)
    deblurrer = Deblurrer(model)
    for frame in video:
        assert (deblurrer(frame) - frame).abs().mean() < 0.1
        assert deblurrer.state()["state"].abs().max() < 20


def frames(*sizes):
    return [torch.zeros(1, *size) for size in sizes]


@pytest.mark.parametrize(
    ("words", "call"),
    [
        ("preset must be article or official or compact, got 'best'", lambda: STFAN(preset="best")),
        (r"multiples of 4, got \(1, 3, 6, 8\)", lambda: STFAN().initial_state(torch.zeros(1, 3, 6, 8))),
        ("kernel_size must be a positive odd int, got 4", lambda: STFAN(kernel_size=4)),
        ("kernel_size must be a positive odd int, got '5'", lambda: STFAN(kernel_size="5")),
        (r"current must be \(B, 3, H, W\).*got \(3, 8, 8\)", lambda: STFAN()(*[torch.zeros(3, 8, 8)] * 4)),
        (
            r"previous must be \(1, 3, 8, 8\) to go with current, got \(1, 4, 8, 8\)",
            lambda: STFAN()(*frames((4, 8, 8), (3, 8, 8), (2, 8, 8), (128, 2, 2))),
        ),
        (
            r"state must be \(1, 128, 2, 2\) to go with current, got \(1, 128, 4, 4\)",
            lambda: STFAN()(*frames((3, 8, 8), (3, 8, 8), (3, 8, 8), (128, 4, 4))),
        ),
    ],
)
def test_errors(words, call):
    with pytest.raises(ValueError, match=words):
        call()
