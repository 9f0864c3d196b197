"""Multilayer perceptrons on images and tables, logistic regression among them."""

from collections.abc import Sequence

from torch import Tensor, nn

from optbench.data.spec import DataSpec
from optbench.models.shapes import activation as activation_layer
from optbench.models.shapes import flat_width, require


class MLP(nn.Module):
    """Fully connected layers with biases: inputs - hidden[0] - ... - hidden[-1] - outputs.

    The inputs are the flattened image, or the row of a table. An empty ``hidden`` is (multinomial) logistic regression.
    Weights start at torch's default, U(+-1 / sqrt(fan_in)). Raises UserError if a width is below 1 or the activation is unknown.
    """

    def __init__(self, data: DataSpec, hidden: Sequence[int] = (128,), activation: str = "relu") -> None:
        super().__init__()
        require(all(width >= 1 for width in hidden), "hidden", list(hidden), "every width must be >= 1")
        layers: list[nn.Module] = []
        width = flat_width(data)
        for next_width in hidden:
            layers += [nn.Linear(width, next_width), activation_layer(activation)]
            width = next_width
        self.layers = nn.Sequential(*layers, nn.Linear(width, data.outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (N, C, H, W) or rows (N, F) -> logits (N, outputs)."""
        outputs: Tensor = self.layers(inputs.flatten(1))
        return outputs
