"""The points of an optimizer's search space: trial i is the i-th point of a scrambled Sobol sequence.

Low-discrepancy points fill a space more evenly than random ones, and a longer search contains every shorter one (as in
Shallue et al. 2019, "Measuring the effects of data parallelism", arXiv 1811.03600).
"""

import inspect
import math
from collections.abc import Mapping
from typing import Any

from optbench.errors import UserError

Value = float | int | str

_BOUNDS = {
    "log_uniform": "0 < low < high",
    "log_uniform_complement": "0 < low < high <= 1",
    "uniform": "low < high",
    "integer": "integers low <= high",
}
_SEED = 0
# SciPy's sequence has 2**30 points of 30 bits each.
LAST_TRIAL = 2**30


def trial_options(search_space: Mapping[str, Mapping[str, Any]], trial: int) -> dict[str, Value]:
    """The options that trial number ``trial`` sets: none for trial 0, which keeps the defaults.

    Trial i >= 1 is the i-th point of the scrambled Sobol sequence with one dimension for each option, in the order of
    their names, mapped through the distributions of ``search_space``:

        {distribution: uniform | log_uniform | integer, low: a, high: b}     from a to b (an integer may be a or b)
        {distribution: log_uniform_complement, low: a, high: b}              1 - x for x log-uniform on [a, b]
        {distribution: categorical, choices: [...]}                          each with the same probability

    Real values have six significant digits, so that they are short and the same on every machine; those of a complement
    are 1 minus such a number.

    Raises:
        UserError: the space or the number of the trial is not valid.
    """
    validate(search_space)
    if isinstance(trial, bool) or not isinstance(trial, int) or not 0 <= trial <= LAST_TRIAL:
        raise UserError(f"trial={trial}: must be an integer from 0 (the defaults) to {LAST_TRIAL}")
    if trial == 0:
        return {}
    if not search_space:
        raise UserError(f"trial={trial}: this optimizer declares no search space; only trial=0 (the defaults) exists")
    names = sorted(search_space)
    return {name: _map(search_space[name], u) for name, u in zip(names, _point(len(names), trial), strict=True)}


def _point(dimensions: int, trial: int) -> list[float]:
    """The point in [0, 1)^dimensions. Each trial starts the sequence anew, because a worker may compute any one of them."""
    import numpy as np
    from scipy.stats import qmc

    # An explicit generator: SciPy reads an int differently under the argument's old name (seed) and its new one.
    generator = np.random.default_rng(_SEED)
    argument = "rng" if "rng" in inspect.signature(qmc.Sobol).parameters else "seed"
    sequence = qmc.Sobol(dimensions, scramble=True, **{argument: generator})
    if trial > 1:  # fast_forward does not take 0
        sequence.fast_forward(trial - 1)
    return [float(coordinate) for coordinate in sequence.random(1)[0]]


def _map(entry: Mapping[str, Any], u: float) -> Value:
    distribution = entry["distribution"]
    if distribution == "categorical":
        found: Value = entry["choices"][int(u * len(entry["choices"]))]
        return found
    low, high = entry["low"], entry["high"]
    if distribution == "integer":
        return int(low + int(u * (high - low + 1)))
    if distribution == "uniform":
        return rounded(low + u * (high - low), low, high)
    value = rounded(low * (high / low) ** u, low, high)
    return value if distribution == "log_uniform" else round(1 - value, 15)


def rounded(value: float, low: float, high: float) -> float:
    """``value`` with six significant digits, within [low, high]: short, and the same on every machine."""
    return min(max(float(f"{value:.6g}"), float(low)), float(high))


def validate(search_space: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise a UserError that names the option and what is accepted, unless every distribution is well defined."""
    for name, entry in search_space.items():
        where = f"search_space.{name}"
        distribution = entry.get("distribution") if isinstance(entry, Mapping) else None
        if distribution == "categorical":
            choices = entry.get("choices")
            if set(entry) != {"distribution", "choices"} or not isinstance(choices, list | tuple) or not choices:
                raise UserError(
                    f"{where}: a categorical distribution has choices, a list that is not empty, and no more"
                )
        elif distribution in _BOUNDS:
            if set(entry) != {"distribution", "low", "high"}:
                raise UserError(f"{where}: a {distribution} distribution has low and high, and no more")
            if not _valid_bounds(distribution, entry["low"], entry["high"]):
                raise UserError(
                    f"{where}: low={entry['low']}, high={entry['high']}: {distribution} needs {_BOUNDS[distribution]}"
                )
        else:
            accepted = ", ".join([*sorted(_BOUNDS), "categorical"])
            raise UserError(f"{where}: distribution={distribution}: must be one of {accepted}")


def _valid_bounds(distribution: str, low: Any, high: Any) -> bool:
    kinds = int if distribution == "integer" else int | float
    if any(
        isinstance(bound, bool) or not isinstance(bound, kinds) or not math.isfinite(bound) for bound in (low, high)
    ):
        return False
    if distribution == "integer":
        return bool(low <= high)
    if distribution == "uniform":
        return bool(low < high)
    return 0 < low < high and (distribution == "log_uniform" or high <= 1)
