"""Sequential comparison of two methods: evidence on the mean of their paired differences that may be looked at after every seed.

x_1 ... x_n are differences of two arms, paired by seed, S = Σ x, V = Σ x², r = 1 + n and P = V - S² / r. For normal noise the
e-process against "the mean is 0" is a t-test's Bayes factor: effects, in standard deviations, are N(0, 1), and the standard
deviation has the scale-free prior dσ / σ,

    log e = -log(r) / 2 + n / 2 (log V - log P).

The posterior of the mean is Student's t with n degrees of freedom, at S / r with scale sqrt(P / (n r)). With its mass p above
0, the one-sided e-processes against "the mean is at most 0" and "at least 0" are 2 e p and 2 e (1 - p). Evidence against a
mean m is that of x - m against 0. Under its hypothesis, an e-process ever reaches c with probability at most 1 / c.

For noise that is only symmetric, ties included, with a deviation d that is guessed before the data and t = 1 / d²,

    e = (1 + t V)^(-1/2) exp(t S² / (2 (1 + t V))).

Sources: Wang & Ramdas 2023, "Anytime-valid t-tests and confidence sequences for Gaussian means with unknown variance", arXiv
2310.03722; de la Peña 1999, "A general class of exponential inequalities for martingales and ratios", for symmetric noise.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal

import numpy as np

Noise = Literal["normal", "symmetric"]
Outcome = Literal["better", "worse", "within", "undecided"]
Array = np.ndarray[Any, np.dtype[Any]]

#: The number of differences before which nothing is decided, and that for differences with ties or a resolution.
FIRST, FIRST_WITH_TIES = 4, 6

# Each threshold is the larger one over normal and uniform noise: the least c that the e-process of n = FIRST ... N differences of
# mean 0 reaches with probability at most alpha. `benchmarks/verdict_replay.py --thresholds` computes them.
_SEEDS = (4, 5, 6, 8, 10, 12, 16, 20, 30, 40)
_TWO_SIDED = {
    0.1: (2.30, 3.00, 3.53, 4.29, 4.81, 5.19, 5.75, 6.14, 6.75, 7.13),
    0.05: (3.99, 5.42, 6.52, 8.0, 9.2, 9.9, 11.1, 12.2, 13.6, 14.5),
    0.02: (6.53, 9.22, 11.8, 17.2, 21.2, 24.1, 28.4, 31.4, 36.4, 39.3),
    0.01: (8.11, 12.8, 19.1, 30.0, 39.4, 47.0, 58.0, 65.6, 77.4, 84.8),
    0.005: (9.23, 17.8, 27.7, 51.9, 73.7, 91.5, 117, 136, 164, 180),
    0.002: (10.2, 23.6, 42.9, 98.4, 163, 215, 306, 375, 467, 500),
}
_ONE_SIDED = {
    0.3: (0.75, 0.87, 0.96, 1.08, 1.16, 1.22, 1.31, 1.38, 1.48, 1.54),
    0.2: (1.11, 1.32, 1.47, 1.7, 1.9, 2.0, 2.1, 2.3, 2.5, 2.6),
    0.1: (2.15, 2.75, 3.19, 3.9, 4.3, 4.7, 5.2, 5.5, 6.0, 6.3),
    0.05: (4.39, 5.83, 6.90, 8.41, 9.45, 10.2, 11.3, 12.1, 13.3, 14.1),
    0.02: (9.05, 12.5, 15.1, 18.8, 21.6, 24.3, 27.9, 30.5, 34.7, 37.1),
    0.01: (12.9, 18.2, 23.4, 34.3, 42.1, 47.7, 56.7, 62.4, 72.4, 77.9),
}


@dataclass(frozen=True)
class Verdict:
    """The state of a comparison after ``n`` of at most ``maximum`` differences "first minus second"; larger is better.

    outcome: "better" or "worse", by the sign, if the mean is told from 0; "within" if it is told to be closer to 0 than the
    margin; else "undecided". estimate, low, high: the mean, and the bounds of the confidence sequence, which hold for all n at
    once. e: the evidence against 0. e_within: the lesser one of those against the margin and against minus the margin; NaN
    without a margin. rho: the correlation of the two arms over seeds; NaN if it is unknown.
    """

    outcome: Outcome
    estimate: float
    low: float
    high: float
    e: float
    e_within: float
    n: int
    rho: float
    maximum: int


@dataclass(frozen=True)
class Evidence:
    """Logarithms of e-processes: ``two`` against a mean of 0, ``above`` against at most 0, ``below`` against at least 0."""

    two: Array
    above: Array
    below: Array


def normal_evidence(total: Array, squares: Array, n: Array) -> Evidence:
    """The evidence in ``n`` differences of sum S = ``total`` and sum of squares V = ``squares``, for normal noise.

    Differences that are all 0 are evidence for a mean of 0: e = r^(-1/2), the limit of ever smaller equal deviations.
    """
    from scipy.special import stdtr

    ratio = 1 + n
    rest = squares - total**2 / ratio
    there = squares > 0
    safe = np.where(there, rest, 1.0)
    two = -np.log(ratio) / 2 + np.where(there, n / 2 * np.log(np.where(there, squares, 1.0) / safe), 0.0)
    location = total / ratio / np.sqrt(safe / (n * ratio))
    return _with_sides(two, stdtr(n, location), stdtr(n, -location))


def symmetric_evidence(total: Array, squares: Array, deviation: float) -> Evidence:
    """The evidence for symmetric noise; ``deviation``: d, chosen before the data, best within a factor 2 of theirs."""
    from scipy.special import ndtr

    precision = 1 / deviation**2
    weight = 1 + precision * np.asarray(squares, dtype=float)
    two = -np.log(weight) / 2 + precision * np.asarray(total, dtype=float) ** 2 / (2 * weight)
    location = total * np.sqrt(precision / weight)
    return _with_sides(two, ndtr(location), ndtr(-location))


def _with_sides(two: Array, above: Array, below: Array) -> Evidence:
    with np.errstate(divide="ignore"):  # a posterior mass may underflow to 0
        return Evidence(two, two + np.log(2 * above), two + np.log(2 * below))


def half_width(deviation: float, n: int, c: float) -> float:
    """The half width of the confidence sequence of the mean for normal noise: all m of which the evidence is below ``c``.

        s / sqrt(n) sqrt((n - 1) (q - 1) / (1 - q / r)),    q = (c sqrt(r))^(2 / n)

    deviation: s, the standard deviation of the n differences, with n - 1. Infinity if q >= r, which no n values can exclude.
    """
    ratio = 1 + n
    q = (c * math.sqrt(ratio)) ** (2 / n)
    if n < 2 or q >= ratio:
        return math.inf
    return deviation / math.sqrt(n) * math.sqrt((n - 1) * (q - 1) / (1 - q / ratio))


def symmetric_half_width(rest: float, n: int, c: float, deviation: float) -> float:
    """As `half_width`, for symmetric noise; ``rest``: Σ (x - mean)².

    A mean m is excluded if the one-sided evidence against it reaches 2 c. The evidence falls again for means that are very far
    away; hypotheses "at most m" are nested, so that these are excluded as well.
    """
    from scipy.optimize import brentq

    if n < 2:
        return math.inf
    start = 1 + rest / deviation**2
    peak = math.sqrt((n - 1) * start / n) * deviation  # where 1 + t V = n (1 + t rest): the evidence is largest

    def excess(distance: float) -> float:
        squares = rest + n * distance**2
        found = symmetric_evidence(np.asarray(n * distance), np.asarray(squares), deviation).above
        return float(found) - math.log(2 * c)

    if excess(peak) < 0:
        return math.inf
    return float(brentq(excess, 0.0, peak))


@cache
def threshold(alpha: float, maximum: int) -> float:
    """c: of differences with mean 0, at most a share ``alpha`` has e >= c at any n from FIRST to ``maximum``.

    From the table of this module, in between linear in logarithms; never more than 1 / alpha, which holds for any number of seeds
    and is the value beyond the table (alpha below 0.002 or above 0.1, more than 40 seeds).
    """
    return _threshold(_TWO_SIDED, alpha, maximum)


@cache
def one_sided_threshold(beta: float, maximum: int) -> float:
    """As `threshold`, for a one-sided e-process and differences whose mean is at the bound that it is about."""
    return _threshold(_ONE_SIDED, beta, maximum)


def _threshold(table: Mapping[float, tuple[float, ...]], alpha: float, maximum: int) -> float:
    levels = sorted(table)
    if not levels[0] <= alpha <= levels[-1] or not _SEEDS[0] <= maximum <= _SEEDS[-1]:
        return 1 / alpha
    of_levels = [np.interp(math.log(maximum), np.log(_SEEDS), np.log(table[level])) for level in levels]
    return float(np.exp(np.interp(math.log(alpha), np.log(levels), of_levels)))


@dataclass(frozen=True)
class Rule:
    """The rule by which a comparison stops, with an outcome.

    margin: the difference below which two methods count as equal, in the units of the differences; None: there is no outcome
    "within". alpha: the probability of "better" or "worse" if the mean is 0. beta: that of "within" if the mean is at the
    margin. maximum: the number of differences at most. noise: "normal", with thresholds that hold for uniform and heavy-tailed
    noise too, or "symmetric", exact for any symmetric noise, for which ``deviation`` is guessed. resolution: the step of a single
    measurement, such as 1 / test examples for an accuracy; its rounding variance resolution² / 6 is added to each difference.
    """

    margin: float | None = None
    alpha: float = 0.05
    beta: float = 0.2
    maximum: int = 20
    noise: Noise = "normal"
    resolution: float = 0.0
    deviation: float = math.nan

    def __post_init__(self) -> None:
        if self.noise == "symmetric" and not self.deviation > 0:
            raise ValueError(f"deviation={self.deviation}: symmetric noise needs a guess above 0")
        if self.margin is not None and not self.margin > 0:
            raise ValueError(f"margin={self.margin}: accepted: a number above 0, or None")

    @property
    def bound(self) -> float:
        """The evidence that is asked for "better" and "worse".

        Without a margin it is 1 / alpha: then nothing ends a comparison of equal methods early, and with the thresholds of the
        table resampled runs of two settings with unlike noise are told apart more often than alpha (0.05 to 0.07 for 0.05).
        """
        if self.noise == "symmetric" or self.margin is None:
            return 1 / self.alpha
        return threshold(self.alpha, self.maximum)

    @property
    def bound_within(self) -> float:
        """The evidence that is asked on either side for "within"."""
        return 1 / self.beta if self.noise == "symmetric" else one_sided_threshold(self.beta, self.maximum)

    def evidence(self, differences: Array) -> Evidence:
        """The evidence after each number of differences; shape (..., n), as that of ``differences``."""
        n = np.arange(1, differences.shape[-1] + 1)
        total = differences.cumsum(-1)
        squares = (differences**2).cumsum(-1) + n * self.resolution**2 / 6
        if self.noise == "symmetric":
            return symmetric_evidence(total, squares, self.deviation)
        return normal_evidence(total, squares, n)

    def evidence_within(self, differences: Array) -> Array:
        """The logarithm of the lesser one of the evidences that the mean is below the margin and above minus the margin."""
        if self.margin is None:
            return np.full(differences.shape, math.nan)
        return np.minimum(
            self.evidence(differences - self.margin).below, self.evidence(differences + self.margin).above
        )

    def decisions(self, differences: Array) -> tuple[Array, Array]:
        """Two masks of shape (..., n): after which numbers of differences "better or worse" can be said, and "within"."""
        n = np.arange(1, differences.shape[-1] + 1)
        allowed = np.broadcast_to(n >= FIRST, differences.shape).copy()
        for early in range(FIRST, min(FIRST_WITH_TIES, len(n) + 1)):
            # Only ties among the first values count, so that a later one does not undo a decision.
            allowed[..., early - 1] &= self.resolution == 0 and ~_tied(differences[..., :early])
        told = allowed & (self.evidence(differences).two >= math.log(self.bound))
        return told, allowed & ~told & (self.evidence_within(differences) >= math.log(self.bound_within))


def _tied(values: Array) -> Array:
    ordered = np.sort(values, axis=-1)
    # Differences of equal accuracies may differ by rounding.
    tied: Array = (np.diff(ordered, axis=-1) <= 1e-9 * np.abs(values).max(-1, keepdims=True)).any(-1)
    return tied


def verdict(differences: Sequence[float] | Array, rule: Rule, rho: float = math.nan) -> Verdict:
    """The verdict at the first number of differences at which one can be given, or the present state if there is none.

    differences: finite values in the order of seeds, larger means that the first arm is better. It is a function of the shortest
    prefix that decides: what comes after it, or after ``rule.maximum`` values, changes nothing.
    """
    values = np.asarray(differences, dtype=float)[: rule.maximum]
    told, within = rule.decisions(values)
    decided = np.flatnonzero(told | within)
    return state(values[: decided[0] + 1] if len(decided) else values, rule, rho)


def state(differences: Sequence[float] | Array, rule: Rule, rho: float = math.nan) -> Verdict:
    """As `verdict`, at exactly these differences, whatever could have been said before.

    Raises ValueError for a difference that is not finite.

    Source: two one-sided tests for "within" (Schuirmann 1987), on the e-processes of this module.
    """
    values = np.asarray(differences, dtype=float)
    n = len(values)
    if n == 0:
        return Verdict("undecided", math.nan, -math.inf, math.inf, 1.0, math.nan, 0, rho, rule.maximum)
    if not np.isfinite(values).all():
        raise ValueError(
            f"difference {values[~np.isfinite(values)][0]}: a mean needs finite values; give a failed run one"
        )
    mean = float(values.mean())
    rest = float(((values - mean) ** 2).sum()) + n * rule.resolution**2 / 6
    if rule.noise == "symmetric":
        width = symmetric_half_width(rest, n, rule.bound, rule.deviation)
    else:
        width = half_width(math.sqrt(rest / max(n - 1, 1)), n, rule.bound)
    told, within = (bool(found[-1]) for found in rule.decisions(values))
    outcome: Outcome = "within" if within else "undecided" if not told else "better" if mean > 0 else "worse"
    e, e_within = (float(np.exp(log[-1])) for log in (rule.evidence(values).two, rule.evidence_within(values)))
    return Verdict(outcome, mean, mean - width, mean + width, e, e_within, n, rho, rule.maximum)


def correlation(first: Sequence[float] | Array, second: Sequence[float] | Array) -> float:
    """The correlation of two arms over seeds; NaN with fewer than three seeds, or without spread."""
    arms = np.array([first, second], dtype=float)
    if arms.shape[1] < 3 or (np.ptp(arms, axis=1) == 0).any():
        return math.nan
    return float(np.corrcoef(arms)[0, 1])
