"""Print the memory of fac_predicted, forward and backward, at two heights: python predicted_memory.py -> two numbers.

A program, for a process of its own: its peak begins anew when the pages of its operands are there.
"""

import ctypes
import re
from pathlib import Path

import torch

from fac_ext import fac_predicted


def status(key):
    """Bytes"""
    return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text()).group(1)) * 1024


def extra(height):
    """Bytes of the peak above the operands."""
    input, hidden, grad = (torch.ones(1, 64, height, 128) for _ in range(3))
    weight, bias = torch.ones(64 * 25, 16), torch.ones(64 * 25)
    leaves = [t.requires_grad_() for t in (input, hidden[:, :16].contiguous(), weight, bias)]
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status("VmRSS")
    torch.autograd.grad(fac_predicted(*leaves, 5, block_bytes=1 << 20), leaves, grad)
    return status("VmHWM") - before


if __name__ == "__main__":
    torch.set_num_threads(1)
    extra(64)
    print(extra(256), extra(1024))
