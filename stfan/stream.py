"""Frame in, frame out: the recurrence of the network over a video of any length and size."""

import torch
from torch.nn import functional as F


class Deblurrer:
    """Deblurs a video frame by frame, keeping what the next frame needs and nothing else.

    Args:
        model: an STFAN in eval mode; frames are taken to its device.
    """

    def __init__(self, model):
        self.model = model
        self.reset()

    def reset(self):
        """Forget the past: the next frame is the first of a new shot."""
        self._previous = self._output = self._state = None

    @torch.inference_mode()
    def __call__(self, frame):
        """The deblurred frame, clamped to [0, 1], for a frame (3, H, W) in [0, 1] of any size.

        Sizes that are no multiple of 4 are padded at the right and the bottom, and cropped back.
        """
        if frame.dim() != 3 or frame.shape[0] != 3:
            raise ValueError(f"Deblurrer: frame must be (3, H, W), got {tuple(frame.shape)}")
        height, width = frame.shape[1:]
        current = F.pad(frame[None], (0, -width % 4, 0, -height % 4), mode="replicate")
        # the layout in which convolutions are fastest, on either device; it stays so down to the output
        current = current.to(next(self.model.parameters()).device, memory_format=torch.channels_last)
        previous, output, state = self._previous, self._output, self._state
        if previous is None:
            previous = output = current
            state = self.model.initial_state(current)
        if current.shape != previous.shape:
            raise ValueError(
                f"Deblurrer: the frame's size changed to {width}x{height}; call reset() before a new video"
            )
        output, state = self.model(previous, current, output, state)
        self._previous, self._output, self._state = current, output.clamp(0, 1), state
        return self._output[0, :, :height, :width].to(frame.device)
