"""Some frames that a network learns from at once."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint


class UnrolledLoss(nn.Module):
    """Some frames one after the other, and their loss; one forward pass for those who synchronise gradients."""

    def __init__(self, model, loss, gradient_checkpointing):
        super().__init__()
        self.model, self.gradient_checkpointing = model, gradient_checkpointing
        self.loss = [loss]  # in a list its weights are none of this module's

    def forward(self, blurry, sharp, carried):
        """
        Args:
            blurry, sharp: (B, T, 3, H, W) in [0, 1].
            carried: what the frames before gave, None at a sequence's beginning.

        Returns:
            (the mean loss, {term: its mean}, what to carry on), of which only the loss leads back.
        """
        if carried is None:
            previous = output = blurry[:, 0]
            carried = previous, output, None
        previous, output, state = carried
        outputs = []
        for frame in blurry.unbind(1):
            if self.gradient_checkpointing:
                output, state = checkpoint(self.model, previous, frame, output, state, use_reentrant=False)
            else:
                output, state = self.model(previous, frame, output, state)
            outputs.append(output)
            output, previous = output.clamp(0, 1).to(frame.dtype), frame
        loss, terms = self.loss[0](torch.cat(outputs), sharp.transpose(0, 1).flatten(0, 1))
        return loss, terms, (previous, output.detach(), state.detach())
