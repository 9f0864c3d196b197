"""Directions in parameter space for plots of a loss: random directions, and eigenvectors of the Hessian.

A slice along random directions shows the mean curvature of the whole space and hides its saddles; the eigenvectors of
the two ends of the spectrum show them (Böttcher & Wheeler 2024, "Visualizing high-dimensional loss landscapes with Hessian
directions"). A direction is a list of tensors, one for each parameter, in their order.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optbench.curvature.lanczos import Product, lanczos
from optbench.objective.vectors import flatten, unflatten


def random_direction(parameters: Sequence[Tensor], generator: torch.Generator) -> list[Tensor]:
    """Independent standard normal entries in the shapes of ``parameters``, on their device and in their type.

    generator: on the CPU. The numbers are drawn there in float64, so that they are equal on every device and rank and, up to
    rounding, in every type. In P dimensions the norm is about sqrt(P): see ``normalization``.
    """
    return [
        torch.randn(parameter.shape, dtype=torch.float64, generator=generator).to(parameter) for parameter in parameters
    ]


def cosine(first: Sequence[Tensor], second: Sequence[Tensor]) -> float:
    """The cosine of the angle between two directions, in float64; NaN if one of them is 0.

    Random directions are not orthogonalized, so that the cosine is reported with every surface that they span.
    """
    products = [
        (float((a.double() * b.double()).sum()), float(a.double().square().sum()), float(b.double().square().sum()))
        for a, b in zip(first, second, strict=True)
    ]
    inner, first_square, second_square = (math.fsum(column) for column in zip(*products, strict=True))
    length = math.sqrt(first_square) * math.sqrt(second_square)
    return inner / length if length > 0 else math.nan


@dataclass(frozen=True)
class EigenDirection:
    """A unit eigenvector, its eigenvalue, and the distance within which an eigenvalue lies.

    residual: ||A x - value x||, and at least one unit of rounding of the largest |eigenvalue|.
    """

    direction: list[Tensor]
    value: float
    residual: float

    @property
    def is_degenerate(self) -> bool:
        """True if the eigenvalue cannot be distinguished from 0, |value| <= 3 residual: its sign is no evidence of a saddle."""
        return not abs(self.value) > 3 * self.residual


def hessian_directions(
    product: Product,
    parameters: Sequence[Tensor],
    steps: int,
    generator: torch.Generator,
    weights_only: bool = False,
) -> tuple[EigenDirection, EigenDirection]:
    """The eigenvectors of the largest and of the smallest eigenvalue, as signed numbers, from one run of Lanczos.

    product: of flat vectors with the Hessian or another symmetric matrix, over all ``parameters`` or, with ``weights_only``,
    over those with more than one axis; the direction is then 0 in the others. steps: of the Lanczos process, one product
    each; more steps give smaller residuals. In one dimension both are the same. The method in the source finds the second
    eigenvector from a shifted matrix, which fails if |l_min| is far below |l_max|.
    """
    chosen = [parameter for parameter in parameters if parameter.ndim > 1 or not weights_only]
    found = lanczos(product, flatten(random_direction(chosen, generator)), steps)
    pairs = found.ritz(largest=1, smallest=1)
    rounding = torch.finfo(pairs.vectors.dtype).eps * float(pairs.values.abs().max())

    def pair(index: int) -> EigenDirection:
        parts = iter(unflatten(pairs.vectors[index], chosen))
        direction = [
            next(parts) if parameter.ndim > 1 or not weights_only else torch.zeros_like(parameter.detach())
            for parameter in parameters
        ]
        return EigenDirection(direction, float(pairs.values[index]), max(float(pairs.residuals[index]), rounding))

    return pair(-1), pair(0)


def principal_curvatures(product: Product, first: Sequence[Tensor], second: Sequence[Tensor]) -> tuple[float, float]:
    """The smaller and the larger principal curvature, at its origin, of the slice that two directions span.

    With u, v the directions, not normalized, and H the matrix of ``product``: the eigenvalues of [[u'Hu, u'Hv], [u'Hv, v'Hv]].
    For u, v with independent standard normal entries their mean is an unbiased estimate of tr H, but neither of them is.
    """
    u, v = flatten(first), flatten(second)
    image = product(u)
    a, b = float(u.double() @ image.double()), float(v.double() @ image.double())
    d = float(v.double() @ product(v).double())
    half = math.hypot((a - d) / 2, b)
    return (a + d) / 2 - half, (a + d) / 2 + half
