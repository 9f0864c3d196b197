"""Power laws in the batch size, fitted as straight lines in the logarithms.

    one piece     rate = coefficient * batch^exponent; exponent 1 is the linear rule, 1/2 the square-root rule
    two pieces    rate = coefficient * min(batch, B*)^low * max(batch / B*, 1)^high, continuous at the crossover B*:
                  low = 1, high = 0 is the linear rule up to B* and a constant rate beyond it

Sources: Goyal et al. 2017, arXiv 1706.02677 (linear); Krizhevsky 2014, arXiv 1404.5997 (square root); Shallue et al. 2019,
arXiv 1811.03600 (neither holds in general).
"""

import math
from dataclasses import dataclass

import numpy as np

REFERENCES = {"linear": 1.0, "square root": 0.5}
# The number of points in each round of the search for a crossover, and of rounds, each closer around the best point.
_GRID, _ROUNDS = 201, 4


@dataclass(frozen=True)
class PowerLaw:
    """coefficient * batch^exponent. residual: root mean square of log2(rate / law), so 1 is a factor of 2."""

    coefficient: float
    exponent: float
    residual: float = math.nan

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """The law at ``batch``."""
        return self.coefficient * np.asarray(batch, dtype=float) ** self.exponent


def power_law(batches: np.ndarray, rates: np.ndarray, exponent: float | None = None) -> PowerLaw:
    """The least-squares line through the logarithms; with ``exponent``, the best line of that slope.

    Values that are not finite are left out. Everything is NaN unless two different batches remain (with an exponent:
    one).
    """
    x, y = _logarithms(batches, rates)
    if len(np.unique(x)) < (2 if exponent is None else 1):
        return PowerLaw(math.nan, math.nan)
    slope = float(_slopes(x, y)) if exponent is None else exponent
    intercept = float(y.mean() - slope * x.mean())
    return PowerLaw(math.exp(intercept), slope, _rms(y - intercept - slope * x))


def exponents(batches: np.ndarray, rates: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The exponents of `power_law` for many rows of rates (..., batches) at once; rates that are not finite are left out.

    weights (batches,): positive, of the squared residuals; None: all are 1. Shape (...); NaN where fewer than two batches
    remain. The batches must differ.
    """
    return _slopes(np.log(np.asarray(batches, dtype=float)), np.log(np.asarray(rates, dtype=float)), weights)


def references(batches: np.ndarray, rates: np.ndarray) -> dict[str, PowerLaw]:
    """The laws to draw beside the data: the best line of each slope in `REFERENCES`, with its residual."""
    return {name: power_law(batches, rates, exponent) for name, exponent in REFERENCES.items()}


@dataclass(frozen=True)
class Crossover:
    """A law of two pieces that meet at ``batch``.

    inside: True if the crossover lies between the measured batches. Otherwise one piece fits equally well, and the crossover
    lies beyond ``batch``, an end of the range. residual: as in `PowerLaw`.
    """

    batch: float
    coefficient: float
    low: float
    high: float
    residual: float
    inside: bool

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """The law at ``batch``."""
        x = np.asarray(batch, dtype=float)
        found: np.ndarray = self.coefficient * np.minimum(x, self.batch) ** self.low
        return found * np.maximum(x / self.batch, 1.0) ** self.high


def crossover(batches: np.ndarray, rates: np.ndarray, exponents: tuple[float, float] | None = (1.0, 0.0)) -> Crossover:
    """The continuous law of two pieces with the least squared error in the logarithm.

    exponents: those of the two pieces; None: both are fitted as well, with at least two batches on either side.
    Values that are not finite are left out. Everything is NaN unless 2 (exponents None: 4) different batches remain.
    """
    x, y = _logarithms(batches, rates)
    places = np.unique(x)
    if len(places) < (4 if exponents is None else 2):
        return Crossover(math.nan, math.nan, math.nan, math.nan, math.nan, False)
    first, last = (places[0], places[-1]) if exponents is not None else (places[1], places[-2])
    low, high = first, last
    for _ in range(_ROUNDS):
        candidates = np.linspace(low, high, _GRID)
        errors, coefficients = _two_pieces(x, y, candidates, exponents)
        best = int(np.argmin(errors))
        low, high = candidates[max(best - 1, 0)], candidates[min(best + 1, _GRID - 1)]
    place = float(candidates[best])
    intercept, slope_low, slope_high = map(float, coefficients[best])
    residual = math.sqrt(float(errors[best])) / math.log(2)
    inside = bool(first < place < last)
    return Crossover(math.exp(place), math.exp(intercept), slope_low, slope_high, residual, inside)


def _two_pieces(
    x: np.ndarray, y: np.ndarray, places: np.ndarray, exponents: tuple[float, float] | None
) -> tuple[np.ndarray, np.ndarray]:
    """The mean squared error of the best two lines that meet at each of the places, and their (intercept, slope, slope)."""
    below, above = np.minimum(x, places[:, None]), np.maximum(x - places[:, None], 0.0)
    basis = np.stack([np.ones_like(below), below, above], axis=-1)
    if exponents is None:
        coefficients = np.linalg.pinv(basis) @ y
    else:
        intercepts = (y - exponents[0] * below - exponents[1] * above).mean(axis=1)
        coefficients = np.column_stack([intercepts, np.tile(exponents, (len(places), 1))])
    errors = ((y - (basis @ coefficients[:, :, None])[..., 0]) ** 2).mean(axis=1)
    return errors, coefficients


def _logarithms(batches: np.ndarray, rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.asarray(batches, dtype=float), np.asarray(rates, dtype=float)
    kept = np.isfinite(x) & np.isfinite(y)
    if (x[kept] <= 0).any() or (y[kept] <= 0).any():
        raise ValueError("a power law is fitted to positive values")
    return np.log(x[kept]), np.log(y[kept])


def _slopes(x: np.ndarray, y: np.ndarray, weights: np.ndarray | None = None) -> np.ndarray:
    """The least-squares slopes of the rows of ``y`` (..., n) over ``x`` (n,), without values that are not finite."""
    used = np.where(np.isfinite(y), 1.0 if weights is None else weights, 0.0)
    total = used.sum(-1, keepdims=True)
    centred = np.where(used > 0, x - (used * x).sum(-1, keepdims=True) / np.where(total > 0, total, 1.0), 0.0)
    square = (used * centred**2).sum(-1)
    found: np.ndarray = (used * centred * np.where(used > 0, y, 0.0)).sum(-1) / np.where(square > 0, square, math.nan)
    return found


def _rms(residuals: np.ndarray) -> float:
    return float(np.sqrt(np.mean(residuals**2))) / math.log(2)
