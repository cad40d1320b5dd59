"""Compute a step of the network tile by tile, each with all that its pixels depend on: the result is the same."""

import math
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, nn

from stfan.model.network import STFAN

Extent = tuple[int, int]  # the first and the last pixel along a side


def halo(model: STFAN) -> int:
    """Return how many pixels beyond a tile one step of a model depends on, to each side: a multiple of 4.

    The search goes backwards through the layers, from the 4 x 4 pixels of the output that belong to one feature, along
    every path that the step takes.
    """
    output, state = _receptive_field(model.reconstruction, (0, 3)), _receptive_field(model.fusion, (0, 0))
    fused = min(output[0], state[0]), max(output[1], state[1])
    filtered = fused[0] - model.kernel_size // 2, fused[1] + model.kernel_size // 2
    deblur = _receptive_field(model.deblur, fused)
    extents = (
        (4 * filtered[0], 4 * filtered[1] + 3),  # the state, whose pixels are 4 x 4
        _receptive_field(model.features, filtered),
        _receptive_field(model.motion, _receptive_field(model.align, fused)),
        _receptive_field(model.motion, deblur),
        _receptive_field(model.motion, _receptive_field(model.align, deblur)),
    )
    return 4 * math.ceil(max(max(-first, last - 3) for first, last in extents) / 4)


def _receptive_field(layer: nn.Module, output: Extent) -> Extent:
    """Return the first and the last input pixel on which an extent of output pixels of a layer depends."""
    first, last = output
    if isinstance(layer, nn.PixelShuffle):
        return first // layer.upscale_factor, last // layer.upscale_factor
    if isinstance(layer, nn.PixelUnshuffle):
        return first * layer.downscale_factor, (last + 1) * layer.downscale_factor - 1
    if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):  # its parts, one after the other
        for part in reversed(list(layer.children())):
            first, last = _receptive_field(part, (first, last))
        return first, last
    kernel, stride, padding = layer.kernel_size[0], layer.stride[0], layer.padding[0]
    assert isinstance(padding, int)
    if isinstance(layer, nn.ConvTranspose2d):  # input i goes to outputs i * stride - padding + [0, kernel)
        return math.ceil((first + padding - kernel + 1) / stride), (last + padding) // stride
    return first * stride - padding, last * stride - padding + kernel - 1


def run_tiled(
    function: Callable[..., tuple[Tensor, ...]], tensors: Sequence[Tensor], tile: int, halo: int
) -> tuple[Tensor, ...]:
    """Return what function(*tensors) returns, put together from its results for parts of the tensors.

    Args:
        function: takes and returns tensors (B, channels, H/s, W/s), each with an s of its own that divides 4.
        tensors: the first one has s = 1, with H and W multiples of 4.
        tile: largest side of a part in pixels, without its halo; a multiple of 4.
        halo: number of pixels around it that a pixel of the results depends on, a multiple of 4; see :func:`halo`.
    """
    height, width = tensors[0].shape[2:]
    results: list[Tensor] = []
    for rows in _spans(height, tile, halo):
        for columns in _spans(width, tile, halo):
            tile_in_frame, read, tile_in_read = zip(rows, columns, strict=True)
            parts = function(*(_crop(tensor, read, height // tensor.shape[2]) for tensor in tensors))
            scales = [(read[0].stop - read[0].start) // part.shape[2] for part in parts]
            if not results:
                results = [
                    _empty_channels_last(part, height // scale, width // scale)
                    for part, scale in zip(parts, scales, strict=True)
                ]
            for result, part, scale in zip(results, parts, scales, strict=True):
                _crop(result, tile_in_frame, scale).copy_(_crop(part, tile_in_read, scale))
    return tuple(results)


def _empty_channels_last(like: Tensor, height: int, width: int) -> Tensor:
    """Allocate a channels_last tensor with the batch, channels, dtype and device of another."""
    return like.new_empty(len(like), height, width, like.shape[1]).permute(0, 3, 1, 2)


def _spans(size: int, tile: int, halo: int) -> Iterator[tuple[slice, slice, slice]]:
    """Divide a side into tiles as equal as can be.

    Yields:
        for each tile: itself, itself with its halo, and where it lies within that.
    """
    step = 4 * math.ceil(size / (4 * math.ceil(size / tile)))
    for first in range(0, size, step):
        last, start = min(first + step, size), max(first - halo, 0)
        yield slice(first, last), slice(start, min(last + halo, size)), slice(first - start, last - start)


def _crop(tensor: Tensor, region: Sequence[slice], scale: int) -> Tensor:
    """Return the part of a tensor (..., H/scale, W/scale) in a region that is given in pixels."""
    rows, columns = (slice(span.start // scale, span.stop // scale) for span in region)
    return tensor[..., rows, columns]
