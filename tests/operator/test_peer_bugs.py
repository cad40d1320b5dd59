"""Catch the bugs that published operators of this kind have, or had: one test for each, named after it."""

import os
import sys

import pytest
import torch

from fac_ext import build_info, fac
from support import oracle
from support.checkout import run
from support.operands import LAYOUTS, all_three, check_all, tensors


@pytest.mark.parametrize(("k", "n"), [(3, 10), (5, 26)])
def test_batch_larger_than_the_number_of_taps(k, n, device):
    """The bug: samples beyond k * k got another sample's gradient of the filters."""
    check_all(fac, *tensors((n, 1, 3, 4), 1, k, device=device), k, padding_mode="replicate")


@pytest.mark.parametrize("stride", [1, (1, 2), (3, 1)])
def test_height_not_width_and_stride_not_square(stride, device):
    """The bug: the input's gradient divided rows by the stride of columns, and rows that were no rows."""
    keywords = {"stride": stride, "padding": (1, 2)}
    for shape in ((2, 4, 5, 11), (2, 4, 12, 4)):
        check_all(fac, *tensors(shape, 2, 3, device=device, **keywords), 3, **keywords)


@pytest.mark.parametrize("kernel_size", [5, (2, 3), (3, 5), (1, 7)])
def test_every_tap_has_its_gradient(kernel_size, device):
    """The bug: only taps 0, 1, 4, 9, 16 had a gradient, as if every number of taps were a square."""
    input, filters, grad = tensors((2, 2, 9, 8), 2, kernel_size, device=device)
    check_all(fac, input, filters, grad, kernel_size, padding_mode="reflect")
    (gradient,) = torch.autograd.grad(fac(input, filters, kernel_size, padding_mode="reflect"), filters, grad)
    assert (gradient != 0).all()


@pytest.mark.parametrize(
    ("k", "keywords"), [(15, {}), (15, {"padding_mode": "circular"}), (3, {"dilation": 8}), (31, {})]
)
def test_kernel_15_and_dilation_8(k, keywords, device):
    """The bug: an illegal access, and a core dump."""
    check_all(fac, *tensors((1, 2, 17, 20), 2, k, device=device, **keywords), k, **keywords)


@pytest.mark.parametrize("layout", LAYOUTS, ids=("row_major", "channels_last"))
def test_more_than_48_kilobytes_of_taps(layout, device):
    """The bug: shared memory of that size held one pixel's taps, unchecked."""
    operands = tensors((1, 64, 3, 4), 64, 15, dtype=torch.float32, device=device, layout=layout)
    assert operands[1].shape[1] * 4 > 48 * 1024
    check_all(fac, *operands, 15, padding_mode="replicate")


def stridden(tensor):
    return tensor.detach().repeat_interleave(2, 3)[..., ::2].transpose(2, 3).contiguous().transpose(2, 3)


def test_operands_that_are_not_contiguous(device):
    input, filters, grad = tensors((2, 3, 6, 8), 3, 3, device=device)
    expected = all_three(fac, input, filters, grad, 3)
    a, b = stridden(input).requires_grad_(), stridden(filters).requires_grad_()
    for tensor in (a, b):
        assert not any(tensor.is_contiguous(memory_format=layout) for layout in LAYOUTS)
    got = all_three(fac, a, b, stridden(grad), 3)
    assert all(torch.equal(x, y) for x, y in zip(got, expected, strict=True))
    expanded = filters.detach()[:1, :9].expand(2, 9, 6, 8).requires_grad_()  # one filter for the whole batch
    check_all(fac, input, expanded, grad, 3)


@pytest.mark.parametrize("layout", LAYOUTS, ids=("row_major", "channels_last"))
def test_gradient_that_is_expanded(layout, device):
    """Call backward with the gradient of stride 0 that sum() sends back."""
    operands = tensors((2, 4, 6, 8), 2, 3, device=device, layout=layout)[:2]
    expanded = torch.autograd.grad(fac(*operands, 3).sum(), operands)
    dense = torch.autograd.grad(fac(*operands, 3), operands, torch.ones_like(operands[0]))
    assert all(torch.equal(x, y) for x, y in zip(expanded, dense, strict=True))
    assert expanded[1].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("one", [0, 1])
def test_gradient_of_one_operand_alone(one, device):
    """The bug: the peer computed both, or failed, when one did not require a gradient."""
    operands = tensors((1, 2, 4, 5), 2, 3, device=device)
    expected = all_three(fac, *operands, 3)[1 + one]
    pair = [t.detach().requires_grad_(i == one) for i, t in enumerate(operands[:2])]
    fac(*pair, 3).backward(operands[2])
    assert torch.equal(pair[one].grad, expected) and pair[1 - one].grad is None


@pytest.mark.parametrize("layout", LAYOUTS, ids=("row_major", "channels_last"))
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_sums_of_ten_thousand_terms(dtype, layout, device):
    """Sum ones in half, where 2048 + 1 is 2048 and a half sum would end."""
    one = torch.ones(1, 1, 101, 101, dtype=dtype, device=device)
    taps = torch.ones(1, 101 * 101, 1, 1, dtype=dtype, device=device).contiguous(memory_format=layout)
    assert fac(one, taps, 101, padding="valid").item() == torch.tensor(101.0**2).to(dtype).item()
    input, filters, grad = tensors((1, 10000, 1, 1), 1, 1, dtype=dtype, device=device, layout=layout)
    input, grad = torch.ones_like(input), torch.ones_like(grad)
    # the sum over a group's channels
    (gradient,) = torch.autograd.grad(fac(input, filters, 1), filters, grad)
    assert gradient.item() == torch.tensor(10000.0).to(dtype).item()


@pytest.mark.parametrize("mode", ["reflect", "circular"])
def test_padding_larger_than_the_image(mode):
    """Raise where torch's pad raises: a kernel that pads by itself must do so too."""
    input, k = torch.zeros(1, 1, 4, 20), 11 if mode == "circular" else 9
    with pytest.raises((RuntimeError, ValueError)):
        torch.nn.functional.pad(input, (k // 2,) * 4, mode)
    with pytest.raises(
        ValueError, match=f"'{mode}' needs padding <=? height, got padding {k // 2}, height 4"
    ):
        fac(input, torch.zeros(1, k * k, 4, 20), k, padding_mode=mode)
    k -= 2
    torch.nn.functional.pad(input, (k // 2,) * 4, mode)
    fac(input, torch.zeros(1, k * k, 4, 20), k, padding_mode=mode)


def test_import_needs_no_gpu_and_leaves_the_random_numbers_alone():
    code = """
import torch
torch.manual_seed(7)
state = torch.get_rng_state()
import fac_ext
assert torch.equal(state, torch.get_rng_state())
assert not torch.cuda.is_initialized()
print(fac_ext.fac(torch.ones(1, 1, 2, 2), torch.ones(1, 9, 2, 2), 3).sum().item())
"""
    assert run(sys.executable, "-c", code, env=os.environ | {"CUDA_VISIBLE_DEVICES": ""}).split() == ["16.0"]


@pytest.mark.long
def test_more_elements_than_32_bits_count(device):
    """Take 2^31 filter values and more."""
    k, size = 15, 3096
    memory = torch.zeros(k * k * size * size, dtype=torch.bfloat16, device=device)
    assert memory.numel() > 2**31
    for layout in LAYOUTS:  # of the same memory, as its page faults are most of the time
        if layout == torch.channels_last:
            filters = memory.view(1, size, size, k * k).permute(0, 3, 1, 2)
        else:
            filters = memory.view(1, k * k, size, size)
        input = torch.ones(1, 1, size, size, dtype=torch.bfloat16, device=device)
        places = ((0, 0), (1000, 1001), (size - 20, size - 20))
        for value, (y, x) in enumerate(places, 1):
            filters[0, [7, k * k - 1], y, x] = value
        output = fac(input, filters, k, padding_mode="circular")
        assert [output[0, 0, y, x].item() for y, x in places] == [2, 4, 6]
        assert output.sum(dtype=torch.float32) == 2 + 4 + 6
        geometry = ((k, k), (1, 1), (1, 1), (7, 7, 7, 7), 3, 1)
        gradient = torch.ops.fac_ext.fac_grad_input(filters, torch.ones_like(output), *geometry)
        assert gradient.sum(dtype=torch.float32) == 2 + 4 + 6
        # tap 7 is row 0, column 7, the last is row 14, column 14
        assert gradient[0, 0, 1000 - 7, 1001].item() == 2
        assert gradient[0, 0, size - 20 + 7, size - 20 + 7].item() == 3
        for y, x in places:
            filters[0, [7, k * k - 1], y, x] = 0


needs_gpu = pytest.mark.skipif(not (torch.cuda.is_available() and build_info()["cuda"]), reason="needs a GPU")


@needs_gpu
def test_a_stream_that_is_not_the_default():
    input, filters, _ = tensors((1, 64, 128, 128), 64, 5, dtype=torch.float32, device="cuda")
    expected = fac(input, filters, 5)
    late = torch.empty_like(filters)
    torch.cuda.synchronize()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), torch.no_grad():
        torch.cuda._sleep(50_000_000)  # a kernel on another stream would read `late` before it is written
        late.copy_(filters)
        output = fac(input, late, 5)
    stream.synchronize()
    assert torch.equal(output, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_device_that_is_not_the_current_one():
    operands = tensors((1, 2, 8, 9), 2, 3)
    there = [t.detach().to("cuda:1").requires_grad_(t.requires_grad) for t in operands]
    with torch.cuda.device(0):
        results = all_three(fac, *there, 3)
        assert torch.cuda.current_device() == 0
    for mine, *expected in zip(results, *oracle.bounds(*operands, 3), strict=True):
        assert mine.device == torch.device("cuda:1")
        oracle.check(mine, *expected)
