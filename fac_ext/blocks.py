"""Make filters block by block: those of some channels and rows, in a buffer, to be used at once.

fac_predicted's are a matrix product and an activation. Without a weight, hidden are filters, and their softmax is made.
Nothing here knows autograd. Samples of which several fit into one block are taken together; in them one band of rows
after the other, whose hidden features so stay in the cache; in it one part of the filter groups after the other.
"""

import itertools
import math
from collections.abc import Iterator

import torch
from torch import Tensor

from fac_ext.arguments import SOFTMAX, Fields, Geometry
from fac_ext.block_plan import Block, InputBand, length, plan_blocks
from fac_ext.derivatives import is_channels_last

_ops = torch.ops.fac_ext
BIAS_IN_PRODUCT = {"cpu"}  # types of devices whose product is that of [weight, bias] and [hidden; 1]


class FilterBuffer:
    """The operands of a call in one layout, as matrices, and the buffer.

    A CPU's matrix products are of [weight, bias] and [hidden; 1]: they add the bias, and sum its gradient, at no cost
    where a pass over the filters has one. A GPU's would lose their alignment.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        slope: float | None,
        block_bytes: int,
        geometry: Geometry,
    ) -> None:
        self.channels_last = is_channels_last(hidden)
        self.format = torch.channels_last if self.channels_last else torch.contiguous_format
        self.hidden = hidden.contiguous(memory_format=self.format)
        self.slope, self.geometry = slope, geometry
        self.height, self.width = hidden.shape[2:]
        self.weight, self.bias, self.ones = weight, bias, 0
        if bias is not None and weight is not None and hidden.device.type in BIAS_IN_PRODUCT:
            unit = 32 if hidden.dtype == torch.bfloat16 else 1  # what matrix units take at once
            self.ones = unit - weight.shape[1] % unit  # one row of ones, and zeros
            self.weight = weight.new_zeros(weight.shape[0], weight.shape[1] + self.ones)
            self.weight[:, : weight.shape[1]], self.weight[:, weight.shape[1]] = weight, bias
            self.bias = None
        self.blocks = plan_blocks(hidden, weight, block_bytes, geometry)
        block_values = max(
            (length(block.filters) * length(block.rows) * self.width for block in self.blocks), default=0
        )
        whole = len(self.blocks) == 1
        self.samples = (
            min(max(block_bytes // (block_values * hidden.element_size()), 1), len(hidden)) if whole else 1
        )
        self.memory = hidden.new_empty(self.samples * block_values)

    def sums(self, dtype: torch.dtype) -> Tensor:
        """Return zeros for the gradient of the weight, stored in the order in which the products are made."""
        shape = () if self.weight is None else self.weight.shape
        zeros = self.hidden.new_zeros(shape[::-1] if self.channels_last else shape, dtype=dtype)
        return zeros.t() if self.channels_last else zeros

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(
            shape, dtype=self.hidden.dtype, device=self.hidden.device, memory_format=self.format
        )

    def bands(self, size: int) -> Iterator[tuple[slice, slice, InputBand, Tensor, list[Block]]]:
        """Yield each band's (samples, rows, its rows of an input of `size` rows, matrix of hidden features, blocks)."""
        for n in range(0, self.hidden.shape[0], self.samples):
            samples = slice(n, n + self.samples)
            for band, blocks in itertools.groupby(self.blocks, lambda block: block.rows):
                input_band = InputBand.for_output(band, self.height, size, self.geometry)
                features = self._with_ones(self.matrix(self.hidden[samples, :, band]))
                yield samples, band, input_band, features, list(blocks)

    def _with_ones(self, features: Tensor) -> Tensor:
        if not self.ones:
            return features
        *samples, channels, pixels = features.shape
        if self.channels_last:
            extended = features.new_zeros(pixels, channels + self.ones).t()
        else:
            extended = features.new_zeros(*samples, channels + self.ones, pixels)
        extended[..., :channels, :], extended[..., channels, :] = features, 1
        return extended

    def matrix(self, images: Tensor) -> Tensor:
        """View (N, channels, H, W) as a matrix (channels, pixels), or as N of them where the memory has that order."""
        if self.channels_last:
            return images.permute(0, 2, 3, 1).flatten(0, 2).t()
        return images.flatten(2) if len(images) > 1 else images[0].flatten(1)

    def filters(self, block: Block, features: Tensor) -> Tensor:
        """Make the filters (N, filters, rows, W) of a block in the buffer."""
        *samples, _, pixels = features.shape
        count, rows = length(block.filters), length(block.rows)
        memory = self.memory[: math.prod(samples) * count * pixels]
        if self.channels_last:
            out, filters = (
                memory.view(pixels, count),
                memory.view(-1, rows, self.width, count).permute(0, 3, 1, 2),
            )
        else:
            out, filters = memory.view(*samples, count, pixels), memory.view(-1, count, rows, self.width)
        if self.weight is None:
            given = features[..., block.filters, :]
            out.copy_(given.mT if self.channels_last else given)
            self._softmax_(out)
            return filters
        weight = self.weight[block.filters]
        bias = None if self.bias is None else self.bias[block.filters]
        if self.channels_last:
            factors = (features.t(), weight.t())
        else:
            factors = (weight.expand(*samples, -1, -1), features)
            bias = None if bias is None else bias[:, None]
        if bias is not None:
            add = torch.baddbmm if samples else torch.addmm
            add(bias.expand(out.shape), *factors, out=out)
        else:
            (torch.bmm if samples else torch.mm)(*factors, out=out)
        if self.slope == SOFTMAX:
            self._softmax_(out)
        elif self.slope is not None:
            torch.nn.functional.leaky_relu_(filters, self.slope)
        return filters

    def _taps(self, matrix: Tensor) -> tuple[Tensor, int]:
        """Split the filters of a matrix, in the order of its memory, by taps; return the axis of the taps too."""
        axis = -1 if self.channels_last else -2
        return matrix.unflatten(axis, (-1, self.geometry.taps)), axis

    def _softmax_(self, matrix: Tensor) -> None:
        """Normalise each filter, in place."""
        filters, axis = self._taps(matrix)
        torch.ops.aten._softmax.out(filters, axis, False, out=filters)

    def by_filters(
        self, input_rows: Tensor, grad_rows: Tensor, filters: Tensor | None, geometry: Geometry
    ) -> Tensor:
        """Return the gradient by the filters of a block before their activation, as a matrix."""
        by_filters: Tensor = _ops.fac_grad_filters(input_rows, grad_rows, *geometry)
        by_filters = by_filters.contiguous(memory_format=self.format)
        if self.slope == SOFTMAX and filters is not None:
            matrices = (self.matrix(tensor) for tensor in (by_filters, filters))
            grad, weights = (matrix.mT if self.channels_last else matrix for matrix in matrices)
            (grad, axis), (weights, _) = self._taps(grad), self._taps(weights)
            torch.ops.aten._softmax_backward_data.out(grad, weights, axis, grad.dtype, grad_input=grad)
        elif self.slope is not None:
            # the result has the sign of what it was made of
            torch.ops.aten.leaky_relu_backward.grad_input(
                by_filters, filters, self.slope, True, grad_input=by_filters
            )
        return self.matrix(by_filters)


def forward(
    input: Tensor,
    hidden: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    slope: float | None,
    block_bytes: int,
    *geometry: *Fields,
) -> Tensor:
    """Compute fac(input, activation(weight hidden + bias)); see predicted.predicted."""
    buffer = FilterBuffer(hidden, weight, bias, slope, block_bytes, Geometry(*geometry))
    output = buffer.empty(*input.shape[:2], *hidden.shape[2:])
    for samples, _, band, features, blocks in buffer.bands(input.shape[2]):
        for block in blocks:
            input_rows = band.gather(input[samples, block.channels])
            part = _ops.fac(input_rows, buffer.filters(block, features), *band.geometry)
            output[samples, block.channels, block.rows] = part
    return output


def input_shape(grad: Tensor, geometry: Geometry) -> tuple[int, ...]:
    """Return the shape of the input that belongs to an output's gradient."""
    return (*grad.shape[:2], *(geometry.input_size(axis, grad.shape[2 + axis]) for axis in (0, 1)))


def gradients(
    input: Tensor | None,
    hidden: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    grad: Tensor,
    wanted: list[bool],
    slope: float | None,
    block_bytes: int,
    *geometry: *Fields,
) -> tuple[Tensor, ...]:
    """Differentiate <grad, forward(...)> by those of input, hidden, weight and bias; an empty tensor is not wanted.

    Only the input's needs the filters, or, with an activation, all. In half types, those of weight and bias are
    summed in float32 over the blocks, that of hidden over the blocks of its band. input may be None where its own
    gradient alone is wanted.
    """
    buffer = FilterBuffer(hidden, weight, bias, slope, block_bytes, Geometry(*geometry))
    of_input, of_hidden, of_weight, of_bias = wanted
    sums = torch.promote_types(hidden.dtype, torch.float32)
    shape = input_shape(grad, buffer.geometry)
    by_input = buffer.empty(*shape).zero_() if of_input else None
    by_hidden = buffer.empty(*hidden.shape) if of_hidden else None
    if by_hidden is not None and weight is not None:
        by_hidden.zero_()
    by_weight = buffer.sums(sums) if of_weight or (of_bias and buffer.ones) else None
    by_bias = (
        hidden.new_zeros(weight.shape[0], dtype=sums)
        if weight is not None and of_bias and not buffer.ones
        else None
    )
    for samples, rows, band, features, blocks in buffer.bands(shape[2]):
        hidden_grad = None if by_hidden is None else buffer.matrix(by_hidden[samples, :, rows])
        hidden_sums = None if hidden_grad is None or weight is None else hidden_grad.to(sums)
        across = features.contiguous() if buffer.ones and (of_weight or of_bias) else features
        for block in blocks:
            grad_rows = grad[samples, block.channels, block.rows].contiguous(memory_format=buffer.format)
            filters = buffer.filters(block, features) if of_input or slope is not None else None
            if by_input is not None:
                part = _ops.fac_grad_input(filters, grad_rows, *band.geometry)
                band.scatter_add(by_input[samples, block.channels], part)
            if input is None or not any(wanted[1:]):
                continue
            input_rows = band.gather(input[samples, block.channels])
            by_filters = buffer.by_filters(input_rows, grad_rows, filters, band.geometry)
            if weight is None:
                if hidden_grad is not None:
                    hidden_grad[..., block.filters, :] = by_filters
                continue
            if hidden_sums is not None:
                _add_product(hidden_sums, weight[block.filters].t(), by_filters)
            if by_weight is not None:
                _add_product(by_weight[block.filters], by_filters, across.mT)
            if by_bias is not None:
                by_bias[block.filters] += by_filters.sum((0, 2) if by_filters.dim() == 3 else 1, dtype=sums)
            del by_filters  # its memory is the next one's
        if hidden_grad is not None and hidden_sums is not None and hidden_sums is not hidden_grad:
            hidden_grad.copy_(hidden_sums)
    if by_weight is not None and weight is not None:
        by_weight, last = by_weight[:, : weight.shape[1]], by_weight[:, weight.shape[1] :]
        by_bias = last[:, 0] if buffer.ones and of_bias else by_bias
    found = (
        *(by_input, by_hidden),
        None if by_weight is None or not of_weight else hidden.new_empty(by_weight.shape).copy_(by_weight),
        None if by_bias is None else hidden.new_empty(by_bias.shape).copy_(by_bias),
    )
    return tuple(hidden.new_empty(0) if one is None else one for one in found)


def _add_product(sums: Tensor, a: Tensor, b: Tensor) -> None:
    """Add the product a b, or those of many a and b, to sums, which may have a wider type, in its memory's order."""
    if sums.stride(-1) != 1:
        sums, a, b = sums.mT, b.mT, a.mT
    if sums.dim() < max(a.dim(), b.dim()):
        sums += (a @ b).sum(0, dtype=sums.dtype)
    elif sums.dtype == a.dtype:
        sums.addmm_(a, b) if sums.dim() == 2 else sums.baddbmm_(a.expand(len(sums), -1, -1), b)
    else:
        sums += (a @ b).to(sums.dtype)  # faster than a sum of two types
