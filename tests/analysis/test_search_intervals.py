"""Intervals of the best of several trials: the choice by hand, committed searches, and their coverage in simulated studies."""

import math
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from optbench.analysis.statistics.search_intervals import (
    Search,
    contrast,
    nested_interval,
    resample,
    search_difference,
    search_interval,
    winner,
    winner_interval,
)
from optbench.analysis.statistics.searches import searches
from optbench.analysis.statistics.tuning_budget import best_of
from optbench.errors import UserError

INF, NAN = math.inf, math.nan
# Searches of two studies, of twelve trials and ten or five seeds: validation and test accuracy.
COMMITTED = Path(__file__).with_name("committed_searches.npz")


def searched(validation, results=None, **options):
    validation = np.array(validation, float)
    return Search(validation, validation if results is None else np.array(results, float), **options)


# ---- the choice ---------------------------------------------------------------------------------------------------------


def test_a_tie_of_means_goes_to_the_better_worst_seed_and_never_to_the_first():
    assert winner(searched([[0.1, 0.9], [0.4, 0.6], [0.3, 0.3]])) == (1,)
    # In floating point the first mean is larger.
    assert winner(searched([[0.9, 0.2, 0.7, 0.6], [0.6, 0.6, 0.6, 0.6]])) == (1,)
    # Of losses, the worst seed is the largest.
    assert winner(searched([[0.1, 0.9], [0.4, 0.6], [0.9, 0.9]], higher=False)) == (1,)


def test_what_still_ties_is_averaged():
    search = searched([[0.5, 0.7], [0.7, 0.5], [0.1, 0.1]], [[1.0, 2.0], [5.0, 6.0], [100.0, 100.0]])
    assert winner(search) == (0, 1)
    found = winner_interval(search)
    assert (found.estimate, found.of) == (3.5, "winner")
    # Seed by seed the values are 3 and 4.
    half = stats.t.ppf(0.975, 1) * 0.5
    np.testing.assert_allclose([found.low, found.high], [3.5 - half, 3.5 + half])
    assert search_interval(search).estimate == 3.5


def test_one_diverged_seed_rules_a_trial_out_and_a_missing_one_does_not():
    assert winner(searched([[0.9, -INF], [0.5, 0.5]])) == (1,)
    assert winner(searched([[0.9, NAN], [0.5, 0.5]])) == (0,)
    assert winner(searched([[0.1, INF], [0.5, 0.5]], higher=False)) == (1,)


def test_a_search_in_which_all_diverged_has_no_winner_and_no_interval():
    search = searched([[-INF, -INF], [-INF, 0.3]])
    assert winner(search) == ()
    assert math.isnan(winner_interval(search).estimate)
    found = search_interval(search)
    assert math.isnan(found.estimate)
    assert math.isnan(found.low)


def test_resamples_without_a_winner_are_counted_and_too_many_take_the_bounds():
    # Five trials of which one trains: a resample lacks it with probability 0.8^5.
    found = search_interval(searched([[0.5, 0.6]] + 4 * [[-INF, -INF]]), repetitions=4000)
    assert found.undefined == pytest.approx(0.8**5, abs=0.03)
    assert (math.isnan(found.low), found.estimate) == (True, 0.55)
    # Nine of ten train: 0.1^10.
    assert search_interval(searched(9 * [[0.5, 0.6]] + [[-INF, -INF]])).undefined == 0


def test_shapes_are_checked():
    with pytest.raises(ValueError, match=r"validation \(2, 3\) and results \(3, 2\)"):
        Search(np.zeros((2, 3)), np.zeros((3, 2)))
    with pytest.raises(ValueError, match="drawn"):
        Search(np.zeros((2, 3)), np.zeros((2, 3)), drawn=np.ones(3, bool))
    with pytest.raises(ValueError, match="share trials"):
        search_difference(searched([[1.0]]), searched([[1.0], [2.0]]), True, False)
    with pytest.raises(ValueError, match="share seeds"):
        search_difference(searched([[1.0, 2.0]]), searched([[1.0]]), False, True)


# ---- resamples ----------------------------------------------------------------------------------------------------------


def enumerated(validation, results):
    """The mean result of the winner in every resample of trials and of seeds, by a loop over all of them."""
    trials, seeds = validation.shape
    found = []
    for chosen in product(range(trials), repeat=trials):
        for drawn in product(range(seeds), repeat=seeds):
            best = max(chosen, key=lambda t: validation[t, list(drawn)].mean())
            found.append(results[best, list(drawn)].mean())
    return np.array(found)


def test_the_standard_error_is_that_of_all_resamples():
    generator = np.random.default_rng(3)
    validation, results = generator.standard_normal((2, 3, 3))
    every = enumerated(validation, results)
    found = search_interval(Search(validation, results), repetitions=40_000)
    assert found.error == pytest.approx(every.std(), rel=0.02)
    half = stats.t.ppf(0.975, 2) * found.error
    np.testing.assert_allclose([found.low, found.high], [found.estimate - half, found.estimate + half])
    assert found.estimate == results[validation.mean(1).argmax()].mean()
    assert found.of == "search"


def test_trials_that_a_new_search_would_have_again_stay():
    """The defaults are the best of all: no resample lacks them, and there are two trials to draw."""
    search = Search(np.array([[9.0, 9.0], [1.0, 1.0], [2.0, 2.0]]), np.array([[5.0, 5.0], [1.0, 1.0], [2.0, 2.0]]))
    fixed = Search(search.validation, search.results, drawn=np.array([False, True, True]))
    assert (resample([fixed], 500, np.random.default_rng(0)) == 5).all()
    assert resample([search], 4000, np.random.default_rng(0)).mean() < 5
    # With two trials to draw, t has one degree of freedom.
    worse = Search(-search.validation, search.results, drawn=fixed.drawn)
    found = search_interval(worse)
    assert (found.high - found.estimate) / found.error == pytest.approx(stats.t.ppf(0.975, 1))


def test_searches_that_share_trials_and_seeds_are_resampled_together():
    generator = np.random.default_rng(1)
    values = generator.standard_normal((6, 4))
    first, second = Search(values, values), Search(values, values + 1)
    found = search_difference(first, second, shared_trials=True, shared_seeds=True)
    assert (found.error, found.estimate) == (pytest.approx(0, abs=1e-12), pytest.approx(-1))
    apart = search_difference(first, second, shared_trials=False, shared_seeds=False)
    one = search_interval(first)
    assert apart.error == pytest.approx(math.sqrt(2) * one.error, rel=0.06)
    for trials, seeds in ((True, False), (False, True)):
        assert 0.01 < search_difference(first, second, trials, seeds).error < apart.error * 1.05


def test_a_trial_that_one_of_them_lacks_is_drawn_for_the_others():
    first, second = searched([[1.0], [NAN]]), searched([[1.0], [2.0]])
    drawn = resample([first, second], 4000, np.random.default_rng(0), shared_trials=True)
    # A resample of the two trial numbers holds the first alone in a quarter of all, the second alone in another.
    assert np.isnan(drawn[:, 0]).mean() == pytest.approx(0.25, abs=0.03)
    assert (drawn[:, 1] == 1).mean() == pytest.approx(0.25, abs=0.03)


def test_a_contrast_gives_an_interval_for_each_value():
    generator = np.random.default_rng(2)
    three = [Search(own, own) for own in generator.standard_normal((3, 5, 4))]
    batches = np.log([1.0, 2.0, 4.0])

    def line(winners):
        slope = (winners * (batches - batches.mean())).sum(-1) / ((batches - batches.mean()) ** 2).sum()
        return np.stack([slope, winners.mean(-1)], axis=-1)

    slope, mean = contrast(three, line, repetitions=300)
    best = [one.results[one.validation.mean(1).argmax()].mean() for one in three]
    assert slope.estimate == pytest.approx(np.polyfit(batches, best, 1)[0])
    assert mean.estimate == pytest.approx(np.mean(best))
    assert slope.low < slope.estimate < slope.high


def test_an_interval_and_percentiles_that_disagree_about_zero_leave_it_undecided():
    generator = np.random.default_rng(0)
    symmetric = generator.standard_normal(4000)
    assert nested_interval(5.0, 5 + symmetric, 11).against_zero == "above"
    assert nested_interval(-5.0, symmetric - 5, 11).against_zero == "below"
    assert nested_interval(0.5, 0.5 + symmetric, 11).against_zero == "not told"
    skewed = nested_interval(1.7, 0.6 + np.exp(1.2 * symmetric), 11)
    assert skewed.low < 0 < skewed.percentile[0]
    assert skewed.against_zero == "undecided"


# ---- best of k ----------------------------------------------------------------------------------------------------------


def test_the_best_of_k_by_hand():
    search = searched([[1.0], [2.0], [4.0], [8.0]])
    # Of the six pairs, the best is 2 once, 4 twice and 8 three times.
    assert best_of(search, 2).estimate == pytest.approx((2 + 2 * 4 + 3 * 8) / 6) == pytest.approx(5.6667, abs=1e-4)
    assert best_of(search, 4).estimate == 8
    assert best_of(search, 2).of == "best_of_k"
    # Of losses, 1 is the best in three pairs.
    assert best_of(searched(search.validation, higher=False), 2).estimate == pytest.approx((3 + 2 * 2 + 4) / 6)
    with pytest.raises(ValueError, match="number of trials, 3"):
        best_of(searched(search.validation, drawn=np.array([False, True, True, True])), 4)


def test_diverged_trials_count_as_chance_among_the_best_of_k():
    search = searched([[-INF], [0.8]])
    assert best_of(search, 1, diverged_result=0.1).estimate == pytest.approx(0.45)
    assert best_of(search, 2, diverged_result=0.1).estimate == 0.8
    assert best_of(search, 1).estimate == -INF


def test_the_error_of_the_best_of_k_is_that_of_all_resamples():
    generator = np.random.default_rng(5)
    values = generator.standard_normal((3, 2))
    every = []
    for trials in product(range(3), repeat=3):
        for seeds in product(range(2), repeat=2):
            own = values[np.ix_(trials, seeds)].mean(1)
            every.append(np.mean([max(own[i], own[j]) for i, j in ((0, 1), (0, 2), (1, 2))]))
    assert best_of(Search(values, values), 2, repetitions=40_000).error == pytest.approx(np.std(every), rel=0.02)


# ---- committed searches -------------------------------------------------------------------------------------------------


def committed(study, method, cell):
    validation, test = 100 * np.load(COMMITTED)[f"{study}-{method}-{cell}"]
    return Search(validation, test)


# Batch 32 minus 256, points of test accuracy. The errors are those of another implementation, which gathers trials and seeds.
GAPS = {"momentum": (0.96, 0.65), "adam": (-0.19, 0.44), "kfac": (-0.20, 0.27), "lamb": (1.74, 1.17)}


@pytest.mark.parametrize("method", GAPS)
def test_batches_that_differ_as_settings_do_not_as_searches(method):
    small, large = committed("gap", method, 32), committed("gap", method, 256)
    found = search_difference(small, large, shared_trials=True, shared_seeds=True)
    estimate, error = GAPS[method]
    assert found.estimate == pytest.approx(estimate, abs=0.006)
    # A few resamples in ten thousand have no good trial, which makes the error uncertain by a tenth.
    assert found.error == pytest.approx(error, rel=0.15)
    half = stats.t.ppf(0.975, 11) * found.error
    assert (found.low, found.high) == pytest.approx((found.estimate - half, found.estimate + half))
    assert found.low < 0 < found.high
    # LAMB has few good trials at 256: its resamples are skewed.
    assert found.against_zero == ("undecided" if method == "lamb" else "not told")


def test_the_settings_of_momentum_differ():
    (small,), (large,) = (winner(committed("gap", "momentum", batch)) for batch in (32, 256))
    tests = [committed("gap", "momentum", batch).results[best] for batch, best in ((32, small), (256, large))]
    found = stats.ttest_rel(*tests).confidence_interval()
    assert (found.low, found.high) == pytest.approx((0.41, 1.50), abs=0.006)
    assert winner_interval(committed("gap", "momentum", 32)).estimate == pytest.approx(tests[0].mean())


def test_the_best_of_six_trials_of_momentum():
    found = [best_of(committed("gap", "momentum", batch), 6).estimate for batch in (32, 256)]
    assert found[0] - found[1] == pytest.approx(0.82, abs=0.006)


# ---- coverage -----------------------------------------------------------------------------------------------------------


def studies(generator, number, trials=12, seeds=5):
    """Searches of a wide space: quality falls quadratically around the optimum, and beyond a cliff runs diverge."""
    place = generator.random((number, trials, 3))
    fall = 12 * (((place - 0.5) / 0.5) ** 2).mean(-1)
    noise = 0.6 * (1 + fall / 6)[..., None] / math.sqrt(2)
    common, own = generator.standard_t(4, (2, number, trials, seeds))
    test = 80 - fall[..., None] + noise * common
    validation = 80 - fall[..., None] + noise * (0.8 * common + 0.6 * own)
    return np.where(place[..., :1] > 0.84, -INF, validation), test


def test_the_interval_covers_the_expected_winner_of_a_new_search():
    generator = np.random.default_rng(0)
    many, results = studies(generator, 20_000)
    best = many.mean(2).argmax(1)
    truth = results.mean(2)[np.arange(len(best)), best].mean()
    inside = {"search": 0, "percentile": 0, "winner": 0}
    for validation, test in zip(*studies(generator, 400), strict=True):
        search = Search(validation, test)
        found, student = search_interval(search, repetitions=200), winner_interval(search)
        inside["search"] += found.low <= truth <= found.high
        inside["percentile"] += found.percentile[0] <= truth <= found.percentile[1]
        inside["winner"] += student.low <= truth <= student.high
    shares = {name: count / 400 for name, count in inside.items()}
    assert 0.90 <= shares["search"] <= 0.985
    assert shares["winner"] < 0.75
    assert shares["percentile"] < 0.89


# ---- from runs ----------------------------------------------------------------------------------------------------------


def test_a_frame_becomes_searches_of_equal_trials_and_seeds():
    rows = [
        ("sgd", 32, 0, 0, "done", 0.5, 0.4),
        ("sgd", 32, 0, 1, "done", 0.6, 0.5),
        ("sgd", 32, 2, 0, "diverged", NAN, NAN),
        ("sgd", 32, 2, 1, "failed", NAN, NAN),
        ("sgd", 64, 1, 1, "done", 0.7, 0.6),
    ]
    columns = ["optimizer", "batch", "trial", "seed", "status", "validation_accuracy", "test_accuracy"]
    runs = pd.DataFrame(rows, columns=columns)
    found = searches(runs)
    assert list(found) == [("sgd", 32), ("sgd", 64)]
    np.testing.assert_equal(found["sgd", 32].validation, [[0.5, 0.6], [NAN, NAN], [-INF, NAN]])
    np.testing.assert_equal(found["sgd", 64].results, [[NAN, NAN], [NAN, 0.6], [NAN, NAN]])
    assert found["sgd", 32].tried.tolist() == [True, False, True]
    assert found["sgd", 32].random.tolist() == [True, False, True]
    assert searches(runs, fixed=[0])["sgd", 32].random.tolist() == [False, False, True]
    assert winner(found["sgd", 64]) == (1,)
    assert not searches(runs.assign(validation_loss=0.1), metric="validation_loss")["sgd", 32].higher
    with pytest.raises(UserError, match="held-out labels"):
        searches(runs.assign(diagnostic_test_accuracy=0.1), metric="diagnostic_test_accuracy")


# ---- seeds that have no part in the choice ----------------------------------------------------------------------------------


def confirmed(validation, results, new, **options):
    """Trials chosen on one seed; ``new``: by trial, the results with new seeds."""
    seeds = len(next(iter(new.values())))
    values, choosing = np.full((len(results), 1 + seeds), NAN), np.arange(1 + seeds) == 0
    values[:, 0] = results
    for trial, own in new.items():
        values[trial] = [NAN, *own]
    judged = np.full(values.shape, NAN)
    judged[:, 0] = validation
    return Search(judged, values, choosing=choosing, **options)


def test_new_seeds_report_and_do_not_choose():
    search = confirmed([0.9, 0.7, 0.5], [5.0, 3.0, 1.0], {0: [1.0, 2.0, 3.0]})
    assert winner(search) == (0,)
    found = winner_interval(search)
    np.testing.assert_allclose([found.estimate, found.high - 2], [2, stats.t.ppf(0.975, 2) / math.sqrt(3)])
    assert search_interval(search).estimate == 2.0


def test_every_resample_can_choose_and_draws_new_seeds_with_replacement():
    """The winner of three trials has the new seeds 1 and 3; a resample that lacks it takes the one result of the next."""
    search = confirmed([0.9, 0.7, 0.5], [5.0, 30.0, 20.0], {0: [1.0, 3.0]})
    drawn = resample([search], 20_000, np.random.default_rng(0))[:, 0]
    assert set(drawn) == {1.0, 2.0, 3.0, 20.0, 30.0}
    shares = [np.mean(drawn == value) for value in (1.0, 2.0, 3.0, 30.0, 20.0)]
    has_best = 1 - (2 / 3) ** 3
    np.testing.assert_allclose(shares, [has_best / 4, has_best / 2, has_best / 4, 7 / 27, 1 / 27], atol=0.012)


def test_searches_that_share_seeds_must_choose_by_the_same():
    one = confirmed([0.9, 0.7], [1.0, 1.0], {0: [1.0, 2.0]})
    other = Search(one.validation, one.results)
    with pytest.raises(ValueError, match="choose by the same"):
        resample([one, other], 10, np.random.default_rng(0), shared_seeds=True)
    with pytest.raises(ValueError, match="choosing"):
        Search(one.validation, one.results, choosing=np.ones(2, bool))


def test_searches_of_runs_with_new_seeds():
    rows = [(trial, 0, loss, 10 * loss) for trial, loss in enumerate((0.5, 0.3, 0.4))]
    rows += [(1, seed, 0.1 * seed, 100.0 + seed) for seed in (1, 2)]
    runs = pd.DataFrame(rows, columns=["trial", "seed", "validation_loss", "test_loss"]).assign(
        optimizer="adam", batch=32, status="done"
    )
    (search,) = searches(runs, metric="validation_loss", result="test_loss", choosing=[0]).values()
    np.testing.assert_array_equal(search.validation, [[0.5, NAN, NAN], [0.3, NAN, NAN], [0.4, NAN, NAN]])
    np.testing.assert_array_equal(search.results, [[5.0, NAN, NAN], [NAN, 101.0, 102.0], [4.0, NAN, NAN]])
    assert winner(search) == (1,)
    assert search_interval(search).estimate == 101.5


def test_intervals_with_new_seeds_cover_the_expected_winner():
    """Ten trials uniform on a parabola, one seed that chooses and five new ones, as in a study; the truth by simulation."""
    draw = np.random.default_rng(7)

    def study():
        level = (draw.random(10) - 0.4) ** 2 * 4
        judged = level + 0.15 * draw.standard_normal(10)
        chosen = int(np.argmin(judged))
        new = level[chosen] + 0.15 * draw.standard_normal(5)
        return confirmed(judged, level + 0.15 * draw.standard_normal(10), {chosen: new}, higher=False), level[chosen]

    truth = np.mean([study()[1] for _ in range(20_000)])
    covers = [found.low <= truth <= found.high for found in (search_interval(study()[0], 300) for _ in range(300))]
    assert np.mean(covers) > 0.9
