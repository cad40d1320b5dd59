"""Write one step of the network as an ONNX file of standard nodes, for frames of any size."""

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fac_ext import fac
from stfan.files import atomic_write
from stfan.model.network import STFAN

INPUTS = ("frame", "previous", "previous_output", "state", "first")
OUTPUTS = ("output", "next_state")
SAMPLE = 6, 8  # height and width of the state that is traced; any but 0 and 1, which would be fixed


class Step(nn.Module):
    """One step of a network as ONNX gets it: all that a Deblurrer does to a frame, the start of a video included.

    Of the filters no part is left to the operators of fac_ext: a convolution makes all of them, and sums of shifted
    images apply them. The network itself would cut both into blocks by the frame's size, which would fix that size.
    """

    def __init__(self, model: STFAN):
        super().__init__()
        self.model = model

    def forward(
        self, frame: Tensor, previous: Tensor, previous_output: Tensor, state: Tensor, first: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Do one step.

        Args:
            frame: (1, 3, H, W), H and W multiples of 4, in [0, 1].
            previous, previous_output: the last frame and the output for it.
            state: the next_state of the last step, (1, C, H/4, W/4).
            first: (), bool: whether this is the first frame; the other three are then not used, but must have their
                shapes.

        Returns:
            the output, clamped to [0, 1], and the next state.
        """
        model = self.model
        features = model.features(frame)
        state = torch.where(first, model._first_state(features), state)
        previous, previous_output = (torch.where(first, frame, past) for past in (previous, previous_output))
        motion = model.motion(torch.cat([previous_output, previous, frame], 1))
        filters = model.align(motion)
        aligned = self._filter(state, filters)
        summarise = model.align_summary
        summary = model.align[:-1](motion) if summarise is None else summarise(filters)
        filters = model.deblur(torch.cat([motion, summary], 1))
        fused = torch.cat([aligned, self._filter(features, filters)], 1)
        output = model.reconstruction(fused, frame) + frame
        return output.clamp(0, 1), model.fusion(fused)

    def _filter(self, image: Tensor, filters: Tensor) -> Tensor:
        return fac(image, filters, self.model.kernel_size, padding_mode=self.model.padding_mode)


def export_onnx(model: STFAN, path: str | Path) -> None:
    """Write the step of a network, in float32, completely or not at all.

    Args:
        model: the network, on the CPU, in float32 and eval mode.
        path: the .onnx file. It states the preset and the number of the state's channels in its metadata. Its inputs
            and outputs are those of :class:`Step`, under the names INPUTS and OUTPUTS; H and W are left open.

    Raises:
        ImportError: onnxscript is not installed.
    """
    try:
        import onnxscript  # noqa: F401  # torch.onnx needs it
    except ModuleNotFoundError as error:
        raise ImportError(
            f"stfan export onnx needs {error.name}; run: pip install 'fac-ext[onnx]'"
        ) from error
    height, width = SAMPLE
    h, w = (torch.export.Dim(name, min=2) for name in ("h", "w"))
    images = [torch.rand(1, 3, 4 * height, 4 * width) for _ in range(3)]
    state = torch.rand(1, model.channels, height, width)
    open_sizes: list[Any] = [*({2: 4 * h, 3: 4 * w} for _ in images), {2: h, 3: w}, None]
    with torch.no_grad(), _quiet():
        made = torch.onnx.export(
            Step(model).eval(),
            (*images, state, torch.tensor(True)),
            dynamo=True,
            verbose=False,
            input_names=INPUTS,
            output_names=OUTPUTS,
            dynamic_shapes=tuple(open_sizes),
        )
    assert made is not None
    facts = {"preset": model.preset, "channels": str(model.channels), "kernel_size": str(model.kernel_size)}
    made.model.metadata_props.update(facts)
    with atomic_write(path) as partial:
        made.save(partial, external_data=False)


@contextmanager
def _quiet() -> Iterator[None]:
    """Leave out the exporter's notes on packages that it could use, and on its own parts that are deprecated."""
    logger = logging.getLogger("torch.onnx._internal.exporter")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
