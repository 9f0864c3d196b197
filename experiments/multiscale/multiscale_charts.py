"""The charts of the study: the edge of stability, growth exponents, losses around the decay, and two magnitudes."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from optbench.analysis.charts.chart import Chart, Reference, Series
from optbench.analysis.laws.minima import over_seeds

KINDS = {
    "top": "top eigenvector",
    "oscillation": "last step",
    "random": "random",
    "normalized": "filter-normalized random",
}
#: Steps before and after the decay on the chart of losses.
AROUND = range(-20, 41)


def _by_label(descents: Sequence[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for one in descents:
        found.setdefault(one.label, []).append(one)
    return found


def edge_chart(descents: Sequence[Any]) -> Chart:
    """η λ₁/2 over the steps, for every rate."""
    series = []
    for label, seeds in _by_label(descents).items():
        length = min(len(one.edge) for one in seeds)
        found = over_seeds([one.edge[:length, 1] for one in seeds])
        series.append(Series(label=label, x=seeds[0].edge[:length, 0], kind="curve", band=True, **found))
    return Chart(
        name="edge",
        title="The largest eigenvalue over training",
        caption="η λ₁/2, which is 1 at the edge of stability; mean over seeds, bands from the smallest to the largest.",
        x_label="Steps",
        y_label="η λ₁/2",
        series=series,
        references=[Reference(1.0, "2/η")],
    )


def growth_chart(descents: Sequence[Any]) -> Chart:
    """p(r) along each kind of direction, one panel for each rate."""
    series = []
    for label, seeds in _by_label(descents).items():
        for kind, name in KINDS.items():
            curves = []
            for one in seeds:
                arrays = one.growth.arrays()
                curves += list(arrays["exponents"][arrays["directions"] == kind])
            if not curves:
                continue
            arrays = seeds[0].growth.arrays()
            x = arrays["radii"] / seeds[0].growth.values["norm"]
            series.append(Series(label=name, x=x, kind="curve", band=True, panel=label, **over_seeds(curves)))
    return Chart(
        name="growth",
        title="Growth of the loss along directions",
        caption="Growth exponent p of the symmetrized loss around the midpoint of two steps at the edge of stability, 2 for a "
        "quadratic; mean over seeds and directions, bands from the smallest to the largest.",
        x_label="Distance (norms of the weights)",
        y_label="Growth exponent p",
        log_x=True,
        columns=3,
        series=series,
        references=[Reference(2.0)],
    )


def decay_chart(descents: Sequence[Any]) -> Chart:
    """The loss around the decay over its mean before, with a constant and with the decayed rate, one panel for each rate."""
    series = []
    for label, seeds in _by_label(descents).items():
        for schedule in ("constant", "decayed"):
            curves = []
            for one in seeds:
                if schedule in one.losses:
                    # The loss in the history at step s is that of the weights before this step.
                    around = one.losses[schedule].reindex([one.growth.step + after for after in AROUND]).to_numpy()
                    curves.append(around / np.nanmean(around[: -min(AROUND)]))
            if curves:
                found = over_seeds(curves)
                series.append(
                    Series(label=f"{schedule} rate", x=[*AROUND], kind="curve", band=True, panel=label, **found)
                )
    return Chart(
        name="decay",
        title="The loss when the rate decays to a tenth",
        caption="Training loss over its mean in the 20 steps before; mean over seeds, bands from the smallest to the largest.",
        x_label="Steps after the decay",
        y_label="Loss over its mean before",
        columns=3,
        series=series,
        references=[Reference(0.0, axis="x")],
    )


def magnitudes_chart(profiles: pd.DataFrame) -> Chart:
    """Rise, exponent and curvature of the problem of two magnitudes along (1, ..., 1)."""
    panels = {"rise": "rise", "exponent": "growth exponent p", "curvature": "effective curvature k"}
    series = []
    for column, panel in panels.items():
        by_seed = profiles.pivot_table(index="radius", columns="seed", values=column)
        found = over_seeds(list(by_seed.to_numpy().T))
        series.append(Series(label="two magnitudes", x=by_seed.index, kind="curve", band=True, panel=panel, **found))
    return Chart(
        name="two_magnitudes",
        title="Two scales by construction",
        caption="A network of one hidden layer on inputs of the magnitudes 1 and 30, from its minimizer along (1, ..., 1); mean "
        "over three teachers, bands from the smallest to the largest.",
        x_label="Distance",
        y_label="Value",
        log_x=True,
        share_y=False,
        columns=3,
        series=series,
    )
