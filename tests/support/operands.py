"""Calls of the operator: their operands, all their results, and what they do."""

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from support import oracle

LAYOUTS = (torch.contiguous_format, torch.channels_last)
# (N, C, H, W), groups, kernel_size, keywords
CASES = [
    ((2, 3, 5, 7), 3, 3, {}),
    ((2, 3, 5, 7), 3, 3, {"padding_mode": "replicate"}),
    ((1, 2, 6, 4), 2, 5, {"padding_mode": "reflect"}),
    ((1, 2, 6, 4), 2, 5, {"padding_mode": "circular"}),
    ((1, 2, 3, 2), 2, 7, {"padding_mode": "replicate"}),  # a kernel larger than the image
    ((1, 1, 4, 3), 1, 9, {}),
    ((2, 2, 3, 5), 2, 1, {}),
    ((1, 3, 1, 1), 3, 5, {"padding_mode": "replicate"}),
    ((1, 2, 1, 6), 2, 3, {}),
    ((1, 2, 6, 1), 2, 3, {"padding_mode": "circular"}),
    ((1, 6, 5, 6), 1, 3, {}),
    ((2, 6, 5, 6), 2, 3, {"padding_mode": "reflect"}),
    ((1, 40, 4, 5), 2, 3, {}),  # more channels than one block of the channels_last kernels, not a multiple
    ((1, 2, 6, 7), 2, 2, {}),  # even: the odd pixel of padding is at the bottom and right
    ((1, 2, 6, 7), 2, (4, 1), {"padding_mode": "circular"}),
    ((1, 2, 7, 6), 1, (2, 5), {"padding": "valid"}),
    ((1, 2, 9, 8), 2, 3, {"stride": (2, 3), "padding": (1, 2)}),
    ((1, 4, 9, 8), 2, (3, 2), {"stride": 2, "padding": 3, "padding_mode": "reflect"}),
    ((2, 2, 10, 7), 2, 3, {"stride": 3, "padding": 0}),  # rows and columns that no window reaches
    ((1, 2, 9, 11), 2, 3, {"dilation": (2, 3)}),
    ((1, 2, 9, 11), 2, 3, {"dilation": 2, "stride": 2, "padding": 2, "padding_mode": "circular"}),
    ((1, 2, 3, 3), 2, 3, {"padding": 5}),  # more padding than kernel: output pixels that see zeros alone
    ((1, 2, 3, 3), 2, 3, {"padding": 5, "padding_mode": "replicate", "stride": 2}),
    ((0, 2, 3, 3), 2, 3, {}),
    ((0, 2, 3, 3), 2, 3, {"padding_mode": "replicate"}),
    ((2, 0, 3, 3), 0, 3, {}),
]  # fmt: skip


def tensors(
    shape,
    groups,
    kernel_size,
    *,
    dtype=torch.float64,
    device="cpu",
    layout=torch.contiguous_format,
    **keywords,
):
    """(input, filters, grad) of a call; the first two require gradients."""
    n, c, h, w = shape
    kh, kw = oracle.two(kernel_size)
    output = oracle.output_size(h, w, kernel_size, **keywords)
    sizes = (shape, (n, groups * kh * kw, *output), (n, c, *output))
    made = [torch.randn(s, device=device).to(dtype).contiguous(memory_format=layout) for s in sizes]
    return made[0].requires_grad_(), made[1].requires_grad_(), made[2]


def all_three(function, input, filters, grad, *args, **keywords):
    output = function(input, filters, *args, **keywords)
    return (output, *torch.autograd.grad(output, (input, filters), grad))


def check_all(function, input, filters, grad, kernel_size, **keywords):
    results = all_three(function, input, filters, grad, kernel_size, **keywords)
    bounds = oracle.bounds(input, filters, grad, kernel_size, **keywords)
    for mine, right, size, terms in zip(results, *bounds, strict=True):
        assert mine.dtype == input.dtype and mine.device == input.device
        oracle.check(mine, right, size, terms)


class Seen(TorchDispatchMode):
    """Names of the operators called, and sizes of the tensors that were copied or allocated by torch's own."""

    def __init__(self):
        super().__init__()
        self.ours, self.others = [], []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if function.namespace == "fac_ext":
            self.ours.append(function.name().removeprefix("fac_ext::"))
        elif isinstance(out, torch.Tensor) and function.name() not in ("aten::detach", "aten::view"):
            self.others.append((function.name(), out.numel()))
        return out
