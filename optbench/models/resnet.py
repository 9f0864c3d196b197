"""Residual networks for ImageNet, and for small images (He, Zhang, Ren & Sun 2016, arXiv 1512.03385)."""

import torch.nn.functional as F
from torch import Tensor, nn

from optbench.data.spec import DataSpec
from optbench.models.layers import BatchNorm
from optbench.models.shapes import convolution, he_normal_, image_shape, require


class PaddedShortcut(nn.Module):
    """Option A of the paper: every ``stride``-th position, and zeros for the added channels. It has no parameters."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.added, self.stride = outputs - inputs, stride

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (N, C, H, W) -> (N, C + added, ceil(H / stride), ceil(W / stride))."""
        return F.pad(inputs[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.added))


def projection(inputs: int, outputs: int, stride: int) -> nn.Module:
    """Option B of the paper: a 1 x 1 convolution with batch norm if the shape changes, otherwise the identity."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(convolution(inputs, outputs, 1, stride), BatchNorm(outputs))


class ResidualBlock(nn.Module):
    """relu(residual(x) + shortcut(x)), where the residual ends in a batch norm."""

    def __init__(self, residual: nn.Sequential, shortcut: nn.Module) -> None:
        super().__init__()
        self.residual, self.shortcut = residual, shortcut

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""
        return F.relu(self.residual(inputs) + self.shortcut(inputs))


def basic(inputs: int, width: int, stride: int) -> nn.Sequential:
    """The residual of a basic block: two 3 x 3 convolutions of ``width`` channels."""
    return nn.Sequential(
        convolution(inputs, width, 3, stride),
        BatchNorm(width),
        nn.ReLU(),
        convolution(width, width, 3),
        BatchNorm(width),
    )


def bottleneck(inputs: int, width: int, stride: int) -> nn.Sequential:
    """The residual of a bottleneck: 1 x 1, 3 x 3 (``width`` channels), 1 x 1 (4 ``width`` channels).

    The 3 x 3 convolution has the stride, as in today's implementations; in the paper it was the first one.
    """
    return nn.Sequential(
        convolution(inputs, width, 1),
        BatchNorm(width),
        nn.ReLU(),
        convolution(width, width, 3, stride),
        BatchNorm(width),
        nn.ReLU(),
        convolution(width, 4 * width, 1),
        BatchNorm(4 * width),
    )


def zero_final_gammas(model: nn.Module) -> None:
    """Set the weight of each residual's last batch norm to 0: blocks begin as their shortcuts (Goyal et al. 2017)."""
    for module in model.modules():
        if isinstance(module, ResidualBlock):
            last = module.residual[-1]
            assert isinstance(last, BatchNorm)
            nn.init.zeros_(last.weight)


# The residual, its output channels divided by its width, and the blocks in each of the four stages (the paper's table 1).
DEPTHS = {
    18: (basic, 1, [2, 2, 2, 2]),
    34: (basic, 1, [3, 4, 6, 3]),
    50: (bottleneck, 4, [3, 4, 6, 3]),
    101: (bottleneck, 4, [3, 4, 23, 3]),
    152: (bottleneck, 4, [3, 8, 36, 3]),
}


class ResNet(nn.Module):
    """ResNet-18, 34, 50, 101 or 152, with projections where the shape changes and a global average before the logits.

    ``stem``: "imagenet" is conv7-64 of stride 2 and a max pool 3/2; "cifar" is conv3-64 alone. Works on images of any
    size. Weights start at He's normal distribution (fan out); with ``zero_final_gamma`` every block begins as its
    shortcut. Raises UserError on another depth or stem.
    """

    def __init__(self, data: DataSpec, depth: int = 18, stem: str = "cifar", zero_final_gamma: bool = False) -> None:
        super().__init__()
        require(depth in DEPTHS, "depth", depth, f"must be one of {', '.join(map(str, DEPTHS))}")
        require(stem in ("cifar", "imagenet"), "stem", stem, "must be one of cifar, imagenet")
        residual, expansion, blocks = DEPTHS[depth]
        channels = image_shape(data)[0]
        if stem == "cifar":
            self.stem = nn.Sequential(convolution(channels, 64, 3), BatchNorm(64), nn.ReLU())
        else:
            self.stem = nn.Sequential(
                convolution(channels, 64, 7, 2), BatchNorm(64), nn.ReLU(), nn.MaxPool2d(3, 2, padding=1)
            )
        stages = []
        inputs = 64
        for number, count in enumerate(blocks):
            width = 64 * 2**number
            outputs = width * expansion
            for position in range(count):
                stride = 2 if number > 0 and position == 0 else 1
                stages.append(ResidualBlock(residual(inputs, width, stride), projection(inputs, outputs, stride)))
                inputs = outputs
        self.blocks = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, data.outputs)
        he_normal_(self)
        if zero_final_gamma:
            zero_final_gammas(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, outputs)."""
        outputs: Tensor = self.head(self.blocks(self.stem(inputs)).mean((2, 3)))
        return outputs
