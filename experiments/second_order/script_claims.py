"""The claims of papers about the three studies that are scripts: `python experiments/second_order/script_claims.py`.

Reads saddle.csv, saddle_curves.csv, regression.csv and logistic.csv of results/second_order, and writes tables/claims.csv there.
All methods of a script start from the same points with the same seeds, so that they are compared seed by seed.
"""

import argparse
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from optbench.analysis.claim_outcomes import STEPS, all_of, below, decided, effect
from optbench.analysis.claims import RATIO_OF_STEPS, Claim, table
from optbench.analysis.report.study_page import write_table
from optbench.analysis.statistics.intervals import Interval, student

DAUPHIN, LM, SCORE = "Dauphin et al. 2014", "Pooladzandi & Zhou 2022", "Adeoye & Bemporad 2023"
#: Negative curvature below this share of that at the start has vanished; our own choice.
VANISHED = 0.01
#: "Tens of steps" are fewer than this, "hundreds" at least.
HUNDREDS = 100
BEST = "LM, all three"
SCORE_GGN, TOLERANCE = "SCoRe-GGN", "step_to_1e-06"
GRADIENTS = ("Nesterov", "Adam", "gradient descent")


def of_saddle(ends: pd.DataFrame, curves: pd.DataFrame) -> list[Claim]:
    """Negative curvature at the end as a share of that at the start, and the losses of the two Newton methods."""
    start = curves[curves["step"] == 0].set_index("method")["smallest_eigenvalue"]
    by_method = {name: own.set_index("seed") for name, own in ends.groupby("method")}
    common: dict[str, Any] = {"estimand": "W", "dataset": "fashion_mnist"}
    said = {
        "saddle-free Newton": "Negative curvature vanishes along saddle-free Newton.",
        "damped Newton": "It stays along damped Newton.",
    }
    found = []
    for name, words in said.items():
        shares = by_method[name]["smallest_eigenvalue"].clip(upper=0) / start[name]
        interval = student(shares.to_numpy(float))
        vanishes = below(interval.low, interval.high, VANISHED)
        stays = below(-interval.high, -interval.low, -VANISHED)
        found.append(
            Claim(
                claim=words,
                source=DAUPHIN,
                outcome=vanishes if name == "saddle-free Newton" else stays,
                quantity="most negative eigenvalue at the end over that at the start",
                unit="share",
                method=name,
                runs=len(shares),
                **effect(interval.estimate, interval.low, interval.high),
                **common,
            )
        )
    ratio = _ratio(*(by_method[name]["total"] for name in said))
    return [
        *found,
        Claim(
            claim="Saddle-free Newton comes to a lower loss than damped Newton.",
            source=DAUPHIN,
            outcome=below(ratio.low, ratio.high, 1.0),
            quantity="train loss at the end",
            unit="ratio",
            method="saddle-free Newton",
            against="damped Newton",
            runs=2 * len(by_method["damped Newton"]),
            matched_by="steps",
            **effect(ratio.estimate, ratio.low, ratio.high),
            **common,
        ),
    ]


def of_regression(ends: pd.DataFrame) -> list[Claim]:
    """The median error is the lower one, and so is the geometric mean by its interval."""
    by_method = {name: own.set_index("seed")["train_mse"] for name, own in ends.groupby("method")}
    found = []
    for other in [name for name in by_method if not name.startswith(BEST) and "published" not in name]:
        ratio = _ratio(by_method[BEST], by_method[other])
        lower = decided(by_method[BEST].median() < by_method[other].median())
        found.append(
            Claim(
                claim=f"With momentum and search, Levenberg-Marquardt has a lower error than {other}.",
                source=LM,
                outcome=all_of([lower, below(ratio.low, ratio.high, 1.0)]),
                quantity="train error at the end",
                unit="ratio",
                estimand="W",
                method=BEST,
                against=other,
                dataset="sine",
                runs=len(by_method[BEST]) + len(by_method[other]),
                **effect(ratio.estimate, ratio.low, ratio.high),
            )
        )
    return found


def _ratio(first: "pd.Series[float]", second: "pd.Series[float]") -> Interval:
    """The geometric mean of the ratio of two values by seed, with Student's interval."""
    return student(np.log((first / second).dropna().to_numpy(float))).exp()


def of_logistic(summary: pd.DataFrame) -> list[Claim]:
    """Median steps to a gap of 1e-6, over instances: those of SCoRe-GGN, and of methods of gradients over them."""
    found = []
    for problem, own in summary.groupby("problem", sort=False):
        steps: Mapping[str, float] = own.set_index("method")[TOLERANCE].fillna(math.inf).to_dict()
        seeds = int(own["seeds"].iloc[0])
        few = steps[SCORE_GGN]
        found.append(
            Claim(
                claim="SCoRe-GGN converges in tens of steps without a line search.",
                source=SCORE,
                outcome=decided(few < HUNDREDS),
                quantity=STEPS,
                unit="steps",
                estimand="W",
                method=SCORE_GGN,
                dataset=str(problem),
                matched_by="target",
                runs=seeds,
                **effect(few),
            )
        )
        for name in GRADIENTS:
            found.append(
                Claim(
                    claim=f"{name} needs hundreds of steps, or does not converge.",
                    source=SCORE,
                    outcome=decided(steps[name] >= HUNDREDS),
                    quantity=STEPS,
                    unit=RATIO_OF_STEPS,
                    estimand="W",
                    method=name,
                    against=SCORE_GGN,
                    dataset=str(problem),
                    matched_by="target",
                    runs=2 * seeds,
                    **(effect(steps[name] / few) if math.isfinite(steps[name]) else {}),
                )
            )
    return found


def main() -> None:
    """Write the claims about the tables that there are."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--results-dir", default="results")
    folder = Path(parser.parse_args().results_dir) / "second_order"
    claims = committed(folder)
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    write_table(table(claims, "second_order"), folder / "tables" / "claims")
    print("\n".join(f"{claim.outcome}: {claim.claim}" for claim in claims))


def committed(folder: Path) -> list[Claim]:
    """The claims about the tables in a folder."""
    return [
        *of_saddle(pd.read_csv(folder / "saddle.csv"), pd.read_csv(folder / "saddle_curves.csv")),
        *of_regression(pd.read_csv(folder / "regression.csv")),
        *of_logistic(pd.read_csv(folder / "logistic.csv")),
    ]


if __name__ == "__main__":
    main()
