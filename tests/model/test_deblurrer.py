"""Frame in, frame out: any size and dtype, flat memory, and a state that can be stored."""

import copy
import gc
from unittest import mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from stfan import Deblurrer
from support import oracle
from support.shots import shot


def test_deblurrer_is_the_recurrence(small):
    video = [frame.contiguous(memory_format=torch.channels_last) for frame in torch.rand(4, 1, 3, 16, 20)]
    with torch.no_grad():
        previous = output = video[0]
        state = small.initial_state(video[0])
        wanted = []
        for frame in video:
            output, state = small(previous, frame, output, state)
            output, previous = output.clamp(0, 1), frame
            wanted.append(output[0])
    deblurrer = Deblurrer(small)
    for _ in range(2):  # reset() forgets everything
        for frame, right in zip(video, wanted, strict=True):
            assert torch.equal(deblurrer(frame[0]), right)
        deblurrer.reset()


@pytest.mark.parametrize("tile", [None, 4])
@pytest.mark.parametrize("strength", [0, 0.3, 1, 1.5])
def test_strength_scales_the_change_and_leaves_the_recurrence(small, strength, tile):
    model = copy.deepcopy(small).double()
    whole, scaled = Deblurrer(model), Deblurrer(model, tile, strength=strength)
    frames, eps = 0.25 + torch.rand(4, 3, 9, 14, dtype=torch.float64) / 2, torch.finfo(torch.float64).eps
    with torch.no_grad():
        for frame in frames:
            full, shown = whole(frame), scaled(frame)
            if tile is None:
                assert all(torch.equal(scaled.state()[name], one) for name, one in whole.state().items())
            # The difference, the product and the sum are rounded once each, and so is what the network added. All of
            # them are below 2. Tiles change sums' order.
            inside = (full > 0) & (full < 1)
            wanted = (frame + strength * (full - frame)).clamp(0, 1)
            close = 4 * 2 * eps + (
                0 if tile is None else oracle.network(model, torch.float64, len(frames), 2)
            )
            assert (shown - wanted)[inside].abs().max() <= close
            if strength == 0:
                assert torch.equal(shown, frame)
            if strength == 1 and tile is None:
                assert torch.equal(shown, full)


@pytest.mark.parametrize("strength", [-0.1, 1.6, float("nan"), "1", True, None])
def test_bad_strengths_are_refused(small, strength):
    with pytest.raises(ValueError, match=r"Deblurrer: strength must be a number from 0 to 1.5, got "):
        Deblurrer(small, strength=strength)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (3, 2), (1, 6), (5, 7), (16, 18), (17, 16)])
def test_any_size_is_continued_by_reflection(small, size):
    odd, whole = Deblurrer(small), Deblurrer(small)
    for frame in torch.rand(2, 3, *size):
        around = [(0, 0), *((0, -side % 4) for side in size)]
        reflected = torch.from_numpy(np.pad(frame.numpy(), around, mode="reflect"))
        output = odd(frame)
        assert torch.equal(output, whole(reflected)[:, : size[0], : size[1]])
        assert output.shape == frame.shape and 0 <= output.min() and output.max() <= 1


def test_videos_side_by_side(small):
    videos = torch.rand(3, 2, 3, 8, 12, dtype=torch.float64)  # 3 frames of 2 videos
    model = copy.deepcopy(small).double()
    together, alone = Deblurrer(model), [Deblurrer(model), Deblurrer(model)]
    for frames in videos:
        wanted = torch.stack([deblur(frame) for deblur, frame in zip(alone, frames, strict=True)])
        oracle.assert_within(together(frames), wanted, oracle.network(model, torch.float64, frames=3))


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64, torch.bfloat16])
def test_frames_of_another_dtype(small, dtype):
    frame = torch.rand(3, 8, 8).to(dtype)
    output = Deblurrer(small)(frame)
    assert output.dtype == dtype and torch.equal(output, Deblurrer(small)(frame.float()).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("tile", [None, 4])
def test_a_model_in_half_rounds_what_it_adds_but_not_the_frame(small, dtype, tile):
    """Check that rounding is small against the change that the network makes."""
    video = torch.rand(3, 3, 8, 8)
    whole, half = Deblurrer(small, tile), Deblurrer(copy.deepcopy(small).to(dtype), tile)
    for frame in video:
        output, exact = half(frame), whole(frame)
        assert output.dtype == torch.float32
        assert (output - exact).abs().max() < 0.1 * (exact - frame).abs().max()
    assert half.state()["state"].dtype == dtype
    still = copy.deepcopy(small).to(dtype)
    last = [module for module in still.modules() if isinstance(module, torch.nn.Conv2d)][-1]
    torch.nn.init.zeros_(last.weight)
    torch.nn.init.zeros_(last.bias)
    deblurrer = Deblurrer(still, tile)
    assert all(torch.equal(deblurrer(frame), frame) for frame in video)


def test_frames_may_be_changed_afterwards(small):
    """Change frame and result: a decoder may fill the same tensor again, a caller may draw into the result."""
    video = torch.rand(3, 3, 8, 8)
    careful = Deblurrer(small)
    wanted = [careful(frame.clone()) for frame in video]
    careless, buffer = Deblurrer(small), torch.empty(3, 8, 8)
    for frame, right in zip(video, wanted, strict=True):
        output = careless(buffer.copy_(frame))
        assert torch.equal(output, right)
        output.zero_()
        buffer.zero_()


def test_other_layouts_make_no_difference(small):
    frame = torch.rand(8, 12, 3)  # as pictures are decoded
    assert torch.equal(
        Deblurrer(small)(frame.permute(2, 0, 1)), Deblurrer(small)(frame.permute(2, 0, 1).contiguous())
    )


@pytest.mark.parametrize(
    ("error", "words", "frame"),
    [
        (ValueError, r"frame must be \(3, H, W\) or \(N, 3, H, W\), got \(1, 8, 8\)", torch.zeros(1, 8, 8)),
        (ValueError, r"got \(8, 8\)", torch.zeros(8, 8)),
        (ValueError, r"got \(3, 0, 8\)", torch.zeros(3, 0, 8)),
        (ValueError, r"got \(0, 3, 8, 8\)", torch.zeros(0, 3, 8, 8)),
        (
            TypeError,
            r"must be a floating-point tensor in \[0, 1\], got torch.uint8",
            torch.zeros(3, 8, 8).byte(),
        ),
        (TypeError, r"must be a floating-point tensor in \[0, 1\], got ndarray", np.zeros((3, 8, 8))),
    ],
)
def test_bad_frames_are_refused_and_change_nothing(small, error, words, frame):
    deblurrer, same = Deblurrer(small), Deblurrer(small)
    for good in torch.rand(2, 3, 8, 8):
        with pytest.raises(error, match=words):
            deblurrer(frame)
        assert torch.equal(deblurrer(good), same(good))


@pytest.mark.parametrize("other", [(3, 8, 12), (3, 8, 7), (2, 3, 8, 8)])
def test_a_change_of_size_is_refused(small, other):
    deblurrer = Deblurrer(small)
    deblurrer(torch.rand(3, 8, 8))
    with pytest.raises(ValueError, match=r"frames were 1 of 8x8, this is . of .*; call reset\(\)"):
        deblurrer(torch.rand(other))
    deblurrer.reset()
    assert deblurrer(torch.rand(other)).shape == other


@pytest.mark.parametrize("tile", [2, -4, 30, 64.0, "64", True, False])
def test_bad_tiles(small, tile):
    with pytest.raises(ValueError, match="tile must be None, 0 or a positive multiple of 4, got"):
        Deblurrer(small, tile)


def test_whole_frames_only_if_so_asked(small, caplog):
    """When memory runs out, the message says what to do, and nothing changes."""
    deblurrer, room = Deblurrer(small, tile=0), [True]

    def step(*tensors):
        if not room:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return small(*tensors)

    model = mock.Mock(wraps=small, side_effect=step, parameters=small.parameters)
    deblurrer.model = model
    first, second = torch.rand(2, 3, 8, 400)
    whole = Deblurrer(small)
    assert torch.equal(deblurrer(first), whole(first))
    room.clear()
    with pytest.raises(
        RuntimeError,
        match=r"out of memory on cpu at 400x8, and tile 0 allows no tiles; leave it out, or give .*: CUDA out",
    ):
        deblurrer(second)
    assert deblurrer.tile == 0 and not caplog.records
    room.append(True)
    assert torch.equal(deblurrer(second), whole(second))


def held():
    """Count the tensors that exist, their bytes, and all of Python's objects."""
    gc.collect()
    objects = gc.get_objects()
    tensors = [thing for thing in objects if type(thing) is torch.Tensor]
    return len(tensors), sum(tensor.numel() * tensor.element_size() for tensor in tensors), len(objects)


@pytest.mark.parametrize(
    ("options", "frames"),
    [({}, 795), pytest.param({"tile": 4, "reset_on_cut": True}, 100, marks=pytest.mark.long)],
)
def test_memory_is_flat(small, options, frames):
    deblurrer, counts = Deblurrer(small, **options), []
    for t in range(frames):
        deblurrer(torch.rand(3, 4, 8))
        if t in (2, frames - 1):
            counts.append(held())
    (tensors, size, objects), (tensors_after, size_after, objects_after) = counts
    assert (tensors_after, size_after) == (tensors, size)
    assert objects_after - objects < frames / 2  # not one for each frame


@pytest.mark.parametrize("size", [(16, 20), (9, 7)])
@pytest.mark.parametrize("options", [{}, {"tile": 8}, {"reset_on_cut": True}])
def test_a_stored_state_goes_on_bit_for_bit(small, tmp_path, size, options):
    """Store the state in a file at every frame, and restore it into a new Deblurrer."""
    video = torch.cat([shot(0, 3, size), shot(1, 3, size)])
    steady = Deblurrer(small, **options)
    state = Deblurrer(small).state()
    assert state == {}
    for frame in video:
        save_file(state, tmp_path / "state.safetensors")
        resumed = Deblurrer(small, **options)
        resumed.restore(load_file(tmp_path / "state.safetensors"))
        assert torch.equal(resumed(frame), steady(frame))
        state = resumed.state()
    for name, tensor in steady.state().items():
        assert torch.equal(state[name], tensor)


def test_a_state_is_a_copy_of_nothing_that_changes(small):
    video = torch.rand(4, 3, 8, 8)
    deblurrer = Deblurrer(small)
    deblurrer(video[0])
    state = deblurrer.state()
    kept = {name: tensor.clone() for name, tensor in state.items()}
    wanted = deblurrer(video[1])
    deblurrer(video[2])
    assert all(torch.equal(state[name], tensor) for name, tensor in kept.items())
    other = Deblurrer(small)
    other.restore(state)
    for tensor in state.values():
        tensor.zero_()
    assert torch.equal(other(video[1]), wanted)
    other.restore({})
    assert other.state() == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"more": torch.zeros(1)}, "state must hold previous, output, state and size, got .*more"),
        ({"output": torch.zeros(1, 3, 8, 12)}, r"output must be \(1, 3, 8, 8\) by size, got \(1, 3, 8, 12\)"),
        ({"state": torch.zeros(1, 96, 2, 2)}, r"state must be \(1, 48, 2, 2\) by size, got \(1, 96, 2, 2\)"),
        ({"size": torch.tensor([9, 8])}, r"previous must be \(1, 3, 12, 8\) by size, got \(1, 3, 8, 8\)"),
    ],
)
def test_a_state_that_is_none_is_refused(small, change, words):
    deblurrer = Deblurrer(small)
    deblurrer(torch.rand(3, 7, 6))
    state = deblurrer.state()
    with pytest.raises(ValueError, match=words):
        deblurrer.restore(state | change)
    with pytest.raises(ValueError, match="got previous"):
        deblurrer.restore({"previous": state["previous"]})


@pytest.mark.parametrize("number", [torch.nan, torch.inf, -torch.inf])
def test_a_frame_that_is_not_finite_is_an_error(number):
    """Spoil one number of a frame; the frame before it is still the last one."""
    model = torch.nn.Linear(1, 1)
    model.initial_state = lambda frame: frame[:, :1, ::4, ::4].expand(-1, 128, -1, -1)
    model.forward = lambda previous, current, output, state: (current.clone(), state)
    deblurrer, frame = Deblurrer(model), torch.rand(3, 8, 8)
    assert torch.equal(deblurrer(frame), frame)
    before = deblurrer.state()
    bad = torch.rand(3, 8, 8)
    bad[1, 2, 3] = number
    with pytest.raises(FloatingPointError, match=r"not finite, in torch\.float32"):
        deblurrer(bad)
    assert all(torch.equal(deblurrer.state()[name], tensor) for name, tensor in before.items())
