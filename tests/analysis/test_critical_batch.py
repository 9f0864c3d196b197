"""The critical batch size on exact hyperbolas, against scipy, of the committed runs, and in simulation."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import optimize

from optbench.analysis.laws.critical_batch import (
    critical_batch,
    critical_batch_ratio,
    fit_critical_batch,
    local_slopes,
    regime,
)
from optbench.analysis.statistics.time_search import TimeSearch, searches

ROOT = Path(__file__).parents[2]
INF = math.inf
BATCHES = 2.0 ** np.arange(3, 14)


def steps(batches, steps_min=200.0, batch=300.0):
    return steps_min * (1 + batch / np.asarray(batches))


def test_an_exact_hyperbola_is_found():
    fit = fit_critical_batch(BATCHES, steps(BATCHES))
    assert (fit.steps_min, fit.batch, fit.limit) == (pytest.approx(200), pytest.approx(300), "")
    assert fit.residual < 1e-6
    np.testing.assert_allclose(fit(BATCHES), steps(BATCHES))
    # McCandlish et al.: (S / S_min - 1) (E / E_min - 1) = 1
    examples = BATCHES * steps(BATCHES)
    np.testing.assert_allclose((steps(BATCHES) / fit.steps_min - 1) * (examples / fit.examples_min - 1), 1, rtol=1e-5)


def test_a_noisy_fit_is_scipys_least_squares_on_the_logarithms():
    data = steps(BATCHES) * np.exp(0.2 * np.random.default_rng(1).standard_normal(len(BATCHES)))
    best = optimize.least_squares(lambda p: np.log(data) - p[0] - np.log1p(np.exp(p[1]) / BATCHES), [5, 5])
    fit = fit_critical_batch(BATCHES, data)
    assert (fit.steps_min, fit.batch) == pytest.approx(tuple(np.exp(best.x)), rel=1e-4)
    assert fit.residual == pytest.approx(np.sqrt(np.mean(best.fun**2)) / math.log(2))


@pytest.mark.parametrize(
    ("data", "limit"), [(1e5 / BATCHES, "perfect scaling"), (np.full(11, 70.0), "no scaling"), (BATCHES, "no scaling")]
)
def test_data_that_do_not_hold_a_critical_batch(data, limit):
    fit = fit_critical_batch(BATCHES, data)
    assert fit.limit == limit
    assert fit.batch > 1000 * 8 if limit == "perfect scaling" else fit.batch < 1


def test_the_committed_example():
    data = [108.75, 61.875, 38.4375, 26.71875, 20.859375, 17.9296875, 16.46484375]
    fit = fit_critical_batch(2.0 ** np.arange(4, 11), data)
    assert (fit.batch, fit.steps_min) == (pytest.approx(100, rel=1e-5), pytest.approx(15, rel=1e-5))


@pytest.mark.parametrize(("least", "rounded", "middle"), [(5, (104, 6.1), (260, 2.7)), (15, (98, None), (121, None))])
def test_rounding_to_evaluations_moves_a_critical_batch(least, rounded, middle):
    """S = S_min (1 + 100 / B), rounded up to multiples of 6, and at the middle of the interval between two evaluations."""
    batches = 2.0 ** np.arange(4, 11)
    up = np.ceil(steps(batches, least, 100) / 6) * 6
    for values, (critical, steps_min) in ((up, rounded), (up - 3, middle)):
        fit = fit_critical_batch(batches, values)
        assert fit.batch == pytest.approx(critical, rel=0.01)
        assert steps_min is None or fit.steps_min == pytest.approx(steps_min, rel=0.02)


def test_a_lower_bound_below_the_fit_has_no_part_and_one_above_it_pulls():
    bounds = np.arange(11) == 0
    for factor in (0.5, 2.0):
        data = steps(BATCHES) * np.where(bounds, factor, 1) * np.exp(0.1 * np.sin(np.arange(11)))

        def residuals(p, data=data):
            rest = np.log(data) - p[0] - np.log1p(np.exp(p[1]) / BATCHES)
            return np.where(bounds, np.maximum(rest, 0), rest)

        best = optimize.least_squares(residuals, [5, 5], xtol=1e-12, ftol=1e-12)
        fit = fit_critical_batch(BATCHES, data, bounds)
        # The count of points in the mean changes with the bound: between those the optimum is that of the sum of squares.
        assert (fit.steps_min, fit.batch) == pytest.approx(tuple(np.exp(best.x)), rel=2e-3)
    free = fit_critical_batch(BATCHES[1:], data[1:])
    assert fit.batch > free.batch


# ---- searches -----------------------------------------------------------------------------------------------------------


def of_search(batch_steps, trials=3, seeds=4, horizon=1e6, sd=0.0, generator=None):
    """Trials at factors of 1, 1.5, 2, ... of the steps of every batch."""
    found = {}
    for batch, value in batch_steps.items():
        times = np.repeat(value * (1 + 0.5 * np.arange(trials))[:, None], seeds, axis=1)
        if sd:
            times = times * np.exp(sd * generator.standard_normal(times.shape))
        found[float(batch)] = TimeSearch(times, times, horizon)
    return found


EXACT = dict(zip(BATCHES, steps(BATCHES), strict=True))


def test_the_critical_batch_of_searches():
    found = critical_batch(of_search(EXACT), repetitions=50)
    assert (found.batch.estimate, found.steps_min.estimate) == (pytest.approx(300), pytest.approx(200))
    assert found.examples_min.estimate == pytest.approx(60_000)
    # All batch sizes lose a trial together.
    assert (found.batch.low, found.batch.high) == pytest.approx((300, 300))
    assert found.steps[8.0].estimate == pytest.approx(steps(8))
    assert (found.bounds, found.unresolved, found.not_reached, found.not_identified) == ((), (), (), "")


def test_without_the_best_trial_the_steps_are_those_of_another():
    """All batch sizes lose it together, so that S_min moves and B_c stays."""
    found = critical_batch(of_search(EXACT), repetitions=400)
    assert (found.batch.low, found.batch.high) == pytest.approx((300, 300))
    assert (found.steps_min.low, found.steps_min.high) == pytest.approx((200, 400))


def test_batches_that_miss_the_target_are_left_out_and_told():
    searches = of_search(EXACT)
    never = np.full((3, 4), INF)
    searches[8.0] = TimeSearch(never, never, 1e6)
    found = critical_batch(searches, repetitions=20)
    assert found.not_reached == (8,)
    assert found.batch.estimate == pytest.approx(300)


def test_a_batch_at_which_less_than_80_percent_reach_the_target_is_a_bound():
    """At batch 8 the budget of 5,000 steps is too short for two of four seeds: the restricted mean is below the law."""
    searches = of_search(EXACT, horizon=9_000)
    times = np.array([[7_000.0, 7_000.0, INF, INF]] * 3)
    searches[8.0] = TimeSearch(times, times, 9_000)
    assert steps(8) < searches[8.0].restricted_means()[0]
    found = critical_batch(searches, repetitions=20)
    assert found.bounds == (8,)
    assert found.batch.estimate > 301  # above the law: it pulls
    below = np.array([[7_000.0, 7_000.0, INF, INF]] * 3)
    searches = {size: replace(search, horizon=7_500) for size, search in searches.items()}
    searches[8.0] = TimeSearch(below, below, 7_500)
    assert searches[8.0].restricted_means()[0] < steps(8)
    found = critical_batch(searches, repetitions=20)
    assert found.bounds == (8,)
    assert found.batch.estimate == pytest.approx(300)


def test_a_critical_batch_that_unresolved_times_decide_is_not_identified():
    searches = of_search({batch: value / 40 for batch, value in EXACT.items()}, horizon=600)
    for size in BATCHES[6:]:
        low, high = np.zeros((3, 4)), np.full((3, 4), 12.0)
        searches[size] = TimeSearch(low, high, 600)
    found = critical_batch(searches, repetitions=50)
    assert found.unresolved == tuple(BATCHES[6:])
    assert found.ends[0] > 2 * found.ends[1]
    assert "evaluations" in found.not_identified
    assert found.batch.high > 2 * found.batch.low


def test_why_a_critical_batch_is_not_identified():
    perfect = critical_batch(of_search({batch: 1e5 / batch for batch in BATCHES}), repetitions=20)
    assert perfect.not_identified == "perfect scaling"
    assert perfect.undefined == 1
    one = critical_batch(of_search({8.0: 10.0}), repetitions=20)
    assert one.not_identified == "fewer than two batch sizes have a time"
    wild = of_search({16.0: 100, 32.0: 60, 64.0: 50}, trials=1, seeds=3)
    wild[16.0] = replace(wild[16.0], lower=np.array([[60.0, 100, 140]]), upper=np.array([[60.0, 100, 140]]))
    assert "factor of 10" in critical_batch(wild, repetitions=200).not_identified


def test_single_seeds_have_no_interval():
    found = critical_batch(of_search(EXACT, seeds=1), repetitions=10)
    assert math.isnan(found.batch.low)
    assert math.isnan(found.steps[8.0].high)
    assert math.isnan(critical_batch_ratio(of_search(EXACT, seeds=1), of_search(EXACT), 10).low)


def test_searches_that_cannot_be_resampled_together_are_refused():
    searches = of_search(EXACT)
    with pytest.raises(ValueError, match="same trials"):
        critical_batch(searches | {8.0: of_search({8.0: 5.0}, trials=2)[8.0]})


def test_the_ratio_of_two_critical_batches():
    generator = np.random.default_rng(0)
    first = of_search(EXACT, sd=0.1, generator=generator, trials=6, seeds=5)
    other = of_search(dict(zip(BATCHES, steps(BATCHES, 50, 100), strict=True)), trials=6, seeds=5)
    found = critical_batch_ratio(first, other, repetitions=200)
    assert found.estimate == pytest.approx(3, rel=0.15)
    assert found.low < 3 < found.high
    assert found.high / found.estimate == pytest.approx(found.estimate / found.low)


@pytest.fixture(scope="module")
def committed():
    """The committed runs, whose times are known to an interval of 6 steps, at its middle."""
    columns = ["optimizer", "batch", "seed", "trial", "steps_to_target"]
    runs = pd.read_parquet(ROOT / "benchmarks/grids/steps_to_target/runs.parquet", columns=columns)
    after = runs["steps_to_target"].astype(float).fillna(INF)
    middle = after - 3
    runs = runs.assign(steps_to_target=middle, steps_before=middle, steps_after=middle)
    return {name: searches(own, 600.0) for name, own in runs.groupby("optimizer")}


@pytest.mark.parametrize(("optimizer", "critical"), [("sgd", 45), ("kfac", 213)])
def test_the_critical_batches_of_the_committed_runs(committed, optimizer, critical):
    assert critical_batch(committed[optimizer], repetitions=10).batch.estimate == pytest.approx(critical, abs=0.5)


def test_k_facs_critical_batch_with_and_without_the_search(committed):
    """Percentiles of the nested bootstrap [73, 483] where trials are resampled, and [153, 409] where they are not."""
    own = {size: replace(search, defaults=False) for size, search in committed["kfac"].items()}
    nested = critical_batch(own).batch
    assert nested.low == pytest.approx(73, rel=0.05)
    assert nested.high > 450


@pytest.mark.parametrize(
    ("first", "second", "ratio"),
    [
        ("adam", "sgd", 3.5),
        ("kfac", "sgd", 4.7),
        ("lamb", "sgd", 3.0),
        ("nesterov", "sgd", 1.4),
        ("kfac", "adam", 1.35),
    ],
)
def test_the_ratios_of_the_committed_runs(committed, first, second, ratio):
    assert critical_batch_ratio(committed[first], committed[second], 10).estimate == pytest.approx(ratio, rel=0.02)


def test_local_slopes_and_regimes():
    """Slopes of -1, log2(3 / 4) = -0.415 and 0, then a batch that misses the target; given out of order."""
    table = local_slopes([32, 8, 16, 64, 128], [300, 800, 400, 300, INF])
    np.testing.assert_allclose(table["slope"], [-1, math.log2(0.75), 0, math.nan])
    assert table["regime"].tolist() == ["perfect", "diminishing", "maximal", "not reached"]
    assert table[["batch_low", "batch_high"]].to_numpy().tolist() == [[8, 16], [16, 32], [32, 64], [64, 128]]


@pytest.mark.parametrize(
    ("slope", "name"), [(-0.9, "perfect"), (-0.89, "diminishing"), (-0.1, "maximal"), (0.5, "maximal")]
)
def test_bounds_of_the_regimes(slope, name):
    assert regime(slope) == name


@pytest.mark.slow
def test_coverage_of_the_critical_batch_of_a_search():
    """12 trials whose rate moves with the batch, 5 seeds of log sd 0.15 (Student's t with 4 degrees), B_c 100, for fresh trials.

    In 120 simulations the nested bootstrap covers .91, and resamples of the seeds of the chosen trials .68.
    """
    generator, batches = np.random.default_rng(1), 2.0 ** np.arange(4, 11)
    hits = []
    for simulation in range(60):
        # Distances of the trials from the best rate, which moves with the batch by half of its logarithm.
        rates = generator.uniform(-2, 4, 12)[:, None] - 0.5 * np.log(batches / 16)
        found, chosen = {}, {}
        for b, size in enumerate(batches):
            noise = 0.15 * generator.standard_t(4, (12, 5)) / math.sqrt(2)
            times = 15 * (1 + 100 / size) * np.exp(0.3 * rates[:, b, None] ** 2 + noise)
            found[size] = TimeSearch(times, times, 600, defaults=False)
            best = found[size].winners[0]
            chosen[size] = TimeSearch(times[[best]], times[[best]], 600, defaults=False)
        nested, seeds = (critical_batch(each, 100, seed=simulation).batch for each in (found, chosen))
        hits.append([each.low <= 100 <= each.high for each in (nested, seeds)])
    nested_cover, seeds_cover = np.mean(hits, axis=0)
    assert nested_cover > 0.85
    assert seeds_cover < 0.8
