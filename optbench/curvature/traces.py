"""Traces and Frobenius norms from random vectors, by products with the matrix or only by values of the loss.

With E[z z^T] = I: E[z^T A z] = tr A and E |A z|^2 = |A|_F^2. Estimates are means of independent samples, and their standard
errors decide the number of samples; a rule based on the change of the mean between two samples would stop by chance.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from optbench.curvature.operators import Operator, random_vectors
from optbench.errors import UserError


@dataclass(frozen=True)
class StoppingRule:
    """Sample until the standard error is at most ``relative`` times |estimate| or at most ``absolute``.

    At least ``least`` and at most ``most`` samples are taken, ``together`` of them at a time in batched products. With
    relative = absolute = 0, ``most`` are taken. Early stopping makes an estimate very slightly biased; choose ``least`` =
    ``most`` if that matters.
    """

    relative: float = 0.05
    absolute: float = 0.0
    least: int = 10
    most: int = 200
    together: int = 10

    def __post_init__(self) -> None:
        if not 2 <= self.least <= self.most:
            raise UserError(f"least={self.least}, most={self.most}: accepted are 2 <= least <= most")
        if self.together < 1 or self.relative < 0 or self.absolute < 0:
            raise UserError(
                f"relative={self.relative}, absolute={self.absolute}, together={self.together}: "
                "accepted are tolerances >= 0 and together >= 1"
            )

    def met_by(self, estimate: "Estimate") -> bool:
        """True if ``estimate`` is precise enough, or has the largest number of samples."""
        count = len(estimate.samples)
        enough = estimate.standard_error <= max(self.relative * abs(estimate.value), self.absolute)
        return count >= self.most or (count >= self.least and enough)


@dataclass(frozen=True)
class Estimate:
    """A number estimated from random vectors, with its standard error.

    samples: (k,), whose mean is the random part of the estimate, float64 on the CPU. evaluations: the number of products with
    the matrix, or of values of the loss. dimension: P.
    """

    value: float
    standard_error: float
    samples: Tensor
    evaluations: int
    dimension: int

    @property
    def per_dimension(self) -> float:
        """value / P: for a trace, the mean of the eigenvalues, which is the mean curvature."""
        return self.value / self.dimension


def _mean(samples: Tensor, evaluations: int, dimension: int, exact: float = 0.0) -> Estimate:
    error = float(samples.std()) / math.sqrt(len(samples)) if len(samples) > 1 else math.nan
    return Estimate(exact + float(samples.mean()), error, samples, evaluations, dimension)


def _sampled(
    draw: Callable[[int], Tensor], rule: StoppingRule, estimate: Callable[[Tensor], Estimate]
) -> tuple[Estimate, Tensor]:
    """``estimate`` of the first column of the samples from ``draw``, (count, columns), and all columns of the samples."""
    samples = torch.empty(0, dtype=torch.float64)
    while True:
        fresh = draw(min(rule.together, rule.most - len(samples))).to("cpu", torch.float64)
        samples = torch.cat([samples, fresh]) if len(samples) else fresh
        found = estimate(samples[:, 0])
        # A mean that is NaN or infinite stays so, and never meets a tolerance.
        if rule.met_by(found) or not math.isfinite(found.value):
            return found, samples


def trace_and_frobenius_norm(
    operator: Operator,
    generator: torch.Generator,
    rule: StoppingRule | None = None,
    distribution: str = "rademacher",
) -> tuple[Estimate, Estimate]:
    """``hutchinson_trace``, to which the rule applies, and ``frobenius_norm`` from the same products."""
    rule = rule or StoppingRule()

    def draw(count: int) -> Tensor:
        vectors = operator.random_vectors(count, generator, distribution)
        # Sums of P numbers in float32 would lose digits.
        images = operator.products(vectors).double()
        return torch.stack([(images * vectors).sum(1), images.square().sum(1)], 1)

    trace, samples = _sampled(draw, rule, lambda part: _mean(part, len(part), operator.dimension))
    return trace, _root(_mean(samples[:, 1], len(samples), operator.dimension))


def hutchinson_trace(
    operator: Operator,
    generator: torch.Generator,
    rule: StoppingRule | None = None,
    distribution: str = "rademacher",
) -> Estimate:
    """tr A as the mean of z^T A z, one product for each sample.

    The variance of a sample is 2 (|A|_F^2 - sum_i A_ii^2) for Rademacher z and 2 |A|_F^2 for gaussian z. ``generator`` is a CPU
    generator.

    Source: Hutchinson 1989, "A stochastic estimator of the trace of the influence matrix for Laplacian smoothing splines".
    """
    return trace_and_frobenius_norm(operator, generator, rule, distribution)[0]


def frobenius_norm(
    operator: Operator,
    generator: torch.Generator,
    rule: StoppingRule | None = None,
    distribution: str = "rademacher",
) -> Estimate:
    """|A|_F = (sum of the squared eigenvalues)^1/2 as the root of the mean of |A z|^2, one product for each sample.

    The samples are the |A z|^2; the standard error of the root is that of their mean over twice the root.
    """
    rule = rule or StoppingRule()

    def draw(count: int) -> Tensor:
        vectors = operator.random_vectors(count, generator, distribution)
        return operator.products(vectors).double().square().sum(1, keepdim=True)

    return _sampled(draw, rule, lambda part: _root(_mean(part, len(part), operator.dimension)))[0]


def _root(square: Estimate) -> Estimate:
    root = math.sqrt(square.value)
    error = square.standard_error / (2 * root) if root > 0 else square.standard_error
    return Estimate(root, error, square.samples, square.evaluations, square.dimension)


def hutch_plus_plus_trace(
    operator: Operator,
    generator: torch.Generator,
    sketch: int = 20,
    rule: StoppingRule | None = None,
) -> Estimate:
    """tr A = tr Q^T A Q + tr (I - Q Q^T) A (I - Q Q^T), the first part exactly, the second by Hutchinson's estimator.

    Q is an orthonormal basis of A S with ``sketch`` Rademacher columns S, which captures the outliers of the spectrum, so that
    the variance of the rest can be far smaller. The first part takes 2 sketch products, the second one for each sample; with
    ``sketch`` samples (least = most = sketch) it is the published method. The standard error is that of the second part given
    Q. Raises UserError for a sketch below 1 or of more than P columns.

    Source: Meyer, Musco, Musco, Woodruff 2021 (arXiv 2010.09649), algorithm 1.
    """
    if not 1 <= sketch <= operator.dimension:
        raise UserError(f"sketch={sketch}: must be at least 1 and at most the dimension, {operator.dimension}")
    basis = torch.linalg.qr(operator.products(operator.random_vectors(sketch, generator)).T).Q.T  # (sketch, P)
    inside = float((operator.products(basis).double() * basis).sum())

    def draw(count: int) -> Tensor:
        vectors = operator.random_vectors(count, generator)
        vectors = vectors - vectors @ basis.T @ basis
        found: Tensor = (operator.products(vectors).double() * vectors).sum(1, keepdim=True)
        return found

    def estimate(samples: Tensor) -> Estimate:
        return _mean(samples, 2 * sketch + len(samples), operator.dimension, inside)

    return _sampled(draw, rule or StoppingRule(), estimate)[0]


# ---- without products: second differences of the loss -------------------------------------------------------------------


# Values of h P^1/2: four decades, with four steps in each.
LENGTHS = tuple(10 ** (-4 + power / 4) for power in range(17))


@dataclass(frozen=True)
class ProjectedTrace(Estimate):
    """A trace from values of the loss along random directions z, with the ``step`` h of L(theta ± h z)."""

    step: float


def second_difference(loss: Callable[[Tensor], Tensor], direction: Tensor, step: float, centre: Tensor) -> float:
    """(L(theta + h z) - 2 L(theta) + L(theta - h z)) / h^2, the curvature z^T H z along z up to terms of order h^2.

    loss: d -> L(theta + d). centre: L(theta). Terms odd in h, such as that of the gradient, cancel.
    """
    ahead, behind = loss(step * direction), loss(-step * direction)
    return float((ahead - centre) + (behind - centre)) / step**2


def plateau_step(loss: Callable[[Tensor], Tensor], directions: Tensor, lengths: Sequence[float] = LENGTHS) -> float:
    """The step h at which the second differences along ``directions`` (k, P) depend least on h.

    If the step is too long, the error comes from the loss's fourth derivative and is of order h^2; if it is too short, the
    error comes from rounding and is of order 4 eps |L| / h^2. The candidates are the steps with h P^1/2 in ``lengths``, by
    default four decades from 1e-4 to 1. The result is the step whose second differences differ least from those of both its
    neighbours, in the median over the directions. Takes 2 k values of the loss for each length. Raises UserError for fewer
    than three lengths.
    """
    if len(lengths) < 3:
        raise UserError(f"lengths={lengths}: a plateau is seen among at least three steps")
    steps = [length / math.sqrt(directions.shape[1]) for length in sorted(lengths)]
    centre = loss(torch.zeros_like(directions[0]))
    curvatures = torch.tensor(
        [[second_difference(loss, direction, step, centre) for direction in directions] for step in steps],
        dtype=torch.float64,
    )
    changes = (curvatures[1:] - curvatures[:-1]).abs()
    changes = torch.where(changes.isfinite(), changes, math.inf)
    roughness = torch.maximum(changes[1:], changes[:-1]).median(1).values
    return steps[1 + int(roughness.argmin())]


def projected_trace(
    loss: Callable[[Tensor], Tensor],
    dimension: int,
    generator: torch.Generator,
    rule: StoppingRule | None = None,
    distribution: str = "rademacher",
    step: float | None = None,
    device: torch.device | None = None,
    scanned: int = 3,
) -> ProjectedTrace:
    """tr H of the Hessian H of a loss, only from its values: the mean over random z of ``second_difference``.

    loss: d -> L(theta + d) for d (P,) of float64, such as ``displaced_loss(in_float64(objective))``; in float32 the differences
    are lost in rounding. step: h; by default the ``plateau_step`` along ``scanned`` directions. A sample costs two values of
    the loss and has the variance of ``hutchinson_trace``'s. ``value / P`` is the mean curvature: the expected curvature along
    a random unit direction.

    Source: Böttcher & Wheeler 2024, "Visualizing high-dimensional loss landscapes with Hessian directions" (arXiv 2208.13219).
    """
    evaluations = 1

    def directions(count: int) -> Tensor:
        return random_vectors(dimension, count, generator, distribution).to(device, torch.float64)

    if step is None:
        step = plateau_step(loss, directions(scanned))
        evaluations += 1 + 2 * scanned * len(LENGTHS)
    chosen = step
    centre = loss(torch.zeros(dimension, dtype=torch.float64, device=device))

    def draw(count: int) -> Tensor:
        found = [second_difference(loss, direction, chosen, centre) for direction in directions(count)]
        return torch.tensor(found, dtype=torch.float64).unsqueeze(1)

    def estimate(samples: Tensor) -> Estimate:
        return _mean(samples, evaluations + 2 * len(samples), dimension)

    found = _sampled(draw, rule or StoppingRule(), estimate)[0]
    return ProjectedTrace(**vars(found), step=chosen)
