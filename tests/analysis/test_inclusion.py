"""Failed searches: Holm by hand, p-values of scipy, and the committed searches of SGD with and without momentum."""

import math
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from optbench.analysis.statistics.inclusion import holm, inclusion_failures
from optbench.analysis.statistics.search_intervals import Search

INF, NAN = math.inf, math.nan
COMMITTED = np.load(Path(__file__).with_name("committed_searches.npz"))
PROBLEMS = ("keskar_f1_digits", "mlp_digits", "mlp_fashion_mnist")
PAIRS = [("momentum", "sgd"), ("nesterov", "sgd")]


def of_winner(values):
    """A search of one trial with these results."""
    return Search(np.array([values], float), np.array([values], float))


def test_holm_by_hand():
    np.testing.assert_allclose(holm([0.01, 0.04, NAN, 0.03]), [0.03, 0.06, NAN, 0.06])
    np.testing.assert_allclose(holm([0.6, 0.7]), [1, 1])
    assert len(holm([])) == 0


@pytest.fixture(scope="module")
def committed():
    names = ("sgd", "momentum", "nesterov")
    return {
        (name, problem): Search(*(100 * COMMITTED[f"comparison-{name}-{problem}"]))
        for name in names
        for problem in PROBLEMS
    }


def test_the_searches_of_momentum_failed_on_digits(committed):
    found = inclusion_failures(committed, PAIRS).set_index(["container", "cell"])
    assert len(found) == 6
    expected = {
        ("momentum", ("keskar_f1_digits",)): (-2.72, -3.65, -1.80),
        ("nesterov", ("keskar_f1_digits",)): (-2.28, -3.55, -1.00),
        ("nesterov", ("mlp_digits",)): (-1.39, -2.45, -0.33),
    }
    for key, numbers in expected.items():
        assert found.loc[[key], ["difference", "low", "high"]].to_numpy()[0] == pytest.approx(numbers, abs=0.006)
    assert set(found.index[found["failed"]]) == set(expected)


def test_the_p_values_are_scipys_one_sided_ones(committed):
    found = inclusion_failures(committed, PAIRS)
    tests = {}
    for name in ("sgd", "momentum", "nesterov"):
        for problem in PROBLEMS:
            validation, test = COMMITTED[f"comparison-{name}-{problem}"]
            tests[name, problem] = test[validation.mean(1).argmax()]
    expected = [
        stats.ttest_rel(tests[row["container"], *row["cell"]], tests["sgd", *row["cell"]], alternative="less").pvalue
        for _, row in found.iterrows()
    ]
    np.testing.assert_allclose(found["p"], expected)
    np.testing.assert_allclose(found["p_holm"], holm(expected))


def test_a_container_that_is_ahead_has_not_failed():
    searches = {("a",): of_winner([1.0, 1.1, 1.2]), ("b",): of_winner([0.1, 0.3, 0.2])}
    assert inclusion_failures(searches, [("a", "b")])["failed"].tolist() == [False]
    assert inclusion_failures(searches, [("b", "a")])["failed"].tolist() == [True]


def test_differences_that_are_equal_for_all_seeds():
    searches = {("a",): of_winner([1.0, 2.0]), ("b",): of_winner([2.0, 3.0]), ("c",): of_winner([1.0, 2.0])}
    found = inclusion_failures(searches, [("a", "b"), ("b", "a"), ("a", "c")])
    assert found["p"].tolist() == [0, 1, 0.5]
    assert found["failed"].tolist() == [True, False, False]


def test_a_container_that_never_trains_has_failed_and_one_seed_tells_nothing():
    searches = {("a",): of_winner([-INF, -INF]), ("b",): of_winner([0.5, 0.6]), ("c",): of_winner([0.1, NAN])}
    found = inclusion_failures(searches, [("a", "b"), ("c", "b"), ("b", "a")]).set_index("container")
    assert found["failed"].to_dict() == {"a": True, "c": False, "b": False}
    assert found["p"].isna().all()
    assert found.loc["c", "difference"] == -0.4


def test_cells_without_both_are_left_out():
    searches = {("a", 32): of_winner([1.0, 2.0]), ("b", 64): of_winner([1.0, 2.0])}
    found = inclusion_failures(searches, [("a", "b")])
    assert len(found) == 0
    assert "failed" in found
