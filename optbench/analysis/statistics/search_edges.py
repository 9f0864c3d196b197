"""Find best trials at the edge of their search space; such a space must be widened and searched again.

Source: Shallue et al. 2019, "Measuring the effects of data parallelism", arXiv 1811.03600.
"""

import json
import math
from typing import Any

import pandas as pd


def search_space(run: "pd.Series[Any]") -> dict[str, dict[str, Any]]:
    """The declared search space of a run's optimizer, from the column search_space: option -> distribution."""
    text = run.get("search_space")
    return json.loads(text) if isinstance(text, str) else {}


def edges(run: "pd.Series[Any]", margin: float = 0.05) -> list[str]:
    """The options of the run's optimizer that lie at an edge of the declared search space, with the side.

    An option is at an edge if it lies within ``margin`` of an end of the range, in the coordinate that the search draws
    uniformly (the logarithm for log_uniform), or beyond it, as a default may. A 0 in a logarithmic range, such as a weight
    decay that is switched off, does not count. The sides refer to the option's own value: "momentum high" is a momentum near
    1. A categorical option has no edge.
    """
    found = []
    for option, entry in search_space(run).items():
        value = run.get(f"config.optimizer.{option}")
        if entry["distribution"] == "categorical" or value is None or _missing(value):
            continue
        if entry["distribution"] == "log_uniform" and value == 0:
            continue
        position = _position(entry["distribution"], float(value), float(entry["low"]), float(entry["high"]))
        if position <= margin:
            found.append(f"{option} low")
        elif position >= 1 - margin:
            found.append(f"{option} high")
    return found


def _missing(value: Any) -> bool:
    return value is None or (isinstance(value, float) and math.isnan(value))


def _position(distribution: str, value: float, low: float, high: float) -> float:
    """The relative position of ``value`` in its range: 0 at the end of small values, 1 at the end of large ones."""
    if distribution == "log_uniform":
        return math.log(value / low) / math.log(high / low)
    if distribution == "log_uniform_complement":
        return 1 - math.log((1 - value) / low) / math.log(high / low) if value < 1 else math.inf
    return (value - low) / (high - low) if high > low else 0.5
