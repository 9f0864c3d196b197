"""Find the remedy of every run of the study, and the runs of the best trials."""

import pandas as pd

METRIC = "validation_accuracy"
PLAIN, TOGETHER = "plain", "all together"


def conditions(runs: pd.DataFrame) -> pd.Series:
    """The remedy of every run: PLAIN for none, TOGETHER for several."""
    warmup = runs["config.schedule.warmup"]
    ways = {
        "LARS": runs["optimizer"] == "lars",
        "linear scaling": runs["config.scaling.name"] == "linear",
        "square-root scaling": runs["config.scaling.name"] == "sqrt",
        "warm-up": warmup.notna() & ~warmup.astype(str).isin(["0", "0.0"]),
        "ghost batch norm": runs["config.norm_batch"].notna(),
        "longer training": runs["config.budget.regime_adaptation"].eq(True),
    }
    names = [[name for name, here in ways.items() if here.loc[index]] for index in runs.index]
    words = [found[0] if len(found) == 1 else TOGETHER if found else PLAIN for found in names]
    return pd.Series(words, index=runs.index)


def of_best_trials(runs: pd.DataFrame, best: pd.DataFrame) -> pd.DataFrame:
    """The runs of the best trial of every optimizer and batch; best: from `optbench.analysis.statistics.selection.select`."""
    return runs.merge(best[["optimizer", "batch", "trial"]].dropna(), on=["optimizer", "batch", "trial"])
