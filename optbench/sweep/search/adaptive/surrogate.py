"""A Gaussian process that pools the loss curves of all conditions of a search.

The loss L of a run becomes

    z = min(log(1 + log(L / L_min) / d), 2.9),   d = log(L_first / L_min) / 16;   diverged: z = 2.9

with the least loss seen so far L_min and the loss before training L_first. One transformation evens the noise out, cuts its
tails, and makes divergence an outcome at the end of the scale instead of a number. A time to a target T, a share of the budget,
has noise that is proportional to it, and becomes

    z = min(2.8 log(T / T_min) / log(1 / T_min), 2.9);   censored by the budget, or diverged: z = 2.9.

On z stands a Gaussian process over
u = log2 rate, v = log2 condition and the seed s, with mean 1 and

    k = 1 + .66 M(u - v; 4.8) + .58 M(u; 5.8) + .66 M(v; 9.2) + .23 M(u; 2.2) M(v; 4.3)
          + q (r [same seed] M(u - v; 1.7) M(v; 1.7) + (1 - r) [same run]),          q = .023,

M a Matern-5/2 kernel with its length. A run with too small a rate depends on rate / batch only, instability on the rate only:
these ridges pool the conditions, and make a linear law that levels off natural. Runs of one seed at neighbouring rates share a
part r of their noise. The constants come from the marginal likelihood of the table of the study scaling_rules; a search fits only
the factors of the signal's and of the noise's variance, and r.

Draws are paths of the prior that are moved to the observations (Matheron's rule; Wilson et al. 2020, arXiv 2002.09309).
"""

import functools
import math
from dataclasses import dataclass

import numpy as np
from scipy import linalg

from optbench.sweep.search.adaptive.lattice import Outcomes

MEAN, NOISE = 1.0, 0.023
CAP, DIVERGED_ABOVE = 2.9, 2.8
DRAWS = 320
_SIGNALS = np.array([0.5, 1.0, 2.0])
_NOISES = np.array([0.35, 0.6, 1.0, 1.7, 3.0])
_PARTS = (0.25, 0.5, 0.75)
# The observations from which these are fitted, at most.
_FITTED = 250


def matern(distance: np.ndarray, length: float) -> np.ndarray:
    """The Matern kernel of smoothness 5/2 and variance 1."""
    r = math.sqrt(5) * np.abs(distance) / length
    found: np.ndarray = (1 + r + r * r / 3) * np.exp(-r)
    return found


def covariances(u: np.ndarray, v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The covariances (N, N) of the part that all seeds share, and the correlations of that of a seed; u, v (N,) in octaves."""
    du, dv = u[:, None] - u, v[:, None] - v
    shared = (
        1.0
        + 0.66 * matern(du - dv, 4.8)
        + 0.58 * matern(du, 5.8)
        + 0.66 * matern(dv, 9.2)
        + 0.23 * matern(du, 2.2) * matern(dv, 4.3)
    )
    return shared, matern(du - dv, 1.7) * matern(dv, 1.7)


@dataclass(frozen=True)
class Scale:
    """The transformation between losses and z: the least loss, and the width d of the logarithm.

    linear: of times to a target, z is log(L / least) / width.
    """

    least: float
    width: float
    linear: bool = False

    @classmethod
    def of(cls, losses: np.ndarray, first: float, horizon: float = math.inf) -> "Scale":
        """From the losses seen so far (NaN: none, infinity: diverged), the loss before training, and the horizon of times."""
        finite = losses[np.isfinite(losses)]
        if not len(finite):
            return cls(1.0, math.log(10) / 16)
        least = float(finite.min())
        if math.isfinite(horizon):
            return cls(least, max(math.log(horizon / min(least, horizon)) / DIVERGED_ABOVE, 1e-3), linear=True)
        top = first if math.isfinite(first) else float(finite.max())
        return cls(least, max(math.log(max(top, least) / least) / 16, 1e-3))

    def z(self, losses: np.ndarray) -> np.ndarray:
        """Of losses; infinity is a diverged run."""
        with np.errstate(invalid="ignore"):
            excess = np.log(np.minimum(losses, 1e300) / self.least) / self.width
        if self.linear:
            return np.asarray(np.minimum(excess, CAP))
        return np.asarray(np.minimum(np.log1p(np.maximum(excess, -0.95)), CAP))

    def losses(self, z: np.ndarray) -> np.ndarray:
        """Of z; infinity where a run diverged."""
        capped = np.minimum(z, CAP)
        found = self.least * np.exp(self.width * (capped if self.linear else np.expm1(capped)))
        return np.where(z > DIVERGED_ABOVE, math.inf, found)


class Paths:
    """Paths of the prior on a lattice of conditions x rates, for ``columns`` seeds: drawn once, the same in every round.

    shared (N, M): the part of all seeds without the mean. own (C, N, M): the part of each seed, noise (C, N, M): of each run,
    both of variance 1.
    N runs over the conditions, and over the rates of each condition fastest.
    """

    def __init__(self, u: np.ndarray, v: np.ndarray, columns: int, seed: int, draws: int) -> None:
        self.kernel, self.kernel_of_seed = covariances(np.tile(u, len(v)), np.repeat(v, len(u)))
        points = len(self.kernel)
        self.shared = _factor(self.kernel) @ np.random.default_rng([seed, 1]).standard_normal((points, draws))
        factor = _factor(self.kernel_of_seed)
        # A generator for each column: its draws do not change as columns are added.
        normals = [np.random.default_rng([seed, 2, column]) for column in range(columns)]
        self.own = np.stack([factor @ generator.standard_normal((points, draws)) for generator in normals])
        self.noise = np.stack([generator.standard_normal((points, draws)) for generator in normals])


def _factor(kernel: np.ndarray) -> np.ndarray:
    found: np.ndarray = linalg.cholesky(kernel + 1e-6 * np.eye(len(kernel)), lower=True, check_finite=False)
    return found


@functools.lru_cache(maxsize=2)
def _paths(u: tuple[float, ...], v: tuple[float, ...], columns: int, seed: int, draws: int) -> Paths:
    return Paths(np.array(u), np.array(v), columns, seed, draws)


@dataclass(frozen=True)
class Posterior:
    """Draws of z given the finished runs.

    z (C, N, M): of every cell, with its noise; finished cells have their own value. scale: between z and losses. signal, noise:
    the fitted factors of the variances. part: that of the noise which runs of one seed share.
    """

    z: np.ndarray
    scale: Scale
    signal: float
    noise: float
    part: float


def posterior(outcomes: Outcomes, seed: int, draws: int = DRAWS) -> Posterior:
    """Condition the process on the outcomes of one search. The order in which they arrived does not matter."""
    losses = outcomes.columns()
    columns, conditions, rates = losses.shape
    paths = _paths(tuple(outcomes.search.u), tuple(outcomes.search.v), columns, seed, draws)
    flat = losses.reshape(columns, conditions * rates)
    column, point = np.nonzero(~np.isnan(flat))
    scale = Scale.of(flat, outcomes.first, outcomes.horizon)
    y = scale.z(flat[column, point])
    same = column[:, None] == column
    kernel = paths.kernel[np.ix_(point, point)]
    of_seed = np.where(same, paths.kernel_of_seed[np.ix_(point, point)], 0.0)
    signal, noise, part = _factors(kernel, of_seed, y)
    own, each = noise * NOISE * part, noise * NOISE * (1 - part)
    z = MEAN + math.sqrt(signal) * paths.shared + math.sqrt(own) * paths.own + math.sqrt(each) * paths.noise
    if len(y):
        covariance = signal * kernel + own * of_seed
        covariance[np.diag_indices_from(covariance)] += each
        factor = linalg.cho_factor(covariance, lower=True, check_finite=False)
        weights = linalg.cho_solve(factor, y[:, None] - z[column, point], check_finite=False)
        z += signal * (paths.kernel[:, point] @ weights)
        for number in range(columns):
            ours = column == number
            if ours.any():
                z[number] += own * (paths.kernel_of_seed[:, point[ours]] @ weights[ours])
        z[column, point] = y[:, None]
    return Posterior(z, scale, signal, noise, part)


def _factors(kernel: np.ndarray, of_seed: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """The factors of the signal's and of the noise's variance and the seed's part, of a few, by penalised marginal likelihood."""
    if len(y) < 2:
        return 1.0, 1.0, _PARTS[0]
    if len(y) > _FITTED:
        kept = np.arange(0, len(y), math.ceil(len(y) / _FITTED))
        kernel, of_seed, y = kernel[np.ix_(kept, kept)], of_seed[np.ix_(kept, kept)], y[kept]
    penalty = 0.5 * np.log(_NOISES) ** 2 + (0.5 / 0.7**2 * np.log(_SIGNALS) ** 2)[:, None]
    found = []
    for part in _PARTS:
        # With K v = a N v and v' N v = 1: the determinant of c K + q N is that of N times the product of c a + q.
        correlation = part * of_seed + (1 - part) * np.eye(len(y))
        values, vectors = linalg.eigh(kernel, correlation, check_finite=False)
        squares = (vectors.T @ (y - MEAN)) ** 2
        variances = _SIGNALS[:, None, None] * np.maximum(values, 0) + _NOISES[:, None] * NOISE
        likelihood = -0.5 * (np.log(variances) + squares / variances).sum(-1) - penalty
        found.append(likelihood - 0.5 * np.linalg.slogdet(correlation)[1])
    # Rounded: the last bits depend on the number of threads of the linear algebra.
    best = np.unravel_index(int(np.argmax(np.round(found, 9))), np.shape(found))
    return float(_SIGNALS[best[1]]), float(_NOISES[best[2]]), _PARTS[best[0]]
