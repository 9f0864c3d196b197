"""The networks of Keskar et al. 2017, "On large-batch training for deep learning" (arXiv 1609.04836).

C3 and C4 of the paper are C1 and C2 on CIFAR-100. F2 is F1 with seven layers on TIMIT's 360 features.
"""

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from optbench.data.spec import DataSpec
from optbench.models.layers import BatchNorm, Dropout
from optbench.models.shapes import enlarge, flat_features, flat_width, image_shape, require, require_dropout
from optbench.models.vgg import SMALLEST, STAGES


def _dense(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Linear(inputs, outputs), BatchNorm(outputs), nn.ReLU()]


class KeskarF1(nn.Module):
    """F1: ``layers`` fully connected layers of ``hidden`` units with batch norm and ReLU, then the logits.

    Raises UserError if either number is below 1.
    """

    def __init__(self, data: DataSpec, hidden: int = 512, layers: int = 5) -> None:
        super().__init__()
        require(hidden >= 1, "hidden", hidden, "must be >= 1")
        require(layers >= 1, "layers", layers, "must be >= 1")
        widths = [flat_width(data)] + [hidden] * layers
        modules = [module for pair in pairwise(widths) for module in _dense(*pair)]
        self.layers = nn.Sequential(*modules, nn.Linear(hidden, data.outputs))

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (N, C, H, W) or rows (N, F) -> logits (N, outputs)."""
        outputs: Tensor = self.layers(inputs.flatten(1))
        return outputs


class KeskarC1(nn.Module):
    """C1: twice conv5-64, batch norm, ReLU, max pool 3/2, then 384, 192 (batch norm, ReLU, dropout), then the logits.

    The pools are padded (32 -> 16 -> 8), so that it works on images of any size. Raises UserError on a dropout outside
    [0, 1).
    """

    def __init__(self, data: DataSpec, dropout: float = 0.5) -> None:
        super().__init__()
        require_dropout("dropout", dropout)
        shape = image_shape(data)
        self.features = nn.Sequential(
            nn.Conv2d(shape[0], 64, 5, padding=2),
            BatchNorm(64),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1),
            nn.Conv2d(64, 64, 5, padding=2),
            BatchNorm(64),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, padding=1),
        )
        self.head = nn.Sequential(
            *_dense(flat_features(self.features, shape), 384),
            Dropout(dropout),
            *_dense(384, 192),
            Dropout(dropout),
            nn.Linear(192, data.outputs),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, outputs)."""
        outputs: Tensor = self.head(self.features(inputs).flatten(1))
        return outputs


class KeskarC2(nn.Module):
    """C2: the convolutions of VGG-16 with batch norm, then 512 (batch norm, ReLU) and the logits, with strong dropout.

    ``dropout`` holds three probabilities, placed as in the authors' code (network_zoo.py): after the first convolution;
    after every other convolution that no pool follows; before and after the hidden layer. Images below 32 x 32 are
    enlarged. Raises UserError unless there are three probabilities in [0, 1).
    """

    def __init__(self, data: DataSpec, dropout: Sequence[float] = (0.3, 0.4, 0.5)) -> None:
        super().__init__()
        require(len(dropout) == 3, "dropout", list(dropout), "must be three probabilities")
        for probability in dropout:
            require_dropout("dropout", probability)
        first, between, dense = dropout
        self.enlarge, shape = enlarge(image_shape(data), SMALLEST)
        features: list[nn.Module] = []
        channels = shape[0]
        for number, stage in enumerate(STAGES[16]):
            for position, width in enumerate(stage, start=1):
                features += [nn.Conv2d(channels, width, 3, padding=1), BatchNorm(width), nn.ReLU()]
                if position < len(stage):
                    features.append(Dropout(first if number == 0 else between))
                channels = width
            features.append(nn.MaxPool2d(2))
        self.features = nn.Sequential(*features)
        self.head = nn.Sequential(
            Dropout(dense),
            *_dense(flat_features(self.features, shape), 512),
            Dropout(dense),
            nn.Linear(512, data.outputs),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, outputs)."""
        outputs: Tensor = self.head(self.features(self.enlarge(inputs)).flatten(1))
        return outputs
