"""The first step at which the risk reaches a target, against a loop over all steps."""

import numpy as np
import pytest

from optbench.theory import LinearMethod, steps_to_target


def by_a_loop(methods, curvatures, variances, multiplicities, target, steps, start=1.0):
    """The first t of at most ``steps`` with a risk of at most ``target``, and all risks up to there."""
    states = [start * np.outer(method.start, method.start) for method in methods]
    risks = []
    for step in range(steps + 1):
        moments = [state[method.evaluated, method.evaluated] for method, state in zip(methods, states, strict=True)]
        risks.append(0.5 * np.sum(multiplicities * curvatures * moments))
        if risks[-1] <= target:
            return step, risks
        states = [
            method.matrix @ state @ method.matrix.T + variance * np.outer(method.noise, method.noise)
            for method, state, variance in zip(methods, states, variances, strict=True)
        ]
    return None, risks


MAKERS = {
    "sgd": lambda h: LinearMethod.sgd(0.3, h),
    "momentum": lambda h: LinearMethod.momentum(0.05, 0.9, h),
    "nesterov": lambda h: LinearMethod.nesterov(0.05, 0.95, h),
    "averaged": lambda h: LinearMethod.averaged(0.3, 0.9, h),
}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("target", [2.0, 0.3, 0.05, 0.01])
def test_the_first_step_is_that_of_a_loop(name, target):
    """Catches counts that are off by one, and the second moment of θ in place of that of the average."""
    curvatures, multiplicities = np.array([1.7, 0.6, 0.1]), np.array([1.0, 2.0, 3.0])
    arguments = [MAKERS[name](h) for h in curvatures], curvatures, 0.002 * curvatures, multiplicities, target
    expected, _ = by_a_loop(*arguments, steps=500)
    assert steps_to_target(*arguments) == expected
    if expected is not None:
        assert steps_to_target(*arguments, limit=expected) == expected
        assert steps_to_target(*arguments, limit=expected - 1) is None


def test_a_risk_that_oscillates_is_caught_at_its_first_dip():
    """Catches a search by doubling and bisection, which sees the risk at 1, 2, 4, ..., where it is above the target."""
    methods, one = [LinearMethod.momentum(0.1, 0.99, 1.0)], np.ones(1)
    _, risks = by_a_loop(methods, one, 0 * one, one, -1.0, steps=512)
    assert min(risks[2**power] for power in range(10)) > 0.001
    assert np.flatnonzero(np.array(risks) <= 0.001)[0] == 34
    assert steps_to_target(methods, one, 0 * one, one, 0.001) == 34


def test_the_start_of_each_direction_counts():
    curvatures, starts = np.array([1.0, 0.1]), np.array([4.0, 0.5])
    methods = [LinearMethod.sgd(0.3, h) for h in curvatures]
    found = steps_to_target(methods, curvatures, 0 * curvatures, np.ones(2), 0.02, start=starts)
    risks = 0.5 * (curvatures * starts) @ (1 - 0.3 * curvatures)[:, None] ** (2 * np.arange(100))
    assert found == np.flatnonzero(risks <= 0.02)[0]


def test_100_000_steps_of_sgd_in_closed_form():
    """83 directions: s_t = s_∞ + (1 - α h)^(2t) (s₀ - s_∞) at the step that was found, and at the one before."""
    curvatures = np.geomspace(1e-4, 1.0, 83)
    rate, target = 0.11, 0.05
    variances = curvatures / 8
    methods = [LinearMethod.sgd(rate, h) for h in curvatures]
    multiplicities = np.linspace(1, 3, 83)
    limits = rate * variances / (curvatures * (2 - rate * curvatures))
    rates = (0.5 * multiplicities * curvatures, (1 - rate * curvatures) ** 2)

    def risk(steps):
        return float(rates[0] @ (limits + rates[1] ** steps * (1 - limits)))

    target = risk(100_000.5)
    assert steps_to_target(methods, curvatures, variances, multiplicities, target) == 100_001
    assert risk(100_001) < target < risk(100_000)


@pytest.mark.parametrize("limit", [2**18 - 1, 2**18, 3 * 2**18 + 5])
def test_the_longest_segments_join(limit):
    """θ² = (1 - α)^(2t) with 1 - α near 1, at the last steps of a segment and after several of the longest."""
    rate, one = 1e-6, np.ones(1)
    target = 0.5 * (1 - rate) ** (2 * limit - 1)
    assert steps_to_target([LinearMethod.sgd(rate, 1.0)], one, 0 * one, one, target) == limit


def test_none_where_the_noise_is_too_large():
    """The stationary risk is 0.5; the risk reaches less only if it starts there."""
    one = np.ones(1)
    methods = [LinearMethod.sgd(0.5, 1.0)]  # stationary E θ² = 0.5 σ²/1.5
    assert steps_to_target(methods, one, 3 * one, one, target=0.499) is None
    assert steps_to_target(methods, one, 3 * one, one, target=0.499, start=0.5) == 0


def test_the_search_waits_for_a_dip_below_the_stationary_risk():
    """Catches an end as soon as the stationary risk is above the target: one direction falls, and another rises later."""
    curvatures, starts, one = np.array([1.0, 0.01]), np.array([1.0, 0.0]), np.ones(2)
    methods = [LinearMethod.sgd(0.1, h) for h in curvatures]
    variances = np.array([0.0, 1e-2])
    stationary = 0.5 * 0.1 * 1e-2 / (2 - 0.1 * 0.01)
    times = np.arange(5000)[:, None]
    kept = (1 - 0.1 * curvatures) ** (2 * times)
    limits = 0.1 * variances / (curvatures * (2 - 0.1 * curvatures))
    risks = 0.5 * (limits + kept * (starts - limits)) @ curvatures
    target = 0.8 * stationary
    assert risks[-1] > target > risks.min()
    expected = np.flatnonzero(risks <= target)[0]
    assert steps_to_target(methods, curvatures, variances, one, target, start=starts) == expected
    assert steps_to_target(methods, curvatures, variances, one, 0.9 * risks.min(), start=starts) is None


def test_a_direction_below_its_stationary_moment_keeps_the_search_alive():
    """Catches a floor that takes the positive part of S - S_∞: one direction vanishes at once, one is at 8.5 of 10."""
    curvatures, starts = np.array([1.0, 0.01]), np.array([1.2, 1700.0])
    methods = [LinearMethod.sgd(1.0, h) for h in curvatures]
    variances = np.array([0.0, 2000 * 0.01 * 1.99])
    assert steps_to_target(methods, curvatures, variances, np.ones(2), target=9.0, start=starts) == 1


@pytest.mark.parametrize("method", [LinearMethod.sgd(2.5, 1.0), LinearMethod.momentum(4.5, 0.9, 1.0)])
def test_none_where_the_method_is_not_stable(method):
    one = np.ones(1)
    assert steps_to_target([method], one, one, one, target=0.1) is None


def test_arguments_of_different_lengths_are_refused():
    one = np.ones(1)
    with pytest.raises(ValueError, match=r"of one length, not \[2, 1, 1, 1\]"):
        steps_to_target([LinearMethod.sgd(0.1, 1.0)] * 2, one, one, one, 0.1)
