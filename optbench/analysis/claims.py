"""The claims of papers beside what a study found, and the comparison of the claims of several studies.

A study's claims are a table with the columns `COLUMNS`, tables/claims.csv of its report: the quantity with its unit, the method
and the one that it is compared ``against``, where it was measured (dataset, model, condition) and at equal what (``matched_by``:
epochs, steps, target), the estimate with its interval, and ``kind``, what it estimates (`ESTIMANDS`).

The unit says how two estimates are compared. ``condition`` names a batch as "batch=256", and two of them, for the batch of the
method and that of the other one, as "batch=200:1000".
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, get_args

if TYPE_CHECKING:
    import pandas as pd

Outcome = Literal["agrees", "disagrees", "undecided", "not tested"]
Estimand = Literal["W", "S", "K", ""]

ESTIMANDS = {
    "W": "the setting that this search chose, over new seeds",
    "S": "the setting that a new search would choose, over searches and seeds",
    "K": "the best of fewer trials than were made",
}
#: The unit of a trend: the slope of the logarithm of an effect on the logarithm of the batch.
EXPONENT = "exponent"
RATIO_OF_STEPS, RATIO_OF_EXAMPLES = "ratio of steps", "ratio of examples"
#: Units whose values are positive and are compared as logarithms.
LOGARITHMIC = ("steps", "examples", "seconds", "ratio", RATIO_OF_STEPS, RATIO_OF_EXAMPLES)
COLUMNS = (
    *("claim", "source", "outcome", "quantity", "unit", "method", "against", "dataset", "model", "condition", "matched_by"),
    *("estimate", "low", "high", "kind", "runs", "scale", "study"),
)  # fmt: skip
CONTRADICTIONS = (
    *("quantity", "unit", "method", "against", "study", "other", "condition", "other_condition", "estimate", "low", "high"),
    *("other_estimate", "other_low", "other_high", "z", "contradiction", "reason"),
)  # fmt: skip
#: The columns that say of which methods a claim is, and where it was measured.
PLACE = ("method", "against", "dataset", "model", "condition", "matched_by")
_COMPARED = PLACE[2:]
_LARGEST_Z = 3.0
_NORMAL = 1.959963984540054  # the 97.5 % point of the standard normal distribution
_BATCHES = re.compile(r"\bbatch=(\d+)(?::(\d+))?\b")

Row = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One claim of a paper, and what the runs say about it.

    claim: the paper's, in a plain sentence. source: "Goyal et al. 2017, section 2.1".
    outcome: what the runs say; "undecided" if the interval allows both, "not tested" if there are no runs for it.
    effect, low, high, unit: the estimate with its 95 % interval; NaN if there is none. quantity: its name, equal in all studies
        that measure it, such as "test accuracy, small minus large batch".
    estimand: a key of `ESTIMANDS`; needed if there is an effect.
    method, against, dataset, model, condition, matched_by: see the top of this module.
    runs: the number of runs that the estimate is based on. scale: of the study; empty: that of the report.

    Raises ValueError for an outcome or an estimand that is none, and for an effect without quantity, unit or estimand.
    """

    claim: str
    source: str
    outcome: Outcome
    quantity: str = ""
    effect: float = math.nan
    low: float = math.nan
    high: float = math.nan
    unit: str = ""
    estimand: Estimand = ""
    runs: int = 0
    scale: str = ""
    method: str = ""
    against: str = ""
    dataset: str = ""
    model: str = ""
    condition: str = ""
    matched_by: str = ""

    def __post_init__(self) -> None:
        if self.outcome not in get_args(Outcome):
            raise ValueError(f"outcome={self.outcome!r}; accepted: {', '.join(get_args(Outcome))}")
        if self.estimand not in get_args(Estimand):
            raise ValueError(f"estimand={self.estimand!r}; accepted: {', '.join(ESTIMANDS)}")
        missing = [name for name in ("quantity", "unit", "estimand") if not getattr(self, name)]
        if not math.isnan(self.effect) and missing:
            raise ValueError(f"claim {self.claim!r}: has an effect, and no {' and no '.join(missing)}")
        if self.low > self.high:
            raise ValueError(f"claim {self.claim!r}: low={self.low:g} is above high={self.high:g}")


def table(claims: Sequence[Claim], study: str, scale: str = "") -> "pd.DataFrame":
    """The claims as a table with the columns `COLUMNS`."""
    import pandas as pd

    renamed = {"estimate": "effect", "kind": "estimand"}
    rows = [
        {name: getattr(claim, renamed.get(name, name)) for name in COLUMNS if name not in ("scale", "study")}
        | {"scale": claim.scale or scale, "study": study}
        for claim in claims
    ]
    return pd.DataFrame(rows, columns=list(COLUMNS))


def consistent(rows: "pd.DataFrame", known: "pd.DataFrame | None" = None) -> "pd.DataFrame":
    """The pairs of claims that contradict each other, with the columns `CONTRADICTIONS`; empty if all are consistent.

    rows: the tables of several studies, one below the other. Claims of the same quantity, method and reference are compared
    in common units (`in_common_units`).

    Estimates, at the same place (dataset, model, condition, matched_by; an empty field stands for any): a contradiction if
    |z| > 3 for z = (a - b) / sqrt(se_a² + se_b²), where se is half the width of the 95 % interval over 1.96, so that an
    estimate without an interval is not compared. Values of `LOGARITHMIC` units are compared as logarithms.

    Trends, of the unit "exponent", anywhere: a contradiction if both intervals exclude 0, on opposite sides.

    known: columns quantity, method, against, study, other and reason; the ``reason`` of a contradiction between the two
    studies is copied, and is empty otherwise.
    """
    import pandas as pd

    reasons = {_identity(row): str(row["reason"]).strip() for row in _records(known)}
    claims = [in_common_units(row) for row in _records(rows)]
    claims = [row for row in claims if row["quantity"] and not math.isnan(row["estimate"])]
    found = []
    for one, other in combinations(claims, 2):
        if any(one[name] != other[name] for name in ("quantity", "unit", "method", "against")):
            continue
        z, kind = _z(one, other), ""
        if one["unit"] == EXPONENT:
            kind = "opposite trends" if one["low"] > 0 > other["high"] or one["high"] < 0 < other["low"] else ""
        elif _same_place(one, other) and abs(z) > _LARGEST_Z:
            kind = "different values"
        if kind:
            pair = {name: one[name] for name in CONTRADICTIONS if name in one}
            pair |= {"other": other["study"], "z": z, "contradiction": kind}
            pair |= {f"other_{name}": other[name] for name in ("condition", "estimate", "low", "high")}
            found.append(pair | {"reason": reasons.get(_identity(pair), "")})
    return pd.DataFrame(found, columns=list(CONTRADICTIONS))


def in_common_units(row: Mapping[str, Any]) -> Row:
    """A claim in the units in which claims are compared.

    Steps become examples by the batch of its condition, and a ratio of steps at the batches A:B a ratio of examples by A / B
    (14.5 in steps at 200:1000 is 2.9 in examples); without a batch they stay. Fractions become points, of which 1 has 100. A
    claim of b against a becomes one of a against b if a comes first in the alphabet.
    """
    made: Row = dict(row)
    batches = _BATCHES.search(made["condition"])
    if batches and made["unit"] == "steps":
        made = _scaled(made, float(batches[1]), "examples")
    elif batches and made["unit"] == RATIO_OF_STEPS:
        made = _scaled(made, float(batches[1]) / float(batches[2] or batches[1]), RATIO_OF_EXAMPLES)
    elif made["unit"] == "fraction":
        made = _scaled(made, 100.0, "points")
    return _turned(made) if made["against"] and made["against"] < made["method"] else made


def _scaled(row: Row, factor: float, unit: str) -> Row:
    return row | {name: row[name] * factor for name in ("estimate", "low", "high")} | {"unit": unit}


def _turned(row: Row) -> Row:
    """The claim of the other method against this one: a ratio is inverted, and anything else changes its sign."""

    def turn(value: float) -> float:
        return -value if row["unit"] not in LOGARITHMIC else 1 / value if value else math.inf

    values = {"estimate": turn(row["estimate"]), "low": turn(row["high"]), "high": turn(row["low"])}
    condition = _BATCHES.sub(lambda found: f"batch={found[2]}:{found[1]}" if found[2] else found[0], row["condition"])
    return row | values | {"method": row["against"], "against": row["method"], "condition": condition}


def _z(one: Row, other: Row) -> float:
    """The difference of two estimates over its standard error; NaN if an interval is missing or infinite."""
    scale = math.log if one["unit"] in LOGARITHMIC else float
    try:
        (a, error_a), (b, error_b) = (
            (scale(row["estimate"]), (scale(row["high"]) - scale(row["low"])) / (2 * _NORMAL)) for row in (one, other)
        )
    except ValueError:  # the logarithm of a bound that is not positive
        return math.nan
    error = math.hypot(error_a, error_b)
    return (a - b) / error if 0 < error < math.inf else math.nan


def _same_place(one: Row, other: Row) -> bool:
    return all(not one[name] or not other[name] or one[name] == other[name] for name in _COMPARED)


def _identity(row: Mapping[str, Any]) -> tuple[Any, ...]:
    """The quantity, the two methods and the two studies, in any order."""
    return row["quantity"], *(frozenset((row[a], row[b])) for a, b in (("method", "against"), ("study", "other")))


def _records(frame: "pd.DataFrame | None") -> Iterable[Row]:
    """The rows, with empty text where a file has none."""
    if frame is None:
        return []
    numbers = ("estimate", "low", "high")
    return [
        {
            str(name): float(value) if name in numbers else "" if value is None or value != value else value
            for name, value in row.items()
        }
        for row in frame.to_dict("records")
    ]
