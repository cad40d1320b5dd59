"""Tiles do not show, and come by themselves when memory runs out."""

import copy
import math
import os
import sys

import pytest
import torch
from torch.nn import functional as F

import stfan
from stfan import STFAN, Deblurrer
from stfan.model.network import PRESETS
from stfan.model.tiling import halo, run_tiled
from support import oracle
from support.checkout import ROOT, run


def lively(preset):
    """Make random weights with which every frame shows in the next one."""
    model = STFAN(preset).eval()
    with torch.no_grad():
        for head in (model.align[-1], model.deblur[-1]):
            head.bias.view(-1, 25)[:, 7] += 1  # not the centre tap: what is handed on moves
    return model


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("axis", [2, 3])
def test_the_halo_is_what_a_step_depends_on_and_no_more(preset, axis):
    """Take the gradients of a column of 4 pixels of the output and of the feature that it belongs to."""
    model, at = lively(preset).double(), 100
    shape = [1, 3, 8, 8]
    shape[axis] = 2 * at + 4
    images = [torch.rand(shape, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    state = torch.rand(
        1, model.channels, shape[2] // 4, shape[3] // 4, dtype=torch.float64, requires_grad=True
    )
    output, next_state = model(*images, state)
    (output.narrow(axis, at, 4).sum() + next_state.narrow(axis, at // 4, 1).sum()).backward()
    for tensor, scale in (*((image, 1) for image in images), (state, 4)):
        touched = tensor.grad.abs().movedim(axis, 0).flatten(1).sum(1).nonzero().flatten() * scale
        reach = max(at - int(touched[0]), int(touched[-1]) + scale - 1 - (at + 3))
        assert reach == halo(model) if scale == 1 else reach <= halo(model)


def test_what_lies_beyond_the_halo_makes_no_difference():
    model = lively("article").double()
    beyond = torch.ones(204, dtype=torch.bool)
    beyond[100 - halo(model) : 104 + halo(model)] = False
    images, state = (
        torch.rand(3, 1, 3, 8, 204, dtype=torch.float64),
        torch.rand(1, 128, 2, 51, dtype=torch.float64),
    )
    results = []
    with torch.no_grad():
        for _ in range(2):
            output, next_state = model(*images, state)
            results.append((output[..., 100:104], next_state[..., 25]))
            images[..., beyond], state[..., beyond[::4]] = 7.0, -5.0
    for before, after in zip(*results, strict=True):
        assert torch.equal(before, after)


def test_run_tiled_joins_what_a_function_returns():
    """Use tensors at three scales, in both directions, with a convolution's zeros at the frame's own border."""
    weight, small_weight = torch.randn(2, 1, 9, 9), torch.randn(3, 1, 3, 3)

    def function(x, y, weight=weight, small_weight=small_weight):
        x = F.conv2d(x, weight, padding=4)  # 4 pixels around
        return x, F.avg_pool2d(x, 2), F.conv2d(y, small_weight, padding=1) + F.avg_pool2d(x, 4)[:, :1]

    terms = (81, 81 + 4, 81 + 16 + 9)  # products of a result, and pixels of its mean

    for height, width, tile in ((36, 52, 8), (36, 52, 20), (8, 8, 8), (4, 40, 16), (40, 44, 400)):
        x, y = torch.randn(2, 1, height, width), torch.randn(2, 1, height // 4, width // 4)
        seen = []

        def watched(x, y, seen=seen):
            seen.append(x.shape[2:])
            return function(x, y)

        sizes = function(x.abs(), y.abs(), weight.abs(), small_weight.abs())
        results = run_tiled(watched, (x, y), tile, 8), function(x, y), sizes, terms
        for result, wanted, size, count in zip(*results, strict=True):
            oracle.assert_within(result, wanted, oracle.spread(torch.float32, count, size.max()))
        assert max(map(max, seen)) <= tile + 16


@pytest.mark.parametrize(
    ("make", "size", "tile"),
    [
        (stfan.load, (11, 258), 64),  # neither a multiple of the tile nor of 4
        (lambda: lively("article"), (258, 11), 64),
        (lambda: lively("official"), (11, 258), 128),
        (lambda: lively("compact"), (11, 258), 64),
        (lambda: lively("compact"), (258, 11), 36),
    ],
)
def test_tiles_do_not_show(make, size, tile):
    model = make().double()
    whole, tiles = Deblurrer(model), Deblurrer(model, tile)
    video = torch.rand(3, 3, *size, dtype=torch.float64)
    for t, frame in enumerate(video, 1):
        oracle.assert_within(tiles(frame), whole(frame), oracle.network(model, torch.float64, frames=t))
    for name, tensor in whole.state().items():
        allowed = oracle.network(model, torch.float64, len(video), max(1, tensor.abs().max()))
        oracle.assert_within(tiles.state()[name], tensor, allowed)


def test_tiles_would_show_with_a_smaller_halo(monkeypatch):
    """Show that the test above would not pass with any halo."""
    monkeypatch.setattr("stfan.model.deblurrer.halo", lambda model: 12)
    model = lively("article").double()
    whole, tiles = Deblurrer(model), Deblurrer(model, 64)
    video = torch.rand(3, 3, 8, 260, dtype=torch.float64)
    differences = [(tiles(frame) - whole(frame)).abs().max() for frame in video]
    assert max(differences) > oracle.network(model, torch.float64, frames=3)


class Limited(STFAN):
    """Has memory for so many pixels at a time."""

    pixels, error = math.inf, None

    def _check_frame(self, name, frame):
        super()._check_frame(name, frame)
        if frame[0, 0].numel() > self.pixels:
            raise self.error


def limited(model, error):
    twin = Limited(model.preset, model.kernel_size).eval().to(next(model.parameters()).dtype)
    twin.load_state_dict(model.state_dict())
    twin.error = error
    return twin


NO_MEMORY = {
    "torch on CUDA": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
    "torch on Linux": RuntimeError(
        "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
    ),
    "torch elsewhere": RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    "fac": RuntimeError("fac: out of memory: 9 bytes"),
    "oneDNN": RuntimeError("could not create a primitive"),
    "Python": MemoryError(),
}


@pytest.mark.parametrize("error", NO_MEMORY.values(), ids=NO_MEMORY.keys())
@pytest.mark.parametrize("when", [0, 2])
def test_no_frame_is_lost_when_memory_runs_out(small, caplog, error, when):
    small = copy.deepcopy(small).double()
    model = limited(small, error)
    free, short = Deblurrer(small), Deblurrer(model)
    for t, frame in enumerate(torch.rand(4, 3, 4, 400, dtype=torch.float64)):
        if t == when:
            model.pixels = 4 * 224
        oracle.assert_within(short(frame), free(frame), oracle.network(small, torch.float64, frames=4))
    assert short.tile == 64  # with its halo 224 pixels wide at most
    assert [record.getMessage() for record in caplog.records] == [
        f"out of memory at 400x4: going on in tiles of {tile} pixels" for tile in (200, 100, 64)
    ]


def test_a_tile_that_is_too_large_is_halved_too(small):
    model = limited(small, MemoryError())
    model.pixels = 4 * 280
    deblurrer = Deblurrer(model, tile=160)
    deblurrer(torch.rand(3, 4, 400))
    assert deblurrer.tile == 80


def test_when_nothing_helps_it_says_so_and_the_frame_can_be_given_again(small):
    small = copy.deepcopy(small).double()
    model = limited(small, torch.OutOfMemoryError("CUDA out of memory."))
    free, short = Deblurrer(small), Deblurrer(model)
    video = torch.rand(3, 3, 4, 200, dtype=torch.float64)
    assert torch.equal(short(video[0]), free(video[0]))
    model.pixels = 100
    with pytest.raises(RuntimeError, match="out of memory on cpu, in tiles of 64 pixels: CUDA out of memory"):
        short(video[1])
    model.pixels = math.inf
    for frame in video[1:]:
        oracle.assert_within(short(frame), free(frame), oracle.network(small, torch.float64, frames=3))


def test_other_errors_are_not_taken_for_it(small, caplog):
    model = limited(small, RuntimeError("mat1 and mat2 shapes cannot be multiplied"))
    model.pixels = 0
    deblurrer = Deblurrer(model)
    with pytest.raises(RuntimeError, match="mat1 and mat2 shapes"):
        deblurrer(torch.rand(3, 4, 400))
    assert deblurrer.tile is None and not caplog.records


SHORT_OF_MEMORY = """
import resource, torch
from stfan import STFAN, Deblurrer
from support import oracle

def used(key):
    return next(int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith(key))

torch.manual_seed(0)
model, frame = STFAN().eval(), torch.rand(3, 48, 3200)
Deblurrer(model)(frame[:, :, :64])
before = used("VmSize")
wanted = Deblurrer(model)(frame)
room = (used("VmPeak") - before) * 3 // 4
resource.setrlimit(resource.RLIMIT_AS, (used("VmSize") + room, resource.RLIM_INFINITY))
output = Deblurrer(model)(frame)
resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
oracle.assert_within(output, wanted, oracle.network(model, torch.float32))
print("right")
"""


@pytest.mark.long  # test_no_frame_is_lost_when_memory_runs_out lets it run out in this process
@pytest.mark.skipif(sys.platform != "linux", reason="limits memory as Linux does")
def test_memory_that_really_runs_out():
    returned_at_once = {"MALLOC_MMAP_THRESHOLD_": "65536"}  # what is freed, so that nothing old hides a need
    said = run(sys.executable, "-c", SHORT_OF_MEMORY, cwd=ROOT / "tests", env=os.environ | returned_at_once)
    assert said.startswith("right\nout of memory at 3200x48: going on in tiles of 1600 pixels\n")
