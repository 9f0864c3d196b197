"""The two networks called LeNet: the paper's and that of Caffe's examples."""

from torch import Tensor, nn

from optbench.data.spec import DataSpec
from optbench.models.shapes import activation as activation_layer
from optbench.models.shapes import enlarge, flat_features, image_shape, require

POOLINGS = {"average": nn.AvgPool2d, "max": nn.MaxPool2d}


class LeNet5(nn.Module):
    """LeNet-5: conv5-6, pool2, conv5-16, pool2, 120, 84, outputs (LeCun, Bottou, Bengio & Haffner 1998).

    As is usual today, and unlike the paper, the second convolution uses all six maps, pooling has no coefficients, and the
    last layer is linear, without radial basis functions. With ``padded``, images below 32 x 32 are enlarged to that size, so
    that 28 x 28 gets the paper's border of two pixels; without it, only images below 16 x 16, the smallest possible size, are
    enlarged. Raises UserError on an unknown activation or pooling.
    """

    def __init__(self, data: DataSpec, padded: bool = True, activation: str = "tanh", pooling: str = "average") -> None:
        super().__init__()
        require(pooling in POOLINGS, "pooling", pooling, f"must be one of {', '.join(POOLINGS)}")
        pool = POOLINGS[pooling]
        self.enlarge, shape = enlarge(image_shape(data), 32 if padded else 16)
        self.features = nn.Sequential(
            nn.Conv2d(shape[0], 6, 5),
            activation_layer(activation),
            pool(2),
            nn.Conv2d(6, 16, 5),
            activation_layer(activation),
            pool(2),
        )
        self.head = nn.Sequential(
            nn.Linear(flat_features(self.features, shape), 120),
            activation_layer(activation),
            nn.Linear(120, 84),
            activation_layer(activation),
            nn.Linear(84, data.outputs),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, outputs)."""
        outputs: Tensor = self.head(self.features(self.enlarge(inputs)).flatten(1))
        return outputs


class CaffeLeNet(nn.Module):
    """Caffe's LeNet: conv5-20, max pool 2, conv5-50, max pool 2, 500, ReLU, outputs.

    Its convolutions have no activation (Caffe, examples/mnist/lenet.prototxt). Images below 16 x 16 are enlarged.
    """

    def __init__(self, data: DataSpec) -> None:
        super().__init__()
        self.enlarge, shape = enlarge(image_shape(data), 16)
        self.features = nn.Sequential(
            nn.Conv2d(shape[0], 20, 5), nn.MaxPool2d(2), nn.Conv2d(20, 50, 5), nn.MaxPool2d(2)
        )
        self.head = nn.Sequential(
            nn.Linear(flat_features(self.features, shape), 500), nn.ReLU(), nn.Linear(500, data.outputs)
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, outputs)."""
        outputs: Tensor = self.head(self.features(self.enlarge(inputs)).flatten(1))
        return outputs
