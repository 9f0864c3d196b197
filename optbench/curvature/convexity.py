"""A map of convexity: the ends of the Hessian's spectrum at every point of a plane.

A slice can look convex although the function is not; the ratio |l_min / l_max| of the Hessian of the whole function shows it
(Li, Xu, Taylor, Studer & Goldstein 2018, "Visualizing the loss landscape of neural nets", section 6).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optbench.curvature.lanczos import Product, lanczos
from optbench.curvature.surfaces import shifted
from optbench.curvature.swapped_parameters import kept, place


@dataclass(frozen=True)
class ConvexityMap:
    """x: (nx,) and y: (ny,), the points. The others: (ny, nx). All float64 on the CPU.

    smallest, largest: the ends of the spectrum, as signed numbers, NaN if the product is not finite.
    smallest_residual, largest_residual: an eigenvalue lies within that distance of each.
    """

    x: Tensor
    y: Tensor
    smallest: Tensor
    largest: Tensor
    smallest_residual: Tensor
    largest_residual: Tensor

    @property
    def ratio(self) -> Tensor:
        """|l_min / l_max|: for l_min < 0 < l_max, near 0 if the function is nearly convex. The source draws 0 to 0.5."""
        return (self.smallest / self.largest).abs()


def convexity_map(
    product: Product,
    dimension: int,
    parameters: Sequence[Tensor],
    first: Sequence[Tensor],
    second: Sequence[Tensor],
    x: Sequence[float],
    y: Sequence[float],
    steps: int,
    generator: torch.Generator,
) -> ConvexityMap:
    """Both ends of the spectrum at ``parameters`` + x ``first`` + y ``second``, by one Lanczos run of ``steps`` at each point.

    product: of flat vectors of ``dimension`` entries with the Hessian at the present values of ``parameters``, which are those
    of the model; their values are restored afterwards. The source takes the Hessian only with respect to tensors with more
    than one axis, in eval mode. All points share the start, so that the map is smooth where the spectrum is smooth. The source
    shifts the matrix to find the second end, which fails if no eigenvalue is negative; Lanczos gives both.
    """
    start = torch.randn(dimension, dtype=torch.float64, generator=generator).to(parameters[0])
    rows = []
    with kept(parameters) as origin:
        for up in y:
            for across in x:
                place(parameters, shifted(origin, (across, first), (up, second)))
                rows.append(_ends(product, start, steps))
    columns = torch.tensor(rows, dtype=torch.float64).view(len(y), len(x), 4).unbind(-1)
    return ConvexityMap(
        torch.tensor([float(value) for value in x], dtype=torch.float64),
        torch.tensor([float(value) for value in y], dtype=torch.float64),
        *columns,
    )


def _ends(product: Product, start: Tensor, steps: int) -> list[float]:
    """Smallest and largest eigenvalue and their residuals."""
    found = lanczos(product, start, steps)
    if not (torch.isfinite(found.matrix).all() and math.isfinite(found.residual)):
        return [math.nan] * 4
    pairs = found.ritz_values(largest=1, smallest=1)
    values, residuals = pairs.values.tolist(), pairs.residuals.tolist()
    return [values[0], values[-1], residuals[0], residuals[-1]]
