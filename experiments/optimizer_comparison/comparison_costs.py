"""The result of the tuned optimizers against what a run of them costs: FLOPs, seconds, and bytes."""

from collections.abc import Callable, Sequence

import pandas as pd

from optbench.analysis.charts.chart import Chart, Series
from optbench.analysis.names import method
from optbench.analysis.statistics.costs import COSTS, missing, with_costs


def costs_of_best(tuned: pd.DataFrame, cell: Sequence[str], result: str) -> pd.DataFrame:
    """The ``result`` of the best trial of each ``cell`` and the costs of a run of it, means over the seeds that are done."""
    done = with_costs(tuned[tuned["status"] == "done"])
    return done.groupby(list(cell), sort=False)[[result, *(cost.name for cost in COSTS)]].mean().reset_index()


def missing_costs(tuned: pd.DataFrame) -> list[str]:
    """A sentence for each cost that some of the runs lack."""
    return missing(with_costs(tuned[tuned["status"] == "done"]))


def charts_against_costs(
    costs: pd.DataFrame, result: str, shown: Sequence[str], problem: Callable[[pd.Series], str]
) -> list[Chart]:
    """One chart for each cost, with a panel for each problem and a point for each optimizer in ``shown``."""
    charts = []
    for cost in COSTS:
        series = []
        for _, row in costs[costs[cost.name].notna() & costs["optimizer"].isin(shown)].iterrows():
            label = method(str(row["optimizer"]))
            series.append(Series(label=label, x=[row[cost.name]], y=[row[result]], panel=problem(row), kind="points"))
        charts.append(
            Chart(
                name=f"accuracy_against_{cost.name}",
                title=f"Test accuracy against {cost.words}",
                caption="A whole run of the best trial on validation, mean over seeds; the "
                f"{len(shown)} optimizers with the best ranks.",
                x_label=cost.label,
                y_label="Test accuracy",
                log_x=True,
                percent_y=True,
                share_y=False,
                series=series,
            )
        )
    return charts
