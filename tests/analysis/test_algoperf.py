"""AlgoPerf's score by hand, and against the integral that it is."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import integrate, stats

from optbench.analysis.statistics import algoperf
from optbench.analysis.statistics.search_intervals import Search
from optbench.analysis.statistics.time_search import TimeSearch

INF = math.inf
TIMES = pd.DataFrame(
    [[10.0, 30.0, INF, INF], [20.0, 10.0, 5.0, INF], [35.0, 50.0, 6.0, INF]],
    index=["a", "b", "c"],
    columns=["w", "x", "y", "z"],
)


def test_ratios_by_hand():
    np.testing.assert_allclose(algoperf.ratios(TIMES), [[1, 3, INF, INF], [2, 1, 1, INF], [3.5, 5, 1.2, INF]])


def test_scores_by_hand():
    expected = {"a": (3 + 1) / 12, "b": (2 + 3 + 3) / 12, "c": (0.5 + 2.8) / 12}
    assert algoperf.scores(TIMES).to_dict() == pytest.approx(expected)


def test_the_score_is_the_integral_of_the_profile():
    generator = np.random.default_rng(0)
    times = pd.DataFrame(np.exp(generator.standard_normal((4, 9))), index=list("abcd"))
    times.iloc[1, 3] = INF
    grid = np.linspace(1, 4, 30_001)
    ratios = algoperf.ratios(times).to_numpy()
    profiles = (ratios[:, None, :] <= grid[:, None]).mean(axis=-1)
    np.testing.assert_allclose(algoperf.scores(times), integrate.trapezoid(profiles, grid, axis=1) / 3, atol=1e-4)


@pytest.mark.parametrize("time", [0.0, -1.0, math.nan])
def test_a_time_that_is_none_is_refused(time):
    with pytest.raises(ValueError, match="positive"):
        algoperf.ratios(pd.DataFrame([[1.0, time]], index=["a"]))


def search(*trials, horizon=1000.0):
    """A search whose trials need these steps, with equal seeds unless a trial has several values."""
    times = np.array([np.broadcast_to(np.asarray(trial, dtype=float), 2) for trial in trials])
    return TimeSearch(times, times, horizon)


def test_an_interval_of_a_score_holds_the_search():
    """Of three trials a resample holds the best one with probability 1 - (2/3)^3; without it the score is 2/3."""
    found = algoperf.score_intervals(
        {"steady": [search(10, 10, 10)], "hangs": [search(20, 10, 20)]}, repetitions=40_000
    )
    assert (found["steady"].low, found["steady"].estimate, found["steady"].high) == (1, 1, 1)
    assert found["hangs"].estimate == 1
    share = 1 - (2 / 3) ** 3
    assert found["hangs"].error == pytest.approx(math.sqrt(share * (1 - share)) / 3, rel=0.01)
    assert found["hangs"].low == pytest.approx(1 - stats.t.ppf(0.975, 2) * found["hangs"].error)
    assert found["hangs"].high == 1
    assert found["hangs"].of == "search"


def test_a_search_whose_best_trial_mostly_misses_the_target_has_no_time():
    searches = {
        "a": [search(10, 20, 30), search(10, 12, 14)],
        # (40 + 100) / 2 of a budget of 100, with half of the seeds at the target; no trial comes to the second within 30.
        "b": [search([40, INF], 500, 600, horizon=100.0), search(INF, INF, INF, horizon=30.0)],
    }
    found = algoperf.score_intervals({**searches, "c": [search(15, 15, 15), search(20, 20, 20)]}, repetitions=50)
    assert {name: one.estimate for name, one in found.items()} == pytest.approx({
        "a": 1.0, "b": 0.0, "c": ((4 - 1.5) + (4 - 2)) / 6,
    })  # fmt: skip
    searches["b"][0] = search([30, INF], 500, 600, horizon=40.0)
    assert algoperf.score_intervals(searches, repetitions=50)["b"].estimate == pytest.approx((4 - 3.5) / 6)
    with pytest.raises(ValueError, match="same workloads"):
        algoperf.score_intervals({"a": searches["a"], "b": searches["b"][:1]})


def test_one_seed_has_no_interval_of_its_score():
    ones = {
        name: [TimeSearch(np.full((3, 1), time), np.full((3, 1), time), 100.0)]
        for name, time in (("a", 10.0), ("b", 20.0))
    }
    found = algoperf.score_intervals(ones, repetitions=20)
    assert found["b"].estimate == pytest.approx(2 / 3)
    assert math.isnan(found["b"].low)


def test_a_method_r_max_times_as_slow_scores_nothing():
    times = pd.DataFrame([[1.0], [4.0], [2.5]], index=list("abc"))
    assert algoperf.scores(times).tolist() == [1, 0, 0.5]


# ---- winners that have new seeds --------------------------------------------------------------------------------------------


def cost_search(costs, reached=None, trials=4):
    """A search whose first trial wins; its new seeds have these costs, and other trials 10 times these."""
    costs = np.atleast_1d(np.asarray(costs, dtype=float))
    reached = np.isfinite(costs) if reached is None else np.asarray(reached)
    shape = trials, 1 + len(costs)
    validation, spent, there = np.full(shape, math.nan), np.full(shape, math.nan), np.full(shape, math.nan)
    validation[:, 0] = np.arange(trials)
    spent[1:, 0], there[1:, 0] = 10 * costs.mean(), 1.0
    spent[0, 1:], there[0, 1:] = np.where(np.isfinite(costs), costs, 1000.0), reached
    choosing = np.arange(shape[1]) == 0
    return algoperf.CostSearch(*(Search(validation, each, False, choosing=choosing) for each in (spent, there)))


def test_scores_of_winners_are_those_of_their_mean_costs():
    tasks = {name: [cost_search(value) for value in row] for name, row in zip("abc", TIMES.to_numpy(), strict=True)}
    np.testing.assert_allclose(algoperf.observed_costs(tasks), TIMES)
    found = algoperf.scores_of_winners(tasks, repetitions=50).set_index("method")
    assert found["score"].to_dict() == pytest.approx(algoperf.scores(TIMES).to_dict())
    # By problem, where all miss the last target and a the one before.
    ranks = {"a": (1 + 2 + 3 + 2) / 4, "b": (2 + 1 + 1 + 2) / 4, "c": (3 + 3 + 2 + 2) / 4}
    assert found["rank"].to_dict() == pytest.approx(ranks)
    assert found["solved"].to_dict() == {"a": 2, "b": 3, "c": 3}
    assert ((found["low"] <= found["score"]) & (found["score"] <= found["high"])).all()


def test_half_of_the_new_seeds_must_reach_the_target():
    two, one = cost_search([10.0, 30.0, 1000.0], [1, 1, 0]), cost_search([10.0, 1000.0, 1000.0], [1, 0, 0])
    found = algoperf.observed_costs({"two": [two], "one": [one]})[0]
    assert found.to_dict() == {"two": pytest.approx(1040 / 3), "one": INF}


def test_problems_are_resampled_from_six_on():
    """Equal trials and seeds leave the problems as the only noise: three ratios of 1 and three of 2 have the scores 1 and 2/3."""
    tasks = {
        "a": [cost_search([10.0, 10.0], trials=3) for _ in range(6)],
        "b": [cost_search([10.0 * (1 + place % 2)] * 2, trials=3) for place in range(6)],
    }
    for searches in tasks.values():
        for each in searches:
            each.costs.results[1:, 0] = each.costs.results[0, 1]
    seen = algoperf.scores_of_winners(tasks, repetitions=4000).set_index("method").loc["b"]
    # Of six draws with replacement the mean has the deviation (1/6) / sqrt(6); two degrees of freedom for three trials.
    assert seen["score"] == pytest.approx(5 / 6)
    assert seen["high"] == 1
    assert seen["score"] - seen["low"] == pytest.approx(stats.t.ppf(0.975, 2) / 6 / math.sqrt(6), rel=0.06)
    fixed = algoperf.scores_of_winners(tasks, problems=False, repetitions=50).set_index("method").loc["b"]
    assert fixed["low"] == pytest.approx(fixed["high"])


@pytest.mark.parametrize("shared", [False, True])
def test_a_trial_is_drawn_for_all_problems_together(shared):
    """While a resample holds the one good trial of four, "a" costs as much as "b", and otherwise six times as much: score 0."""
    validation = np.array([[1.0], [0.0], [1.0], [1.0]])

    def costing(other):
        costs = np.array([[other], [10.0], [other], [other]])
        return algoperf.CostSearch(Search(validation, costs, False), Search(validation, np.ones((4, 1)), False))

    tasks = {"a": [costing(60.0)] * 9, "b": [costing(10.0)] * 9}
    found = algoperf.scores_of_winners(tasks, problems=False, repetitions=20_000, shared_trials=shared)
    row = found.set_index("method").loc["a"]
    held = 1 - 0.75**4
    deviation = math.sqrt(held * (1 - held) / (1 if shared else 9))
    assert row["score"] - row["low"] == pytest.approx(min(1, stats.t.ppf(0.975, 3) * deviation), rel=0.03)


def test_methods_of_different_problems_are_refused():
    with pytest.raises(ValueError, match="same problems"):
        algoperf.scores_of_winners({"a": [cost_search(1.0)], "b": []})
