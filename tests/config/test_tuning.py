import subprocess
import sys

import numpy as np
import pytest
from scipy import stats
from scipy.stats import qmc

from optbench.config.tuning import trial_options
from optbench.errors import UserError

SPACE = {
    "learning_rate": {"distribution": "log_uniform", "low": 1e-4, "high": 10.0},
    "momentum": {"distribution": "log_uniform_complement", "low": 1e-3, "high": 1.0},
    "damping": {"distribution": "uniform", "low": -1.0, "high": 3.0},
    "steps": {"distribution": "integer", "low": 2, "high": 5},
    "mode": {"distribution": "categorical", "choices": ["a", "b", "c"]},
}


@pytest.fixture(scope="module")
def points():
    return [trial_options(SPACE, trial) for trial in range(1, 129)]


def test_trial_0_is_the_defaults():
    assert trial_options(SPACE, 0) == {}
    assert trial_options({}, 0) == {}


def test_the_points_are_scipys_sobol_sequence_in_the_order_of_the_names():
    space = {name: {"distribution": "uniform", "low": 0.0, "high": 1.0} for name in ("b", "c", "a")}
    sequence = qmc.Sobol(3, scramble=True, seed=np.random.default_rng(0)).random(8)
    for trial, point in enumerate(sequence, start=1):
        options = trial_options(space, trial)
        np.testing.assert_allclose([options["a"], options["b"], options["c"]], point, rtol=1e-5)


def test_known_points():
    """Written down once: a change here changes what every earlier study calls trial 1."""
    assert trial_options(SPACE, 1) == {
        "damping": 0.639798,
        "learning_rate": 6.61609,
        "mode": "c",
        "momentum": 0.9019858,
        "steps": 3,
    }


def test_values_lie_within_bounds_and_have_the_right_types(points):
    for point in points:
        assert 1e-4 <= point["learning_rate"] <= 10
        assert 0 <= point["momentum"] <= 1 - 1e-3
        assert -1 <= point["damping"] <= 3
        assert point["steps"] in (2, 3, 4, 5)
        assert isinstance(point["steps"], int)
        assert point["mode"] in ("a", "b", "c")


def test_marginals(points):
    """128 points of a Sobol sequence fill each dimension evenly: far closer than 128 random ones would (about 0.1)."""
    uniform = {
        "learning_rate": [np.log(p["learning_rate"] / 1e-4) / np.log(1e5) for p in points],
        "momentum": [np.log((1 - p["momentum"]) / 1e-3) / np.log(1e3) for p in points],
        "damping": [(p["damping"] + 1) / 4 for p in points],
    }
    for values in uniform.values():
        assert stats.kstest(values, "uniform").statistic < 0.02
    for name, count in (("steps", 4), ("mode", 3)):
        _, frequencies = np.unique([p[name] for p in points], return_counts=True)
        assert len(frequencies) == count
        assert abs(frequencies - 128 / count).max() <= 2


def test_values_have_six_significant_digits(points):
    for point in points:
        assert point["learning_rate"] == float(f"{point['learning_rate']:.6g}")


def test_a_trial_does_not_depend_on_which_were_asked_for_before(points):
    assert [trial_options(SPACE, trial) for trial in (77, 3, 128)] == [points[76], points[2], points[127]]


def test_the_order_in_which_a_space_is_written_does_not_matter():
    assert trial_options(dict(reversed(SPACE.items())), 5) == trial_options(SPACE, 5)


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"distribution": "normal", "low": 0, "high": 1}, "distribution=normal"),
        ({"low": 0, "high": 1}, "distribution=None"),
        (3, "distribution=None"),
        ({"distribution": "uniform", "low": 1.0, "high": 1.0}, "low < high"),
        ({"distribution": "uniform", "low": 0.0}, "low and high"),
        ({"distribution": "uniform", "low": "0", "high": 1}, "low < high"),
        ({"distribution": "log_uniform", "low": 0.0, "high": 1.0}, "0 < low"),
        ({"distribution": "log_uniform", "low": 1e-3, "high": float("inf")}, "0 < low"),
        ({"distribution": "log_uniform_complement", "low": 0.1, "high": 2.0}, "<= 1"),
        ({"distribution": "integer", "low": 1.5, "high": 3}, "integers"),
        ({"distribution": "integer", "low": 4, "high": 3}, "integers"),
        ({"distribution": "categorical", "choices": []}, "choices"),
        ({"distribution": "categorical", "choices": ["a"], "low": 1}, "choices"),
    ],
)
def test_a_space_that_is_not_valid_is_named(entry, said):
    with pytest.raises(UserError, match=rf"search_space\.rate.*{said}"):
        trial_options({"rate": entry}, 0)


@pytest.mark.parametrize("trial", [-1, 1.0, True, "1"])
def test_a_trial_that_is_not_valid_is_named(trial):
    with pytest.raises(UserError, match="trial="):
        trial_options(SPACE, trial)


def test_a_trial_of_an_empty_space_is_refused():
    with pytest.raises(UserError, match="no search space"):
        trial_options({}, 1)


def test_imports_neither_torch_nor_scipy():
    code = (
        "import sys, optbench.config.tuning as t; t.trial_options({}, 0); print({'torch', 'scipy'} & set(sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"
