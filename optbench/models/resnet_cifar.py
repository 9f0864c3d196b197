"""Thin residual networks for CIFAR: ResNet-20, 32, 44, 56, 110 (He, Zhang, Ren & Sun 2016, section 4.2), and narrower ones."""

from torch import Tensor, nn

from optbench.data.spec import DataSpec
from optbench.models.layers import BatchNorm
from optbench.models.resnet import PaddedShortcut, ResidualBlock, basic, projection, zero_final_gammas
from optbench.models.shapes import convolution, he_normal_, image_shape, require


class CifarResNet(nn.Module):
    """conv3-16, three stages of n basic blocks of 16, 32 and 64 channels, global average, logits; depth 6n + 2.

    ``shortcut`` where the width doubles: "A" is zero padding without parameters (the paper's choice for CIFAR), "B" a
    1 x 1 convolution with batch norm. Works on images of any size. Weights start at He's normal distribution (fan
    out); with ``zero_final_gamma`` every block begins as its shortcut. Raises UserError on a depth other than 6n + 2
    or another shortcut.
    """

    def __init__(self, data: DataSpec, depth: int = 20, shortcut: str = "A", zero_final_gamma: bool = False) -> None:
        super().__init__()
        self._build(data, depth, shortcut, zero_final_gamma, 16)

    def _build(self, data: DataSpec, depth: int, shortcut: str, zero_final_gamma: bool, width: int) -> None:
        """Make the layers; ``width``: the channels of the first stage."""
        require(depth >= 8 and depth % 6 == 2, "depth", depth, "must be 6n + 2: 8, 14, 20, 26, 32, 44, 56, 110, ...")
        require(shortcut in ("A", "B"), "shortcut", shortcut, "must be one of A, B")
        self.stem = nn.Sequential(convolution(image_shape(data)[0], width, 3), BatchNorm(width), nn.ReLU())
        change = PaddedShortcut if shortcut == "A" else projection
        blocks = []
        inputs = width
        for channels in (width, 2 * width, 4 * width):
            for _ in range((depth - 2) // 6):
                stride = channels // inputs
                blocks.append(
                    ResidualBlock(
                        basic(inputs, channels, stride),
                        nn.Identity() if inputs == channels else change(inputs, channels, stride),
                    )
                )
                inputs = channels
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(inputs, data.outputs)
        he_normal_(self)
        if zero_final_gamma:
            zero_final_gammas(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, outputs)."""
        outputs: Tensor = self.head(self.blocks(self.stem(inputs)).mean((2, 3)))
        return outputs


class NarrowResNet(CifarResNet):
    """The same network with ``width`` channels in its first stage, and twice and four times as many in the others."""

    def __init__(
        self, data: DataSpec, depth: int = 8, width: int = 4, shortcut: str = "A", zero_final_gamma: bool = False
    ) -> None:
        nn.Module.__init__(self)
        require(width >= 1, "width", width, "must be at least 1")
        self._build(data, depth, shortcut, zero_final_gamma, width)
