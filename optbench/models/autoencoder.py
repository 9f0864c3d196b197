"""Deep autoencoders, classic hard problems of optimization (Hinton & Salakhutdinov 2006, Martens 2010)."""

from collections.abc import Sequence
from itertools import pairwise
from math import prod

from torch import Tensor, nn

from optbench.data.spec import DataSpec
from optbench.models.checkpointing import Block, Chain
from optbench.models.shapes import activation as activation_layer
from optbench.models.shapes import image_shape, require


class Autoencoder(Chain):
    """A symmetric autoencoder with untied weights, biases and a linear code layer.

    pixels - hidden[0] - ... - hidden[-1] - code - hidden[-1] - ... - hidden[0] - pixels. The output is linear: logits
    for the Bernoulli loss (Curves, MNIST), or the reconstruction itself for the squared error (Faces). Sizes:
    Sutskever, Martens, Dahl & Hinton 2013, "On the importance of initialization and momentum in deep learning". The
    dataset's targets are not used. Raises UserError if a width is below 1 or the activation is unknown.
    """

    def __init__(
        self, data: DataSpec, hidden: Sequence[int] = (1000, 500, 250), code: int = 30, activation: str = "sigmoid"
    ) -> None:
        super().__init__()
        require(all(width >= 1 for width in hidden), "hidden", list(hidden), "every width must be >= 1")
        require(code >= 1, "code", code, "must be >= 1")
        widths = [prod(image_shape(data)), *hidden, code]
        self.encoder = self._half(widths, activation)
        self.decoder = self._half(widths[::-1], activation)

    @staticmethod
    def _half(widths: list[int], activation: str) -> nn.Sequential:
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(widths):
            layers += [nn.Linear(inputs, outputs), activation_layer(activation)]
        return nn.Sequential(*layers[:-1])

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (N, C, H, W) with values in [0, 1] -> logits or reconstructions (N, C * H * W)."""
        return self.through(inputs.flatten(1))

    def chain(self) -> Sequence[Block]:
        """The layers of the encoder and those of the decoder."""
        return [*self.encoder, *self.decoder]
