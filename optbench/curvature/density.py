"""The density of a spectrum by stochastic Lanczos quadrature."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from optbench.curvature.lanczos import lanczos
from optbench.curvature.operators import Operator
from optbench.errors import UserError


@dataclass(frozen=True)
class Density:
    """The density of the eigenvalues on a grid, with integral 1: float64 on the CPU.

    grid, density, error: (points,); error is the standard error of the density over the random vectors, NaN for one.
    kernel_variance: of the normal densities that stand for the Ritz values.
    """

    grid: Tensor
    density: Tensor
    error: Tensor
    kernel_variance: float


@dataclass(frozen=True)
class Quadrature:
    """Nodes and weights that represent the spectrum of a P x P matrix A: float64 on the CPU.

    values, weights: (k, m), of k random vectors z and m Lanczos steps each. For every vector, sum_i w_i f(t_i) approximates
    z^T f(A) z / |z|^2, exactly for polynomials f of degree at most 2m - 1, and its mean over the vectors approximates
    tr f(A) / P. After an early end of the process the remaining entries have weight 0. dimension: P.
    """

    values: Tensor
    weights: Tensor
    dimension: int

    @property
    def smallest(self) -> float:
        """The smallest Ritz value, an upper bound of the smallest eigenvalue of A."""
        return float(self.values[self.weights > 0].min())

    @property
    def largest(self) -> float:
        """The largest Ritz value, a lower bound of the largest eigenvalue of A."""
        return float(self.values[self.weights > 0].max())

    def moments(self, degree: int) -> tuple[Tensor, Tensor]:
        """tr A^j / P for j = 0 .. ``degree`` and its standard error over the random vectors, both (degree + 1,).

        The errors are NaN for one random vector.
        """
        each = torch.stack([(self.weights * self.values**power).sum(1) for power in range(degree + 1)])
        return each.mean(1), _standard_error(each.T)

    def density(self, points: int = 10_000, factor: float = 1e-5, kernel_variance: float | None = None) -> Density:
        """phi(x) = 1/k sum over vectors and nodes of w_i N(x; t_i, variance), on ``points`` equally spaced x.

        variance = factor max(1, largest - smallest), a variance and not a width, unless ``kernel_variance`` gives it; and
        at least (2 spacings of the grid)^2, below which a kernel falls between the points. The grid reaches from the
        smallest to the largest node and four standard deviations beyond, and the density is divided by its integral.
        Factors between 1e-5 and 1e-1 are usual. Raises UserError for fewer than 100 points and a variance below 0.

        Source: the public code of PyHessian (Yao et al. 2020) and of Ghorbani et al. 2019 (google/spectral-density). They have
        a fixed margin of 0.01 beyond the nodes, which cuts the outermost kernels of a wide spectrum.
        """
        if points < 100:
            raise UserError(f"points={points}: a density needs a grid of at least 100")
        spread = self.largest - self.smallest
        variance = factor * max(1.0, spread) if kernel_variance is None else kernel_variance
        if not 0 <= variance < math.inf:
            raise UserError(f"kernel variance={variance}: must be a finite number >= 0")
        # sd >= 2 spacings; the spacing (spread + 8 sd) / (points - 1) grows with sd itself.
        deviation = max(math.sqrt(variance), 2 * spread / (points - 17))
        deviation = deviation or 1e-3 * max(abs(self.largest), 1e-300)  # a spectrum of a single value and no variance
        low, high = self.smallest - 4 * deviation, self.largest + 4 * deviation
        grid = torch.linspace(low, high, points, dtype=torch.float64)
        # One random vector at a time, which needs (points, m) numbers of memory.
        curves = torch.stack(
            [
                torch.exp(-0.5 * ((grid.unsqueeze(1) - values) / deviation) ** 2) @ weights
                for values, weights in zip(self.values, self.weights, strict=True)
            ]
        )
        curves /= torch.trapezoid(curves.mean(0), grid)
        return Density(grid, curves.mean(0), _standard_error(curves), deviation**2)


def _standard_error(samples: Tensor) -> Tensor:
    """The standard error of the mean over the rows of ``samples``; NaN for a single row."""
    if len(samples) < 2:
        return torch.full_like(samples[0], math.nan)
    return samples.std(0) / math.sqrt(len(samples))


def lanczos_quadrature(
    operator: Operator, generator: torch.Generator, vectors: int = 10, steps: int = 90
) -> Quadrature:
    """Stochastic Lanczos quadrature of ``operator`` with Rademacher vectors: at most vectors x steps products.

    The vectors are drawn from ``generator``, a CPU generator. Memory: steps x P numbers; see ``lanczos``. Raises
    UserError for fewer than one vector or step.

    Source: Ubaru, Chen, Saad 2017, "Fast estimation of tr(f(A)) via stochastic Lanczos quadrature"; Ghorbani, Krishnan, Xiao
    2019 (arXiv 1901.10159).
    """
    if vectors < 1 or steps < 1:
        raise UserError(f"vectors={vectors}, steps={steps}: both must be at least 1")
    width = min(steps, operator.dimension)
    values, weights = (torch.zeros(vectors, width, dtype=torch.float64) for _ in range(2))
    for number in range(vectors):
        start = operator.random_vectors(1, generator)[0]
        found = lanczos(operator.product, start, steps).ritz_values()
        count = len(found.values)
        values[number, :count], weights[number, :count] = found.values, found.weights
    return Quadrature(values, weights, operator.dimension)
