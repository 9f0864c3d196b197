"""The loss along a direction on a logarithmic grid of distances: how fast it grows, and at which scales its curvature changes.

For a unit direction v, with g(r) = (L(θ + r v) + L(θ - r v))/2 - L(θ):

    growth exponent         p(r) = d log g / d log r      2 for a quadratic; below 2, growth is subquadratic
    effective curvature     k(r) = 2 g(r)/r²              vᵀ H v as r → 0, constant for a quadratic

Each of the two sides L(θ ± r v) - L(θ) alone has the linear term ±r vᵀ∇L, which outweighs the quadratic one at small r wherever
θ is not exactly a minimum. The mean of both has no odd terms.

The question is that of Ma, Kunin, Wu & Ying 2022, "Beyond the quadratic approximation: the multiscale structure of neural network
loss landscapes" (arXiv 2204.11326); definitions, grid and regression are ours.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optbench.curvature.surfaces import Evaluate, line
from optbench.errors import UserError

#: Rises below this many units of rounding of the loss are left out.
RESOLVED = 1e3


@dataclass(frozen=True)
class Profile:
    """radii: (n,), distances r > 0, ascending. ahead, behind: L(θ + r v) - L(θ) and L(θ - r v) - L(θ), (n,). loss: L(θ).

    rounding: a unit of rounding of the losses, max |L| eps of their type, at each radius. All float64 on the CPU.
    """

    radii: Tensor
    ahead: Tensor
    behind: Tensor
    loss: float
    rounding: Tensor

    @property
    def symmetrized(self) -> Tensor:
        """g = the mean of both sides, (n,); NaN where |g| is below 1000 units of rounding."""
        mean = (self.ahead + self.behind) / 2
        return mean.where(mean.abs() > RESOLVED * self.rounding, math.nan)

    @property
    def exponents(self) -> Tensor:
        """p(r) of the symmetrized profile, (n,): see ``growth_exponents``."""
        return growth_exponents(self.radii, self.symmetrized)

    @property
    def curvatures(self) -> Tensor:
        """k(r) of the symmetrized profile, (n,): 2 g/r², NaN where g is."""
        return 2 * self.symmetrized / self.radii.square()


def logarithmic_radii(smallest: float, largest: float, per_decade: int = 8) -> list[float]:
    """Distances from ``smallest`` to ``largest``, both included, at equal ratios: about ``per_decade`` in a factor of 10.

    Raises UserError unless 0 < smallest < largest.
    """
    if not 0 < smallest < largest:
        raise UserError(f"smallest={smallest}, largest={largest}: accepted is a smallest above 0 and below the largest")
    first, last = math.log10(smallest), math.log10(largest)
    steps = max(round((last - first) * per_decade), 1)
    return [smallest, *(10 ** (first + (last - first) * i / steps) for i in range(1, steps)), largest]


def profile(
    evaluate: Evaluate, origin: Sequence[Tensor], direction: Sequence[Tensor], radii: Sequence[float]
) -> Profile:
    """The loss at origin ± r v for each r of ``radii``, with v = ``direction`` scaled to the length 1.

    evaluate: returns a "loss", for parameters in the shapes of ``origin``; see ``surfaces.evaluation``. At small r the parameters
    should be float64: in float32 the symmetrized rise is rounding error up to r of about 1e-3. direction: one tensor for each
    parameter. Takes 2n + 1 evaluations. Raises ValueError for a direction of length 0.
    """
    length = math.sqrt(math.fsum(float(part.double().square().sum()) for part in direction))
    if not length > 0:
        raise ValueError("a profile along a direction of length 0")
    unit = [part / length for part in direction]
    positions = [0.0, *radii, *(-r for r in radii)]
    losses = line(evaluate, origin, unit, positions).values["loss"]
    ahead, behind = losses[1:].chunk(2)
    eps = torch.finfo(origin[0].dtype).eps
    largest = torch.maximum(torch.maximum(ahead.abs(), behind.abs()), losses[0].abs())
    distances = torch.tensor(list(radii), dtype=torch.float64)
    return Profile(distances, ahead - losses[0], behind - losses[0], float(losses[0]), eps * largest)


def growth_exponents(radii: Tensor, rises: Tensor, window: int = 5) -> Tensor:
    """p(r) = d log g / d log r, (n,), for ``rises`` g (n,) at ``radii`` r (n,): the slope of a line through ``window`` points.

    The line is the least-squares one of log g on log r over the points around each r. Near the ends of the grid, and where a
    point of the window is not positive or not finite, p is NaN. The base of the logarithm does not matter. Raises ValueError for
    an even window.
    """
    if window < 3 or window % 2 == 0:
        raise ValueError(f"a window of {window} points: must be odd, and 3 or more")
    found = torch.full_like(rises, math.nan, dtype=torch.float64)
    if len(rises) < window:
        return found
    positive = rises.double().where(rises > 0, math.nan)
    across, up = (values.log().unfold(0, window, 1) for values in (radii.double(), positive))
    centred = across - across.mean(1, keepdim=True)
    slopes = (centred * up).sum(1) / centred.square().sum(1)
    # A rise beyond the range of numbers has no slope.
    found[window // 2 : len(rises) - window // 2] = slopes.where(slopes.isfinite(), math.nan)
    return found
