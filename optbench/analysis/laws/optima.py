"""The learning rate with the smallest loss, from the losses at a few rates."""

import math
from dataclasses import dataclass

import numpy as np

#: What `Optimum.border` says; `optima` gives the index.
BORDERS = ("", "lowest", "highest", "unstable")
LOWEST, HIGHEST, UNSTABLE = (BORDERS.index(name) for name in ("lowest", "highest", "unstable"))


@dataclass(frozen=True)
class Optimum:
    """The learning rate with the smallest loss.

    border: "" if lower and higher rates are worse; "lowest" or "highest" if the best is the end of the grid, so that the
    optimum may lie beyond it; "unstable" if the next higher rate diverges, so that the optimum is known only to a step of the
    grid.
    """

    learning_rate: float
    loss: float
    border: str = ""


def optimum(rates: np.ndarray, losses: np.ndarray) -> Optimum:
    """The optimum of one curve; see `optima`. NaN is left out, and the rates need no order."""
    x, y = np.asarray(rates, dtype=float), np.asarray(losses, dtype=float)
    x, y = x[~np.isnan(y)], y[~np.isnan(y)]
    order = np.argsort(x)
    if not len(x):
        return Optimum(math.nan, math.nan)
    rate, loss, border = optima(x[order], y[order])
    return Optimum(float(rate), float(loss), BORDERS[int(border)])


def optima(rates: np.ndarray, losses: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The vertices of the parabolas through log loss against log rate at the best tested rate and its two neighbours.

    rates (R,): ascending. losses (..., R): infinity is a diverged run. Returns the optimal rates, their losses and the indices of
    their borders in `BORDERS`, each of shape (...). At a border (see `Optimum`) the optimum is the best tested rate itself; if
    all diverged, it is NaN. Raises ValueError if a loss or a rate is not positive.
    """
    x, y = np.asarray(rates, dtype=float), np.asarray(losses, dtype=float)
    if (y <= 0).any() or (x <= 0).any():
        raise ValueError("losses and learning rates must be positive: the parabola is in their logarithms")
    best = np.argmin(y, axis=-1)
    last = len(x) - 1
    inner = np.clip(best, 1, max(last - 1, 1))[..., None]

    def beside(step: int) -> tuple[np.ndarray, np.ndarray]:
        """The rate and the loss beside the best, in logarithms, relative to it."""
        at = np.clip(inner + step, 0, last)
        return np.log(x[at[..., 0]] / x[best]), np.log(np.take_along_axis(y, at, -1)[..., 0] / lowest)

    lowest = np.take_along_axis(y, best[..., None], -1)[..., 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        (left, down), (right, up) = beside(-1), beside(1)
        # Through (0, 0): v = a u^2 + b u.
        a = (up / right - down / left) / (right - left)
        b = up / right - a * right
        rate, loss = x[best] * np.exp(-b / (2 * a)), lowest * np.exp(-(b**2) / (4 * a))
    border = np.where(np.isfinite(up) & np.isfinite(down), 0, UNSTABLE)
    border = np.where(best == last, HIGHEST, border)
    border = np.where(best == 0, LOWEST, border)
    plain = (border > 0) | (a == 0)  # a is 0 if all three are equal
    trained = np.isfinite(lowest)
    rate = np.where(trained, np.where(plain, x[best], rate), math.nan)
    loss = np.where(trained, np.where(plain, lowest, loss), math.nan)
    return rate, loss, np.where(trained, border, 0)


@dataclass(frozen=True, eq=False)
class Optima:
    """The optimal rates (M, B), their losses (M, B), and borders (M, B), indices of `BORDERS`, of B conditions in M draws."""

    rates: np.ndarray
    losses: np.ndarray
    borders: np.ndarray

    @classmethod
    def of(cls, rates: np.ndarray, means: np.ndarray) -> "Optima":
        """Of mean losses (M, B, U) at ``rates`` (U,), by `optima`; NaN is a cell that does not exist, in all draws."""
        draws, conditions, _ = means.shape
        found, losses = np.full((draws, conditions), math.nan), np.full((draws, conditions), math.nan)
        borders = np.zeros((draws, conditions), dtype=int)
        for b in range(conditions):
            kept = ~np.isnan(means[0, b])
            if kept.any():
                found[:, b], losses[:, b], borders[:, b] = optima(rates[kept], means[:, b, kept])
        return cls(found, losses, borders)

    @property
    def inside(self) -> np.ndarray:
        """The rates, NaN where the optimum may lie beyond the grid."""
        return np.where(np.isin(self.borders, (LOWEST, HIGHEST)), math.nan, self.rates)
