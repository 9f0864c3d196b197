"""The answers of a search in words, rows and curves."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from optbench.sweep.search.adaptive.answers import Law, Tables
from optbench.sweep.search.adaptive.lattice import Outcomes, Search

# The factor within which an optimum counts as known in the sentence.
_FACTOR = 1.5
# The searches that the sentence names.
_NAMED = 4


def line(outcomes: Sequence[Outcomes], laws: Sequence[Law | None]) -> str:
    """One sentence: the exponent of each search, and how many optima are known to a factor."""
    parts = [_part(each.search, law, len(laws) > 1) for each, law in zip(outcomes, laws, strict=True)]
    rest = f"; {len(parts) - _NAMED} more" if len(parts) > _NAMED else ""
    return "; ".join(parts[:_NAMED]) + rest


def _part(search: Search, law: Law | None, is_named: bool) -> str:
    words = " ".join(filter(None, [search.grid, *search.fixed.values()]))
    name = f"{words}: " if is_named and words else ""
    if law is None:
        return f"{name}no rate has trained yet"
    if search.law is None:
        (row,) = law.conditions
        return f"{name}optimum {row.optimum:.3g}{_beyond(row.below, row.above)}"
    known = sum(row.optimum.high <= _FACTOR**2 * row.optimum.low for row in law.conditions)
    exponent = "no exponent yet" if math.isnan(law.exponent.estimate) else f"exponent {law.exponent:.2f}"
    return f"{name}{search.law}: {exponent}; {known} of {len(law.conditions)} optima known to a factor {_FACTOR}"


def _beyond(below: float, above: float) -> str:
    if below > 0.5:
        return " or below, at the end of the lattice"
    return " or above, at the end of the lattice" if above > 0.5 else ""


def rows(outcomes: Sequence[Outcomes], laws: Sequence[Law | None]) -> tuple[Mapping[str, Any], ...]:
    """One row for each condition of each search."""
    found = []
    for each, law in zip(outcomes, laws, strict=True):
        search = each.search
        if law is None:
            continue
        for row in law.conditions:
            place = {"grid": search.grid, **search.fixed}
            if search.law is not None:
                place[search.law] = f"{row.condition:g}"
            found.append({
                **place,
                "optimum": row.optimum.estimate,
                "low": row.optimum.low,
                "high": row.optimum.high,
                "chosen": row.chosen,
                "below_the_lattice": row.below,
                "above_the_lattice": row.above,
                "second": row.second,
                "second_share": row.second_share,
                "runs": row.runs,
                "exponent": law.exponent.estimate,
                "exponent_low": law.exponent.low,
                "exponent_high": law.exponent.high,
            })  # fmt: skip
    return tuple(found)


def surrogate(outcomes: Sequence[Outcomes], tables: Sequence[Tables | None]) -> tuple[Mapping[str, Any], ...]:
    """The mean loss over seeds at every condition and rate: the median of the tables, with 95 %; infinity is divergence.

    Of times to a target it is the restricted mean in steps, and infinity if no seed reaches the target.
    """
    found = []
    for each, own in zip(outcomes, tables, strict=True):
        if own is None:
            continue
        search = each.search
        low, middle, high = np.quantile(own.means, [0.025, 0.5, 0.975], axis=0, method="nearest")
        runs = (~np.isnan(each.losses)).sum(-1)
        for b, u in np.argwhere(~np.isnan(middle)):
            row = {"grid": search.grid, **search.fixed, search.over: float(search.rates[u])}
            if search.law is not None:
                row[search.law] = float(search.conditions[b])
            quantiles = {"loss": middle[b, u], "low": low[b, u], "high": high[b, u]}
            numbers = {name: value * each.units[b] for name, value in quantiles.items()}
            found.append({**row, **{key: float(value) for key, value in numbers.items()}, "runs": int(runs[b, u])})
    return tuple(found)
