"""Images of random curves, for the Curves autoencoder: a substitute, since the original images are not available.

The original (Hinton & Salakhutdinov 2006; Martens 2010) has 20,000 training and 10,000 test images of 28 x 28, each a
curve through random points of the plane. These are Bezier curves with random control points: similar, but not equal, so
that errors are not comparable with published ones.
"""

import math

import torch
from torch import Generator, Tensor

from optbench import randomness
from optbench.data.raw import RawData, Split
from optbench.data.spec import DataSpec
from optbench.data.splits import channel_statistics, limit_train
from optbench.system import memory

SIDE = 28
MARGIN = 2.0  # pixels between the control points and the border
SAMPLES = 128  # points of each curve: at most 0.8 pixels apart, reached where a cubic curve is fastest
_CHUNK = 1000


def bezier(control: Tensor, samples: int) -> Tensor:
    """Points of Bezier curves with control points (N, degree + 1, 2): (N, samples, 2), at equal steps of the parameter.

    B(u) = sum_k binomial(d, k) u^k (1 - u)^(d - k) P_k for u from 0 to 1.
    """
    degree = control.shape[1] - 1
    u = torch.linspace(0, 1, samples, dtype=control.dtype)[:, None]
    k = torch.arange(degree + 1, dtype=control.dtype)
    binomial = torch.tensor([math.comb(degree, i) for i in range(degree + 1)], dtype=control.dtype)
    return torch.einsum("sk,nkc->nsc", binomial * u**k * (1 - u) ** (degree - k), control)


def rasterize(points: Tensor) -> Tensor:
    """Images uint8 (N, 1, 28, 28) of the points (N, S, 2) (x, y in pixels), which must lie in [0, 27).

    A pixel at distance (dx, dy) from a point has the intensity (1 - |dx|)(1 - |dy|) if both are below 1. Its value is the
    largest intensity over all points.
    """
    count = len(points)
    corner = points.floor()
    fraction = points - corner
    left, top = corner.long().unbind(dim=2)
    image = torch.zeros(count, SIDE * SIDE)
    for down in (0, 1):
        for right in (0, 1):
            weight = (fraction[..., 0] if right else 1 - fraction[..., 0]) * (
                fraction[..., 1] if down else 1 - fraction[..., 1]
            )
            image.scatter_reduce_(1, (top + down) * SIDE + left + right, weight, "amax")
    return (image * 255).round().to(torch.uint8).view(count, 1, SIDE, SIDE)


def _images(count: int, degree: int, generator: Generator) -> Tensor:
    control = MARGIN + (SIDE - 1 - 2 * MARGIN) * torch.rand(count, degree + 1, 2, generator=generator)
    return torch.cat([rasterize(bezier(part, SAMPLES)) for part in control.split(_CHUNK)])


def load(
    data_dir: str,
    examples: int = 20000,
    validation: int = 2000,
    degree: int = 2,
    train_limit: int | None = None,
    generation_seed: int = 0,
) -> RawData:
    """Images of Bezier curves of ``degree`` 2 or 3, whose control points are uniform on the image without its margin.

    ``examples`` for training, ``validation``, and 10,000 for testing, each from its own random stream. No targets. An
    image is determined by 2 (degree + 1) numbers: 8 for cubic curves, 6 for quadratic ones. ``data_dir`` is not used.
    """
    images = examples + validation + 10000
    memory.require(images * SIDE * SIDE, f"dataset=curves, {images:,} images of {SIDE} x {SIDE}")
    splits = {
        name: Split(_images(count, degree, randomness.generator(generation_seed, f"curves/{name}")), None)
        for name, count in (("train", examples), ("validation", validation), ("test", 10000))
    }
    mean, std = channel_statistics(splits["train"].inputs)
    spec = DataSpec("image", (1, SIDE, SIDE), SIDE * SIDE, target="none")
    return RawData(limit_train(splits["train"], train_limit), splits["validation"], splits["test"], spec, mean, std)
