"""Curves of loss against learning rate as draws: closed forms on whole grids, and a search that has trained all of its grid."""

import math

import numpy as np
import pandas as pd
import pytest

from optbench.analysis.laws.loss_curves import LossCurves, of_grid

BATCHES, RATES, SEEDS = (16, 64, 256), 2.0 ** np.arange(-8, 3), 4


def frame(optimum, noise=lambda batch, rate, seed: 0.0):
    """A grid with loss 0.5 exp(0.1 log2(rate / optimum)^2 + noise): parabolas in the logarithms."""
    rows = []
    for batch in BATCHES:
        for rate in RATES:
            for seed in range(SEEDS):
                loss = 0.5 * math.exp(0.1 * math.log2(rate / optimum(batch)) ** 2 + noise(batch, rate, seed))
                row = {"optimizer": "sgd", "batch": batch, "base_learning_rate": rate, "seed": seed}
                rows.append(row | {"validation_loss": loss, "status": "done"})
    return pd.DataFrame(rows)


def curves(runs):
    return of_grid(runs, "validation_loss", "base_learning_rate")


def linear(batch):
    return 2**-6.3 * batch / 16


def test_parabolas_have_their_vertices_and_equal_seeds_no_interval():
    found = curves(frame(linear))
    np.testing.assert_allclose(found.optima.rates[0], [linear(batch) for batch in BATCHES], rtol=1e-9)
    np.testing.assert_allclose(
        found.resampled_optima.rates, np.tile(found.optima.rates, (len(found.resampled), 1)), rtol=1e-9
    )
    np.testing.assert_allclose(found.optima.losses, 0.5, rtol=1e-9)
    interval = found.interval(found.optima.rates[:, 1], found.resampled_optima.rates[:, 1])
    assert interval.low == pytest.approx(interval.high) == pytest.approx(linear(64))
    assert found.cells == len(found.rates) * SEEDS * 3
    assert found.runs.tolist() == [len(RATES) * SEEDS] * 3


def test_seeds_are_resampled_together_at_all_rates_and_batches():
    """A seed that is worse by a factor everywhere moves no optimum, which independent resampling would."""
    found = curves(frame(linear, lambda batch, rate, seed: 0.2 * seed))
    spread = np.ptp(found.resampled_optima.rates, axis=0) / found.optima.rates[0]
    assert (spread < 1e-9).all()
    assert np.ptp(found.resampled_optima.losses) > 0.1


def test_the_excess_at_a_rate_of_the_grid_is_that_of_the_parabola():
    found = curves(frame(lambda batch: 2.0**-4))
    # Two octaves above the optimum, and half way in logarithms between two and three.
    assert found.excess(np.full((1, 3), 2.0**-2))[0] == pytest.approx(math.exp(0.1 * 4) - 1)
    assert found.excess(np.full((1, 3), 2.0**-1.5))[0] == pytest.approx(math.exp(0.1 * (4 + 9) / 2) - 1)
    assert found.excess(np.full((1, 3), 2.0**-4))[0] == pytest.approx(0, abs=1e-12)


def test_the_excess_beyond_the_grid_is_not_known_and_diverges_beside_a_diverged_run():
    runs = frame(lambda batch: 2.0**-4)
    runs.loc[runs["base_learning_rate"] == RATES[-1], "status"] = "diverged"
    found = curves(runs)
    assert np.isnan(found.excess(np.full((1, 3), RATES[-1] * 1.1))).all()
    assert np.isnan(found.excess(np.full((1, 3), RATES[0] / 1.1))).all()
    assert np.isinf(found.excess(np.full((1, 3), RATES[-1] / 1.1))).all()
    assert np.isinf(found.excess(np.full((1, 3), RATES[-1]))).all()
    assert np.isfinite(found.excess(np.full((1, 3), RATES[-2]))).all()


def test_an_optimum_at_the_end_of_the_grid_is_not_inside():
    found = curves(frame(lambda batch: 2.0**-4 if batch > 16 else 2.0**-12))
    assert np.isnan(found.optima.inside[0]).tolist() == [True, False, False]


def test_an_accuracy_is_an_error():
    runs = frame(linear)
    runs["validation_accuracy"] = 1 - runs["validation_loss"].clip(upper=0.999)
    found = of_grid(runs[runs["validation_accuracy"] > 0.01], "validation_accuracy", "base_learning_rate")
    np.testing.assert_allclose(found.optima.losses, 0.5, rtol=1e-9)


def test_a_stretch_lengthens_the_arms_of_intervals_and_of_the_draws_alone():
    plain = curves(frame(linear, lambda batch, rate, seed: 0.03 * math.sin(7 * seed + math.log2(rate))))
    wide = LossCurves(plain.batches, plain.rates, plain.tables, plain.resampled, plain.runs, plain.cells, stretch=2.0)
    values = np.array([1.0]), np.linspace(0, 3, 1001)
    one, two = plain.interval(*values), wide.interval(*values)
    assert (two.high - 1, 1 - two.low) == pytest.approx((2 * (one.high - 1), 2 * (1 - one.low)))
    logs = np.log(plain.vertices().draws), np.log(wide.vertices().draws)
    np.testing.assert_allclose(np.median(logs[1], 0), np.median(logs[0], 0), rtol=1e-9)
    np.testing.assert_allclose(np.ptp(logs[1], 0), 2 * np.ptp(logs[0], 0), rtol=1e-9)
