"""The gradient noise scales that the runs of a study measured (McCandlish, Kaplan & Amodei 2018, arXiv 1812.06162)."""

import math

import pandas as pd

from optbench.analysis.study import Study


def noise_scales(study: Study, runs: pd.DataFrame, last: bool = False) -> pd.DataFrame:
    """The measurements of the probe `noise_scale` in ``runs`` of the study, of each run all or only the ``last``.

    Columns optimizer, batch, seed, step and noise_scale, in examples; a measurement without a noise scale is left out.
    """
    rows = []
    for _, run in runs.iterrows():
        measured = study.measurements(run["run_id"], "noise_scale")
        for each in measured[-1:] if last else measured:
            scale = float(each.values.get("simple") or math.nan)
            rows.append((run["optimizer"], run["batch"], run["seed"], each.step, scale))
    return pd.DataFrame(rows, columns=["optimizer", "batch", "seed", "step", "noise_scale"]).dropna(
        subset="noise_scale"
    )
