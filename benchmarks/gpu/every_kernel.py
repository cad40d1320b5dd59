"""Call every CUDA kernel once and compare it with the CPU's, for compute-sanitizer: no kernel of torch's runs.

python every_kernel.py [--device cuda] [--list]
"""

import argparse
from typing import Any, NamedTuple

TYPES = {"float": "float32", "half": "float16", "bfloat16": "bfloat16", "double": "float64"}
BYTES = {"float": 4, "half": 2, "bfloat16": 2, "double": 8}
FAST = ("float", "half", "bfloat16")
OPERATORS = {"forward": "fac", "grad_input": "fac_grad_input", "grad_filters": "fac_grad_filters"}
ZEROS, REPLICATE, REFLECT, CIRCULAR = range(4)
FAR = 1 << 29  # a stride whose padding 32 bits do not hold


class Call(NamedTuple):
    """Operands of a call: (N, channels, *size) and what the operator takes."""

    operator: str
    type: str
    channels: int
    groups: int
    size: tuple[int, int]
    kernel: tuple[int, int]
    mode: int = ZEROS
    channels_last: bool = False
    far: bool = False

    @property
    def geometry(self) -> tuple[Any, ...]:
        """Return the operators' settings: "same" padding; far: three rows of output, FAR apart."""
        above, left = (k // 2 for k in self.kernel)
        below, right = (k - 1 - k // 2 for k in self.kernel)
        if self.far:
            below = 2 * FAR + self.kernel[0] - self.size[0] - above
        stride = (FAR if self.far else 1, 1)
        return (
            self.kernel,
            stride,
            (1, 1),
            (above, below, left, right),
            self.mode,
            self.channels // self.groups,
        )

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Return the shapes of input, filters and output."""
        n, output = 2, (3 if self.far else self.size[0], self.size[1])
        taps = self.kernel[0] * self.kernel[1]
        return (n, self.channels, *self.size), (n, self.groups * taps, *output), (n, self.channels, *output)


def calls() -> dict[str, Call]:
    """Return a call for each kernel, by its name."""
    found = {}
    modes = {3: ZEROS, 5: REPLICATE, 7: REFLECT}
    for operator in OPERATORS:
        for kind in FAST:
            whole = 16 // BYTES[kind]  # values in sixteen bytes
            for k, mode in modes.items():
                square = (k, k)
                for piece in (whole, whole // 2, whole // 4):  # rows of an odd number of pieces
                    size = (k + 4, 13 * piece)
                    found[f"row_major_{operator}<{k}, {kind}, {piece}>"] = Call(
                        operator, kind, 2, 2, size, square, mode
                    )
                found[f"channels_last_{operator}<{k}, {kind}>"] = Call(
                    operator, kind, 3 * whole, 3 * whole, (k + 2, 37), square, mode, channels_last=True
                )
                found[f"{operator}_kernel<{k}, {kind}, int>"] = Call(
                    operator, kind, 4, 2, (9, 11), square, CIRCULAR
                )
            if operator != "grad_input":
                found[f"row_major_{operator}<0, {kind}, {whole}>"] = Call(
                    operator, kind, 2, 2, (7, 8 * whole), (2, 4), REFLECT
                )
        for kind in TYPES:
            found[f"{operator}_kernel<0, {kind}, int>"] = Call(operator, kind, 4, 2, (7, 9), (2, 4), REFLECT)
            found[f"{operator}_kernel<0, {kind}, long>"] = Call(
                operator, kind, 4, 2, (7, 8), (3, 5), far=True
            )
    return found


def run(call: Call, device: str) -> float:
    """Return the error of a call on a device, as a part of what is allowed."""
    import torch

    dtype = getattr(torch, TYPES[call.type])
    layout = torch.channels_last if call.channels_last else torch.contiguous_format
    pair = {"forward": (0, 1), "grad_input": (1, 2), "grad_filters": (0, 2)}[call.operator]
    made = [torch.randn(call.shapes[i]).to(dtype).contiguous(memory_format=layout) for i in pair]
    operator = getattr(torch.ops.fac_ext, OPERATORS[call.operator])
    right = operator(*(tensor.double() for tensor in made), *call.geometry)
    got = operator(*(tensor.to(device) for tensor in made), *call.geometry).cpu().double()
    error = (got - right).norm() / right.norm().clamp(min=1e-30)
    return float(error) / (4 * torch.finfo(dtype).eps)


def main() -> None:
    """Run all calls, or list them."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--list", action="store_true", help="print the kernels' names alone")
    options = parser.parse_args()
    if options.list:
        print("\n".join(calls()))
        return
    import torch

    import fac_ext

    torch.manual_seed(0)
    errors = {name: run(call, options.device) for name, call in calls().items()}
    bad = [name for name, error in errors.items() if not error <= 1]
    print(f"every kernel: {len(errors)} calls on {options.device}, {fac_ext.build_info()}")
    print(f"worst error {max(errors.values()):.2f} of what is allowed; wrong: {', '.join(bad) or 'none'}")
    raise SystemExit(bool(bad))


if __name__ == "__main__":
    main()
