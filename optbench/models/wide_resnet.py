"""Wide residual networks (Zagoruyko & Komodakis 2016, arXiv 1605.07146)."""

from functools import partial

from torch import Tensor, nn

from optbench.data.spec import DataSpec
from optbench.models.preresnet import basic, project, stages
from optbench.models.shapes import convolution, he_normal_, image_shape, require, require_dropout


class WideResNet(nn.Module):
    """WRN-depth-width: conv3-16, three stages of n blocks of 16, 32, 64 times ``width`` channels, depth 6n + 4.

    A block is BN-ReLU-conv3-BN-ReLU-(dropout)-conv3; if the width changes, its 1 x 1 shortcut reads the activated
    input. A final BN-ReLU, the global average (8 x 8 for CIFAR) and the logits follow. Works on images of any size.
    Weights start at He's normal distribution (fan out), as in the authors' code. Raises UserError on a depth other than
    6n + 4, a width below 1 or a dropout outside [0, 1).
    """

    def __init__(self, data: DataSpec, depth: int = 28, width: int = 10, dropout: float = 0.0) -> None:
        super().__init__()
        require(depth >= 10 and depth % 6 == 4, "depth", depth, "must be 6n + 4: 10, 16, 22, 28, 34, 40, ...")
        require(width >= 1, "width", width, "must be >= 1")
        require_dropout("dropout", dropout)
        widths = [16, 16 * width, 32 * width, 64 * width]
        self.stem = convolution(image_shape(data)[0], 16, 3)
        self.blocks = stages(widths, (depth - 4) // 6, partial(basic, dropout=dropout), project)
        self.head = nn.Linear(widths[-1], data.outputs)
        he_normal_(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, outputs)."""
        outputs: Tensor = self.head(self.blocks(self.stem(inputs)).mean((2, 3)))
        return outputs
