"""Steps to the target risk 0.01 against the batch in theory, each method with its best hyperparameters: tuned_steps.csv.

    python experiments/quadratic_model/tuned_steps.py

takes a minute or two on one core and trains nothing. The spectrum is that of Zhang et al. 2019 (arXiv 1907.04164): hᵢ = 1/i for
i ≤ 10⁴. Columns: method, batch, steps, learning_rate, and second: the momentum μ or the decay γ of the average, 0 without one.
"""

from pathlib import Path

import pandas as pd

from optbench.theory import harmonic_spectrum, steps_by_batch

FILE = Path(__file__).with_name("tuned_steps.csv")
BATCHES = [4**power for power in range(1, 10)]


def tuned(batches: list[int], dimension: int = 10_000) -> pd.DataFrame:
    """One row for each method and batch of ``batches`` that reaches the target, with hᵢ = 1/i for i ≤ ``dimension``."""
    found = steps_by_batch(batches, harmonic_spectrum(dimension))
    rows = [
        {
            "method": method,
            "batch": batch,
            "steps": best.steps,
            "learning_rate": best.learning_rate,
            "second": best.second,
        }
        for method, by_batch in found.items()
        for batch, best in by_batch.items()
        if best is not None
    ]
    return pd.DataFrame(rows)


if __name__ == "__main__":
    tuned(BATCHES).to_csv(FILE, index=False)
