"""A small convolutional network with batch norm: the least that has the layers of image models, for studies on few cores."""

from collections.abc import Sequence

from torch import Tensor, nn

from optbench.data.spec import DataSpec
from optbench.models.layers import BatchNorm
from optbench.models.shapes import convolution, he_normal_, image_shape, require


class ConvNet(nn.Module):
    """For each of ``channels``: conv3, max pool 2, batch norm, ReLU; then the global average and the logits.

    Pools come before batch norm, which then has a quarter of the work (as in Hoffer et al. 2017), and round up, so that
    images of any size can be taken. With ``batch_norm=False`` the convolutions have biases instead.
    Weights start at He's normal distribution (fan out), biases at 0. Raises UserError on an empty list of channels, or one
    with a number below 1.
    """

    def __init__(self, data: DataSpec, channels: Sequence[int] = (16, 32, 64), batch_norm: bool = True) -> None:
        super().__init__()
        accepted = "must be one positive number of channels for each convolution, such as [16,32,64]"
        require(len(channels) > 0 and min(channels) >= 1, "channels", list(channels), accepted)
        inputs = image_shape(data)[0]
        stages: list[nn.Module] = []
        for outputs in channels:
            pool = nn.MaxPool2d(2, ceil_mode=True)
            if batch_norm:
                stages += [convolution(inputs, outputs, 3), pool, BatchNorm(outputs), nn.ReLU()]
            else:
                stages += [nn.Conv2d(inputs, outputs, 3, padding=1), pool, nn.ReLU()]
            inputs = outputs
        self.features = nn.Sequential(*stages)
        self.head = nn.Linear(inputs, data.outputs)
        he_normal_(self)
        for module in self.features:
            if isinstance(module, nn.Conv2d) and module.bias is not None:
                nn.init.zeros_(module.bias)

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, outputs)."""
        outputs: Tensor = self.head(self.features(inputs).mean((2, 3)))
        return outputs
