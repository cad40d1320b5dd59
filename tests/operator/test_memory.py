"""Reuse the memory of large CPU results that have died for the next ones (csrc/cpu/block_cache.h)."""

import gc
import multiprocessing
import pickle
import subprocess
import sys
import threading

import pytest
import torch

from fac_ext import fac, release_memory
from support.checkout import ROOT, run
from support.memory import operands, resident

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or tuple(map(int, torch.__version__.split(".")[:2])) < (2, 11),
    reason="needs Linux and torch 2.11: elsewhere results are torch's own memory",
)


@pytest.fixture(autouse=True)
def nothing_waits():
    """Release what other tests left."""
    gc.collect()
    release_memory()


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_dead_results_memory_is_the_next_ones(layout):
    input, filters = (one.contiguous(memory_format=layout) for one in operands())
    first = fac(input, filters, 3)
    where, expected = first.data_ptr(), first.clone()
    second = fac(input, filters, 3)
    assert second.data_ptr() != where and torch.equal(second, expected)
    view = first[0, 3]  # keeps the memory alive
    del first
    gc.collect()
    third = fac(input + 1, filters, 3)
    assert third.data_ptr() != where and torch.equal(view, expected[0, 3])
    del view, third, second
    others = [fac(input, filters, 3) for _ in range(3)]
    assert where in {one.data_ptr() for one in others}
    assert all(torch.equal(one, expected) for one in others)
    assert others[0].is_contiguous(memory_format=layout)


def test_small_results_are_torchs_own():
    with torch.profiler.profile(profile_memory=True) as profile:
        fac(*operands((1, 32, 64, 64)), 3)
    assert any(event.cpu_memory_usage == 32 * 64 * 64 * 4 for event in profile.events())


def test_gradients_behave_as_any_tensor():
    input, filters = (one.requires_grad_() for one in operands((1, 16, 160, 160)))
    filters = filters.detach().repeat(1, 16, 1, 1).requires_grad_()
    for _ in range(2):
        fac(input, filters, 3).sum().backward()
    once = torch.autograd.grad(fac(input, filters, 3).sum(), (input, filters))
    for leaf, grad in zip((input, filters), once, strict=True):
        assert torch.equal(leaf.grad, 2 * grad)
    grad = once[1]
    assert torch.equal(pickle.loads(pickle.dumps(grad)), grad)
    assert torch.equal(torch.from_numpy(grad.numpy()), grad)
    assert torch.equal(grad.clone().share_memory_(), grad)
    shared = grad.detach()
    before = grad.clone()
    shared.share_memory_()
    assert torch.equal(shared, before)


def test_threads_that_make_and_drop_results():
    """Compare bits with what one thread makes alone."""
    input, filters = operands()
    expected = [fac(input + i, filters, 3) for i in range(3)]
    wrong = []

    def work(i):
        for _ in range(6):
            if not torch.equal(fac(input + i, filters, 3), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert not wrong


def _in_child(queue, input, filters, expected):
    torch.set_num_threads(1)
    queue.put(torch.equal(fac(input, filters, 3), expected))


def test_a_fork_has_its_own():
    input, filters = operands()
    expected = fac(input, filters, 3)
    fork = multiprocessing.get_context("fork")
    queue = fork.Queue()
    child = fork.Process(target=_in_child, args=(queue, input, filters, expected))
    child.start()
    assert queue.get(timeout=60)
    child.join()
    assert child.exitcode == 0


def test_results_that_outlive_the_interpreter():
    code = (
        "import torch, fac_ext, builtins; x = torch.ones(1, 64, 128, 160); f = torch.ones(1, 9, 128, 160);"
        "builtins.kept = fac_ext.fac(x, f, 3); fac_ext.fac(x, f, 3)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_released_memory_is_the_systems():
    """Measure in a process of its own: an older one has room in its heap, which counts already."""
    code = """
import torch, fac_ext
from support.memory import operands, resident
input, filters = operands((1, 64, 512, 320))
before = resident()
fac_ext.fac(input, filters, 3)
assert resident() > before + 35  # 42 MB wait
fac_ext.release_memory()
assert resident() < before + 10
"""
    run(sys.executable, "-c", code, cwd=ROOT / "tests")


def test_what_waits_makes_room():
    """Limit the address space: blocks that wait count against it too."""
    code = """
import resource, torch, fac_ext
torch.set_num_threads(1)
x, f = torch.ones(1, 64, 800, 320), torch.ones(1, 1, 800, 320)
for rows in (100, 200, 400):  # 8, 16 and 33 MB wait
    fac_ext.fac(x[:, :, :rows].contiguous(), f[:, :, :rows].contiguous(), 1)
size = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (30 << 20),) * 2)
assert fac_ext.fac(x, f, 1).sum() == x.numel()  # 66 MB
"""
    run(sys.executable, "-c", code)


def test_what_waits_is_bounded():
    """Make results of forty sizes, none of which suits the next: at most eight blocks wait."""
    before = resident()
    for i in range(40):
        height = int(64 * 1.3 ** (i % 8)) + 5 * i
        fac(torch.ones(1, 64, height, 320), torch.ones(1, 1, height, 320), 1)
    largest = 64 * (int(64 * 1.3**7) + 5 * 39) * 320 * 4 / 2**20
    assert resident() - before < 9 * largest


def test_all_memory_of_mixed_sizes_is_given_back():
    """Make results of 4 to 10 MB, some of which live on: whatever their order, the heap has no gaps afterwards."""
    code = """
import gc, random, torch, fac_ext
from support.memory import resident
torch.set_num_threads(1)
random.seed(0)
x, f = torch.ones(1, 16, 400, 400), torch.ones(1, 1, 400, 400)
operands = [(x[:, :, :h].contiguous(), f[:, :, :h].contiguous()) for h in range(164, 401, 12)]
before, kept = resident(), []
for _ in range(300):
    kept.append(fac_ext.fac(*random.choice(operands), 1))
    if len(kept) > 6:
        kept.pop(random.randrange(len(kept)))
del kept
gc.collect()
fac_ext.release_memory()
assert resident() < before + 30, (before, resident())
"""
    run(sys.executable, "-c", code, cwd=ROOT / "tests")
