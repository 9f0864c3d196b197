"""Tabulate the runs of this study: `python experiments/first_order/table.py [--results-dir results]`."""

import argparse
from pathlib import Path

import pandas as pd

from optbench.store import load

COLUMNS = ("optimizer", "batch", "steps", "learning_rate")


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """Mean, spread and worst of the test accuracy over seeds, best method first."""
    lenets = runs[(runs["config.model.name"] == "lenet5") & (runs["config.dataset.name"] == "fashion_mnist")]
    ended = lenets[lenets["status"].isin(["done", "diverged"])]
    of_the_study = ended[(ended["config.budget.epochs"] == 3) | (ended["config.dataset.train_limit"] == 4000)]
    groups = of_the_study.groupby(list(COLUMNS), dropna=False)
    rows = groups.agg(
        seeds=("seed", "nunique"),
        diverged=("status", lambda status: int((status == "diverged").sum())),
        test_accuracy=("test_accuracy", "mean"),
        deviation=("test_accuracy", "std"),
        worst=("test_accuracy", "min"),
        gap_accuracy=("gap_accuracy", "mean"),
    ).reset_index()
    return rows.sort_values("test_accuracy", ascending=False, ignore_index=True)


def to_markdown(rows: pd.DataFrame) -> str:
    """The table as the README of the results shows it."""
    lines = ["| optimizer | batch | steps | learning rate | seeds | test accuracy, % | gap, % | diverged |",
             "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"]  # fmt: skip
    for row in rows.itertuples():
        spread = "" if pd.isna(row.deviation) else f" ± {100 * row.deviation:.1f}"
        lines.append(
            f"| {row.optimizer} | {row.batch:.0f} | {row.steps:.0f} | {row.learning_rate:g} | {row.seeds} "
            f"| {100 * row.test_accuracy:.1f}{spread} | {100 * row.gap_accuracy:.1f} | {row.diverged} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Write results/first_order/table.csv and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results-dir", default="results")
    given = parser.parse_args()
    rows = table(load(given.results_dir))
    folder = Path(given.results_dir) / "first_order"
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_csv(folder / "table.csv", index=False, float_format="%.6g")
    print(to_markdown(rows))


if __name__ == "__main__":
    main()
