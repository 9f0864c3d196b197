"""Extremes of batch Hessians and their predictions, on matrices of which all is known and on a tiny network."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian

from optbench.curvature.batch_hessian import batch_hessian, hessian_noise
from optbench.curvature.lanczos import on_flat_vectors
from optbench.objective import Network, Objective
from optbench.objective.losses import CrossEntropy
from optbench.theory import additive_outlier, effective_batch, noise_radius, wishart_outlier

EXACT = {"rtol": 1e-9, "atol": 1e-9}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def gaussian(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=seeded(seed))


def means_of(matrices, asked=None):
    """``make_product`` for examples with the Hessians ``matrices`` (N, P, P); notes in ``asked`` what it is asked for."""

    def make_product(indices):
        if asked is not None:
            asked.append(indices)
        return matrices[indices].mean(0).mv

    return make_product


def spiked(noise, eigenvalue):
    """``noise`` (N, P, P) less its mean, so that H is exactly λ e₁e₁ᵀ."""
    matrices = noise - noise.mean(0)
    matrices[:, 0, 0] += eigenvalue
    return matrices


def symmetric_noise(examples, size, seed=0):
    entries = gaussian(examples, size, size, seed=seed)
    return (entries + entries.mT) / 2**0.5


def measured(matrices, sizes, draws=10, **options):
    examples, dimension = matrices.shape[:2]
    make_product = means_of(matrices, options.pop("asked", None))
    return batch_hessian(make_product, examples, dimension, sizes, draws, seeded(5), dtype=torch.float64, **options)


# ---- the measurement ----


def test_every_batch_has_the_extreme_eigenvalues_of_its_mean():
    matrices = spiked(symmetric_noise(60, 20), 3.0)
    asked = []
    found = measured(matrices, [2, 60, 8, 30], draws=3, steps=20, base_batch=30, asked=asked)
    full, batches = asked[0], asked[3:]  # after the two that the noise is estimated from
    assert len(full) == 60
    assert [len(batch) for batch in batches] == [30, 8, 2] * 3
    for draw in range(3):
        for place, batch in ((0, batches[3 * draw + 2]), (2, batches[3 * draw + 1]), (3, batches[3 * draw])):
            dense = np.linalg.eigvalsh(matrices[batch].mean(0))
            np.testing.assert_allclose(found.top[place, draw], dense[-1], **EXACT)
            np.testing.assert_allclose(found.bottom[place, draw], dense[0], **EXACT)
    dense = np.linalg.eigvalsh(matrices.mean(0))
    np.testing.assert_allclose([found.full_top, *found.top[1]], dense[-1], **EXACT)
    np.testing.assert_allclose([found.full_bottom, *found.bottom[1]], dense[0], **EXACT)
    np.testing.assert_array_equal(found.batch_sizes, [2, 60, 8, 30])


def test_the_batches_of_a_draw_are_nested_and_those_of_a_size_are_not():
    asked = []
    measured(symmetric_noise(40, 6), [4, 10, 20], draws=2, steps=6, base_batch=20, asked=asked)
    largest, middle, smallest = ([set(batch.tolist()) for batch in asked if len(batch) == size] for size in (20, 10, 4))
    largest = largest[2:]  # the first two are the base batches
    for draw in range(2):
        assert smallest[draw] < middle[draw] < largest[draw]
    assert largest[0] != largest[1]
    assert smallest[0] != smallest[1]


def test_few_steps_find_both_ends():
    """The start near the eigenvectors of the batch before leads to them, and away where a batch has others."""
    matrices = spiked(symmetric_noise(64, 150) * 0.4, 10.0)
    asked = []
    found = measured(matrices, [2, 8, 32], draws=2, steps=25, base_batch=32, asked=asked)
    for draw in range(2):
        for place, size in enumerate([2, 8, 32]):
            batch = [batch for batch in asked[3:] if len(batch) == size][draw]
            dense = np.linalg.eigvalsh(matrices[batch].mean(0))
            np.testing.assert_allclose(found.top[place, draw], dense[-1], rtol=0.01)
            np.testing.assert_allclose(found.bottom[place, draw], dense[0], rtol=0.01)


def test_eigenvectors_that_earlier_batches_do_not_have_are_found_too():
    """Hessians that are diagonal: from an eigenvector alone, Lanczos would never leave it."""
    diagonals = gaussian(40, 12, seed=12)
    asked = []
    found = measured(torch.diag_embed(diagonals), [2, 5, 20], draws=2, steps=12, base_batch=20, asked=asked)
    for place, size in enumerate([2, 5, 20]):
        batches = [batch for batch in asked[3:] if len(batch) == size]
        means = torch.stack([diagonals[batch].mean(0) for batch in batches])
        np.testing.assert_allclose(found.top[place], means.max(1).values, **EXACT)
        np.testing.assert_allclose(found.bottom[place], means.min(1).values, **EXACT)


# ---- the noise ----


def test_the_noise_of_a_gaussian_ensemble():
    """Batches of one matrix each, of element variance 0.09 and 1000 dimensions, made when they are asked for."""

    def make_product(indices):
        random = np.random.default_rng(indices.tolist())
        entries = torch.from_numpy(random.standard_normal((1000, 1000), dtype=np.float32)) * (0.3 / 2**0.5)
        return lambda vector: entries @ vector + entries.T @ vector

    top = torch.zeros(1000)
    top[0] = 1.0
    noise = hessian_noise(make_product, 20, top, seeded(1), vectors=8, base_batch=1)
    # That of the population of these 20, of which 19/20 of the ensemble's variance is expected.
    assert noise.isotropic * 20 / 19 == pytest.approx(1000 * 0.09, rel=0.02)
    assert noise.directional * 20 / 19 == pytest.approx(999 * 0.09, rel=0.04)


@pytest.mark.parametrize("base_batch", [1, 4, 8])
def test_batches_that_use_up_all_examples(base_batch):
    """P σ² = b̃₀ (mean ‖h_i‖² - ‖h̄‖²), written out for the same directions and batches."""
    matrices = spiked(symmetric_noise(32, 12), 5.0)
    asked, directions = [], []

    def make_product(indices):
        asked.append(indices)
        mean = matrices[indices].mean(0)

        def product(vector):
            directions.append(vector)
            return mean @ vector

        return product

    top = torch.zeros(12, dtype=torch.float64)
    top[0] = 1.0
    noise = hessian_noise(make_product, 32, top, seeded(2), vectors=3, base_batch=base_batch)
    assert sorted(torch.cat(asked).tolist()) == list(range(32))
    effective = effective_batch(base_batch, 32)
    variances = []
    for direction in directions[:4]:
        images = torch.stack([matrices[batch].mean(0) @ direction for batch in asked])
        if direction is directions[3]:
            images[:, 0] = 0.0
        variances.append(effective * float(images.square().sum(1).mean() - images.mean(0).square().sum()))
    assert [float(direction.norm()) for direction in directions[:4]] == pytest.approx([1.0] * 4)
    assert noise.isotropic == pytest.approx(np.mean(variances[:3]), rel=1e-10)
    assert noise.directional == pytest.approx(variances[3], rel=1e-10)


def test_the_noise_is_without_bias_also_where_examples_are_left_over():
    """Three batches of three of 11 examples: the mean over many divisions is the variance of the population."""
    matrices = spiked(symmetric_noise(11, 5, seed=3), 5.0)
    top = torch.zeros(5, dtype=torch.float64)
    top[0] = 1.0
    generator = seeded(4)
    found = [hessian_noise(means_of(matrices), 11, top, generator, 2, 3) for _ in range(1500)]
    deviations = matrices - matrices.mean(0)
    isotropic = float(deviations.square().sum((1, 2)).mean() / 5)
    directional = float(deviations[:, 1:, 0].square().sum(1).mean())
    assert np.mean([noise.isotropic for noise in found]) == pytest.approx(isotropic, rel=0.04)
    assert np.mean([noise.directional for noise in found]) == pytest.approx(directional, rel=0.04)


# ---- the predictions ----


def test_isotropic_noise_has_one_critical_batch():
    """Symmetric noise of P σ² = 200 and λ₁ = 5, so that b* = 8: the three estimates agree, and the curve with them."""
    matrices = spiked(symmetric_noise(200, 200), 5.0)
    sizes = [16, 32, 64, 200]
    found = measured(matrices, sizes, draws=10, base_batch=1)
    assert found.full_top == pytest.approx(5.0)
    assert found.b_star_isotropic == pytest.approx(8.0, rel=0.03)
    assert found.b_star_directional == pytest.approx(8.0, rel=0.03)
    assert found.b_star_fitted == pytest.approx(8.0, rel=0.1)
    assert found.top.mean(1) == pytest.approx(found.isotropic, rel=0.03)
    assert found.top.mean(1) == pytest.approx(found.fitted, rel=0.03)


def test_in_isotropic_noise_the_edge_takes_over_below_the_critical_batch():
    matrices = spiked(symmetric_noise(200, 200), 5.0)
    found = measured(matrices, [2, 4], draws=4, base_batch=1)
    edge = 2 * np.sqrt(200 / effective_batch(np.array([2.0, 4.0]), 200))
    np.testing.assert_allclose(found.isotropic, edge, rtol=0.02)
    np.testing.assert_allclose(found.top.mean(1), edge, rtol=0.05)
    assert found.directional[0] > 1.2 * found.top[0].mean()


def test_noise_along_one_eigenvector_needs_the_directional_prediction():
    """E = u wᵀ + w uᵀ with w of variance 0.01 in 99 directions: W = 0.99, but P σ² is only 2/P of it."""
    examples, size = 400, 100
    across = gaussian(examples, size, seed=6) * 0.1
    across[:, 0] = 0.0
    noise = torch.zeros(examples, size, size, dtype=torch.float64)
    noise[:, 0], noise[:, :, 0] = across, across
    sizes = np.array([4, 16, 64])
    found = measured(spiked(noise, 1.0), sizes.tolist(), draws=40, base_batch=1, vectors=200)
    assert found.b_star_directional == pytest.approx(0.99, rel=0.03)
    assert found.b_star_isotropic == pytest.approx(0.99 * 2 / size, rel=0.15)
    # The eigenvalues of λ uuᵀ + E are (λ ± √(λ² + 4‖w̄‖²))/2, where E‖w̄‖² = W/b̃.
    expected = (1 + np.sqrt(1 + 4 * 0.99 / effective_batch(sizes, examples))) / 2
    np.testing.assert_allclose(found.top.mean(1), expected, rtol=0.01)
    np.testing.assert_allclose(found.bottom.mean(1), 1 - expected, rtol=0.05)
    np.testing.assert_allclose(found.directional[1:], expected[1:], rtol=0.01)
    assert found.isotropic[0] < 1.02 < expected[0]


def test_positive_semidefinite_noise_grows_by_the_multiplicative_form():
    """Hessians xxᵀ of one example with x ~ N(0, diag(1.5, 1, 1, ...)), of which no matrix is ever formed."""
    examples, size, eigenvalue = 3000, 300, 1.5
    inputs = gaussian(examples, size, seed=7)
    inputs[:, 0] *= eigenvalue**0.5

    def make_product(indices):
        chosen = inputs[indices]
        return lambda vector: chosen.T @ (chosen @ vector) / len(chosen)

    sizes = np.array([75, 300])
    found = batch_hessian(make_product, examples, size, sizes.tolist(), 10, seeded(8), dtype=torch.float64)
    # A subset of independent draws is again independent draws: q = P/b without a finite population.
    np.testing.assert_allclose(found.top.mean(1), wishart_outlier(eigenvalue, size / sizes), rtol=0.04)
    np.testing.assert_allclose(found.bottom[0], 0.0, atol=1e-10)
    additive = additive_outlier(eigenvalue, noise_radius(size, sizes))
    assert found.top[0].mean() > 1.5 * additive[0]
    # The isotropic prediction is additive, and misses just as far.
    assert found.isotropic[0] < 0.67 * found.top[0].mean()


def test_a_fit_is_one_by_least_squares_through_the_origin():
    matrices = spiked(symmetric_noise(50, 10), 20.0)
    found = measured(matrices, [5, 10, 50], draws=4, base_batch=1)
    inverse = 1 / effective_batch(np.array([5.0, 10.0]), 50)
    growth = found.top[:2].mean(1) / found.full_top - 1
    solved = np.linalg.lstsq(inverse[:, None], growth, rcond=None)[0][0]
    assert found.b_star_fitted == pytest.approx(solved, rel=1e-12)
    np.testing.assert_allclose(found.fitted[:2], found.full_top * (1 + solved * inverse), rtol=1e-12)
    assert found.fitted[2] == found.directional[2] == found.full_top


def test_where_no_eigenvalue_is_positive_nothing_is_predicted():
    matrices = -torch.eye(4, dtype=torch.float64).repeat(8, 1, 1) * torch.arange(1.0, 9.0).view(-1, 1, 1)
    found = measured(matrices, [2, 4], draws=2, base_batch=1)
    assert found.full_top == pytest.approx(-4.5)
    predictions = [found.isotropic, found.directional, found.fitted, found.b_star_isotropic, found.b_star_fitted]
    assert all(np.isnan(prediction).all() for prediction in predictions)


# ---- a network ----


def test_a_tiny_network_against_dense_hessians():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), nn.Linear(4, 3)).double()
    inputs, targets = gaussian(24, 5, seed=9), torch.randint(3, (24,), generator=seeded(10))
    network, loss = Network(model), CrossEntropy()
    asked = []

    def make_product(indices):
        asked.append(indices)
        batch = Objective(network, loss, inputs[indices], targets[indices])
        return on_flat_vectors(batch.hvp, network.parameters)

    names, shapes = zip(*((name, parameter.shape) for name, parameter in model.named_parameters()), strict=True)
    sizes = [shape.numel() for shape in shapes]
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    def loss_of_one(vector, example, target):
        parts = {name: part.view(shape) for name, part, shape in zip(names, vector.split(sizes), shapes, strict=True)}
        return nn.functional.cross_entropy(functional_call(model, parts, (example,)), target)

    dense = torch.stack([hessian(loss_of_one)(flat, *example) for example in zip(inputs, targets, strict=True)])
    found = batch_hessian(
        make_product, 24, len(flat), [1, 6], 2, seeded(11), steps=len(flat), vectors=100, base_batch=1,
        dtype=torch.float64,
    )  # fmt: skip
    values, vectors = torch.linalg.eigh(dense.mean(0))
    assert found.full_top == pytest.approx(float(values[-1]), rel=1e-10)
    assert found.full_bottom == pytest.approx(float(values[0]), rel=1e-10)
    batches = asked[1 + 24 :]
    for place, size in enumerate([1, 6]):
        for draw, batch in enumerate(batch for batch in batches if len(batch) == size):
            expected = torch.linalg.eigvalsh(dense[batch].mean(0))
            assert found.top[place, draw] == pytest.approx(float(expected[-1]), rel=1e-9)
            assert found.bottom[place, draw] == pytest.approx(float(expected[0]), rel=1e-9)
    deviations = dense - dense.mean(0)
    images = deviations @ vectors[:, -1]
    images = images - (images @ vectors[:, -1]).unsqueeze(1) * vectors[:, -1]
    top = float(values[-1])
    assert found.b_star_directional == pytest.approx(float(images.square().sum(1).mean()) / top**2, rel=1e-8)
    isotropic = float(deviations.square().sum((1, 2)).mean()) / len(flat)
    assert found.b_star_isotropic == pytest.approx(isotropic / top**2, rel=0.15)


# ---- what is refused ----


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sizes": [0, 4]}, r"batch_sizes=\[0, 4\]: must be in 1 .. 8"),
        ({"sizes": [9]}, r"batch_sizes=\[9\]"),
        ({"sizes": []}, r"batch_sizes=\[\]"),
        ({"sizes": [4], "draws": 0}, "draws=0"),
        ({"sizes": [4], "base_batch": 5}, r"base_batch=5: must be in 1 .. 4"),
        ({"sizes": [4], "base_batch": 0}, "base_batch=0"),
        ({"sizes": [4], "vectors": 0}, "vectors=0"),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        measured(symmetric_noise(8, 4), **options)
