"""The findings in words, from the tables and claims of the study."""

import math
from collections import Counter
from collections.abc import Sequence

import pandas as pd

from optbench.analysis.claims import Claim
from optbench.analysis.laws.transfer import LOSS_ALLOWED
from optbench.analysis.names import method
from optbench.analysis.statistics.intervals import Interval
from optbench.analysis.study import Study


def _interval(row: pd.Series, name: str, digits: str) -> str:
    low, high = ("low", "high") if name == "exponent" else (f"{name}_low", f"{name}_high")
    return f"{Interval(row[name], row[low], row[high]):{digits}}"


def answer(found: Sequence[Claim], table: pd.DataFrame, optima: pd.DataFrame, study: Study) -> str:
    """The outcomes of the claims, and the exponent of every optimizer, or that there are not enough runs for one."""
    known = table[table["exponent"].notna() & (table["batches"] > 1)] if len(table) else table
    if known.empty:
        sizes = ", ".join(str(batch) for batch in sorted(optima["batch"].unique()))
        return (
            f"{_verdict(found)}Not enough runs for an exponent, which takes two batch sizes at which the best rate lies inside "
            "its grid. "
            f"The runs have the batch sizes {sizes}. The command "
            f"python -m optbench -m experiment={study.name} scale=laptop trains at nine."
        )
    parts = []
    for _, row in known.sort_values("exponent").iterrows():
        reach = f"from batch {row['smallest_batch']:.0f} to {row['largest_batch']:.0f}"
        words = f"{method(row['optimizer'])} as batch^{_interval(row, 'exponent', '.2f')} {reach}"
        if row["bent"]:
            words += f", with a bend at batch {_interval(row, 'bend', '.0f')}"
        parts.append(words)
    held = [(_holding(known, value), name) for value, name in ((1.0, "linear"), (0.5, "square-root"))]
    rules = "; ".join(f"the {name} rule is compatible with {who}" for who, name in held)
    return (
        f"{_verdict(found)}Where training comes within 5 % of the best loss, the best learning rate grows: {'; '.join(parts)}. "
        f"By these intervals {rules}."
    )


def _verdict(found: Sequence[Claim]) -> str:
    """A sentence with the outcomes of the claims that were tested, and a space; empty if there are none."""
    tested = Counter(claim.outcome for claim in found if claim.outcome != "not tested")
    if not tested:
        return ""
    outcomes = ", ".join(f"{outcome} {tested[outcome]}" for outcome in ("agrees", "disagrees", "undecided"))
    return f"Claims of papers about the linear and the square-root rule: {outcomes}. "


def _holding(rows: pd.DataFrame, value: float) -> str:
    holds = rows[(rows["low"] <= value) & (value <= rows["high"])]
    return ", ".join(method(name) for name in holds["optimizer"]) or "none of them"


def notes(
    table: pd.DataFrame, optima: pd.DataFrame, reach: pd.DataFrame, predicted: pd.DataFrame, noise: pd.DataFrame
) -> Sequence[str]:
    """Sentences about bends, the reach of each rule, the laws without a seed, predictions, noise scales and edges."""
    said = [
        "An exponent is the local slope over the batch sizes whose best loss is within 5 % of the least. Its 95 % interval is "
        "the union of that over seeds (and over the cells that a search did not train) and of that of the regression over batch "
        "sizes; below four batch sizes the scatter around a law is not known, and there is no interval."
    ]
    for _, row in table.iterrows():
        if math.isfinite(row["bend"]):
            told = "is told from a line" if row["bent"] else "is not told from a line"
            said.append(
                f"{method(row['optimizer'])}: a bend at batch {_interval(row, 'bend', '.0f')} {told}: over draws the slope falls "
                f"by {_interval(row, 'change', '.2f')}, and p = {row['p_bend']:.3f} by the scatter alone. It is "
                f"{_interval(row, 'slope_before', '.2f')} before and {_interval(row, 'slope_after', '.2f')} after it. Slopes "
                f"within 3 % and 10 % of the least loss are {row['exponent_within_3']:.2f} and {row['exponent_within_10']:.2f}."
            )
    said += _reach_notes(reach)
    hang = [row for _, row in table.iterrows() if math.isfinite(row["least_without_a_seed"])]
    if hang:
        each = ", ".join(
            f"{method(row['optimizer'])} {row['least_without_a_seed']:.2f} to {row['most_without_a_seed']:.2f}"
            for row in hang
        )
        said.append(
            f"Without the runs of one seed, the exponents are: {each}. A claim or a bend that is not told without one of the "
            "seeds counts as undecided."
        )
    for step, rows in predicted.groupby("step"):
        each = ", ".join(f"{method(row['optimizer'])} {row['exponent']:.2f}" for _, row in rows.iterrows())
        said.append(
            f"The batch Hessian at step {step} predicts that the largest stable rate grows with the exponents {each} between the "
            f"batches {rows['smallest_batch'].min()} and {rows['largest_batch'].max()}."
        )
    if len(noise):
        scales = noise["noise_scale"]
        said.append(
            f"The gradient noise scale is {scales.median():.0f} examples (median of {len(noise)} measurements from "
            f"{scales.min():.0f} to {scales.max():.0f}), where a linear law is predicted to bend."
        )
    ends = optima[(optima["beyond_lowest"] > 0.5) | (optima["beyond_highest"] > 0.5)]
    if len(ends):
        cells = ", ".join(f"{method(row['optimizer'])} at batch {row['batch']}" for _, row in ends.iterrows())
        said.append(f"The best rate is an end of the grid, and only a bound: {cells}.")
    return said


def _reach_notes(reach: pd.DataFrame) -> list[str]:
    """A sentence for each rule: the batch sizes up to which it carries the rate over without loss."""
    said = []
    for rule, rows in reach.groupby("rule", sort=False) if len(reach) else ():
        scaled = rule if rule == "no scaling" else f"{rule} scaling"
        each = ", ".join(
            f"{method(row['optimizer'])} {row['batch']:.0f} ({row['surely']:.0f})" for _, row in rows.iterrows()
        )
        said.append(
            f"The rate of the smallest batch, carried over with {scaled}, costs at most {100 * LOSS_ALLOWED:g} % of "
            f"the validation loss up to batch: {each}. In brackets: up to which the whole interval of the cost lies below."
        )
    return said
