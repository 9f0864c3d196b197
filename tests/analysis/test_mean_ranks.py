"""Ranks over problems against scipy, by hand, and on the committed searches of seventeen methods."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from optbench.analysis.statistics.ranks import friedman, mean_ranks, ranked
from optbench.analysis.statistics.search_intervals import Search

INF, NAN = math.inf, math.nan
COMMITTED = np.load(Path(__file__).with_name("committed_searches.npz"))
PROBLEMS = ("keskar_f1_digits", "mlp_digits", "mlp_fashion_mnist")


def certain(value, trials=3, seeds=2):
    """A search without noise."""
    return Search(np.full((trials, seeds), float(value)), np.full((trials, seeds), float(value)))


def test_ranks_share_ties_and_nan_is_last():
    values = np.array([[0.5, 0.9, 0.5, NAN], [0.1 + 0.2, 0.3, 0.0, 1.0]])
    np.testing.assert_array_equal(ranked(values), [[2.5, 1, 2.5, 4], [2.5, 2.5, 4, 1]])
    np.testing.assert_array_equal(ranked(-values, higher=False), [[2.5, 1, 2.5, 4], [2.5, 2.5, 4, 1]])


@pytest.mark.parametrize("ties", [False, True])
def test_friedman_and_kendall_are_scipys(ties):
    generator = np.random.default_rng(4)
    results = generator.integers(0, 4, (7, 5)) if ties else generator.random((7, 5))
    ranks = ranked(results.astype(float))
    p, w = friedman(ranks)
    expected = stats.friedmanchisquare(*results.T)
    assert p == pytest.approx(expected.pvalue)
    assert w == pytest.approx(expected.statistic / (7 * 4))


def test_equal_rankings_agree_wholly_and_opposite_ones_not_at_all():
    assert friedman(np.array(3 * [[3.0, 1.0, 2.0]]))[1] == pytest.approx(1)
    assert friedman(np.array([[1.0, 2, 3], [3.0, 2, 1]])) == pytest.approx((1, 0))
    assert friedman(np.full((3, 3), 2.0)) == (1, 0)
    assert np.isnan(friedman(np.array([[1.0, 2.0]]))).all()


def test_ranks_without_noise_are_exact():
    scores = {"a": (3, 1, 5), "b": (3, 5, 1), "c": (9, 0, 0)}
    found = mean_ranks({name: list(map(certain, own)) for name, own in scores.items()}, repetitions=50)
    expected = stats.rankdata(-np.array(list(scores.values())), axis=0).mean(axis=1)
    table = found.table.set_index("method")
    np.testing.assert_allclose(table.loc[["a", "b", "c"], "rank"], expected)
    np.testing.assert_allclose(table["low"], table["rank"])
    np.testing.assert_allclose(table["high"], table["rank"])
    assert found.table["method"].tolist() == ["a", "b", "c"]
    assert table["p_best"].tolist() == [0.5, 0.5, 0]
    assert table["behind"].tolist() == pytest.approx([0, 0, expected[2] - expected[0]])
    assert (found.problems, found.over_problems) == (3, False)


def test_a_method_without_a_winner_is_last_and_losses_rank_downward():
    searches = {"a": [certain(-INF)], "b": [certain(1)], "c": [certain(2)]}
    assert mean_ranks(searches, repetitions=20).table["method"].tolist() == ["c", "b", "a"]
    losses = {"b": [certain(1)], "c": [certain(2)]}
    assert mean_ranks(losses, higher=False, repetitions=20).table["method"].tolist() == ["b", "c"]


def test_from_six_problems_on_the_problems_are_resampled():
    """Without noise within problems: the error of the mean rank is that of a mean of P draws, sd / sqrt(P)."""
    scores = {"a": (1, 1, 1, 0, 0, 0), "b": (0, 0, 0, 1, 1, 1)}
    searches = {name: list(map(certain, own)) for name, own in scores.items()}
    found = mean_ranks(searches, repetitions=20_000)
    assert found.over_problems
    pair = found.pairs.iloc[0]
    # The differences of ranks are +1 or -1.
    assert pair["error"] == pytest.approx(1 / math.sqrt(6), rel=0.02)
    assert pair["high"] == pytest.approx(stats.t.ppf(0.975, 2) * pair["error"])
    five = {name: own[:5] for name, own in searches.items()}
    assert mean_ranks(five, repetitions=20).pairs.iloc[0]["error"] == 0
    assert mean_ranks(five, problems=True, repetitions=2000).pairs.iloc[0]["error"] > 0


def test_the_degrees_of_freedom_are_those_of_the_problems_if_they_are_fewer():
    scores = {"a": (1, 1, 1, 0, 0, 0, 1), "b": (0, 0, 0, 1, 1, 1, 1)}
    searches = {name: [certain(value, trials=12) for value in own] for name, own in scores.items()}
    pair = mean_ranks(searches, repetitions=200).pairs.iloc[0]
    assert (pair["high"] - pair["difference"]) / pair["error"] == pytest.approx(stats.t.ppf(0.975, 6))


def test_one_trial_has_no_interval():
    found = mean_ranks({"a": [certain(1, trials=1)], "b": [certain(2, trials=1)]}, repetitions=20)
    assert found.table[["low", "high"]].isna().all(axis=None)
    assert math.isnan(found.told_apart)


def test_seeds_in_common_cancel():
    seeds = np.array([0.0, 1, 2, 3])
    searches = {"a": [Search(np.tile(seeds, (3, 1)), np.tile(seeds, (3, 1)))],
                "b": [Search(np.tile(seeds - 0.1, (3, 1)), np.tile(seeds - 0.1, (3, 1)))]}  # fmt: skip
    assert mean_ranks(searches, repetitions=200).pairs.iloc[0]["error"] == 0


def test_the_methods_must_have_the_same_problems():
    for searches in ({"a": [certain(1)], "b": 2 * [certain(1)]}, {"a": [], "b": []}):
        with pytest.raises(ValueError, match="same problems"):
            mean_ranks(searches)


@pytest.fixture(scope="module")
def committed():
    methods = sorted({name.split("-")[1] for name in COMMITTED.files if name.startswith("comparison")})
    arrays = {name: [COMMITTED[f"comparison-{name}-{problem}"] for problem in PROBLEMS] for name in methods}
    return {name: [Search(*own) for own in three] for name, three in arrays.items()}


def test_few_of_seventeen_methods_are_told_apart_on_three_problems(committed):
    """Student's intervals over the winners' seeds told half of the 136 pairs apart."""
    found = mean_ranks(committed)
    assert (len(found.pairs), found.over_problems) == (136, False)
    assert found.told_apart == pytest.approx(0.18, abs=0.03)
    first = found.table.iloc[0]
    assert (first["method"], first["rank"]) == ("kfac", 3.0)
    assert first["high"] - first["rank"] == pytest.approx(1.77, abs=0.15)
    assert found.kendall_w == pytest.approx(0.370, abs=5e-4)
    assert found.friedman_p == pytest.approx(0.337, abs=5e-4)
    assert (found.table["low"].min(), found.table["high"].max()) == (1, 17)
    assert found.table["p_best"].sum() == pytest.approx(1)


def test_fewer_are_on_other_problems(committed):
    pairs = mean_ranks(committed, problems=True).pairs
    told = pairs["difference"].abs() > stats.t.ppf(0.975, 11) * pairs["error"]
    assert told.mean() == pytest.approx(0.12, abs=0.03)


@pytest.mark.parametrize("shared", [False, True])
def test_a_trial_that_is_lucky_on_all_problems_is_drawn_for_all_of_them(shared):
    """One of four trials of "a" beats "b" on each of nine problems: a resample lacks it with probability (3/4)^4.

    If the problems draw trials apart, the ranks of nine problems average this luck out.
    """
    lucky = Search(*[np.array([[0.0], [1.0], [0.0], [0.0]])] * 2)
    tasks = {"a": [lucky] * 9, "b": [certain(0.5, 4, 1)] * 9}
    found = mean_ranks(tasks, problems=False, repetitions=20_000, shared_trials=shared)
    held = 1 - 0.75**4
    deviation = math.sqrt(held * (1 - held) / (1 if shared else 9))
    row = found.table.set_index("method").loc["b"]
    assert row["rank"] - row["low"] == pytest.approx(min(1, stats.t.ppf(0.975, 3) * deviation), rel=0.03)
    assert found.pairs.loc[0, "error"] == pytest.approx(2 * deviation, rel=0.03)


def test_searches_with_unequal_numbers_of_trials_share_none():
    with pytest.raises(ValueError, match="share trials must have equally many"):
        mean_ranks({"a": [certain(1)], "b": [certain(2, trials=4)]}, repetitions=10, shared_trials=True)
