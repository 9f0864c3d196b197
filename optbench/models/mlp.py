"""Multilayer perceptrons on images, logistic regression among them."""

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from optbench.data.spec import DataSpec
from optbench.models.shapes import activation as activation_layer
from optbench.models.shapes import image_shape, require


class MLP(nn.Module):
    """Fully connected layers on the flattened image, with biases: pixels - hidden[0] - ... - hidden[-1] - outputs.

    An empty ``hidden`` is (multinomial) logistic regression. Weights start at torch's default, U(+-1 / sqrt(fan_in)).
    Raises UserError if a width is below 1 or the activation is unknown.
    """

    def __init__(self, data: DataSpec, hidden: Sequence[int] = (128,), activation: str = "relu") -> None:
        super().__init__()
        require(all(width >= 1 for width in hidden), "hidden", list(hidden), "every width must be >= 1")
        layers: list[nn.Module] = []
        width = prod(image_shape(data))
        for next_width in hidden:
            layers += [nn.Linear(width, next_width), activation_layer(activation)]
            width = next_width
        self.layers = nn.Sequential(*layers, nn.Linear(width, data.outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, outputs)."""
        return self.layers(inputs.flatten(1))
