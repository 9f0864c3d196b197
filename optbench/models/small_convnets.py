"""Small convolutional networks: 2c2d and 3c3d of DeepOBS, and the shallow network of Hoffer et al."""

from torch import Tensor, nn

from optbench.data.spec import DataSpec
from optbench.models.layers import BatchNorm, Dropout
from optbench.models.shapes import enlarge, flat_features, image_shape, require_dropout


class _ConvNet(nn.Module):
    """Convolutions on a sufficiently large image, then fully connected layers on their outputs."""

    enlarge: nn.Module
    features: nn.Sequential
    head: nn.Sequential

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, outputs)."""
        outputs: Tensor = self.head(self.features(self.enlarge(inputs)).flatten(1))
        return outputs


class TwoConvTwoDense(_ConvNet):
    """2c2d: conv5-32, max pool 2, conv5-64, max pool 2, 1024, outputs; ReLU (DeepOBS).

    Convolutions keep the size and pools round up (TensorFlow's "same"), so that it works on images of any size. Weights
    start at a normal distribution of standard deviation 0.05, truncated at two of them, biases at 0.05 (code of Schneider et
    al. 2019).
    """

    def __init__(self, data: DataSpec) -> None:
        super().__init__()
        shape = image_shape(data)
        self.enlarge = nn.Identity()
        self.features = nn.Sequential(
            nn.Conv2d(shape[0], 32, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
            nn.Conv2d(32, 64, 5, padding=2),
            nn.ReLU(),
            nn.MaxPool2d(2, ceil_mode=True),
        )
        self.head = nn.Sequential(
            nn.Linear(flat_features(self.features, shape), 1024), nn.ReLU(), nn.Linear(1024, data.outputs)
        )
        for parameter in self.parameters():
            if parameter.ndim == 1:
                nn.init.constant_(parameter, 0.05)
            else:
                nn.init.trunc_normal_(parameter, std=0.05, a=-0.1, b=0.1)


class ThreeConvThreeDense(_ConvNet):
    """3c3d: conv5-64, conv3-96 (both unpadded), conv3-128 (padded), 512, 256, outputs; ReLU (DeepOBS).

    A max pool 3/2 that rounds up follows each convolution (TensorFlow's "same" on the even sizes of CIFAR). Weights
    start at Glorot's normal distribution in convolutions and his uniform one in linear layers, biases at 0 (code of Schneider
    et al. 2019). Images below 16 x 16 are enlarged.
    """

    def __init__(self, data: DataSpec) -> None:
        super().__init__()
        self.enlarge, shape = enlarge(image_shape(data), 16)
        self.features = nn.Sequential(
            nn.Conv2d(shape[0], 64, 5),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Conv2d(64, 96, 3),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
            nn.Conv2d(96, 128, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, ceil_mode=True),
        )
        self.head = nn.Sequential(
            nn.Linear(flat_features(self.features, shape), 512),
            nn.ReLU(),
            nn.Linear(512, 256),
            nn.ReLU(),
            nn.Linear(256, data.outputs),
        )
        initialize = {1: nn.init.zeros_, 2: nn.init.xavier_uniform_, 4: nn.init.xavier_normal_}
        for parameter in self.parameters():
            initialize[parameter.ndim](parameter)


class HofferShallow(_ConvNet):
    """Two conv5-64, then 384, 192, outputs, with batch norm (Hoffer, Hubara & Soudry 2017, arXiv 1705.08741).

    Keskar's C1 in the version of their code: the pools are unpadded (32 -> 15 -> 7) and come before batch norm, layers before
    a batch norm have no biases, ``dropout`` follows both hidden layers. Images below 7 x 7 are enlarged. Raises UserError on a
    dropout outside [0, 1).
    """

    def __init__(self, data: DataSpec, dropout: float = 0.5) -> None:
        super().__init__()
        require_dropout("dropout", dropout)
        self.enlarge, shape = enlarge(image_shape(data), 7)
        self.features = nn.Sequential(
            nn.Conv2d(shape[0], 64, 5, padding=2, bias=False),
            nn.MaxPool2d(3, 2),
            BatchNorm(64),
            nn.ReLU(),
            nn.Conv2d(64, 64, 5, padding=2, bias=False),
            nn.MaxPool2d(3, 2),
            BatchNorm(64),
            nn.ReLU(),
        )
        self.head = nn.Sequential(
            nn.Linear(flat_features(self.features, shape), 384, bias=False),
            BatchNorm(384),
            nn.ReLU(),
            Dropout(dropout),
            nn.Linear(384, 192, bias=False),
            BatchNorm(192),
            nn.ReLU(),
            Dropout(dropout),
            nn.Linear(192, data.outputs),
        )
