"""Helpers of the image models: checks of options, enlarging of small inputs, flattened sizes, and building blocks."""

import itertools
from collections.abc import Callable
from math import prod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from optbench.data.spec import DataSpec
from optbench.errors import UserError

Shape = tuple[int, int, int]

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


def require(condition: bool, option: str, value: object, accepted: str) -> None:
    """Raise a UserError that names the model's ``option``, its ``value`` and what is accepted, unless ``condition``."""
    if not condition:
        raise UserError(f"model.{option}={value}: {accepted}")


def require_dropout(option: str, probability: float) -> None:
    """Raise a UserError unless ``probability`` is in [0, 1)."""
    require(0 <= probability < 1, option, probability, "a dropout probability must be in [0, 1)")


def activation(name: str) -> nn.Module:
    """The activation layer called ``name``; UserError if there is none."""
    require(name in ACTIVATIONS, "activation", name, f"must be one of {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def image_shape(data: DataSpec) -> Shape:
    """(channels, height, width) of the dataset's images; UserError if its examples are not images."""
    if data.kind != "image" or len(data.shape) != 3:
        raise UserError(
            f"this model takes images (channels, height, width), not {data.kind} data of shape {data.shape}"
        )
    channels, height, width = data.shape
    return channels, height, width


def flat_width(data: DataSpec) -> int:
    """The size of a flattened example; UserError if the examples are neither images nor rows of a table."""
    return data.shape[0] if data.kind == "table" else prod(image_shape(data))


class Enlarge(nn.Module):
    """Enlarges images (N, C, H, W) that are too small for a network to the smallest size at which it is defined.

    Each pixel is repeated by the largest integer factor (equal in both directions) that does not exceed ``minimum``, then
    each side that is still short is padded with zeros to exactly ``minimum``, evenly before and after (an odd pixel goes
    after). So 8 x 8 becomes 32 x 32 by a factor of 4, and 28 x 28 becomes 32 x 32 by a border of 2 zeros.
    """

    def __init__(self, height: int, width: int, minimum: int) -> None:
        super().__init__()
        self.factor = max(1, min(minimum // height, minimum // width))
        short_rows = max(0, minimum - self.factor * height)
        short_columns = max(0, minimum - self.factor * width)
        self.border = (
            short_columns // 2,
            short_columns - short_columns // 2,
            short_rows // 2,
            short_rows - short_rows // 2,
        )

    def extra_repr(self) -> str:
        """Shown by print(model)."""
        return f"factor={self.factor}, border={self.border}"

    def forward(self, images: Tensor) -> Tensor:
        """Enlarge ``images`` (N, C, H, W)."""
        repeated = images.repeat_interleave(self.factor, 2).repeat_interleave(self.factor, 3)
        return F.pad(repeated, self.border)


def enlarge(shape: Shape, minimum: int) -> tuple[nn.Module, Shape]:
    """The first layer of a network that needs images of at least ``minimum`` x ``minimum``, and its output shape.

    It is the identity for images that are large enough.
    """
    channels, height, width = shape
    if min(height, width) >= minimum:
        return nn.Identity(), shape
    layer = Enlarge(height, width, minimum)
    left, right, top, bottom = layer.border
    return layer, (channels, layer.factor * height + top + bottom, layer.factor * width + left + right)


def flat_features(features: nn.Module, shape: Shape) -> int:
    """The number of outputs of ``features`` for one image of ``shape``, found without computing them."""
    tensors = itertools.chain(features.named_parameters(), features.named_buffers())
    on_meta = {name: tensor.to("meta") for name, tensor in tensors}
    features.eval()
    outputs = torch.func.functional_call(features, on_meta, torch.empty(1, *shape, device="meta"))
    features.train()
    return int(outputs.numel())


def convolution(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    """A convolution without biases, with zero padding that keeps the size at stride 1, as in the residual networks."""
    return nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False)


def he_normal_(model: nn.Module) -> None:
    """Initialize as in the reference codes of the residual networks.

    Convolutions: N(0, 2 / (k k C_out)) (He et al. 2015, arXiv 1502.01852, the backward case). Linear layers: biases 0,
    weights with torch's default.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        elif isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
