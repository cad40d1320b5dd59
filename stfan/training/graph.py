"""Run a training step as one CUDA graph: its launches are recorded once and replayed with other values."""

from collections import Counter
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

# steps that make what the later ones find: the optimiser's state, workspaces, the fastest algorithms
WARM_UP = 3

Function = Callable[[Sequence[Tensor]], list[Tensor]]
Capture = Callable[[Callable[[], list[Tensor]]], tuple[Callable[[], object], list[Tensor]]]


def capture_cuda(step: Callable[[], list[Tensor]]) -> tuple[Callable[[], object], list[Tensor]]:
    """Record a step without running it; return what replays it, and the results that each replay writes anew."""
    graph = torch.cuda.CUDAGraph()
    # not "global": another thread pins the next batch meanwhile
    with torch.cuda.graph(graph, capture_error_mode="thread_local"):
        results = step()
    return graph.replay, results


class GraphedStep:
    """A step that is recorded once for each number of arguments; with other shapes than the first it runs as it is.

    Args:
        step: maps tensors to tensors. It must not wait for the device; all that differs between two calls must be in
            its arguments or in the memory of tensors that stay.
        capture: :func:`capture_cuda`, or a stand-in.
    """

    def __init__(self, step: Function, capture: Capture = capture_cuda):
        self.step, self.capture = step, capture
        self.calls: Counter[int] = Counter()
        self.shapes: dict[int, list[torch.Size]] = {}
        self.captured: dict[int, tuple[list[Tensor], Callable[[], object], list[Tensor]]] = {}

    def __call__(self, arguments: Sequence[Tensor]) -> list[Tensor]:
        """Run the step; the results last until the next call."""
        kind, shapes = len(arguments), [argument.shape for argument in arguments]
        if self.shapes.setdefault(kind, shapes) != shapes or self.calls[kind] < WARM_UP:
            self.calls[kind] += self.shapes[kind] == shapes
            return self.step(arguments)
        if kind not in self.captured:
            fixed = [argument.clone() for argument in arguments]
            # clones, as what is a part of an argument would be written over before the next call takes it
            capture = self.capture(lambda: [result.clone() for result in self.step(fixed)])
            self.captured[kind] = (fixed, *capture)
        fixed, replay, results = self.captured[kind]
        torch._foreach_copy_(fixed, list(arguments))
        replay()
        return results
