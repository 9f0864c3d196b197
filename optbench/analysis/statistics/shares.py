"""Shares of runs, such as those that diverged or reached a target: an exact interval, and an exact test of two arms."""

import math

from optbench.analysis.statistics.intervals import Interval


def clopper_pearson(successes: int, runs: int, level: float = 0.95) -> Interval:
    """A share with its exact binomial interval, quantiles of Beta(k, n - k + 1) and Beta(k + 1, n - k) for k of n runs.

    Raises ValueError without runs. Source: Clopper & Pearson 1934.
    """
    from scipy.special import betaincinv

    if not 0 <= successes <= runs or runs == 0:
        raise ValueError(f"{successes} of {runs} is no share")
    tail, failures = (1 - level) / 2, runs - successes
    low = float(betaincinv(successes, failures + 1, tail)) if successes else 0.0
    high = float(betaincinv(successes + 1, failures, 1 - tail)) if failures else 1.0
    return Interval(successes / runs, low, high, level)


def fisher_exact(failures: tuple[int, int], runs: tuple[int, int]) -> float:
    """The two-sided p-value of Fisher's exact test that two arms fail equally often.

    failures, runs: of both arms. The sum of the hypergeometric probabilities that do not exceed that of what was seen. It is
    valid at numbers of runs that were fixed beforehand, and not if it is looked at after every seed.
    """
    (a, b), (m, n) = failures, runs
    total = a + b
    # Whole numbers, so that equal probabilities are equal.
    ways = {k: math.comb(m, k) * math.comb(n, total - k) for k in range(max(0, total - n), min(m, total) + 1)}
    return sum(count for count in ways.values() if count <= ways[a]) / sum(ways.values())
