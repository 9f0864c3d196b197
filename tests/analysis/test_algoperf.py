"""AlgoPerf's score by hand, and against the integral that it is."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import integrate

from optbench.analysis.statistics import algoperf

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


def test_intervals_of_scores():
    generator = np.random.default_rng(1)
    steady = [np.full(5, 10.0), np.full(5, 10.0)]
    wide = [20 + generator.uniform(-3, 3, 5), np.full(5, INF)]
    found = algoperf.score_intervals({"steady": steady, "wide": wide}, repetitions=300)
    assert (found["steady"].low, found["steady"].estimate, found["steady"].high) == (1, 1, 1)
    assert found["wide"].estimate == pytest.approx((4 - np.median(wide[0]) / 10) / 3 / 2)
    assert found["wide"].low < found["wide"].estimate < found["wide"].high
    with pytest.raises(ValueError, match="same workloads"):
        algoperf.score_intervals({"steady": steady, "wide": wide[:1]})


def test_a_method_r_max_times_as_slow_scores_nothing():
    times = pd.DataFrame([[1.0], [4.0], [2.5]], index=list("abc"))
    assert algoperf.scores(times).tolist() == [1, 0, 0.5]
