"""The spiked models against simulated matrices: P dimensions, a single eigenvalue that stands out, noise of known size."""

from itertools import combinations

import numpy as np
import pytest
from scipy.linalg import eigh

from optbench.theory import (
    additive_outlier,
    additive_overlap,
    critical_batch,
    effective_batch,
    noise_radius,
    wishart_edge,
    wishart_outlier,
)

P = 1000


def top_eigenpair(matrix):
    last = len(matrix) - 1
    values, vectors = eigh(matrix, subset_by_index=[last, last])
    return values[0], vectors[:, 0]


def orthogonal_ensemble(random, size):
    """A symmetric matrix whose elements off the diagonal are of variance 1: eigenvalues in about ±2 √P."""
    entries = random.standard_normal((size, size))
    return (entries + entries.T) / np.sqrt(2)


@pytest.mark.parametrize("ratio", [0.5, 1.5, 3.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_an_eigenvalue_in_symmetric_noise(ratio, sign):
    """H = λ e₁e₁ᵀ plus noise of element deviation 0.3; λ is ``ratio`` times the noise radius s."""
    deviation = 0.3
    radius = deviation * np.sqrt(P)
    eigenvalue = sign * ratio * radius
    random = np.random.default_rng(1)
    extremes, overlaps = [], []
    for _ in range(5):
        matrix = deviation * orthogonal_ensemble(random, P)
        matrix[0, 0] += eigenvalue
        extreme, vector = top_eigenpair(sign * matrix)
        extremes.append(sign * extreme)
        overlaps.append(vector[0] ** 2)
    assert np.mean(extremes) == pytest.approx(additive_outlier(eigenvalue, radius), rel=0.03)
    assert np.mean(overlaps) == pytest.approx(additive_overlap(eigenvalue, radius), abs=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("batch", [250, 1000, 4000])
def test_an_eigenvalue_in_a_mean_of_squares(batch):
    """Mean of ``batch`` matrices xxᵀ with x ~ N(0, diag(λ, 1, 1, ...)): the multiplicative form holds, the additive not."""
    random = np.random.default_rng(2)
    eigenvalues = [1.5, 4.0, 20.0]
    tops = {eigenvalue: [] for eigenvalue in eigenvalues}
    for _ in range(10):
        examples = random.standard_normal((P, batch))
        # The smaller of XXᵀ/b and XᵀX/b, which share their eigenvalues but for zeros.
        first, rest = examples[0], examples[1:]
        gram = examples @ examples.T / batch if batch > P else rest.T @ rest / batch
        for eigenvalue in eigenvalues:
            if batch > P:
                scaled = gram.copy()
                scaled[0] *= np.sqrt(eigenvalue)
                scaled[:, 0] *= np.sqrt(eigenvalue)
            else:
                scaled = gram + eigenvalue * np.outer(first, first) / batch
            tops[eigenvalue].append(top_eigenpair(scaled)[0])
    for eigenvalue in eigenvalues:
        assert np.mean(tops[eigenvalue]) == pytest.approx(wishart_outlier(eigenvalue, P / batch), rel=0.04)
    if batch == 250:
        # One element of xxᵀ has variance 1, so that the additive form says max(4.0, ...) where it is 9.
        additive = additive_outlier(1.5, noise_radius(P, batch))
        assert additive == pytest.approx(4.0)
        assert np.mean(tops[1.5]) > 2 * additive


def test_where_eigenvalues_leave_the_bulk():
    assert additive_outlier(3.0, 1.0) == pytest.approx(3 + 1 / 3)
    assert additive_outlier(0.9, 1.0) == additive_outlier(0.0, 1.0) == 2.0
    assert additive_outlier(-0.9, 1.0) == -2.0
    # Continuous at the threshold, where the outlier has lost all overlap.
    assert additive_outlier(1.0 + 1e-9, 1.0) == pytest.approx(additive_outlier(1.0, 1.0), abs=1e-8)
    assert additive_overlap(2.0, 1.0) == 0.75
    assert additive_overlap(1.0, 1.0) == additive_overlap(0.5, 1.0) == additive_overlap(0.0, 1.0) == 0.0
    # q = 4: the threshold is 3, the edge 9.
    assert wishart_outlier(3.0 + 1e-9, 4.0) == pytest.approx(9.0, abs=1e-7)
    assert wishart_outlier(1.5, 4.0) == wishart_outlier(1.0, 4.0) == wishart_edge(4.0) == 9.0
    assert wishart_outlier(20.0, 4.0) == pytest.approx(20 * (1 + 4 / 19))
    # All is proportional to the level of the bulk.
    assert wishart_outlier(10.0, 4.0, bulk=0.5) == pytest.approx(wishart_outlier(20.0, 4.0) / 2)
    with pytest.raises(ValueError, match="at least the bulk level"):
        wishart_outlier(0.5, 4.0)


def test_arrays_are_taken_element_by_element():
    radii = np.array([0.5, 1.0, 4.0])
    np.testing.assert_allclose(additive_outlier(2.0, radii), [2.125, 2.5, 8.0])
    np.testing.assert_allclose(additive_overlap(2.0, radii), [1 - 1 / 16, 0.75, 0.0])
    np.testing.assert_allclose(wishart_outlier(3.0, np.array([1.0, 16.0])), [4.5, 25.0])
    np.testing.assert_allclose(noise_radius(8.0, np.array([2.0, 8.0])), [2.0, 1.0])


def test_the_effective_batch_is_that_of_a_finite_population():
    """The variance over all subsets of four numbers, counted, is that of so many independent draws."""
    numbers = np.array([1.0, 2.0, 4.0, 9.0])
    for batch in (1, 2, 3):
        means = [np.mean(chosen) for chosen in combinations(numbers, batch)]
        assert np.var(means) == pytest.approx(np.var(numbers) / effective_batch(batch, 4))
    assert effective_batch(4, 4) == effective_batch(1, 1) == np.inf
    assert effective_batch(7) == 7.0
    np.testing.assert_allclose(effective_batch(np.array([1, 512]), 1797), [1.0, 512 * 1796 / 1285])
    # The common approximation b/(1 - b/N).
    assert effective_batch(512, 1797) == pytest.approx(512 / (1 - 512 / 1797), rel=1e-3)


@pytest.mark.parametrize(("batch", "examples"), [(0, None), (5, 4)])
def test_a_batch_that_cannot_be_drawn_is_refused(batch, examples):
    with pytest.raises(ValueError, match=f"batch={batch}"):
        effective_batch(batch, examples)


def test_at_the_critical_batch_the_noise_reaches_the_eigenvalue():
    assert critical_batch(8.0, 2.0) == 2.0
    assert noise_radius(8.0, critical_batch(8.0, 2.0)) == pytest.approx(2.0)
    with pytest.raises(ValueError, match="positive"):
        critical_batch(8.0, 0.0)
