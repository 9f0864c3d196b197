"""The figures of the study: measures against test loss, factors of both protocols, curves, lines between minima, and planes."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pandas as pd
from landscape_minima import COMPARED, MATCHED, MEASURES, PROTOCOLS, Minima, in_words, lines_by_decay

from optbench.analysis.charts.chart import Chart, Reference, Series
from optbench.analysis.charts.landscape import scale_of, surface
from optbench.analysis.laws.minima import line_chart, over_seeds

_WORDS = {"equal train loss": "equal_train_loss", "equal epochs": "equal_epochs"}


def charts(minima: Minima, differences: pd.DataFrame) -> list[Chart]:
    """All figures for which there are measurements."""
    made = [_against_test_loss(minima), _factors(differences, minima.rate), _curves(minima)]
    for protocol in PROTOCOLS:
        if lines := lines_by_decay(minima, protocol):
            chart = line_chart(lines, *minima.batches, "seed and weight decay")
            title = f"{chart.title}, at {protocol}"
            made.append(replace(chart, name=f"lines_{_WORDS[protocol]}", title=title))
    made += _planes(minima)
    return [chart for chart in made if chart.series or chart.surface is not None]


def _batch(batch: float) -> str:
    return f"batch {batch:,.0f}"


def _against_test_loss(minima: Minima) -> Chart:
    """Test loss against each measure, a point for each minimum of equal train loss: colours are decays, markers are batches."""
    table, series = minima.of(MATCHED), []
    decays, batches = (sorted(table[name].unique()) for name in ("weight_decay", "batch"))
    for name, meaning in MEASURES.items():
        for (decay, batch), here in table.groupby(["weight_decay", "batch"]):
            label = f"{in_words(decay)}, {_batch(batch)}"
            looks = {"look": decays.index(decay), "marker": batches.index(batch)}
            points = {"x": here[name], "y": here["test_loss"], "runs": here["run_id"]}
            series.append(Series(label=label, kind="points", panel=meaning, **points, **looks))
    return Chart(
        name="measures_against_test_loss",
        title="Test loss against measures of sharpness, at equal train loss",
        caption="A point for each minimum, of all learning rates: colours are weight decays, markers are batch sizes.",
        x_labels=dict.fromkeys(MEASURES.values(), ""),  # the titles of the panels say what x is
        y_label="Test loss",
        log_x=True,
        columns=2,
        series=series,
    )


def _factors(differences: pd.DataFrame, rate: float) -> Chart:
    """Large over small batch, of every measure, at equal train loss and at equal epochs."""
    series = []
    rows = differences[differences["learning_rate"] == rate] if len(differences) else differences
    for name, meaning in COMPARED.items() if len(rows) else ():
        for protocol in PROTOCOLS:
            here = rows[(rows["measure"] == name) & (rows["protocol"] == protocol)]
            if len(here):
                values = {"y": here["ratio"], "low": here["low"], "high": here["high"]}
                x = [f"{decay:g}" for decay in here["weight_decay"]]
                series.append(Series(label=protocol, x=x, kind="points", panel=meaning, **values))
    return Chart(
        name="factors",
        title="Measures of sharpness, large over small batch",
        caption=f"At learning rate {rate:g}: geometric means over seeds, paired, with 95 % Student intervals.",
        x_label="Weight decay",
        y_label="Large over small batch",
        log_y=True,
        share_y=False,
        columns=2,
        series=series,
        references=[Reference(1.0)],
    )


def _curves(minima: Minima) -> Chart:
    series = []
    table = minima.of(MATCHED)
    for (decay, batch), here in table[table["learning_rate"] == minima.rate].groupby(["weight_decay", "batch"]):
        known = [minima.curves[run_id] for run_id in here["run_id"]]
        found = over_seeds([loss for _, loss in known])
        label, panel = _batch(batch), in_words(decay)
        series.append(Series(label=label, x=known[0][0], kind="curve", band=True, panel=panel, **found))
    return Chart(
        name="curves",
        title="The loss along filter-normalized directions, at equal train loss",
        caption=f"Training loss at learning rate {minima.rate:g}, the mean over random directions and seeds; bands from the "
        "smallest to the largest seed.",
        x_label="Filter-normalized position",
        y_label="Training loss",
        columns=3,
        series=series,
    )


def _planes(minima: Minima) -> list[Chart]:
    """The planes around the measured minima, all in one scale of colours."""
    table = minima.table[minima.table["run_id"].isin(minima.planes)].sort_values(["weight_decay", "batch"])
    losses: Sequence[np.ndarray] = [minima.planes[run_id]["loss_surface"] for run_id in table["run_id"]]
    scale, made = scale_of(losses), []
    for (_, run), loss in zip(table.iterrows(), losses, strict=True):
        arrays = minima.planes[run["run_id"]]
        words = f"{_batch(run['batch'])}, {in_words(run['weight_decay'])}"
        made.append(
            surface(
                arrays["x"],
                arrays["y"],
                loss,
                normalization="filter-normalized",
                name=f"plane_batch_{run['batch']}_decay_{run['weight_decay']:g}".replace(".", "_"),
                title=f"The loss around a minimum: {words}",
                caption=f"Training loss at {run['protocol']}, learning rate {run['learning_rate']:g}, seed {run['seed']}. All "
                "planes have the same two random directions before normalization, and the same colours.",
                scale=scale,
            )
        )
    return made
