"""Slopes and factors of convergence: closed forms, and SGD on a problem with a known gradient."""

import math

import numpy as np
import pytest
import torch

from optbench.analysis.laws.rates import slope_across, step_factor, tail_slope
from optbench.data.problems import pl_sine
from optbench.data.source import BatchSource


def gradients_of_descent(power, steps=10_000):
    """|f'| along gradient descent from 1 on |x|^p, with half the inverse of the second derivative there as step."""
    x, found = 1.0, []
    for _ in range(steps):
        found.append(power * x ** (power - 1))
        x -= 0.5 / (power * (power - 1)) * found[-1]
    return np.array(found)


@pytest.mark.parametrize("power", [4, 8, 20])
def test_the_slope_of_gradient_descent_on_a_power(power):
    """|f'| falls as k^-(p-1)/(p-2)."""
    steps = np.arange(1, 10_001)
    slope = tail_slope(steps, gradients_of_descent(power))
    assert slope == pytest.approx(-(power - 1) / (power - 2), abs=0.003)
    assert {4: -1.5, 8: -1.1667, 20: -1.0556}[power] == pytest.approx(-(power - 1) / (power - 2), abs=1e-4)


def test_only_the_tail_counts_and_all_its_steps_alike():
    steps = np.arange(1, 1001)
    values = np.where(steps < 100, 5.0, (steps / 100.0) ** -2)
    assert tail_slope(steps, values) == pytest.approx(-2)
    assert tail_slope(steps, values, decades=2) > -1.99
    noisy = 3 * steps**-0.5 * np.exp(0.1 * np.random.default_rng(0).normal(size=1000))
    last = steps >= 100
    assert tail_slope(steps, noisy) == pytest.approx(np.polyfit(np.log(steps[last]), np.log(noisy[last]), 1)[0])
    assert math.isnan(tail_slope(steps[:1], values[:1]))
    assert math.isnan(tail_slope(np.array([]), np.array([])))
    with pytest.raises(ValueError, match="positive"):
        tail_slope(steps, values - 5.0)


def test_a_slope_across_lengths_is_that_of_the_root_mean_squares():
    generator = np.random.default_rng(1)
    lengths = [100, 400, 1600]
    values = [generator.lognormal(size=40) * length**-0.25 for length in lengths]
    found = slope_across(lengths, values)
    roots = [math.sqrt(np.mean(np.square(group))) for group in values]
    assert found.estimate == pytest.approx(np.polyfit(np.log(lengths), np.log(roots), 1)[0])
    assert found.low < -0.25 < found.high
    exact = slope_across(lengths, [np.full(3, 2.0 * length**-0.25) for length in lengths])
    assert [exact.low, exact.estimate, exact.high] == pytest.approx([-0.25] * 3)
    with pytest.raises(ValueError, match="two different"):
        slope_across([100, 100], values[:2])
    with pytest.raises(ValueError, match="positive"):
        slope_across(lengths, [np.zeros(3)] * 3)


def test_sgd_on_a_pl_function_has_a_slope_across_lengths_and_none_along_a_run():
    """α = ½ K^-½ and noise 1: the root mean square of the gradient over all steps falls as K^-¼."""
    raw = pl_sine.load("", noise=1.0)
    problem, seeds = raw.spec.problem, range(48)
    derivative = torch.func.grad(problem)  # a sum over weights: each may belong to another run
    lengths, found = [200, 800, 3200], []
    for length in lengths:
        noise = [BatchSource(raw, seed, dtype=torch.float64).batch(0, 0, length)[0] for seed in seeds]
        x = problem.start.repeat(len(noise))
        squares = []
        for drawn in torch.cat(noise, dim=1):
            slope = derivative(x)
            squares.append(slope.square())
            x = x - 0.5 / math.sqrt(length) * (slope + drawn)
        found.append(torch.stack(squares).numpy())
    values = [np.sqrt(each.mean(axis=0)) for each in found]
    for group, expected in zip(values, [1.212, 0.848, 0.598], strict=True):
        square = group**2
        assert abs(square.mean() - expected**2) < 4 * square.std(ddof=1) / math.sqrt(len(seeds))
    across = slope_across(lengths, values)
    assert across.estimate == pytest.approx(-0.25, abs=0.02)
    assert across.low < across.estimate < across.high
    # Along the longest run the gradient is stationary in its last decade.
    along = tail_slope(np.arange(1, 3201), np.sqrt(found[-1].mean(axis=1)))
    assert along > -0.1


def test_the_factor_of_a_step():
    steps = np.arange(0, 400, 10)
    values = np.where(steps < 100, 1.0, 0.5 * 0.97 ** (steps - 100.0))
    assert step_factor(steps, values, below=0.6) == pytest.approx(0.97)
    # Rounding, after the values have fallen to 1e-3, and what comes after it.
    rounded = np.where(values > 1e-3, values, 1e-3)
    assert step_factor(steps, rounded, below=0.6, above=1e-3) == pytest.approx(0.97)
    assert step_factor(steps, rounded, below=0.6) > 0.975
    assert math.isnan(step_factor(steps, values, below=1e-9))
    assert math.isnan(step_factor(steps[:2], values[:2], below=2.0))
