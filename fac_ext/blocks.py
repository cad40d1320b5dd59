"""Make the filters of fac_predicted block by block: those of some channels and rows, in a buffer, to be used at once.

A block is a matrix product of the library's and a call of a kernel of ours. Nothing here knows autograd. One
sample after the other; in it one band of rows after the other, whose hidden features so stay in the cache; in it
one part of the filter groups after the other. Samples of which several fit into one block are taken together. One
file, though long: the loops of the value and of the gradients stand beside each other, so that they can be compared.
"""

import itertools
import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from fac_ext.arguments import PADDING_MODES, Fields, Geometry
from fac_ext.derivatives import is_channels_last

_ops = torch.ops.fac_ext
BLOCK_BYTES = {"cpu": 8 << 20, "others": 128 << 20}  # of the filters of one block; docs/predicted.md says why
EIGHT = 8  # channels that the channels_last kernels take at once
SOME = 128  # bytes of a pixel's channels, at least, of a block


class Block(NamedTuple):
    """What is done at a time: the outputs [rows) of the filter groups [first, last), that is of channels."""

    rows: slice  # of the output
    filters: slice  # rows of weight
    channels: slice  # of input and output


def sizes(
    groups: int, height: int, width: int, taps: int, itemsize: int, shared: int, most: int
) -> tuple[int, int]:
    """Return the (groups, rows) of blocks whose filters take no more than `most` bytes, if one group and row does not.

    shared: channels of a group.
    All rows where some channels fit, as then every gradient is summed in the order of fac's own; else bands.
    """
    group_bytes = taps * itemsize  # at one pixel
    some = min(groups, -(-SOME // (itemsize * shared)), max(most // (group_bytes * width), 1))
    rows = max(most // (some * group_bytes * width), 1)
    if rows < height:
        return some, _even(height, rows, 1)
    fit = max(most // (group_bytes * height * width), 1)
    return _even(groups, fit, EIGHT if shared == 1 else 1), height


def _count(part: slice) -> int:
    return int(part.stop - part.start)


def _even(whole: int, most: int, multiple: int) -> int:
    """Return the size of the fewest parts of `whole` that are at most `most`, as even as multiples of `multiple` allow."""
    most = min(most, whole)
    most -= most % multiple if most > multiple else 0
    size = -(-whole // -(-whole // most))
    return min(-(-size // multiple) * multiple, most)


def blocks(hidden: Tensor, weight: Tensor, most: int, geometry: Geometry, rows: bool = True) -> list[Block]:
    """List the blocks of a sample, band after band; if rows is False, of all rows each, whatever they take."""
    taps, shared = geometry.kernel_size[0] * geometry.kernel_size[1], geometry.channels_per_filter
    (n, _, height, width), groups = hidden.shape, weight.shape[0] // taps
    if n * groups * height * width == 0:
        return []
    itemsize = hidden.element_size()
    if rows:
        some, band = sizes(groups, height, width, taps, itemsize, shared, most)
    else:
        some, band = max(min(most // (n * taps * itemsize * height * width), groups), 1), height
    return [
        Block(
            slice(y, min(y + band, height)),
            slice(g * taps, min(g + some, groups) * taps),
            slice(g * shared, min(g + some, groups) * shared),
        )
        for y in range(0, height, band)
        for g in range(0, groups, some)
    ]


class Rows(NamedTuple):
    """The input's rows under a band of the output, and the geometry of the band alone."""

    geometry: Geometry
    number: int
    runs: list[tuple[int, int, int]]  # (place among them, row of the input, how many); the others are zeros

    @classmethod
    def under(cls, band: slice, height: int, size: int, geometry: Geometry) -> "Rows":
        """Find those of a band of an output of `height` rows, above an input of `size` rows."""
        if (band.start, band.stop) == (0, height):
            return cls(geometry, size, [(0, 0, size)])
        (kh, _), (sh, _), (dh, _), (top, _, left, right) = geometry[:4]
        first, count = band.start * sh - top, (band.stop - band.start - 1) * sh + (kh - 1) * dh + 1
        inside = range(max(first, 0), min(first + count, size))
        runs = [(inside.start - first, inside.start, len(inside))] if inside else []
        for position in range(first, first + count):
            row = _source(position, size, PADDING_MODES[geometry.padding_mode])
            if position not in inside and row is not None:
                runs.append((position - first, row, 1))
        return cls(geometry._replace(padding=(0, 0, left, right)), count, runs)

    def of(self, image: Tensor) -> Tensor:
        """Return the rows of an input."""
        if len(self.runs) == 1 and self.runs[0][2] == self.number:
            return image[:, :, self.runs[0][1] :][:, :, : self.number]
        rows = image.new_zeros((*image.shape[:2], self.number, image.shape[3]))
        for place, row, many in self.runs:
            rows[:, :, place : place + many] = image[:, :, row : row + many]
        return rows

    def add(self, image: Tensor, rows: Tensor) -> None:
        """Add the gradient of the rows to that of the input; in one order, and no two at once to one row."""
        for place, row, many in self.runs:
            image[:, :, row : row + many] += rows[:, :, place : place + many]


def _source(position: int, size: int, mode: str) -> int | None:
    """Return the row that a position beyond the ends shows (csrc/geometry.h)."""
    if 0 <= position < size:
        return position
    if mode == "replicate":
        return min(max(position, 0), size - 1)
    if mode == "reflect":
        return -position if position < 0 else 2 * (size - 1) - position
    return position % size if mode == "circular" else None


class _Call:
    """The operands of a call in one layout, as matrices, and the buffer.

    A CPU's matrix products are of [weight, bias] and [hidden; 1]: they add the bias, and sum its gradient, at no cost
    where a pass over the filters has one. A GPU's would lose their alignment.
    """

    def __init__(
        self,
        hidden: Tensor,
        weight: Tensor,
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
        if bias is not None and hidden.device.type == "cpu":
            unit = 32 if hidden.dtype == torch.bfloat16 else 1  # what matrix units take at once
            self.ones = unit - weight.shape[1] % unit  # one row of ones, and zeros
            self.weight = weight.new_zeros(weight.shape[0], weight.shape[1] + self.ones)
            self.weight[:, : weight.shape[1]], self.weight[:, weight.shape[1]] = weight, bias
            self.bias = None
        self.blocks = blocks(hidden, weight, block_bytes, geometry)
        most = max(
            (_count(block.filters) * _count(block.rows) * self.width for block in self.blocks), default=0
        )
        whole = len(self.blocks) == 1
        self.samples = min(max(block_bytes // (most * hidden.element_size()), 1), len(hidden)) if whole else 1
        self.buffer = hidden.new_empty(self.samples * most)

    def sums(self, dtype: torch.dtype) -> Tensor:
        """Return zeros for the gradient of the weight, stored in the order in which the products are made."""
        shape = self.weight.shape
        made = self.hidden.new_zeros(shape[::-1] if self.channels_last else shape, dtype=dtype)
        return made.t() if self.channels_last else made

    def empty(self, *shape: int) -> Tensor:
        return torch.empty(
            shape, dtype=self.hidden.dtype, device=self.hidden.device, memory_format=self.format
        )

    def bands(self, size: int) -> Iterator[tuple[slice, slice, Rows, Tensor, list[Block]]]:
        """Yield (samples, rows, their rows of an input of `size` rows, matrix of hidden features, blocks) of each band."""
        for n in range(0, self.hidden.shape[0], self.samples):
            samples = slice(n, n + self.samples)
            for band, some in itertools.groupby(self.blocks, lambda block: block.rows):
                under = Rows.under(band, self.height, size, self.geometry)
                features = self._with_ones(self.matrix(self.hidden[samples, :, band]))
                yield samples, band, under, features, list(some)

    def _with_ones(self, features: Tensor) -> Tensor:
        if not self.ones:
            return features
        *samples, channels, pixels = features.shape
        if self.channels_last:
            made = features.new_zeros(pixels, channels + self.ones).t()
        else:
            made = features.new_zeros(*samples, channels + self.ones, pixels)
        made[..., :channels, :], made[..., channels, :] = features, 1
        return made

    def matrix(self, images: Tensor) -> Tensor:
        """View (N, channels, H, W) as a matrix (channels, pixels), or as N of them where the memory has that order."""
        if self.channels_last:
            return images.permute(0, 2, 3, 1).flatten(0, 2).t()
        return images.flatten(2) if len(images) > 1 else images[0].flatten(1)

    def filters(self, block: Block, features: Tensor) -> Tensor:
        """Make the filters (N, filters, rows, W) of a block in the buffer."""
        weight = self.weight[block.filters]
        bias = None if self.bias is None else self.bias[block.filters]
        *samples, _, pixels = features.shape
        many, rows = weight.shape[0], _count(block.rows)
        memory = self.buffer[: math.prod(samples) * many * pixels]
        if self.channels_last:
            out, factors = memory.view(pixels, many), (features.t(), weight.t())
            made = memory.view(-1, rows, self.width, many).permute(0, 3, 1, 2)
        else:
            out, factors = memory.view(*samples, many, pixels), (weight.expand(*samples, -1, -1), features)
            made = memory.view(-1, many, rows, self.width)
            bias = None if bias is None else bias[:, None]
        if bias is not None:
            add = torch.baddbmm if samples else torch.addmm
            add(bias.expand(out.shape), *factors, out=out)
        else:
            (torch.bmm if samples else torch.mm)(*factors, out=out)
        return made if self.slope is None else torch.nn.functional.leaky_relu_(made, self.slope)

    def by_filters(self, under: Tensor, above: Tensor, filters: Tensor | None, geometry: Geometry) -> Tensor:
        """Return the gradient by the filters of a block before their activation, as a matrix."""
        made: Tensor = _ops.fac_grad_filters(under, above, *geometry)
        made = made.contiguous(memory_format=self.format)
        if self.slope is not None:  # the result has the sign of what it was made of
            torch.ops.aten.leaky_relu_backward.grad_input(made, filters, self.slope, True, grad_input=made)
        return self.matrix(made)


def forward(
    input: Tensor,
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    slope: float | None,
    block_bytes: int,
    *geometry: *Fields,
) -> Tensor:
    """Compute fac(input, leaky_relu(weight hidden + bias, slope)); slope None is no activation."""
    call = _Call(hidden, weight, bias, slope, block_bytes, Geometry(*geometry))
    output = call.empty(*input.shape[:2], *hidden.shape[2:])
    for samples, _, rows, features, some in call.bands(input.shape[2]):
        for block in some:
            under = rows.of(input[samples, block.channels])
            made = _ops.fac(under, call.filters(block, features), *rows.geometry)
            output[samples, block.channels, block.rows] = made
    return output


def input_shape(grad: Tensor, geometry: Geometry) -> tuple[int, ...]:
    """Return the shape of the input that belongs to an output's gradient."""
    return (*grad.shape[:2], *(geometry.input_size(axis, grad.shape[2 + axis]) for axis in (0, 1)))


def gradients(
    input: Tensor | None,
    hidden: Tensor,
    weight: Tensor,
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
    call = _Call(hidden, weight, bias, slope, block_bytes, Geometry(*geometry))
    of_input, of_hidden, of_weight, of_bias = wanted
    sums = torch.promote_types(hidden.dtype, torch.float32)
    shape = input_shape(grad, call.geometry)
    by_input = call.empty(*shape).zero_() if of_input else None
    by_hidden = call.empty(*hidden.shape).zero_() if of_hidden else None
    by_weight = call.sums(sums) if of_weight or (of_bias and call.ones) else None
    by_bias = hidden.new_zeros(weight.shape[0], dtype=sums) if of_bias and not call.ones else None
    for samples, band_rows, rows, features, some in call.bands(shape[2]):
        band = None if by_hidden is None else call.matrix(by_hidden[samples, :, band_rows])
        band_sums = None if band is None else band.to(sums)
        across = features.contiguous() if call.ones and (of_weight or of_bias) else features
        for block in some:
            above = grad[samples, block.channels, block.rows].contiguous(memory_format=call.format)
            made = call.filters(block, features) if of_input or slope is not None else None
            if by_input is not None:
                part = _ops.fac_grad_input(made, above, *rows.geometry)
                rows.add(by_input[samples, block.channels], part)
            if input is None or not any(wanted[1:]):
                continue
            under = rows.of(input[samples, block.channels])
            by_filters = call.by_filters(under, above, made, rows.geometry)
            if band_sums is not None:
                _add_product(band_sums, weight[block.filters].t(), by_filters)
            if by_weight is not None:
                _add_product(by_weight[block.filters], by_filters, across.mT)
            if by_bias is not None:
                by_bias[block.filters] += by_filters.transpose(0, -2).flatten(1).sum(1, dtype=sums)
            del by_filters  # its memory is the next one's
        if band is not None and band_sums is not None and band_sums is not band:
            band.copy_(band_sums)
    if by_weight is not None:
        by_weight, last = by_weight[:, : weight.shape[1]], by_weight[:, weight.shape[1] :]
        by_bias = last[:, 0] if call.ones and of_bias else by_bias
    found = (
        *(by_input, by_hidden),
        None if by_weight is None or not of_weight else hidden.new_empty(by_weight.shape).copy_(by_weight),
        None if by_bias is None else hidden.new_empty(by_bias.shape).copy_(by_bias),
    )
    return tuple(hidden.new_empty(0) if one is None else one for one in found)


def _add_product(sums: Tensor, a: Tensor, b: Tensor) -> None:
    """Add the product a b, or the products of many a and b, to sums, which may have a wider type, in the order of its memory."""
    if sums.stride(-1) != 1:
        sums, a, b = sums.mT, b.mT, a.mT
    if sums.dim() < max(a.dim(), b.dim()):
        sums += (a @ b).sum(0, dtype=sums.dtype)
    elif sums.dtype == a.dtype:
        sums.addmm_(a, b) if sums.dim() == 2 else sums.baddbmm_(a.expand(len(sums), -1, -1), b)
    else:
        sums += (a @ b).to(sums.dtype)  # faster than a sum of two types
