"""How a network begins to learn, and the frames that it learns from at once."""

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from stfan.model import ResBlock


def initialise(model, kind, seed):
    """Kaiming's initialisation as PyTorch has it, or on top of a stronger one a network that starts as the identity.

    PyTorch's is uniform, of variance 1 / (3 fan_in), the biases' too; it is what the article's code gets. The variance
    for which Kaiming's is known, 2 / fan_in, makes STFAN grow without bounds within three frames.

    Of the identity both filters start as a single centre tap, so that FAC passes features and state through; residual
    branches, the old state's part in the new one and the output start small, so that nothing grows over a long video.
    """
    torch.manual_seed(seed)
    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
            module.reset_parameters()
            if kind == "identity":
                nn.init.kaiming_normal_(module.weight, nonlinearity="linear")
                nn.init.zeros_(module.bias)
    if kind == "kaiming":
        return model
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, ResBlock):
                module.conv2.weight *= 0.1
        for head in (model.align[-1], model.deblur[-1]):
            head.weight *= 0.02
            head.bias.view(-1, model.kernel_size**2)[:, model.kernel_size**2 // 2] = 1
        model.fusion.weight[:, :128] *= 0.25
        model.reconstruction[-1].weight *= 0.01
    return model


class Window(nn.Module):
    """Some frames one after the other, and their loss; one forward pass for those who synchronise gradients."""

    def __init__(self, model, loss, recompute):
        super().__init__()
        self.model, self.recompute = model, recompute
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
            carried = previous, output, self.model.initial_state(previous)
        previous, output, state = carried
        outputs = []
        for frame in blurry.unbind(1):
            if self.recompute:
                output, state = checkpoint(self.model, previous, frame, output, state, use_reentrant=False)
            else:
                output, state = self.model(previous, frame, output, state)
            outputs.append(output)
            output, previous = output.clamp(0, 1).to(frame.dtype), frame
        loss, terms = self.loss[0](torch.cat(outputs), sharp.transpose(0, 1).flatten(0, 1))
        return loss, terms, (previous, output.detach(), state.detach())
