"""The values of a summary, and of rows of a history, that are not results of the science, or may choose none (no torch).

Two runs of one configuration agree in all other values, bit for bit on one machine. The names stand here once, for everything
that compares runs: `verify`, `merge`, the conformance suite and the tests.
"""

import math
from collections.abc import Mapping
from typing import Any

#: Depend on the machine, on the moment, on the ranks or on the micro-batch; beside these, every name that contains "seconds".
MEASURED = frozenset(
    (
        "activation_bytes",
        "evaluation_share",
        "examples_per_second",
        "model_flops_utilization",
        "peak_device_bytes",
        "peak_host_bytes",
        "rank_bytes",
    )
)
#: Follow from the configuration; summaries of earlier versions lack them.
COUNTED = frozenset(
    (
        "communication_bytes",
        "flops_per_step",
        "model_flops_per_step",
        "gradient_bytes",
        "optimizer_state_bytes",
        "oracle_gradients",
        "oracle_products",
        "oracle_values",
        "parameter_bytes",
    )
)
#: Of these, whole numbers, also where some runs lack them.
INTEGERS = (
    "activation_bytes",
    "peak_device_bytes",
    "peak_host_bytes",
    "rank_bytes",
    *sorted(COUNTED - {"communication_bytes"}),
)
#: A word in the name of every value for which a probe used the labels of held-out examples beyond an evaluation.
DIAGNOSTIC = "diagnostic"


def is_diagnostic(name: str) -> bool:
    """True for a value that depends on held-out labels in such a way that nothing may be tuned or selected by it."""
    return DIAGNOSTIC in name.split("_")


def without_measured(content: Mapping[str, Any]) -> dict[str, Any]:
    """``content`` without what a clock, or another measurement of the machine, says."""
    return {name: value for name, value in content.items() if name not in MEASURED and "seconds" not in name}


def higher_is_better(metric: str) -> bool:
    """True if a larger ``metric`` is better: for an accuracy, and not for a loss, a gap or a time."""
    return metric.endswith("accuracy") and "gap_" not in metric


def finite(value: object) -> float | None:
    """``value`` if it is a finite number, otherwise None: a damaged file may hold anything."""
    if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
        return None
    return value
