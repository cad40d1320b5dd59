"""Deblur frame by frame: the recurrence of the network over a video of any length and size."""

import logging
import math
import re
from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from fac_ext import release_memory
from stfan.model.network import STFAN
from stfan.model.tiling import halo, run_tiled
from stfan.scene_cuts import cut_mask

STRONGEST = 1.5  # the largest strength
SMALLEST_TILE = 64  # pixels: with the halo around it, a smaller one saves little
# What allocators and oneDNN say in a plain RuntimeError.
NO_MEMORY = re.compile(
    "not enough memory|can't allocate memory|out of memory|bad_alloc|ALLOC_FAILED|could not create a (primitive|memory)",
    re.IGNORECASE,
)

log = logging.getLogger(__name__)


class Deblurrer:
    """Deblurs a video frame by frame; it keeps what the next frame needs and nothing else.

    Args:
        model: an STFAN in eval mode. Frames are converted to its device and its dtype. With a half dtype they become
            float32 instead, so that the frame to which the network adds its result is not rounded.
        tile: None for whole frames while they fit; 0 for whole frames; or a multiple of 4: frames are then computed in
            tiles of at most so many pixels a side, which takes less memory and more time. The result is the same but
            for rounding: the state is kept for the whole frame, and a tile is computed with all around it that one
            step depends on.
        reset_on_cut: start afresh at each scene cut; see :func:`stfan.scene_cuts.find_cuts`.
        strength: how much of what the network adds to a frame is returned, from 0, the frame itself, to 1.5. The
            recurrence goes on with all of it, so that the state is the same whatever the strength.

    When memory runs out, and tile is not 0, the frame is computed again in smaller tiles, and so are all later frames;
    a warning is logged.
    """

    def __init__(
        self, model: STFAN, tile: int | None = None, reset_on_cut: bool = False, strength: float = 1.0
    ):
        if tile is not None and (type(tile) is not int or tile < 0 or tile % 4):
            raise ValueError(f"Deblurrer: tile must be None, 0 or a positive multiple of 4, got {tile!r}")
        number = isinstance(strength, int | float) and not isinstance(strength, bool)
        if not number or not 0 <= strength <= STRONGEST:
            raise ValueError(f"Deblurrer: strength must be a number from 0 to {STRONGEST}, got {strength!r}")
        self.model, self.tile, self.reset_on_cut, self.strength = model, tile, reset_on_cut, strength
        self.reset()

    def reset(self) -> None:
        """Forget the past: the next frame is the first of a new shot."""
        self._past: dict[str, Tensor] = {}

    def state(self) -> dict[str, Tensor]:
        """Return all that the next frame needs, as a dict of tensors; it is empty before the first frame.

        Returns:
            "previous" and "output", the last frame and its deblurred version, (N, 3, H, W) with H and W multiples of 4;
            "state", the network's, (N, C, H/4, W/4); "size", the height and width of the frame as given.
        """
        return {name: tensor.contiguous() for name, tensor in self._past.items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what :meth:`state` returned, of this Deblurrer or of another one with the same model.

        Raises:
            ValueError: other tensors than those, or of shapes that do not belong together.
        """
        if state:
            if set(state) != {"previous", "output", "state", "size"}:
                raise ValueError(
                    f"Deblurrer: state must hold previous, output, state and size, got {', '.join(map(str, state))}"
                )
            n, (height, width) = len(state["previous"]), (side + -side % 4 for side in state["size"].tolist())
            image = n, 3, height, width
            state_shape = n, self.model.channels, height // 4, width // 4
            shapes = {"previous": image, "output": image, "state": state_shape}
            for name, shape in shapes.items():
                if tuple(state[name].shape) != shape:
                    raise ValueError(
                        f"Deblurrer: {name} must be {shape} by size, got {tuple(state[name].shape)}"
                    )
            state = {
                "previous": self._copy_frame(state["previous"]),
                "output": self._copy_frame(state["output"]),
                "state": self._copy(state["state"], self._weight().dtype),
                "size": state["size"].clone(),
            }
        self._past = dict(state)

    @torch.no_grad()
    def __call__(self, frame: Tensor) -> Tensor:
        """Deblur the next frame.

        Args:
            frame: (3, H, W) of any size, RGB in [0, 1], floating-point; or (N, 3, H, W), frames of N videos side by
                side. Sizes that are no multiple of 4 are extended by reflection, and cropped back.

        Returns:
            the deblurred frame, clamped to [0, 1], of the frame's shape, dtype and device.

        Raises:
            TypeError: no floating-point tensor.
            ValueError: another shape, or one that changed since the last reset.
            FloatingPointError: the network's result is not finite: if it is in a half type, try float32.
            RuntimeError: out of memory, even in the smallest tiles, or with tile=0.

        After an error the state is as it was before.
        """
        past = self._past
        shown, finite = self.launch(frame)
        try:
            self.check_finite(bool(finite))
        except FloatingPointError:
            self._past = past
            raise
        return shown

    @torch.no_grad()
    def launch(self, frame: Tensor) -> tuple[Tensor, Tensor]:
        """Deblur the next frame without waiting for the device.

        Returns:
            the deblurred frame; and, on the model's device, whether the network's numbers were finite: give it to
            :meth:`check_finite` when it is there. If they were not, neither frame nor state are good.
        """
        if not isinstance(frame, Tensor) or not frame.is_floating_point():
            got = frame.dtype if isinstance(frame, Tensor) else type(frame).__name__
            raise TypeError(f"Deblurrer: frame must be a floating-point tensor in [0, 1], got {got}")
        if frame.dim() not in (3, 4) or frame.shape[-3] != 3 or not frame.numel():
            raise ValueError(f"Deblurrer: frame must be (3, H, W) or (N, 3, H, W), got {tuple(frame.shape)}")
        current = self._copy_frame(_pad(frame if frame.dim() == 4 else frame[None]))
        height, width = frame.shape[-2:]
        output, state = self._fit_step(current, self._find_shot_starts(current, height, width))
        # aminmax gives NaN as both the least and the largest.
        finite = torch.stack(output.aminmax()).isfinite().all()
        shown = output if self.strength == 1 else self._scale_change(current, output)
        output.clamp_(0, 1)
        self._past = {
            "previous": current,
            "output": output,
            "state": state,
            "size": torch.tensor([height, width]),
        }
        # A copy: the caller may change it.
        shown = shown[..., :height, :width].to(frame.device, frame.dtype, copy=True)
        return (shown if frame.dim() == 4 else shown[0]), finite

    def check_finite(self, finite: bool) -> None:
        """Raise FloatingPointError unless the network's numbers were finite."""
        if not finite:
            raise FloatingPointError(
                f"Deblurrer: the network gave numbers that are not finite, in {self._weight().dtype}"
            )

    @property
    def device(self) -> torch.device:
        """Where the network runs."""
        return self._weight().device

    def _scale_change(self, current: Tensor, output: Tensor) -> Tensor:
        """Return the frame and what the network adds to it, times the strength, clamped to [0, 1]."""
        return (current + self.strength * (output - current)).clamp_(0, 1)

    def _find_shot_starts(self, current: Tensor, height: int, width: int) -> Tensor | None:
        """Find for each of N frames whether a shot begins with it, None if with none or all; check their size.

        Returns:
            bool, (N, 1, 1, 1). On a CUDA device it is never None where cuts are looked for: to ask would be to wait.
        """
        if not self._past:
            return None
        count, (past_height, past_width) = len(self._past["previous"]), self._past["size"].tolist()
        if (count, past_height, past_width) != (len(current), height, width):
            raise ValueError(
                f"Deblurrer: frames were {count} of {past_width}x{past_height}, "
                f"this is {len(current)} of {width}x{height}; call reset() before a new video"
            )
        if not self.reset_on_cut:
            return None
        starts = cut_mask(self._past["previous"], current)
        return starts.view(-1, 1, 1, 1) if current.is_cuda or starts.any() else None

    def _weight(self) -> Tensor:
        return next(self.model.parameters())

    def _copy_frame(self, frame: Tensor) -> Tensor:
        return self._copy(frame, torch.promote_types(self._weight().dtype, torch.float32))

    def _copy(self, tensor: Tensor, dtype: torch.dtype) -> Tensor:
        """Copy a tensor, so that nobody else can change it, to the model's device.

        The copy is channels_last, in which convolutions are fastest, and so are all tensors that the network makes of
        it.
        """
        return tensor.to(self._weight().device, dtype, copy=True, memory_format=torch.channels_last)

    def _fit_step(self, current: Tensor, starts: Tensor | None) -> tuple[Tensor, Tensor]:
        """Do :meth:`_step`; while memory runs out, do it again in smaller tiles."""
        while True:
            try:
                return self._step(current, starts)
            except (RuntimeError, MemoryError) as error:
                self.tile = self._smaller_tile(error, current)
            # Only here is the exception gone, and with it the tensors of the step that failed.
            release_memory()
            if current.is_cuda:
                torch.cuda.empty_cache()

    def _smaller_tile(self, error: Exception, current: Tensor) -> int:
        """Return half the side of the tiles that did not fit in memory; raise other errors again."""
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not NO_MEMORY.search(str(error)):
            raise error
        height, width = current.shape[2:]
        if self.tile == 0:
            raise RuntimeError(
                f"out of memory on {current.device} at {width}x{height}, and tile 0 allows no tiles; leave it out, or "
                f"give their side in pixels, 512 say: {error}"
            ) from error
        tile = min(self.tile or max(height, width), max(height, width))
        if tile <= SMALLEST_TILE:
            raise RuntimeError(
                f"out of memory on {current.device}, in tiles of {tile} pixels: {error}"
            ) from error
        smaller = max(SMALLEST_TILE, 4 * math.ceil(tile / 8))
        log.warning("out of memory at %dx%d: going on in tiles of %d pixels", width, height, smaller)
        return smaller

    def _step(self, current: Tensor, starts: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the output, not clamped, and the next state; `starts` says which of the N frames begin a shot."""
        if not self._past:
            previous = output = current
            (state,) = self._run(self._initial_state, current)
        else:
            previous, output, state = (self._past[name] for name in ("previous", "output", "state"))
        if starts is not None:
            (new,) = self._run(self._initial_state, current)
            previous, output = torch.where(starts, current, previous), torch.where(starts, current, output)
            state = torch.where(starts, new, state)
        output, state = self._run(self.model, previous, current, output, state)
        return output, state

    def _initial_state(self, frame: Tensor) -> tuple[Tensor]:
        return (self.model.initial_state(frame),)

    def _run(self, function: Callable[..., tuple[Tensor, ...]], *tensors: Tensor) -> tuple[Tensor, ...]:
        if not self.tile:
            return function(*tensors)
        return run_tiled(function, tensors, self.tile, halo(self.model))


def _pad(frames: Tensor) -> Tensor:
    """Extend frames (N, 3, H, W) at the bottom and the right to multiples of 4, by reflection at the last pixel."""
    for axis in (2, 3):
        size = frames.shape[axis]
        if size % 4:
            # The pixels there and back; over again where there are fewer than 4.
            period = max(2 * (size - 1), 1)
            position = torch.arange(size + -size % 4, device=frames.device) % period
            frames = frames.index_select(axis, torch.minimum(position, period - position))
    return frames
