"""Plan the blocks in which filters are computed: rows and channels at a time, and the input rows they read."""

from typing import NamedTuple

from torch import Tensor

from fac_ext.arguments import INSIDE, PADDING_MODES, Geometry

# of the filters of one block; docs/predicted.md says why
BLOCK_BYTES = {"cpu": 8 << 20, "others": 128 << 20}
VECTOR_CHANNELS = 8  # channels that the channels_last kernels take at once
MIN_BLOCK_BYTES = 128  # of a pixel's channels


class Block(NamedTuple):
    """What is done at a time: the outputs [rows) of the filter groups [first, last), that is of channels."""

    rows: slice  # of the output
    filters: slice  # rows of weight
    channels: slice  # of input and output


def block_size(
    groups: int, height: int, width: int, taps: int, itemsize: int, shared: int, max_bytes: int
) -> tuple[int, int]:
    """Return the (groups, rows) of blocks whose filters take max_bytes at most, or one group in one row if more.

    shared: channels of a group.
    All rows where some channels fit, as then every gradient is summed in the order of fac's own; else bands.
    """
    group_bytes = taps * itemsize  # at one pixel
    min_groups = -(-MIN_BLOCK_BYTES // (itemsize * shared))
    group_count = min(groups, min_groups, max(max_bytes // (group_bytes * width), 1))
    rows = max(max_bytes // (group_count * group_bytes * width), 1)
    if rows < height:
        return group_count, _even_size(height, rows, 1)
    fit = max(max_bytes // (group_bytes * height * width), 1)
    return _even_size(groups, fit, VECTOR_CHANNELS if shared == 1 else 1), height


def length(part: slice) -> int:
    return int(part.stop - part.start)


def _even_size(total: int, max_size: int, multiple: int) -> int:
    """Return the size of the fewest parts of `total`, at most max_size, as even as multiples of `multiple` allow."""
    max_size = min(max_size, total)
    max_size -= max_size % multiple if max_size > multiple else 0
    size = -(-total // -(-total // max_size))
    return min(-(-size // multiple) * multiple, max_size)


def plan_blocks(
    hidden: Tensor, weight: Tensor | None, max_bytes: int, geometry: Geometry, bands: bool = True
) -> list[Block]:
    """List the blocks of a sample, band after band; without bands, of all rows each, whatever they take.

    A band of windows that are moved inside the image has no geometry of its own, so they have no bands.
    """
    taps, shared = geometry.taps, geometry.channels_per_filter
    n, channels, height, width = hidden.shape
    groups = (channels if weight is None else weight.shape[0]) // taps
    if n * groups * height * width == 0:
        return []
    itemsize = hidden.element_size()
    if bands and geometry.padding_mode != INSIDE:
        group_count, band = block_size(groups, height, width, taps, itemsize, shared, max_bytes)
    else:
        group_count = max(min(max_bytes // (n * taps * itemsize * height * width), groups), 1)
        band = height
    return [
        Block(
            slice(y, min(y + band, height)),
            slice(g * taps, min(g + group_count, groups) * taps),
            slice(g * shared, min(g + group_count, groups) * shared),
        )
        for y in range(0, height, band)
        for g in range(0, groups, group_count)
    ]


class InputBand(NamedTuple):
    """The rows of the input that a band of the output reads, and the geometry of the band alone."""

    geometry: Geometry
    row_count: int
    runs: list[tuple[int, int, int]]  # (place among them, row of the input, how many); the others are zeros

    @classmethod
    def for_output(cls, band: slice, height: int, input_height: int, geometry: Geometry) -> "InputBand":
        """Find those of a band of an output of `height` rows."""
        if (band.start, band.stop) == (0, height):
            return cls(geometry, input_height, [(0, 0, input_height)])
        (kh, _), (sh, _), (dh, _), (top, _, left, right) = geometry[:4]
        first, count = band.start * sh - top, (band.stop - band.start - 1) * sh + (kh - 1) * dh + 1
        inside = range(max(first, 0), min(first + count, input_height))
        runs = [(inside.start - first, inside.start, len(inside))] if inside else []
        for position in range(first, first + count):
            row = _source(position, input_height, PADDING_MODES[geometry.padding_mode])
            if position not in inside and row is not None:
                runs.append((position - first, row, 1))
        return cls(geometry._replace(padding=(0, 0, left, right)), count, runs)

    def gather(self, image: Tensor) -> Tensor:
        """Return the rows of an input."""
        if len(self.runs) == 1 and self.runs[0][2] == self.row_count:
            return image[:, :, self.runs[0][1] :][:, :, : self.row_count]
        rows = image.new_zeros((*image.shape[:2], self.row_count, image.shape[3]))
        for place, row, number in self.runs:
            rows[:, :, place : place + number] = image[:, :, row : row + number]
        return rows

    def scatter_add(self, image: Tensor, rows: Tensor) -> None:
        """Add the gradient of the rows to that of the input; in one order, and no two at once to one row."""
        for place, row, number in self.runs:
            image[:, :, row : row + number] += rows[:, :, place : place + number]


def _source(position: int, size: int, mode: str) -> int | None:
    """Return the row that a position beyond the ends shows (csrc/geometry.h)."""
    if 0 <= position < size:
        return position
    if mode == "replicate":
        return min(max(position, 0), size - 1)
    if mode == "reflect":
        return -position if position < 0 else 2 * (size - 1) - position
    return position % size if mode == "circular" else None
