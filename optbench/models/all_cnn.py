"""All-CNN-C (Springenberg, Dosovitskiy, Brox & Riedmiller 2015, "Striving for simplicity", arXiv 1412.6806)."""

from torch import Tensor, nn

from optbench.data.spec import DataSpec
from optbench.models.layers import Dropout
from optbench.models.shapes import enlarge, image_shape, require_dropout


class AllCNNC(nn.Module):
    """Nine convolutions with ReLU and biases; the only pooling is the global average at the end.

    conv3-96 three times, conv3-192 three times (the third of each with stride 2), conv3-192 unpadded, conv1-192,
    conv1-outputs, mean over positions (6 x 6 for CIFAR). ``input_dropout`` applies to the image, ``dropout`` after each
    convolution of stride 2. ``final_relu`` adds a ReLU after the last convolution, as in the paper's table 1; but logits that
    cannot be negative easily become zero for all examples, and then have no gradient. Images below 9 x 9 are enlarged. Raises
    UserError on a dropout outside [0, 1).
    """

    def __init__(
        self, data: DataSpec, input_dropout: float = 0.2, dropout: float = 0.5, final_relu: bool = False
    ) -> None:
        super().__init__()
        require_dropout("input_dropout", input_dropout)
        require_dropout("dropout", dropout)
        self.enlarge, shape = enlarge(image_shape(data), 9)
        self.features = nn.Sequential(
            Dropout(input_dropout),
            nn.Conv2d(shape[0], 96, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(96, 96, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(96, 96, 3, stride=2, padding=1),
            nn.ReLU(),
            Dropout(dropout),
            nn.Conv2d(96, 192, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(192, 192, 3, padding=1),
            nn.ReLU(),
            nn.Conv2d(192, 192, 3, stride=2, padding=1),
            nn.ReLU(),
            Dropout(dropout),
            nn.Conv2d(192, 192, 3),
            nn.ReLU(),
            nn.Conv2d(192, 192, 1),
            nn.ReLU(),
            nn.Conv2d(192, data.outputs, 1),
            *([nn.ReLU()] if final_relu else []),
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Images (N, C, H, W) -> logits (N, outputs)."""
        outputs: Tensor = self.features(self.enlarge(inputs)).mean((2, 3))
        return outputs
