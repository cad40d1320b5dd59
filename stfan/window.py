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
    branches, the old state's part in all that follows and the output start small, so that nothing grows over a long
    video. Beside random features the frame's pixels go through it nearly unchanged, see :func:`_carry`.
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
        model.reconstruction[0].weight[:128] *= 0.1
        model.reconstruction[-1].weight *= 0.01
        _carry(model)
    return model


def _carry(model):
    """Lay out a way for the frame's pixels, so that the last layers have them nearly as they are.

    A quarter of the resolution has room for them: the strided layers move 2 x 2 pixels into channels of their own, the
    up-convolutions move them back. Without this the network has to learn first to draw what it sees. The next state
    is made of the deblurred features and a little of the old state.
    """
    features, fusion, reconstruction = model.features, model.fusion, model.reconstruction
    down, up = (features[3], features[6]), (reconstruction[3], reconstruction[0])
    features[0].weight[:3] = 0
    features[0].weight[range(3), range(3), 1, 1] = 1
    if model.preset == "article":  # else what is negative does not pass
        features[0].bias[:3] = -0.5
    for shrink, grow, channels, first in ((down[0], up[0], 3, 0), (down[1], up[1], 12, 128)):
        shrink.weight[: 4 * channels] = 0
        grow.weight[:, :channels] = 0
        for place in range(4):
            y, x = divmod(place, 2)
            for channel in range(channels):
                there = channels * place + channel
                shrink.weight[there, channel, 1 + y, 1 + x] = 1
                grow.weight[first + there, channel, 1 + y, 1 + x] = 1
    fusion.weight[:, :128] *= 0.1
    fusion.weight[:, 128:] = 0
    fusion.weight[range(128), range(128, 256), 1, 1] = 1


class Window(nn.Module):
    """Some frames one after the other, and their loss; one forward pass for those who synchronise gradients."""

    def __init__(self, model, loss, recompute, alone=False):
        super().__init__()
        self.model, self.recompute, self.alone = model, recompute, alone
        self.loss = [loss]  # in a list its weights are none of this module's

    def forward(self, blurry, sharp, carried):
        """
        Args:
            blurry, sharp: (B, T, 3, H, W) in [0, 1].
            carried: what the frames before gave, None at a sequence's beginning.

        Returns:
            (the mean loss, {term: its mean}, what to carry on), of which only the loss leads back.
        """
        wanted = sharp.transpose(0, 1).flatten(0, 1)
        if self.alone:
            loss, terms = self.loss[0](self.model.alone(blurry.transpose(0, 1).flatten(0, 1)), wanted)
            return loss, terms, None
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
        loss, terms = self.loss[0](torch.cat(outputs), wanted)
        return loss, terms, (previous, output.detach(), state.detach())
