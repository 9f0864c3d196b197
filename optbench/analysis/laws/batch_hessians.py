"""Predict the growth of the largest stable learning rate with the batch from the Hessians of mini-batches.

SGD is stable below 2/λ₁' of the batch Hessian, and momentum SGD below 2 (1 + β)/λ₁', so both limits grow as 1/λ₁'. For
adaptive methods Granziol, Zohren & Roberts 2022 (arXiv 2006.09092) argue for the square root of that, without a constant.
"""

from collections.abc import Iterable

import numpy as np
import pandas as pd

from optbench.analysis.laws.scaling_laws import power_law
from optbench.analysis.statistics.intervals import student
from optbench.analysis.statistics.settings import seeds_only
from optbench.analysis.study import Study

#: The power of 1/λ₁' with which the predicted limit of each optimizer grows.
POWERS = {"sgd": 1.0, "momentum": 1.0, "adam": 0.5, "rmsprop": 0.5}


def top_eigenvalues(study: Study) -> pd.DataFrame:
    """λ₁' of every measurement of the probe `batch_hessian` in the study: columns step, seed, batch, top.

    top: the mean over draws; for the batch of all examples, λ₁ itself. Steps count from the start of the run.
    """
    rows = []
    measurements = {run_id: found for run_id in study.cells if (found := study.measurements(run_id, "batch_hessian"))}
    # One spectrum for each seed, because they are averaged.
    for _, run in seeds_only(study.runs[study.runs["run_id"].isin([*measurements])], []).iterrows():
        for measured in measurements[run["run_id"]]:
            arrays = measured.arrays()
            tops = dict(zip(arrays["batch_sizes"].tolist(), arrays["top"].mean(axis=1), strict=True))
            tops[int(arrays["examples"])] = float(arrays["full_top"])
            rows += [(measured.step, int(run["seed"]), int(batch), float(top)) for batch, top in tops.items()]
    return pd.DataFrame(rows, columns=["step", "seed", "batch", "top"])


def predicted_limits(tops: pd.DataFrame, momentum: float) -> dict[str, pd.DataFrame]:
    """The predicted largest stable rates 2/λ₁' of SGD and 2 (1 + β)/λ₁' of momentum SGD, the geometric mean over seeds.

    tops: from `top_eigenvalues`. momentum: β. One frame for each optimizer, with columns step, batch, limit.
    """
    known = tops[tops["top"] > 0]
    means = np.exp(np.log(known["top"]).groupby([known["step"], known["batch"]]).mean())
    factors = {"sgd": 2.0, "momentum": 2 * (1 + momentum)}
    return {name: (factor / means).rename("limit").reset_index() for name, factor in factors.items()}


def predicted_exponents(tops: pd.DataFrame, optimizers: Iterable[str]) -> pd.DataFrame:
    """The log-log slope of the predicted limit against the batch, for every optimizer in `POWERS` and every step.

    tops: from `top_eigenvalues`. Columns optimizer, step, exponent, low, high (a 95 % Student interval over seeds), seeds, and
    smallest_batch and largest_batch, the range of the fit.
    """
    rows = []
    for step, here in tops.groupby("step"):
        slopes = np.array([
            power_law(own["batch"].to_numpy(float), 1 / own["top"].to_numpy(float)).exponent
            for _, own in here[here["top"] > 0].groupby("seed")
        ])  # fmt: skip
        slopes = slopes[np.isfinite(slopes)]
        if not len(slopes):
            continue
        ends = (int(here["batch"].min()), int(here["batch"].max()))
        for optimizer in optimizers:
            if optimizer in POWERS:
                found = student(POWERS[optimizer] * slopes)
                rows.append((optimizer, step, found.estimate, found.low, found.high, len(slopes), *ends))
    names = ["optimizer", "step", "exponent", "low", "high", "seeds", "smallest_batch", "largest_batch"]
    return pd.DataFrame(rows, columns=names)
