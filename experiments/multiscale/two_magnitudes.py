"""The profile of the problem of two magnitudes from its minimizer along (1, ..., 1), for three teachers: two_magnitudes.csv.

    python experiments/multiscale/two_magnitudes.py

takes a few seconds and trains nothing. Columns: seed of the teacher, radius, rise (symmetrized), exponent p and curvature k.
"""

from pathlib import Path

import pandas as pd
import torch

from optbench.curvature.profiles import logarithmic_radii, profile
from optbench.data.problems.two_magnitudes import load

FILE = Path(__file__).with_name("two_magnitudes.csv")


def profiles(seeds: range) -> pd.DataFrame:
    """One row for each seed and radius."""
    parts = []
    for seed in seeds:
        problem = load("", generation_seed=seed).spec.problem
        assert problem is not None
        teacher = problem.minimizers[0]
        along = profile(
            lambda point, problem=problem: {"loss": float(problem(point[0]))},  # type: ignore[misc]
            [teacher],
            [torch.ones_like(teacher)],
            logarithmic_radii(1e-3, 100.0, 16),
        )
        columns = {"radius": along.radii, "rise": along.symmetrized, "exponent": along.exponents}
        columns["curvature"] = along.curvatures
        parts.append(pd.DataFrame({"seed": seed} | {name: values.numpy() for name, values in columns.items()}))
    return pd.concat(parts, ignore_index=True)


if __name__ == "__main__":
    profiles(range(3)).to_csv(FILE, index=False, float_format="%.8g")
