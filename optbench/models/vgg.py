"""VGG networks (Simonyan & Zisserman 2015, arXiv 1409.1556), by default in their usual form for small images."""

from collections.abc import Sequence

from torch import Tensor, nn

from optbench.data.spec import DataSpec
from optbench.models.layers import BatchNorm, Dropout
from optbench.models.shapes import enlarge, flat_features, image_shape, require, require_dropout

# The widths of the 3 x 3 convolutions between one max pool and the next (their table 1: columns A, B, D, E).
STAGES: dict[int, list[list[int]]] = {
    11: [[64], [128], [256] * 2, [512] * 2, [512] * 2],
    13: [[64] * 2, [128] * 2, [256] * 2, [512] * 2, [512] * 2],
    16: [[64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3],
    19: [[64] * 2, [128] * 2, [256] * 4, [512] * 4, [512] * 4],
}

# Five pools halve the image, rounding down.
SMALLEST = 32


class VGG(nn.Module):
    """VGG-11, 13, 16 or 19: 3 x 3 convolutions with ReLU, five max pools, fully connected layers of widths ``head``.

    With 32 x 32 images the convolutions have 512 outputs; an empty ``head`` maps them directly to the logits, [4096, 4096]
    is the paper's. ``batch_norm`` follows each convolution, ``dropout`` each hidden layer of the head (0.5 in the paper).
    Images below 32 x 32 are enlarged. Raises UserError on another depth, a width below 1 or a dropout outside [0, 1).
    """

    def __init__(
        self,
        data: DataSpec,
        depth: int = 16,
        batch_norm: bool = True,
        conv_bias: bool = True,
        head: Sequence[int] = (),
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        require(depth in STAGES, "depth", depth, "must be 11, 13, 16 or 19")
        require(all(width >= 1 for width in head), "head", list(head), "every width must be >= 1")
        require_dropout("dropout", dropout)
        self.enlarge, shape = enlarge(image_shape(data), SMALLEST)
        features: list[nn.Module] = []
        channels = shape[0]
        for stage in STAGES[depth]:
            for width in stage:
                features.append(nn.Conv2d(channels, width, 3, padding=1, bias=conv_bias))
                if batch_norm:
                    features.append(BatchNorm(width))
                features.append(nn.ReLU())
                channels = width
            features.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*features)
        layers: list[nn.Module] = []
        flat = flat_features(self.features, shape)
        for width in head:
            layers += [nn.Linear(flat, width), nn.ReLU()]
            if dropout > 0:
                layers.append(Dropout(dropout))
            flat = width
        self.head = nn.Sequential(*layers, nn.Linear(flat, data.outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, outputs)."""
        outputs: Tensor = self.head(self.features(self.enlarge(inputs)).flatten(1))
        return outputs
