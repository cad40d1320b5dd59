"""A step of the network in tiles: each with all that its pixels depend on, so that the result is the same."""

import math

from torch import nn


def halo(model):
    """How many pixels beyond a tile one step of a model depends on, to each side: a multiple of 4.

    Found by going backwards through the layers, from the 4 x 4 pixels of the output that belong to one feature, along
    every way that the step takes.
    """
    output, state = _reads(model.reconstruction, 0, 3), _reads(model.fusion, 0, 0)
    fused = min(output[0], state[0]), max(output[1], state[1])
    filtered = fused[0] - model.kernel_size // 2, fused[1] + model.kernel_size // 2
    deblur = _reads(model.deblur, *fused)
    seen = (
        (4 * filtered[0], 4 * filtered[1] + 3),  # the state, whose pixels are 4 x 4
        _reads(model.features, *filtered),
        _reads(model.motion, *_reads(model.align, *fused)),
        _reads(model.motion, *deblur),
        _reads(model.motion, *_reads(model.align, *deblur)),
    )
    return 4 * math.ceil(max(max(-first, last - 3) for first, last in seen) / 4)


def _reads(layer, first, last):
    """The first and the last input pixel on which output pixels first to last of a layer depend."""
    if isinstance(layer, nn.PixelShuffle):
        return first // layer.upscale_factor, last // layer.upscale_factor
    if isinstance(layer, nn.PixelUnshuffle):
        return first * layer.downscale_factor, (last + 1) * layer.downscale_factor - 1
    if not isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):  # its parts, one after the other
        for part in reversed(list(layer.children())):
            first, last = _reads(part, first, last)
        return first, last
    kernel, stride, padding = layer.kernel_size[0], layer.stride[0], layer.padding[0]
    if isinstance(layer, nn.ConvTranspose2d):  # input i goes to outputs i * stride - padding + [0, kernel)
        return math.ceil((first + padding - kernel + 1) / stride), (last + padding) // stride
    return first * stride - padding, last * stride - padding + kernel - 1


def run_tiled(function, tensors, tile, halo):
    """What function(*tensors) returns, put together from what it returns for parts of the tensors.

    Args:
        function: takes and returns tensors (B, channels, H/s, W/s), each with an s of its own that divides 4.
        tensors: the first one with s = 1, H and W multiples of 4.
        tile: how large a part may be, in pixels, without its margin; a multiple of 4.
        halo: on how many pixels around it a pixel of the results depends, a multiple of 4; see :func:`halo`.
    """
    (height, width), results = tensors[0].shape[2:], None
    for rows in _spans(height, tile, halo):
        for columns in _spans(width, tile, halo):
            tile_in_frame, read, tile_in_read = zip(rows, columns, strict=True)
            parts = function(*(_cut(tensor, read, height // tensor.shape[2]) for tensor in tensors))
            scales = [(read[0].stop - read[0].start) // part.shape[2] for part in parts]
            if results is None:
                results = [
                    part.new_empty(len(part), height // scale, width // scale, part.shape[1]).permute(
                        0, 3, 1, 2
                    )
                    for part, scale in zip(parts, scales, strict=True)
                ]
            for result, part, scale in zip(results, parts, scales, strict=True):
                _cut(result, tile_in_frame, scale).copy_(_cut(part, tile_in_read, scale))
    return results


def _spans(size, tile, halo):
    """For each tile of a side, all as equal as can be: itself, itself with its halo, and where it lies in that."""
    step = 4 * math.ceil(size / (4 * math.ceil(size / tile)))
    for first in range(0, size, step):
        last, start = min(first + step, size), max(first - halo, 0)
        yield slice(first, last), slice(start, min(last + halo, size)), slice(first - start, last - start)


def _cut(tensor, region, scale):
    """The part of a tensor (..., H/scale, W/scale) in a region that is given in pixels."""
    rows, columns = (slice(span.start // scale, span.stop // scale) for span in region)
    return tensor[..., rows, columns]
