"""The eigenvalues of the Hessian at the isolated minima of problems: curvatures.csv.

    python experiments/nonconvex_rates/curvatures.py

takes seconds and trains nothing. Columns: problem, eigenvalue (one row for each). At the minimum of x² (1 + O(x)) of star_convex,
where f is not twice differentiable by autograd, it is that at 1e-9. Problems whose minima form a continuum, or have different
Hessians, are left out.
"""

from pathlib import Path

import pandas as pd
import torch

from optbench.data.problems import beale, nesterov_skokov, phase_retrieval, pl_sine, rosenbrock, saddle, star_convex

FILE = Path(__file__).with_name("curvatures.csv")
LOADED = {
    "pl_sine": pl_sine.load(""),
    "star_convex": star_convex.load(""),
    "saddle": saddle.load(""),
    "beale": beale.load(""),
    "rosenbrock": rosenbrock.load(""),
    "nesterov_skokov": nesterov_skokov.load("", dimension=3),
    "phase_retrieval": phase_retrieval.load(""),
}


def curvatures() -> pd.DataFrame:
    """One row for each problem of ``LOADED`` and eigenvalue at its first minimum."""
    rows = []
    for name, raw in LOADED.items():
        problem = raw.spec.problem
        point = problem.minimizers[0] + (1e-9 if name == "star_convex" else 0.0)
        values = torch.linalg.eigvalsh(torch.func.hessian(problem)(point))
        rows += [{"problem": name, "eigenvalue": float(value)} for value in values]
    return pd.DataFrame(rows)


if __name__ == "__main__":
    curvatures().to_csv(FILE, index=False, float_format="%.9g")
