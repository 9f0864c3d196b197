"""Random slices of H = diag(+1 n₊ times, -1 otherwise) with P = 400: tr H = 2 n₊ - 400 and ‖H‖ = 20."""

import math

import numpy as np
import pytest

from optbench.theory import principal_curvatures, saddle_frequency

P, SLICES = 400, 20_000


def slices(positive):
    """A, B and D of many random slices."""
    random = np.random.default_rng(positive)
    signs = np.where(np.arange(P) < positive, 1.0, -1.0)
    first = random.standard_normal((SLICES, P), dtype=np.float32)
    second = random.standard_normal((SLICES, P), dtype=np.float32)
    return tuple((left * right) @ signs for left, right in ((first, first), (first, second), (second, second)))


@pytest.mark.parametrize(("positive", "formula"), [(200, 0.707), (210, 0.551), (225, 0.148), (260, 0.0001)])
def test_how_often_a_slice_shows_a_saddle(positive, formula):
    a, b, d = slices(positive)
    found = np.mean(a * d - b**2 < 0)
    expected = saddle_frequency(2 * positive - P, math.sqrt(P))
    assert expected == pytest.approx(formula, abs=5e-4)
    assert found == pytest.approx(expected, abs=0.015)


@pytest.mark.parametrize("positive", [175, 225])
def test_the_principal_curvatures_of_a_slice(positive):
    a, b, d = slices(positive)
    mean, spread = (a + d) / 2, np.sqrt(((a - d) / 2) ** 2 + b**2)
    smaller, larger = principal_curvatures(2 * positive - P, math.sqrt(P))
    error = (mean + spread).std() / math.sqrt(SLICES)
    assert (mean - spread).mean() == pytest.approx(smaller, abs=4 * error)
    assert (mean + spread).mean() == pytest.approx(larger, abs=4 * error)
    assert mean.mean() == pytest.approx(2 * positive - P, abs=4 * error)
    if positive == 225:
        assert larger == pytest.approx(75.07, abs=0.005)


def test_a_hessian_of_zeros_has_no_frequency():
    with pytest.raises(ValueError, match=r"frobenius=0\.0"):
        saddle_frequency(0.0, 0.0)
