"""Residual networks with pre-activation for CIFAR (He, Zhang, Ren & Sun 2016, arXiv 1603.05027)."""

from collections.abc import Callable, Sequence

from torch import Tensor, nn

from optbench.data.spec import DataSpec
from optbench.models.layers import BatchNorm, Dropout
from optbench.models.resnet import PaddedShortcut
from optbench.models.shapes import convolution, he_normal_, image_shape, require


class PreActivationBlock(nn.Module):
    """x + residual(a) with a = relu(bn(x)); if the width changes, shortcut(a) + residual(a)."""

    def __init__(self, inputs: int, residual: nn.Module, shortcut: nn.Module | None) -> None:
        super().__init__()
        self.activate = nn.Sequential(BatchNorm(inputs), nn.ReLU())
        self.residual, self.shortcut = residual, shortcut

    def forward(self, inputs: Tensor) -> Tensor:
        """Inputs (N, C_in, H, W) -> (N, C_out, H / stride, W / stride)."""
        activated = self.activate(inputs)
        kept = inputs if self.shortcut is None else self.shortcut(activated)
        outputs: Tensor = kept + self.residual(activated)
        return outputs


def basic(inputs: int, outputs: int, stride: int, dropout: float = 0.0) -> nn.Module:
    """The residual of a basic block: two 3 x 3 convolutions, with dropout before the second."""
    return nn.Sequential(
        convolution(inputs, outputs, 3, stride),
        BatchNorm(outputs),
        nn.ReLU(),
        *([Dropout(dropout)] if dropout > 0 else []),
        convolution(outputs, outputs, 3),
    )


def bottleneck(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The residual of a bottleneck: 1 x 1, 3 x 3 (a quarter of the channels), 1 x 1; the first has the stride."""
    width = outputs // 4
    return nn.Sequential(
        convolution(inputs, width, 1, stride),
        BatchNorm(width),
        nn.ReLU(),
        convolution(width, width, 3),
        BatchNorm(width),
        nn.ReLU(),
        convolution(width, outputs, 1),
    )


def project(inputs: int, outputs: int, stride: int) -> nn.Module:
    """The shortcut with parameters: a 1 x 1 convolution; it follows the activation of the block."""
    return convolution(inputs, outputs, 1, stride)


Builder = Callable[[int, int, int], nn.Module]


def stages(widths: Sequence[int], blocks: int, residual: Builder, shortcut: Builder) -> nn.Sequential:
    """One stage of ``blocks`` blocks for each of widths[1:], on widths[0] channels; all but the first halve the image.

    Ends in the batch norm and ReLU that the last block lacks.
    """
    modules: list[nn.Module] = []
    inputs = widths[0]
    for number, width in enumerate(widths[1:]):
        for position in range(blocks):
            stride = 2 if number > 0 and position == 0 else 1
            change = None if inputs == width else shortcut(inputs, width, stride)
            modules.append(PreActivationBlock(inputs, residual(inputs, width, stride), change))
            inputs = width
    return nn.Sequential(*modules, BatchNorm(inputs), nn.ReLU())


class PreResNet(nn.Module):
    """PreResNet-110, 164, 1001 and so on: conv3-16, three stages of n blocks, global average, logits.

    ``block`` "basic": 16, 32, 64 channels, depth 6n + 2; "bottleneck": 64, 128, 256 channels, depth 9n + 2.
    ``shortcut`` where the width changes: "A" is zero padding without parameters, "B" a 1 x 1 convolution; both read
    the activated input. Works on images of any size. Weights start at He's normal distribution (fan out), as in the
    authors' code (resnet-1k-layers). Raises UserError on a depth that fits no n, another block or another shortcut.
    """

    def __init__(self, data: DataSpec, depth: int = 164, block: str = "bottleneck", shortcut: str = "B") -> None:
        super().__init__()
        require(block in ("basic", "bottleneck"), "block", block, "must be one of basic, bottleneck")
        require(shortcut in ("A", "B"), "shortcut", shortcut, "must be one of A, B")
        if block == "basic":
            accepted = "with basic blocks must be 6n + 2: 8, 14, 20, ..., 110, ..."
            layers, widths = 6, [16, 16, 32, 64]
        else:
            accepted = "with bottlenecks must be 9n + 2: 11, 20, 29, ..., 164, ..., 1001, ..."
            layers, widths = 9, [16, 64, 128, 256]
        require(depth >= layers + 2 and depth % layers == 2, "depth", depth, accepted)
        self.stem = convolution(image_shape(data)[0], 16, 3)
        self.blocks = stages(
            widths,
            depth // layers,
            basic if block == "basic" else bottleneck,
            PaddedShortcut if shortcut == "A" else project,
        )
        self.head = nn.Linear(widths[-1], data.outputs)
        he_normal_(self)

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, outputs)."""
        outputs: Tensor = self.head(self.blocks(self.stem(inputs)).mean((2, 3)))
        return outputs
