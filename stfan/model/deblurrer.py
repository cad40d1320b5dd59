"""Frame in, frame out: the recurrence of the network over a video of any length and size."""

import logging
import math
import re

import torch

from fac_ext import release_memory
from stfan.model.tiling import halo, run_tiled
from stfan.scene_cuts import find_cuts

SMALLEST_TILE = 64  # pixels: with the margin around it, a smaller one saves little
# Of errors that are RuntimeErrors: what allocators and oneDNN say.
NO_MEMORY = re.compile(
    "not enough memory|can't allocate memory|out of memory|bad_alloc|ALLOC_FAILED|could not create a (primitive|memory)",
    re.IGNORECASE,
)

log = logging.getLogger(__name__)


class Deblurrer:
    """Deblurs a video frame by frame, keeping what the next frame needs and nothing else.

    Args:
        model: an STFAN in eval mode; frames are taken to its device, and to its dtype or, if that is a half, to
            float32: they are then added to what it computes in that, and lose nothing.
        tile: None for whole frames while they fit; 0 for whole frames; or a multiple of 4: frames are then computed in
            tiles of at most so many pixels a side, for less memory and more time. But for rounding the result is the
            same, since what is handed on is kept for the whole frame, and a tile is computed with all around it that
            one step depends on.
        reset_on_cut: start afresh where a scene cut is seen; see :func:`stfan.scene_cuts.find_cuts`.

    Where memory runs out, and tile is not 0, the frame is computed again in smaller tiles, and so are those that follow;
    a warning is logged.
    """

    def __init__(self, model, tile=None, reset_on_cut=False):
        if tile is not None and (type(tile) is not int or tile < 0 or tile % 4):
            raise ValueError(f"Deblurrer: tile must be None, 0 or a positive multiple of 4, got {tile!r}")
        self.model, self.tile, self.reset_on_cut = model, tile, reset_on_cut
        self.reset()

    def reset(self):
        """Forget the past: the next frame is the first of a new shot."""
        self._past = {}

    def state(self):
        """All that the next frame needs, as a dict of tensors; it is empty before the first frame.

        "previous" and "output", the last frame and what became of it, (N, 3, H, W) with H and W multiples of 4;
        "state", what the network handed on, (N, C, H/4, W/4); "size", the height and width of the frame as given.
        """
        return {name: tensor.contiguous() for name, tensor in self._past.items()}

    def restore(self, state):
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
                "previous": self._take_frame(state["previous"]),
                "output": self._take_frame(state["output"]),
                "state": self._take(state["state"], self._weight().dtype),
                "size": state["size"].clone(),
            }
        self._past = dict(state)

    @torch.no_grad()
    def __call__(self, frame):
        """The deblurred frame, clamped to [0, 1].

        Args:
            frame: (3, H, W) of any size, RGB in [0, 1], floating-point; or (N, 3, H, W), frames of N videos that go
                side by side. Sizes that are no multiple of 4 are continued by reflection, and cropped back.

        Returns:
            a tensor of the frame's shape, dtype and device.

        Raises:
            TypeError: no floating-point tensor.
            ValueError: another shape, or one that changed since the last reset.
            FloatingPointError: what the network gave is not finite: of a half type, try float32.
            RuntimeError: out of memory, even in the smallest tiles, or with tile=0.

        After an error the state is as it was before.
        """
        if not isinstance(frame, torch.Tensor) or not frame.is_floating_point():
            got = frame.dtype if isinstance(frame, torch.Tensor) else type(frame).__name__
            raise TypeError(f"Deblurrer: frame must be a floating-point tensor in [0, 1], got {got}")
        if frame.dim() not in (3, 4) or frame.shape[-3] != 3 or not frame.numel():
            raise ValueError(f"Deblurrer: frame must be (3, H, W) or (N, 3, H, W), got {tuple(frame.shape)}")
        current = self._take_frame(_padded(frame if frame.dim() == 4 else frame[None]))
        height, width = frame.shape[-2:]
        fresh = [True] * len(current)
        if self._past:
            was = len(self._past["previous"]), *self._past["size"].tolist()
            if was != (len(current), height, width):
                raise ValueError(
                    f"Deblurrer: frames were {was[0]} of {was[2]}x{was[1]}, this is {len(current)} of {width}x{height}; "
                    "call reset() before a new video"
                )
            fresh = (
                find_cuts(self._past["previous"], current) if self.reset_on_cut else [False] * len(current)
            )
        output, state = self._fit_step(current, fresh)
        if not torch.stack(output.aminmax()).isfinite().all():  # NaN is both the least and the largest
            raise FloatingPointError(
                f"Deblurrer: the network gave numbers that are not finite, in {self._weight().dtype}"
            )
        output.clamp_(0, 1)
        self._past = {
            "previous": current,
            "output": output,
            "state": state,
            "size": torch.tensor([height, width]),
        }
        output = output[..., :height, :width].to(frame.device, frame.dtype, copy=True)  # ours stays ours
        return output if frame.dim() == 4 else output[0]

    def _weight(self):
        return next(self.model.parameters())

    def _take_frame(self, frame):
        return self._take(frame, torch.promote_types(self._weight().dtype, torch.float32))

    def _take(self, tensor, dtype):
        """A copy, which nobody else can change, on the model's device.

        It is channels_last, in which convolutions are fastest, and so is all that the network makes of it.
        """
        return tensor.to(self._weight().device, dtype, copy=True, memory_format=torch.channels_last)

    def _fit_step(self, current, fresh):
        """What :meth:`_step` returns, in tiles as small as the memory makes them."""
        while True:
            try:
                return self._step(current, fresh)
            except (RuntimeError, MemoryError) as error:
                self.tile = self._smaller_tile(error, current)
            # Only here is the exception gone, and with it the tensors of the step that failed.
            release_memory()
            if current.is_cuda:
                torch.cuda.empty_cache()

    def _smaller_tile(self, error, current):
        """Half the side of the tiles that the memory had no room for; other errors are raised again."""
        if not isinstance(error, MemoryError | torch.OutOfMemoryError) and not NO_MEMORY.search(str(error)):
            raise error
        height, width = current.shape[2:]
        if self.tile == 0:
            raise RuntimeError(
                f"out of memory on {current.device} at {width}x{height}, and tile 0 allows no tiles; leave it out, or "
                f"give their side in pixels, 512 say: {error}"
            ) from error
        tile = min(self.tile or math.inf, max(height, width))
        if tile <= SMALLEST_TILE:
            raise RuntimeError(
                f"out of memory on {current.device}, in tiles of {tile} pixels: {error}"
            ) from error
        smaller = max(SMALLEST_TILE, 4 * math.ceil(tile / 8))
        log.warning("out of memory at %dx%d: going on in tiles of %d pixels", width, height, smaller)
        return smaller

    def _step(self, current, fresh):
        """Output, not clamped, and next state for frames; fresh are B bools: does the frame begin a shot?"""
        if all(fresh):
            previous = output = current
            (state,) = self._run(self._initial_state, current)
        else:
            previous, output, state = (self._past[name] for name in ("previous", "output", "state"))
        if any(fresh) and not all(fresh):
            previous, output, state = previous.clone(), output.clone(), state.clone()
            previous[fresh] = output[fresh] = current[fresh]
            (state[fresh],) = self._run(self._initial_state, current[fresh])
        output, state = self._run(self.model, previous, current, output, state)
        return output, state

    def _initial_state(self, frame):
        return (self.model.initial_state(frame),)

    def _run(self, function, *tensors):
        if not self.tile:
            return function(*tensors)
        return run_tiled(function, tensors, self.tile, halo(self.model))


def _padded(frames):
    """Frames (N, 3, H, W) continued at the bottom and the right to multiples of 4, by reflection at the last pixel."""
    for axis in (2, 3):
        size = frames.shape[axis]
        if size % 4:
            period = max(2 * (size - 1), 1)  # there and back; over again where there are fewer than 4 pixels
            way = torch.arange(size + -size % 4, device=frames.device) % period
            frames = frames.index_select(axis, torch.minimum(way, period - way))
    return frames
