"""Online gradient regression on Beale's function from 125 starts, and on a network, beside tuned momentum and Adam."""

import math

import numpy as np
import pandas as pd
from beale_values import PRINTED, TUNED, interval
from beale_values import table_of as beale_table
from network_losses import curvatures, differences
from network_losses import interval as network_interval
from network_losses import table_of as network_table
from regression_claims import FACTOR, FACTORS, claims

from optbench.analysis.charts.chart import Chart, Series
from optbench.analysis.findings import Findings
from optbench.analysis.names import method
from optbench.analysis.study import Study

QUESTION = (
    "Do curvatures that a regression of gradients finds along the way save steps on Beale's function, as its author prints, and "
    "on a network that is trained on mini-batches?"
)
COLUMNS = ["event", "step", "loss", "validation_loss", "seconds"]
DIAGNOSTICS = ["optimizer_curvature", "optimizer_noise_floor", "optimizer_significant"]


def analyse(study: Study) -> Findings:
    """Geometric means on Beale's function beside those printed, then losses, seconds and curvatures of the network."""
    ended = study.runs[study.runs["status"].isin(["done", "diverged"])]
    if ended.empty:
        return Findings(QUESTION, "Not enough runs for an answer: none has ended.")
    history = study.histories([*COLUMNS, *DIAGNOSTICS])
    values = beale_table(ended)
    network = network_table(ended, history)
    compared, seen = differences(ended, network), curvatures(ended, history)
    tables = {"beale": values, "network": network, "differences": compared, "curvatures": seen}
    charts = [*_beale_chart(values), *_path_chart(ended, network, history), *_curvature_chart(seen)]
    notes = [*_beale_notes(values), *_network_notes(network, compared), *_curvature_notes(seen)]
    notes.append(
        "The step of OGR is that of its author's notebooks; noise floor, exact statistics, transport and constants for networks "
        "are reconstructions."
    )
    return Findings(
        QUESTION,
        _answer(values, compared),
        charts,
        {name: frame for name, frame in tables.items() if len(frame)},
        notes,
        claims=claims(ended, values, compared),
    )


# ---- words --------------------------------------------------------------------------------------------------------------


def _rows(values: pd.DataFrame) -> dict[str, dict]:
    return {row["method"]: row for row in values.to_dict("records")}


def _answer(values: pd.DataFrame, compared: pd.DataFrame) -> str:
    rows, words = _rows(values), []
    if "full" in rows:
        found = f"On Beale's function OGR with the author's constants ends at {interval(rows['full']):.2g}"
        tuned = [name for name in TUNED if name in rows]
        if tuned:
            found += ", " + " and ".join(f"{name} at {interval(rows[name]):.2g}" for name in tuned)
        words.append(f"{found} (geometric means over 125 starts)")
        far = [row["geometric_mean"] for name, row in rows.items() if name.startswith("full, shifted")]
        if far:
            words.append(
                "with the same problems moved away from the origin, which changes no other method, it ends at "
                + (f"{far[0]:.2g}" if len(far) == 1 else f"{min(far):.2g} to {max(far):.2g}")
            )
    if len(compared):
        words.append(f"on the network {_compared(compared)}")
    return f"{'; '.join(words)}." if words else "Not enough runs for an answer."


def _compared(compared: pd.DataFrame) -> str:
    return ", ".join(
        f"its test loss is {row['difference']:+.3f} [{row['low']:+.3f}, {row['high']:+.3f}] against {method(row['other'])}"
        f"{'' if single else ' on ' + row['dataset']}"
        for single in [compared["dataset"].nunique() == 1]
        for row in compared.to_dict("records")
    )


def _beale_notes(values: pd.DataFrame) -> list[str]:
    rows, notes = _rows(values), []
    printed = [row for name, row in rows.items() if name in PRINTED]
    for row in printed:
        limit = FACTORS.get(row["method"], FACTOR)
        inside = 1 / limit <= row["over_printed"] <= limit
        notes.append(
            f"{row['method']}: {interval(row):.3g} where the notebook prints {row['printed']:.3g}, a factor of "
            f"{row['over_printed']:.2f}: {'agrees' if inside else 'does not agree'} within a factor of {limit:g}."
        )
    edges = [row["method"] for row in rows.values() if row["at_edge"]]
    if edges:
        notes.append(f"The best learning rate is the smallest or largest that was tried: {', '.join(edges)}.")
    best = min((rows[name] for name in TUNED if name in rows), key=lambda row: row["geometric_mean"], default=None)
    if best and "full" in rows:
        ratio = best["geometric_mean"] / rows["full"]["geometric_mean"]
        notes.append(
            f"Tuned over five learning rates, the best of the other methods ({best['method']}) ends at {ratio:.1f} times the "
            "value of the full variant, whose own constants its author has chosen on this very problem."
        )
    notes += _moved_notes(rows)
    return notes


def _moved_notes(rows: dict[str, dict]) -> list[str]:
    """The values of the same problems away from the origin, of the author's statistics and of exact ones."""
    each = []
    for name in ("full", "one direction"):
        found = ", ".join(
            f"{interval(rows[far]):.2g} by {far.rpartition(' ')[2]}"
            for far in sorted(rows)
            if far.startswith(f"{name}, shifted")
        )
        if found and name in rows:
            each.append(
                f"the variant {name} ends at {interval(rows[name]):.2g} there and, with all starts moved, at {found}"
            )
    notes = []
    if each:
        notes.append(
            "The author's statistics count a gradient of 0 at the origin, near which the starts lie, so that moving the problem "
            f"in each weight changes the result, which it should not: {'; '.join(each)}."
        )
    near, far = rows.get("full, exact statistics"), rows.get("full, exact statistics, shifted by 4")
    if near and far:
        notes.append(
            f"Statistics of the points alone, which do not depend on the origin, end at {interval(near):.2g}, and at "
            f"{interval(far):.2g} with all starts moved by 4."
        )
    return notes


def _network_notes(network: pd.DataFrame, compared: pd.DataFrame) -> list[str]:
    notes = []
    for dataset, group in network.groupby("dataset", sort=False) if len(network) else ():
        each = ", ".join(
            f"{method(row['optimizer'])} {network_interval(row, 'test_loss'):.3f} ({row['accuracy']:.1%}, learning rate "
            f"{row['learning_rate']:g} of {row['rates']}, {row['seconds']:.1f} s)"
            for row in group.to_dict("records")
        )
        early = ", ".join(
            f"{method(row['optimizer'])} {network_interval(row, 'loss_at_equal_seconds'):.3f}"
            for row in group.to_dict("records")
        )
        notes.append(f"{dataset}, test loss after equal steps: {each}.")
        notes.append(
            f"{dataset}, validation loss after {group['equal_seconds'].iloc[0]:.1f} s of training, which the quickest method "
            f"takes for all of its steps: {early}."
        )
        if edges := [str(method(row["optimizer"])) for row in group.to_dict("records") if row["at_edge"]]:
            notes.append(
                f"{dataset}: the best learning rate is the smallest or largest that was tried for {', '.join(edges)}."
            )
    for row in compared.to_dict("records"):
        if math.isnan(row["low"]):
            continue
        verdict = "lower than" if row["high"] < 0 else "higher than" if row["low"] > 0 else "not told from"
        notes.append(
            f"{row['dataset']}: by seed the test loss of OGR is {verdict} that of {method(row['other'])}, "
            f"{row['difference']:+.4f} [{row['low']:+.4f}, {row['high']:+.4f}]."
        )
    return notes


def _curvature_notes(seen: pd.DataFrame) -> list[str]:
    return [
        f"{row['dataset']}, learning rate {row['learning_rate']:g}: the largest curvature that OGR sees is "
        f"{row['curvature']:.3g}, noise leaves a deviation of {row['noise_floor']:.3g} in it, and the largest eigenvalue of the "
        f"Hessian at the end is {row['top_eigenvalue']:.3g}; {row['significant']:.0%} of the curvatures exceed twice their noise."
        for row in seen.to_dict("records")
    ]


# ---- figures ------------------------------------------------------------------------------------------------------------


def _beale_chart(values: pd.DataFrame) -> list[Chart]:
    if values.empty:
        return []
    names = list(values["method"])
    printed = values[values["printed"].notna()]
    series = [
        Series(
            label="here", x=names, y=values["geometric_mean"], low=values["low"], high=values["high"], kind="points"
        ),
        Series(label="printed in the notebook", x=list(printed["method"]), y=printed["printed"], kind="points"),
    ]
    return [
        Chart(
            name="beale",
            title="Final values on Beale's function",
            caption=(
                "Geometric means over 125 starts after 50 steps with gradient noise 0.1, over seeds that chose no learning "
                "rate; bars are 95 % Student intervals of the mean logarithm over seeds. Tuned rows have five learning rates."
            ),
            y_label="Geometric mean of f",
            log_y=True,
            horizontal=True,
            series=series,
        )
    ]


def _path_chart(runs: pd.DataFrame, network: pd.DataFrame, history: pd.DataFrame) -> list[Chart]:
    if network.empty:
        return []
    dataset = network["dataset"].iloc[0]
    series = []
    for row in network[network["dataset"] == dataset].to_dict("records"):
        own = runs[
            (runs["dataset"] == dataset)
            & (runs["optimizer"] == row["optimizer"])
            & (runs["base_learning_rate"] == row["learning_rate"])
        ]
        here = history[
            (history["event"] == "evaluation") & history["run_id"].isin(own["run_id"]) & (history["step"] > 0)
        ]
        groups = here.dropna(subset=["validation_loss"]).groupby("step")
        losses, seconds = groups["validation_loss"].mean(), groups["seconds"].median()
        for panel, x in (("Steps", losses.index), ("Seconds of training", seconds)):
            series.append(Series(label=str(method(row["optimizer"])), x=list(x), y=losses, panel=panel))
    return [
        Chart(
            name="network",
            title=f"A network on {dataset}",
            caption="Mean validation loss over all seeds at the chosen learning rates, against steps and against median seconds.",
            y_label="Validation loss",
            log_y=True,
            x_labels={"Steps": "Steps", "Seconds of training": "Seconds"},
            series=series,
        )
    ]


def _curvature_chart(seen: pd.DataFrame) -> list[Chart]:
    if seen.empty:
        return []
    own = seen[seen["dataset"] == seen["dataset"].iloc[0]]
    rates = own["learning_rate"]
    labels = {
        "curvature": "largest curvature seen",
        "noise_floor": "its noise",
        "top_eigenvalue": "largest eigenvalue of the Hessian",
    }
    series = [
        Series(label=label, x=rates, y=own[name]) for name, label in labels.items() if np.isfinite(own[name]).any()
    ]
    return [
        Chart(
            name="curvatures",
            title="Curvature that the regression sees on the network",
            caption="Medians over the second half of the steps; the Hessian is that of 2,000 training examples at the end.",
            x_label="Learning rate of OGR",
            y_label="Curvature",
            log_x=True,
            ticks_at_x=True,
            log_y=True,
            series=series,
        )
    ]
