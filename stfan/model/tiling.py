"""Compute a step of the network tile by tile, each with all that its pixels depend on: the result is the same."""

import math
from collections.abc import Callable, Iterator, Sequence

from torch import Tensor, nn

from stfan.model.layers import Context
from stfan.model.network import STFAN

Extent = tuple[int, int]  # the first and the last pixel along a side


def grain(model: STFAN) -> int:
    """Return the number of pixels of which the sides of tiles are multiples: those of the coarsest feature."""
    return 4 if model.context is None else 16


def halo(model: STFAN) -> int:
    """Return how many pixels beyond a tile one step of a model depends on, to each side: a multiple of its grain.

    The search goes backwards through the layers, from the smallest tile of the output, along every path that the step
    takes.
    """
    size = grain(model)
    fused = _union(
        _receptive_field(model.reconstruction, (0, size - 1)),
        _receptive_field(model.fusion, (0, size // 4 - 1)),
    )
    filtered = fused[0] - model.kernel_size // 2, fused[1] + model.kernel_size // 2
    deblur = _receptive_field(model.deblur, fused)
    features, motion = filtered, _union(deblur, _receptive_field(model.align, _union(fused, deblur)))
    extents = [(4 * filtered[0], 4 * filtered[1] + 3)]  # the state, whose pixels are 4 x 4
    if model.context is not None:
        quarter, frames = _context_extents(model.context, _union(fused, motion))
        features, motion = _union(features, quarter), _union(motion, quarter)
        extents.append(frames)
    extents += [_receptive_field(model.features, features), _receptive_field(model.motion, motion)]
    return size * math.ceil(max(max(-first, last - size + 1) for first, last in extents) / size)


def _union(*extents: Extent) -> Extent:
    """Return the extent from the first to the last pixel of several ones."""
    return min(first for first, _ in extents), max(last for _, last in extents)


def _context_extents(context: Context, output: Extent) -> tuple[Extent, Extent]:
    """Return on which features at a quarter of the size, and on which pixels of the frames, a context's output depends."""
    for layer in (context.last, context.after, context.up, context.far, context.down, context.before):
        output = _receptive_field(layer, output)
    first, last = _receptive_field(context.matches, output)
    first, last = 2 * (first - context.REACH), 2 * (last + context.REACH)
    before = (context.SIDE - 2) // 2
    return _receptive_field(context.entry, output), (
        4 * (first - before),
        4 * (last + context.SIDE - before) - 1,
    )


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
    function: Callable[..., tuple[Tensor, ...]],
    tensors: Sequence[Tensor],
    tile: int,
    halo: int,
    grain: int = 4,
) -> tuple[Tensor, ...]:
    """Return what function(*tensors) returns, put together from its results for parts of the tensors.

    Args:
        function: takes and returns tensors (B, channels, H/s, W/s), each with an s of its own that divides 4.
        tensors: the first one has s = 1, with H and W multiples of 4.
        tile: largest side of a part in pixels, without its halo; the grain where that is more.
        halo: number of pixels around it that a pixel of the results depends on; see :func:`halo`.
        grain: of which halo and all sides but those of the last parts are multiples; see :func:`grain`.
    """
    height, width = tensors[0].shape[2:]
    results: list[Tensor] = []
    for rows in _spans(height, tile, halo, grain):
        for columns in _spans(width, tile, halo, grain):
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


def _spans(size: int, tile: int, halo: int, grain: int) -> Iterator[tuple[slice, slice, slice]]:
    """Divide a side into tiles as equal as can be.

    Yields:
        for each tile: itself, itself with its halo, and where it lies within that.
    """
    count = math.ceil(size / max(tile // grain * grain, grain))
    step = grain * math.ceil(size / (grain * count))
    for first in range(0, size, step):
        last, start = min(first + step, size), max(first - halo, 0)
        yield slice(first, last), slice(start, min(last + halo, size)), slice(first - start, last - start)


def _crop(tensor: Tensor, region: Sequence[slice], scale: int) -> Tensor:
    """Return the part of a tensor (..., H/scale, W/scale) in a region that is given in pixels."""
    rows, columns = (slice(span.start // scale, span.stop // scale) for span in region)
    return tensor[..., rows, columns]
