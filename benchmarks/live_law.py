"""A law that no grid has: what a search found of it, and dense lines at two batch sizes that the search did not have.

    python -m optbench -m sweep=live_law optimizer=momentum model=convnet dataset=fashion_mnist \
        batch=32,64,128,256,512,1024,2048,4096,8192 'optimizer.learning_rate=geometric(0.0009765625,4,25)' 'seed=range(10)' \
        budget.epochs=6 schedule=cosine schedule.warmup=5% eval_every=1epoch evaluate_train=2000 \
        channels_last=true micro_batch=128 search=adaptive search.budget=70
    python -m optbench -m sweep=live_check (the same) batch=96,1536 \
        optimizer.learning_rate=0.0442,0.0884,0.177,0.354,0.707,1.414,2.83 'seed=range(3)' search=grid
    python benchmarks/live_law.py [--results-dir DIR] [--save FOLDER]

It prints the law, the best rate of every batch size, and at each batch of the check the rate that the search predicts beside the
optimum of the dense line, and the loss that the prediction costs there. --save writes the tables, and the runs.
"""

import argparse
import math
from pathlib import Path

import numpy as np
import pandas as pd

from optbench.analysis.laws.broken_power_law import law
from optbench.analysis.laws.loss_curves import LossCurves, loss_curves
from optbench.analysis.study import Study

COLUMNS = (
    *("run_id", "status", "optimizer", "model", "batch", "base_learning_rate", "seed", "steps", "seconds_training"),
    *("train_loss", "validation_loss", "validation_accuracy", "test_loss", "test_accuracy", "code"),
)  # fmt: skip


def optima(curves: LossCurves) -> pd.DataFrame:
    """The best rate of every batch size with its 95 % interval, its loss, and the runs there."""
    rows = []
    for b, batch in enumerate(curves.batches):
        best = curves.best_rate(b)
        rows.append(
            (
                int(batch),
                best.estimate,
                best.low,
                best.high,
                float(np.nanmedian(curves.optima.losses[:, b])),
                int(curves.runs[b]),
            )
        )
    return pd.DataFrame(rows, columns=["batch", "rate", "low", "high", "loss", "runs"])


def check(searched: LossCurves, line: LossCurves) -> pd.DataFrame:
    """The rate between the optima of the search beside each batch of the line, next to the optimum of the line itself."""
    x = np.log(searched.batches)
    rows = []
    for b, batch in enumerate(line.batches):
        at, resampled = (
            np.array([np.interp(math.log(batch), x, np.log(row)) for row in rates])
            for rates in (searched.optima.rates, searched.resampled_optima.rates)
        )
        predicted, own = searched.interval(at, resampled).exp(), line.best_rate(b)
        cost, drawn = (
            line.excess(np.full((len(table), len(line.batches)), predicted.estimate), of_resampled)[:, b]
            for table, of_resampled in ((line.tables, False), (line.resampled, True))
        )
        excess = line.interval(cost, drawn)
        rows.append({
            "batch": int(batch),
            "predicted": predicted.estimate, "predicted_low": predicted.low, "predicted_high": predicted.high,
            "dense": own.estimate, "dense_low": own.low, "dense_high": own.high,
            "excess": excess.estimate, "excess_low": max(excess.low, 0.0), "excess_high": excess.high,
            "runs": int(line.runs[b]),
        })  # fmt: skip
    return pd.DataFrame(rows)


def main() -> None:
    """Print the tables, and save them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results-dir", default="results", metavar="DIR")
    parser.add_argument("--save", metavar="FOLDER")
    given = parser.parse_args()
    studies = {name: Study.read(given.results_dir, name) for name in ("live_law", "live_check")}
    (searched,), (line,) = (loss_curves(study).values() for study in studies.values())
    found = law(searched.vertices())
    first = found.slopes[0]
    print(f"{searched.runs.sum()} of {searched.cells} runs")
    print(f"exponent {first.slope:.2f} over the batches {', '.join(f'{batch:g}' for batch in first.batches)}")
    print(f"bend {found.bend:.0f}, slopes {found.slope_before:.2f} and {found.slope_after:.2f}, p {found.p_bend:.3f}")
    tables = {"optima": optima(searched), "check": check(searched, line)}
    for name, table in tables.items():
        print(f"\n{name}\n{table.to_string(index=False, float_format='{:.4g}'.format)}")
    if given.save:
        folder = Path(given.save)
        folder.mkdir(parents=True, exist_ok=True)
        for name, table in tables.items():
            table.to_csv(folder / f"{name}.csv", index=False)
        runs = pd.concat([study.runs.assign(sweep=name) for name, study in studies.items()])
        runs[["sweep", *(name for name in COLUMNS if name in runs)]].to_csv(folder / "runs.csv", index=False)


if __name__ == "__main__":
    main()
