"""Unroll the network over a few frames, through which the gradient is propagated back."""

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from stfan.model.network import STFAN

Carried = tuple[Tensor, Tensor, Tensor | None]  # previous frame, its output, state


class UnrolledLoss(nn.Module):
    """Loss over a window of successive frames, in one forward pass, as wrappers that synchronise gradients need it.

    Args:
        model: the network.
        loss: maps (output, target) to (a scalar, {term: scalar}).
        gradient_checkpointing: store only each frame's state, and recompute activations in the backward pass.
        border: pixels at each side that the loss leaves out.
    """

    def __init__(self, model: STFAN, loss: nn.Module, gradient_checkpointing: bool, border: int = 0):
        super().__init__()
        self.model, self.gradient_checkpointing, self.border = model, gradient_checkpointing, border
        self.loss = [loss]  # within a list it is no submodule, so its weights are none of this module's

    def forward(
        self, blurry: Tensor, sharp: Tensor, carried: Carried | None
    ) -> tuple[Tensor, dict[str, Tensor], Carried]:
        """Compute the loss of a window.

        Args:
            blurry, sharp: (B, T, 3, H, W) in [0, 1].
            carried: what the window before returned, None at the beginning of a sequence.

        Returns:
            (the mean loss, {term: its mean}, what to give the next window); the graph is attached to the loss alone.
        """
        previous, output, state = carried if carried is not None else (blurry[:, 0], blurry[:, 0], None)
        outputs = []
        for frame in blurry.unbind(1):
            if self.gradient_checkpointing:
                output, state = checkpoint(self.model, previous, frame, output, state, use_reentrant=False)
            else:
                output, state = self.model(previous, frame, output, state)
            outputs.append(output)
            output, previous = output.clamp(0, 1).to(frame.dtype), frame
        loss, terms = self.loss[0](
            *(self._inside(side) for side in (torch.cat(outputs), sharp.transpose(0, 1).flatten(0, 1)))
        )
        assert state is not None
        return loss, terms, (previous, output.detach(), state.detach())

    def _inside(self, frames: Tensor) -> Tensor:
        """Return the part of frames (B, 3, H, W) that the loss judges."""
        height, width = frames.shape[2:]
        return frames[..., self.border : height - self.border, self.border : width - self.border]
