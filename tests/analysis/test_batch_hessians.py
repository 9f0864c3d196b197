"""Predicted exponents where λ₁' follows a law that is known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from optbench.analysis.laws.batch_hessians import predicted_exponents, predicted_limits, top_eigenvalues

BATCHES = 2.0 ** np.arange(4, 12)
EXAMPLES = 4096


def study(laws):
    """A study of one run a seed; ``laws``: by step, a function of batch and seed for λ₁'. Draws lie evenly around it."""
    runs = pd.DataFrame([{"run_id": f"r{seed}", "seed": seed} for seed in range(3)] + [{"run_id": "none", "seed": 0}])

    def measured(run_id, probe):
        if run_id == "none":
            return []
        assert probe == "batch_hessian"
        found = []
        for step, law in laws.items():
            tops = law(BATCHES, int(run_id[1:]))
            arrays = {"batch_sizes": BATCHES, "top": np.stack([0.5 * tops, 1.5 * tops], axis=1)}
            arrays |= {"full_top": np.array(law(EXAMPLES, int(run_id[1:]))), "examples": np.array(EXAMPLES)}
            found.append(SimpleNamespace(step=step, arrays=lambda arrays=arrays: arrays))
        return found

    return SimpleNamespace(runs=runs, cells={run_id: {} for run_id in runs["run_id"]}, measurements=measured)


def test_tops_are_means_over_draws_and_that_of_all_examples():
    tops = top_eigenvalues(study({7: lambda batch, seed: (1 + seed) * (1 + 100 / batch)})).set_index(["seed", "batch"])
    assert len(tops) == 3 * 9
    assert tops.loc[(2, 16), "top"] == pytest.approx(3 * 7.25)
    assert tops.loc[(0, EXAMPLES), "top"] == pytest.approx(1 + 100 / EXAMPLES)
    assert (tops["step"] == 7).all()


def test_limits_are_two_over_the_geometric_mean():
    tops = top_eigenvalues(study({5: lambda batch, seed: 10.0**seed + 0 * batch}))
    limits = predicted_limits(tops, 0.9)
    assert set(limits["sgd"]["batch"]) == {*BATCHES, EXAMPLES}
    assert limits["sgd"]["limit"].to_numpy() == pytest.approx(0.2)
    assert limits["momentum"]["limit"].to_numpy() == pytest.approx(0.38)
    assert (limits["sgd"]["step"] == 5).all()


def test_a_power_law_gives_its_exponent_and_half_of_it_for_adaptive_methods():
    tops = top_eigenvalues(
        study({0: lambda batch, seed: 3 * batch**-0.4, 64: lambda batch, seed: batch ** (-0.1 * seed)})
    )
    found = predicted_exponents(tops, ["adam", "kfac", "sgd"]).set_index(["optimizer", "step"])
    assert set(found.index) == {("adam", 0), ("adam", 64), ("sgd", 0), ("sgd", 64)}
    assert found.loc[("sgd", 0), ["exponent", "low", "high"]].to_numpy(float) == pytest.approx(0.4)
    assert found.loc[("adam", 0), "exponent"] == pytest.approx(0.2)
    # Slopes 0, 0.1, 0.2: their mean, and Student's interval of three values, t = 4.3027 with two degrees of freedom.
    width = 4.302653 * 0.1 / np.sqrt(3)
    row = found.loc[("sgd", 64)]
    assert (row["exponent"], row["low"], row["high"]) == pytest.approx((0.1, 0.1 - width, 0.1 + width))
    assert (row["seeds"], row["smallest_batch"], row["largest_batch"]) == (3, 16, EXAMPLES)


def test_without_measurements_there_is_no_prediction():
    tops = top_eigenvalues(study({}))
    assert len(tops) == 0
    assert len(predicted_exponents(tops, ["sgd"])) == 0
