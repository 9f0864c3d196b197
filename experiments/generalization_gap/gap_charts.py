"""The figures of the study: accuracy and best rate against the batch, the remedies, and test accuracy against train loss."""

import numpy as np
import pandas as pd
from gap_conditions import PLAIN, Conditions, in_words, words_of_epochs

from optbench.analysis.charts.chart import Chart, Reference, Series
from optbench.analysis.statistics.intervals import student


def by_batch_chart(best: pd.DataFrame) -> Chart:
    """Test accuracy of every method at the best rate of every batch."""
    return Chart(
        name="test_accuracy",
        title="Test accuracy against batch size, each at its own best learning rate",
        caption="Equal epochs, rates by validation loss; 95 % intervals for the search, in which rates are chosen again.",
        x_label="Batch size (examples)",
        y_label="Test accuracy",
        log_x=True,
        percent_y=True,
        ticks_at_x=True,
        series=_of_plain(best, "search_test_accuracy", "search_low", "search_high"),
    )


def rates_chart(best: pd.DataFrame) -> Chart:
    """The best learning rate of every batch."""
    return Chart(
        name="best_rates",
        title="Best learning rate against batch size",
        caption="By validation loss; bars hold the rates that 95 % of the draws choose.",
        x_label="Batch size (examples)",
        y_label="Learning rate",
        log_x=True,
        log_y=True,
        ticks_at_x=True,
        series=_of_plain(best, "rate", "rate_low", "rate_high"),
    )


def remedies_chart(added: pd.DataFrame) -> Chart:
    """The gain of every remedy, for the search and for the rates found."""
    series = []
    kinds = {
        "for the search": ("search_difference", "search_low", "search_high"),
        "for the rates found": ("difference", "low", "high"),
    }
    for label, columns in kinds.items() if len(added) else ():
        rows = added[added[columns[0]].notna()]
        if len(rows):
            y, low, high = (100 * rows[column] for column in columns)
            series.append(Series(label=label, x=rows["remedy"], y=y, low=low, high=high, kind="points"))
    return Chart(
        name="remedies",
        title="Test accuracy that each remedy adds to the plain large batch",
        caption="Momentum SGD at the large batch; each remedy at its own best rate, except where a rule carries that of the "
        "small batch. 95 % intervals; for the rates found they are paired by seed.",
        y_label="Test accuracy gained (points)",
        horizontal=True,
        series=series,
        references=[Reference(0.0)],
    )


def matched_chart(found: Conditions) -> Chart:
    """Test accuracy against train loss at the ends of schedules of different length."""
    series = []
    for batch in (found.small, found.large):
        ends = [
            (
                epochs,
                student(best.found("train_loss").to_numpy(float)),
                student(best.found("test_accuracy").to_numpy(float)),
            )
            for epochs, best in found.longer(batch).items()
        ]
        known = [end for end in ends if np.isfinite(end[1].estimate)]
        if known:
            series.append(
                Series(
                    label=f"batch {batch}",
                    x=[train.estimate for _, train, _ in known],
                    y=[test.estimate for *_, test in known],
                    low=[test.low for *_, test in known],
                    high=[test.high for *_, test in known],
                    texts=[words_of_epochs(epochs) for epochs, *_ in known],
                )
            )
    return Chart(
        name="equal_train_loss",
        title="Test accuracy against train loss, at the ends of shorter and longer schedules",
        caption="Momentum SGD at the best rate of each length; points from right to left are longer schedules. 95 % Student "
        "intervals over seeds.",
        x_label="Train loss",
        y_label="Test accuracy",
        log_x=True,
        percent_y=True,
        series=series,
    )


def _of_plain(best: pd.DataFrame, y: str, low: str, high: str) -> list[Series]:
    """A line over the batch sizes for every method without a remedy, from columns of `gap_tables.best_table`."""
    plain = best[best["condition"] == PLAIN].sort_values("batch")
    return [
        Series(label=in_words(str(method)), x=rows["batch"], y=rows[y], low=rows[low], high=rows[high])
        for method, rows in plain.groupby("method", sort=False)
    ]
