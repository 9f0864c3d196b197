"""The charts of the study: accuracy and loss against bytes, differences to dense, periods on both kinds of shards, batches."""

from collections.abc import Mapping

import pandas as pd
from communication_conditions import CONSTANT, LOCAL, METRIC, RATE

from optbench.analysis.charts.chart import Chart, Reference, Series

_PANELS = {"test_accuracy": "Test accuracy", "train_loss": "Training loss"}


def charts_of(tables: Mapping[str, pd.DataFrame], batch: int) -> list[Chart]:
    """All charts that have something to show; ``batch`` is the one at which all conditions were run."""
    results = tables["results"]
    own = results[(results["batch"] == batch) & (results["schedule"] == CONSTANT)]
    charts = [
        _against_bytes(own),
        _minus_dense(tables.get("minus_dense", pd.DataFrame()), batch),
        _shards(own),
        _batches(tables),
        _rates(tables["by_rate"]),
    ]
    return [chart for chart in charts if chart.series]


def _against_bytes(own: pd.DataFrame) -> Chart:
    series = []
    alike = own[(own["shards"] == "alike") & own["bytes"].notna()]
    for method, rows in alike.sort_values("bytes").groupby("method", sort=False):
        for result, panel in _PANELS.items():
            y, low, high = rows[result], rows[f"{result}_low"], rows[f"{result}_high"]
            texts = list(rows["condition"])
            series.append(Series(label=str(method), x=rows["bytes"], y=y, low=low, high=high, panel=panel, texts=texts))
    return Chart(
        name="accuracy_against_bytes",
        title="Accuracy and training loss against the bytes that a worker sends in a step",
        caption="Each condition at its chosen rate, on shards alike: means over the reporting seeds with 95 % Student intervals. "
        "Bytes are those of the formulas, on the average over the run.",
        x_label="Bytes sent per worker and step",
        log_x=True,
        share_y=False,
        series=series,
    )


def _minus_dense(prices: pd.DataFrame, batch: int) -> Chart:
    series = []
    for result, panel in (("test_accuracy", "Test accuracy (points)"), ("train_loss", "Training loss")):
        rows = prices[prices["metric"] == result] if len(prices) else prices
        factor = 100 if result == "test_accuracy" else 1
        if len(rows):
            low, high = factor * rows["joint_low"], factor * rows["joint_high"]
            y = factor * rows["difference"]
            series.append(
                Series(label="minus dense", x=rows["condition"], y=y, kind="points", low=low, high=high, panel=panel)
            )
    return Chart(
        name="minus_dense",
        title=f"Differences to dense at batch {batch}",
        caption="Paired by seed, each condition at its chosen rate; Student intervals that hold for all rows of a panel together "
        "(95 %, Bonferroni).",
        y_label="Difference to dense",
        horizontal=True,
        share_y=False,
        series=series,
        references=[Reference(0.0)],
    )


def _shards(own: pd.DataFrame) -> Chart:
    series = []
    for shards, rows in own[own["method"] == LOCAL].groupby("shards"):
        rows = rows.sort_values("period")
        low, high = rows["test_accuracy_low"], rows["test_accuracy_high"]
        series.append(Series(label=f"{shards} shards", x=rows["period"], y=rows["test_accuracy"], low=low, high=high))
    return Chart(
        name="shards",
        title="Local steps on shards alike and on shards sorted by label",
        caption="Each condition at its chosen rate: means over the reporting seeds with 95 % Student intervals.",
        x_label="Period H (steps)",
        y_label="Test accuracy",
        percent_y=True,
        log_x=True,
        ticks_at_x=True,
        series=series,
    )


def _batches(tables: Mapping[str, pd.DataFrame]) -> Chart:
    parts = [tables[name] for name in ("minus_dense", "minus_dense_larger_batches") if name in tables]
    series: list[Series] = []
    if len(parts) == 2:
        rows = pd.concat(parts)
        rows = rows[rows["metric"] == "test_accuracy"]
        for condition in parts[1]["condition"].unique():
            own = rows[rows["condition"] == condition].sort_values("batch")
            points = {name: 100 * own[column] for name, column in _OWN_INTERVAL.items()}
            series.append(Series(label=str(condition), x=own["batch"], **points))
    return Chart(
        name="larger_batches",
        title="Differences to dense against batch size at equal epochs",
        caption="Test accuracy minus that of dense at the same batch, paired by seed, each at its chosen rate; 95 % Student "
        "intervals, each by itself.",
        x_label="Batch size (examples)",
        y_label="Test accuracy minus dense (points)",
        log_x=True,
        ticks_at_x=True,
        series=series,
        references=[Reference(0.0)],
    )


_OWN_INTERVAL = {"y": "difference", "low": "low", "high": "high"}


def _rates(by_rate: pd.DataFrame) -> Chart:
    """The validation accuracy by which rates were chosen, in a panel for each batch, sorted shards and the other schedule."""
    series = []
    known = by_rate[by_rate[METRIC].notna()]
    for (size, condition, schedule), rows in known.groupby(["batch", "condition", "schedule"], sort=False):
        panel = "sorted shards" if "sorted" in condition else f"batch {size}"
        panel += "" if schedule == CONSTANT else f", {schedule}"
        label = condition.removesuffix(", sorted shards")
        series.append(Series(label=label, x=rows[RATE], y=rows[METRIC], panel=panel))
    return Chart(
        name="rates",
        title="Validation accuracy against the learning rate",
        caption="Means over the seeds of the search, by which rates were chosen. A rate at which a seed diverged is left out.",
        x_label="Learning rate",
        y_label="Validation accuracy",
        percent_y=True,
        log_x=True,
        series=series,
    )
