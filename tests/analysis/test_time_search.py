"""The best trial of a search by its times to a target, and its resamples, by hand and by enumeration."""

import math
from itertools import product

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from optbench.analysis.statistics.survival import Times, restricted_mean
from optbench.analysis.statistics.time_search import Resamples, TimeSearch, searches, time_ratios

INF, NAN = math.inf, math.nan


def search(rows, horizon=100.0, defaults=False):
    times = np.array(rows, dtype=float)
    return TimeSearch(times, times, horizon, defaults)


def test_the_restricted_mean_is_that_of_the_survival_curve():
    rows = [[5, 8, 12, INF, 101], [7, 7, 7, 7, 7], [INF] * 5]
    found = search(rows).restricted_means()
    for row, mean in zip(rows, found, strict=True):
        times = Times.of(np.minimum(row, 100), [value <= 100 for value in row])
        assert mean == pytest.approx(restricted_mean(times, 100).estimate)
    assert search(rows).reached().tolist() == [0.6, 1, 0]


def test_the_winner_is_not_that_of_the_median():
    """The first trial reaches the target at 5 in the median, and two of five seeds never."""
    assert search([[5, 5, 5, INF, INF], [20] * 5]).winners.tolist() == [1]


def test_of_equal_means_the_less_bad_worst_seed_wins_and_what_still_ties_are_all():
    assert search([[10, 20, 30], [20, 20, 20], [19, 20, 21]]).winners.tolist() == [1]
    assert search([[30, 10, 20], [10, 20, 30], [0, 30, 30]]).winners.tolist() == [0, 1, 2]
    assert search([[0.3, 0.3], [0.1 + 0.2, 0.3]]).winners.tolist() == [0, 1]  # equal but for rounding


def test_a_run_without_an_outcome_has_no_part():
    found = search([[NAN, 10, 20], [16, 16, 16], [NAN, NAN, NAN]])
    assert found.restricted_means().tolist() == [15, 16, INF]
    assert found.winners.tolist() == [0]
    np.testing.assert_equal(found.reached(), [1, 1, NAN])
    weights = Resamples(np.ones((1, 3), bool), np.array([[3, 0, 0]]), np.zeros(1))
    assert weights.best(found)[0] == 16  # the first trial has none of the drawn seeds


def test_an_unresolved_time_is_at_a_place_between_its_bounds():
    found = TimeSearch(np.array([[0.0, 10.0, INF]]), np.array([[6.0, 10.0, INF]]), 100)
    assert found.unresolved.tolist() == [[True, False, False]]
    assert [found.restricted_means(place)[0] for place in (0, 0.5, 1)] == pytest.approx([110 / 3, 113 / 3, 116 / 3])
    drawn = Resamples(np.ones((1, 1), bool), np.ones((1, 3)), np.array([0.25]))
    assert drawn.best(found)[0] == pytest.approx(111.5 / 3)


@pytest.mark.parametrize(
    ("lower", "upper"), [([[2.0]], [[1.0]]), ([[NAN]], [[1.0]]), ([1.0], [1.0]), ([[1.0]], [[1.0, 2.0]])]
)
def test_times_that_cannot_be_are_refused(lower, upper):
    with pytest.raises(ValueError, match="times"):
        TimeSearch(np.array(lower), np.array(upper), 10)


def test_the_searches_of_a_frame_share_their_trials_and_seeds():
    rows = [(b, t, s, 1000 / b + t + s) for b in (16, 512) for t in (0, 3) for s in (1, 2)]
    runs = pd.DataFrame(rows, columns=["batch", "trial", "seed", "steps_to_target"])[::-1]
    runs["steps_before"] = runs["steps_to_target"] // 4 * 4
    runs["steps_after"] = runs["steps_before"] + 4
    runs = runs[~((runs["batch"] == 16) & (runs["trial"] == 3))]
    found = searches(runs, 600)
    # At batch 512 the times are of fewer than five intervals between evaluations; at 16 of more.
    np.testing.assert_equal(found[16].lower, [[63.5, 64.5], [NAN, NAN]])
    np.testing.assert_equal(found[16].upper, found[16].lower)
    first = 1000 / 512  # 1.95: seeds 1 and 2 of trial 0 at 2.95 and 3.95, of trial 3 at 5.95 and 6.95
    assert first + 2 < 4
    assert found[512].lower.tolist() == [[0, 0], [4, 4]]
    assert found[512].upper.tolist() == [[4, 4], [8, 8]]
    assert not found[16].defaults


# ---- resamples ----------------------------------------------------------------------------------------------------------


def test_a_resample_has_each_trial_with_the_probability_of_draws_with_replacement():
    twelve = search(np.ones((12, 5)))
    drawn = Resamples.of(twelve, 4000)
    assert drawn.trials.mean() == pytest.approx(1 - (11 / 12) ** 12, abs=0.01)  # 0.648
    assert (drawn.seeds.sum(axis=1) == 5).all()
    with_defaults = Resamples.of(search(np.ones((12, 5)), defaults=True), 4000)
    assert with_defaults.trials[:, 0].all()
    assert with_defaults.trials[:, 1:].mean() == pytest.approx(1 - (10 / 11) ** 11, abs=0.01)


def test_searches_of_one_label_share_trials_and_all_share_seeds():
    twelve = search(np.ones((12, 5)))
    one, same, other = (Resamples.of(twelve, 50, seed=3, label=label) for label in (0, 0, 1))
    assert (one.trials == same.trials).all()
    assert (one.places == same.places).all()
    assert (one.trials != other.trials).any()
    assert (one.seeds == other.seeds).all()


def test_resampled_best_trials_are_those_of_all_resamples_enumerated():
    """Two trials and two seeds have 4 x 4 equally likely resamples."""
    times = np.array([[10.0, 30.0], [15.0, 27.0]])
    expected = [
        min(times[t, list(seeds)].mean() for t in trials)
        for trials in product(range(2), repeat=2)
        for seeds in product(range(2), repeat=2)
    ]
    found, shares = Resamples.of(search(times), 20_000).best(search(times))
    assert set(found) == set(expected)
    for value in set(expected):
        assert (found == value).mean() == pytest.approx(expected.count(value) / 16, abs=0.015)
    assert (shares == 1).all()


def test_the_share_that_reached_is_that_of_the_drawn_seeds_of_the_chosen_trial():
    drawn = Resamples(np.array([[True, True], [False, True]]), np.array([[1, 2, 0], [0, 0, 3]]), np.zeros(2))
    means, shares = drawn.best(search([[10, INF, 5], [99, 99, INF]]))
    assert means.tolist() == pytest.approx([70, 100])
    assert shares.tolist() == pytest.approx([1 / 3, 0])


def test_the_intervals_of_ratios_are_students_with_the_deviations_of_a_plain_bootstrap():
    """Two trials and seeds of a resample serve all batch sizes of an optimizer; its seeds are those of the other, too."""
    generator = np.random.default_rng(0)
    first, second = (scale * np.exp(0.3 * generator.standard_normal((3, 6, 4))) for scale in (30, 10))
    sizes = [8.0, 32.0, 64.0]
    found = time_ratios(
        *({size: search(rows) for size, rows in zip(sizes, each, strict=True)} for each in (first, second)), 4000
    )
    logs = np.log(first.mean(2).min(1) / second.mean(2).min(1))
    plain = []
    for _ in range(4000):
        seeds = generator.integers(4, size=4)
        best = [rows[:, generator.integers(6, size=6)][:, :, seeds].mean(2).min(1) for rows in (first, second)]
        plain.append(np.log(best[0] / best[1]))
    widths = stats.t.ppf(0.975, 5) * np.std(plain, axis=0)
    for size, log, width in zip(sizes, logs, widths, strict=True):
        ratio = found.ratios[size]
        assert math.log(ratio.estimate) == pytest.approx(log)
        assert math.log(ratio.high / ratio.estimate) == pytest.approx(width, rel=0.06)
        assert math.log(ratio.estimate / ratio.low) == pytest.approx(width, rel=0.06)
    slopes = np.polyfit(np.log(sizes), np.transpose(plain), 1)[0]
    assert found.trend.estimate == pytest.approx(stats.linregress(np.log(sizes), logs).slope)
    width = stats.t.ppf(0.975, 5) * np.std(slopes)
    assert found.trend.high - found.trend.estimate == pytest.approx(width, rel=0.06)


@pytest.mark.parametrize("rows", [[[1.0], [2.0], [3.0]], [[1.0, 2.0], [2.0, 3.0]]])
def test_a_ratio_of_single_seeds_or_of_two_trials_has_no_interval(rows):
    found = time_ratios({8.0: search(rows)}, {8.0: search(rows), 16.0: search(rows)})
    assert list(found.ratios) == [8]
    assert found.ratios[8].estimate == 1
    assert math.isnan(found.ratios[8].low)
    assert math.isnan(found.trend.estimate)


def test_where_the_target_was_not_reached_there_is_no_ratio():
    never = search([[INF, 101.0]] * 3)
    assert time_ratios({8.0: never}, {8.0: search([[1.0, 2.0]] * 3)}).ratios == {}
