"""AlgoPerf's score by hand, and against the integral that it is."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy import integrate

from optbench.analysis import algoperf

INF = math.inf
TIMES = pd.DataFrame(
    [[10.0, 30.0, INF, INF], [20.0, 10.0, 5.0, INF], [35.0, 50.0, 6.0, INF]],
    index=["a", "b", "c"],
    columns=["w", "x", "y", "z"],
)


def test_ratios_and_profiles_by_hand():
    np.testing.assert_allclose(algoperf.ratios(TIMES), [[1, 3, INF, INF], [2, 1, 1, INF], [3.5, 5, 1.2, INF]])
    np.testing.assert_allclose(
        algoperf.profiles(TIMES, [1, 2, 3.5]), [[0.25, 0.25, 0.5], [0.5, 0.75, 0.75], [0, 0.25, 0.5]]
    )


def test_scores_by_hand():
    expected = {"a": (3 + 1) / 12, "b": (2 + 3 + 3) / 12, "c": (0.5 + 2.8) / 12}
    assert algoperf.scores(TIMES).to_dict() == pytest.approx(expected)


def test_the_score_is_the_integral_of_the_profile():
    generator = np.random.default_rng(0)
    times = pd.DataFrame(np.exp(generator.standard_normal((4, 9))), index=list("abcd"))
    times.iloc[1, 3] = INF
    grid = np.linspace(1, 4, 30_001)
    profiles = algoperf.profiles(times, grid).to_numpy()
    np.testing.assert_allclose(algoperf.scores(times), integrate.trapezoid(profiles, grid, axis=1) / 3, atol=1e-4)


@pytest.mark.parametrize("time", [0.0, -1.0, math.nan])
def test_a_time_that_is_none_is_refused(time):
    with pytest.raises(ValueError, match="positive"):
        algoperf.ratios(pd.DataFrame([[1.0, time]], index=["a"]))


def test_of_a_study_the_fastest_trial_and_of_studies_the_median():
    studies = {"w": np.array([[5, INF, 3], [INF, INF, 9], [4, 8, 7]]), "x": np.array([[INF], [INF], [1]])}
    assert algoperf.study_medians(studies).to_dict() == {"w": 4, "x": INF}


def test_what_fails_on_the_held_out_variant_has_missed():
    held_out = pd.DataFrame({"w": [10.0, 41.0, 40.0], "y": [INF, 7.0, INF]}, index=["a", "b", "c"])
    counted = algoperf.with_held_out(TIMES, held_out)
    np.testing.assert_array_equal(counted, [[10, 30, INF, INF], [INF, 10, 5, INF], [35, 50, INF, INF]])
    assert TIMES.loc["b", "w"] == 20


def test_geometric_mean_speedup():
    speedups = algoperf.geometric_mean_speedup(TIMES, "b")
    assert speedups["b"] == 1
    assert speedups["a"] == 0  # misses y
    assert speedups["c"] == pytest.approx((20 / 35 * 10 / 50 * 5 / 6) ** (1 / 3))


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


def test_times_of_a_frame():
    runs = pd.DataFrame({
        "optimizer": ["a", "a", "a", "b", "b"], "model": "m", "dataset": ["d", "d", "d", "d", "e"],
        "status": ["done", "done", "diverged", "done", "failed"], "steps_to_target": [5.0, 7.0, None, None, None],
    })  # fmt: skip
    times = algoperf.median_times(runs)
    assert times.to_dict() == {"m-d": {"a": 7, "b": INF}}
