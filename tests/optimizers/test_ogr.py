"""OGR: every variant against a loop written out in NumPy, saddle points, blocks, and the values that its author prints."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from optbench import config, randomness
from optbench.data.problems.beale_starts import BealeStarts
from optbench.optimizers.ogr import OGR
from optbench.training import run

# The constants of the author's notebook.
NOTEBOOK = {
    "lr": 1.0,
    "beta": 0.6,
    "gamma": 0.6,
    "divisor": 1.5,
    "cut": 10.0,
    "outside": 0.0,
    "noise_multiple": 0.0,
    "rotation": "gram_schmidt",
    "rotation_rate": 0.25,
    "transport": False,
    "statistics": "from_zero",
    "ridge": 0.0,
}


def drawn(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def slope(point):
    """The gradient of ¼ Σ x⁴ + ½ xᵀ A x with an indefinite A, at a NumPy vector."""
    size = len(point)
    matrix = np.cos(np.arange(size)[:, None] + 2 * np.arange(size)) + np.diag(np.arange(size) - 1.0)
    return point**3 + (matrix + matrix.T) @ point / 2


def trained(size, steps, **options):
    """The points of OGR from a fixed start, (steps + 1, size), with noise in the gradients, and the optimizer."""
    weight = nn.Parameter(drawn(size, seed=1))
    optimizer = OGR([weight], seed=5, **options)
    points = [weight.detach().clone()]
    for step in range(steps):
        weight.grad = torch.from_numpy(slope(weight.detach().numpy())) + 0.05 * drawn(size, seed=100 + step)
        optimizer.step()
        points.append(weight.detach().clone())
    return torch.stack(points), optimizer


def by_hand(
    size, steps, *, lr=0.5, full=False, dimension=10, beta=0.1, gamma=0.1, divisor=1.5, cut=1.0, outside=1.0, noise_multiple=2.0,
    rotation="oja", rotation_rate=0.1, transport=True, statistics="exact", ridge=1e-3, max_step=None,
):  # fmt: skip
    """The same points by the author's order of operations: means as explicit recursions, Gram-Schmidt row by row."""
    d = size if full else dimension
    point = drawn(size, seed=1).numpy().copy()
    key = randomness.key(5, "gradient regression")
    basis = np.eye(size) if full else 1e-3 * randomness.normal(key, torch.arange(d * size)).view(d, size).numpy()
    zero = statistics == "from_zero"
    mean, slopes, momentum = np.zeros(size), np.zeros(size), np.zeros(size)
    t, c, g = np.eye(d) / (1 - beta) * zero, np.zeros((d, d)), np.zeros((d, d))
    points = [point.copy()]
    for step in range(steps):
        gradient = slope(point) + 0.05 * drawn(size, seed=100 + step).numpy()
        total = sum((1 - beta) ** k for k in range(step + 1))
        n = total**2 / sum((1 - beta) ** (2 * k) for k in range(step + 1))
        w = beta if zero else 1 / total
        a, b = point - mean, gradient - slopes
        mean, slopes = mean + w * a, slopes + w * b
        momentum = momentum + gamma * (gradient - momentum)
        if not full:
            old = basis
            change = np.outer(basis @ gradient, gradient) / (gradient @ gradient) if rotation == "oja" else gradient
            rows = []
            for row in basis + rotation_rate * change:
                left = row - sum(((row @ other) * other for other in rows), np.zeros(size))
                rows.append(left / np.linalg.norm(left))
            basis = np.stack(rows)
            if transport and step:
                r = basis @ old.T
                t, c, g = r @ t @ r.T, r @ c @ r.T, r @ g @ r.T
        p, q = basis @ a, basis @ b
        t, c, g = ((1 - w) * (now + w * np.outer(*pair)) for now, pair in ((t, (p, p)), (c, (q, p)), (g, (q, q))))
        e, o = np.linalg.eigh(t)
        e = np.maximum(e, 0)
        e = e + ridge * e.mean()
        sums = e[:, None] + e
        with np.errstate(all="ignore"):
            h = o @ np.where(sums > 1e-300, o.T @ (c + c.T) @ o / sums, 0) @ o.T
        values, axes = np.linalg.eigh(h)
        floor = np.full(d, cut)
        if noise_multiple and n > (d + 3) / 2 and e.max() > 0:
            left = g - h @ c.T - c @ h + h @ t @ h
            for i, v in enumerate(axes.T):
                shares = (o.T @ v) ** 2
                spread = sum(2 * x * y / (e[k] + e[j]) for k, x in enumerate(shares) for j, y in enumerate(shares))
                deviation = math.sqrt(max(v @ left @ v, 0) / (n - (d + 3) / 2) * spread)
                floor[i] = max(floor[i], noise_multiple * deviation)
        along = basis @ momentum
        newton = axes @ ((axes.T @ along) / np.maximum(divisor * abs(values), floor))
        change = basis.T @ newton + outside * (momentum - basis.T @ along)
        if max_step is not None:
            change = change * min(1, max_step / np.linalg.norm(change))
        point = point - lr * change
        points.append(point.copy())
    return np.stack(points)


CASES = {
    "defaults": {"dimension": 3},
    "one direction": {"dimension": 1, "beta": 0.3, "gamma": 0.5, "lr": 0.2},
    "no noise floor": {"dimension": 3, "noise_multiple": 0.0},
    "short steps": {"dimension": 3, "lr": 0.4, "max_step": 0.05},
    "not transported": {"dimension": 3, "transport": False},
    "more noise": {"dimension": 2, "noise_multiple": 30.0},
    "gram_schmidt": {"dimension": 2, "rotation": "gram_schmidt"},
    "notebook": {**NOTEBOOK, "dimension": 2, "outside": 0.01},
}


@pytest.mark.parametrize("case", CASES)
def test_the_subspace_is_the_loop_by_hand(case):
    options = CASES[case]
    found, _ = trained(6, 25, **options)
    np.testing.assert_allclose(found.numpy(), by_hand(6, 25, **options), rtol=0, atol=1e-8)


@pytest.mark.parametrize("case", ["defaults", "notebook"])
def test_all_directions_are_the_loop_by_hand(case):
    options = {
        key: value for key, value in CASES[case].items() if key not in ("dimension", "rotation", "rotation_rate")
    }
    found, _ = trained(4, 25, variant="full", **options)
    np.testing.assert_allclose(found.numpy(), by_hand(4, 25, full=True, **options), rtol=0, atol=1e-8)


@pytest.mark.parametrize("case", ["defaults", "no noise floor", "notebook"])
def test_coordinates_are_full_problems_of_one_weight(case):
    """Each with a start, a gradient and noise of its own."""
    options = {key: value for key, value in CASES[case].items() if key != "dimension"} | {"ridge": 0.0}
    found, diagonal = trained(5, 20, variant="diagonal", **options)
    weight = nn.Parameter(drawn(5, seed=1))
    blocks = OGR([weight], variant="full", block_size=1, **{**options, "rotation_rate": 0.0})
    for step in range(20):
        weight.grad = torch.from_numpy(slope(weight.detach().numpy())) + 0.05 * drawn(5, seed=100 + step)
        blocks.step()
    torch.testing.assert_close(found[-1], weight.detach(), rtol=0, atol=1e-10)
    assert diagonal.diagnostics == pytest.approx(blocks.diagnostics, rel=1e-8)


@pytest.mark.parametrize("variant", ["full", "subspace"])
def test_blocks_are_runs_of_their_own(variant):
    # In as many directions as weights: the rows of the first V differ by position, so that only whole spaces compare.
    options = {"variant": variant, "dimension": 3, "lr": 0.2, "max_step": 0.3, "ridge": 0.01}
    together = nn.Parameter(drawn(4, 3, seed=2))
    optimizer = OGR([together], block_size=3, **options)
    alone = [nn.Parameter(row.clone()) for row in together.detach()]
    others = [OGR([each], **options) for each in alone]
    for step in range(15):
        noise = 0.1 * drawn(4, 3, seed=step)
        together.grad = together.detach() ** 3 - together.detach().roll(1, 1) + noise
        optimizer.step()
        for row, each, other in zip(noise, alone, others, strict=True):
            each.grad = each.detach() ** 3 - each.detach().roll(1) + row
            other.step()
    expected = torch.stack([each.detach() for each in alone])
    torch.testing.assert_close(together.detach(), expected, rtol=0, atol=1e-7)


def test_a_whole_subspace_is_the_full_variant():
    """Whatever its basis, and with a QR step in place of eigenvectors once that has settled."""
    options = {"noise_multiple": 0.0, "beta": 0.3, "max_step": 0.5}
    full, _ = trained(3, 20, variant="full", **options)
    turned, _ = trained(3, 20, dimension=10, rotation_rate=0.4, **options)
    torch.testing.assert_close(turned, full, rtol=0, atol=1e-8)


def test_a_qr_step_takes_the_diagonal_for_the_eigenvalues():
    """On a quadratic without noise the subspace settles on the axes, where both are the same Newton step."""
    curvature = torch.diag(torch.tensor([4.0, 1.0, -0.25], dtype=torch.float64))
    turn = torch.linalg.qr(drawn(3, 3))[0]
    matrix = turn @ curvature @ turn.T
    ends = {}
    for kind in ("eigh", "qr"):
        weight = nn.Parameter(drawn(3, seed=4))
        optimizer = OGR(
            [weight], 0.1, variant="full", diagonalization=kind, cut=1e-3, divisor=1.0, gamma=1.0, ridge=0.0
        )
        for step in range(40):
            weight.grad = matrix @ weight.detach()
            if step == 39:
                before = weight.detach().clone()
            optimizer.step()
        ends[kind] = (weight.detach() - before) / -0.1
        sizes = turn @ torch.diag(1 / curvature.diagonal().abs()) @ turn.T
        torch.testing.assert_close(ends[kind], sizes @ matrix @ before, rtol=0.02, atol=1e-3)
    assert optimizer.state[weight]["basis"].abs().sub((turn.T).abs()).abs().max() < 0.05


@pytest.mark.parametrize("options", [{"variant": "full"}, {"dimension": 2}, {"variant": "diagonal"}])
def test_it_leaves_a_saddle_point(options):
    """x² - y² from a point with a small y: x falls, |y| grows; Newton's method would go to (0, 0)."""
    weight = nn.Parameter(torch.tensor([1.0, 1e-3], dtype=torch.float64))
    optimizer = OGR([weight], 0.3, gamma=0.6, beta=0.3, noise_multiple=0.0, **options)
    for step in range(40):
        x, y = weight.detach()
        weight.grad = torch.stack([2 * x, -2 * y]) + 1e-4 * drawn(2, seed=step)
        optimizer.step()
    x, y = weight.tolist()
    assert abs(x) < 1e-2
    assert abs(y) > 0.1


def test_the_noise_floor_keeps_curvature_that_is_none_from_dividing():
    """Of a linear function with noise λ is noise alone: with k = 0 it divides, with 1/k of its size it does not matter."""
    weight = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = OGR([weight], 1e-3, variant="full", noise_multiple=0.0)
    seen = []
    for step in range(300):
        weight.grad = 1 + 0.5 * drawn(1, seed=step)
        optimizer.step()
        seen.append(optimizer.diagnostics)
    late = seen[100:]
    ratio = np.array([row["curvature"] / row["noise_floor"] for row in late])
    # |λ| / s of noise alone has the mean √(2/π); points along a trend count for more than points at random.
    assert 0.3 < ratio.mean() < 1.5
    assert np.mean([row["significant"] for row in late]) < 0.3


def geometric_mean(make, seed, steps=50):
    """exp of the mean ln f over 125 starts of Beale's function of three weights, after 50 steps with noise 0.1."""
    problem = BealeStarts()
    weight = nn.Parameter(problem.start.clone())
    optimizer = make([weight], seed)
    noise = torch.Generator().manual_seed(seed)
    for _ in range(steps):
        exact = torch.func.grad(problem)(weight.detach())
        weight.grad = exact + 0.1 * torch.randn(len(weight), dtype=torch.float64, generator=noise)
        optimizer.step()
    return float(problem.evaluated(weight.detach()))


@pytest.mark.parametrize(
    ("options", "low", "high"),
    [
        ({"variant": "full", "beta": 0.5}, 0.0042, 0.0050),
        ({"dimension": 1}, 0.0095, 0.0114),
        ({"dimension": 2}, 0.0120, 0.0220),
    ],
)
def test_the_geometric_means_of_the_notebook(options, low, high):
    """It prints .00434, .00978 and .0180; three seeds here."""
    found = [
        geometric_mean(lambda given, own: OGR(given, block_size=3, seed=own, **{**NOTEBOOK, **options}), seed)
        for seed in range(3)
    ]
    assert low < math.exp(sum(found) / 3) < high


@pytest.mark.parametrize(
    ("make", "low", "high"),
    [
        (lambda given, _: torch.optim.SGD(given, lr=0.004 * 0.5, momentum=0.5), 4.60, 4.70),
        (lambda given, _: torch.optim.Adam(given, lr=0.6, betas=(0.8, 0.9)), 0.0395, 0.0450),
    ],
)
def test_the_geometric_means_of_other_methods_in_the_notebook(make, low, high):
    """It prints 4.65 and .0417."""
    assert low < math.exp(sum(geometric_mean(make, seed) for seed in range(3)) / 3) < high


@pytest.mark.parametrize(
    "options", [{"variant": "full"}, {"dimension": 2}, {"variant": "diagonal"}, {"curvature": "correlation"}]
)
@pytest.mark.parametrize("value", [math.nan, math.inf, 1e200])
def test_a_block_that_diverges_leaves_the_others_alone(options, value):
    weight, other = nn.Parameter(drawn(6)), nn.Parameter(drawn(6))
    optimizer, single = (OGR([each], block_size=3, **options) for each in (weight, other))
    for step in range(5):
        weight.grad, other.grad = drawn(6, seed=step), drawn(6, seed=step)
        if step == 2:
            weight.grad[0] = value
        optimizer.step()
        single.step()
    assert torch.equal(weight.detach()[3:], other.detach()[3:])


def test_without_a_rotation_the_subspace_is_the_first_one():
    """Orthonormal rows, in which steps are those of Newton, and none outside of them with outside = 0."""
    weight = nn.Parameter(drawn(6))
    optimizer = OGR([weight], dimension=2, rotation_rate=0.0, outside=0.0, block_size=3)
    start = weight.detach().clone()
    for step in range(5):
        weight.grad = drawn(6, seed=step)
        optimizer.step()
    basis = optimizer.state[weight]["basis"].view(2, 2, 3).transpose(0, 1)
    torch.testing.assert_close(basis @ basis.mT, torch.eye(2).double().expand(2, 2, 2))
    moved = (weight.detach() - start).view(2, 3, 1)
    assert moved.norm() > 0.01
    torch.testing.assert_close(basis.mT @ (basis @ moved), moved)


def test_a_set_of_weights_that_changes_begins_anew():
    weights = [nn.Parameter(drawn(4, seed=1)), nn.Parameter(drawn(3, seed=2))]
    optimizer = OGR(weights, dimension=2)
    for step in range(6):
        weights[0].grad = drawn(4, seed=step)
        if step >= 3:
            weights[1].grad = drawn(3, seed=step)
        still = weights[1].detach().clone()
        optimizer.step()
        assert torch.equal(weights[1].detach(), still) == (step < 3)
        assert optimizer.param_groups[0]["step"] == step % 3 + 1


def test_its_diagnostics_are_in_the_history(tmp_path):
    words = [
        "optimizer=ogr", "optimizer.dimension=2", "dataset=rosenbrock", "dataset.noise=0.1", "model=problem", "batch=1",
        "budget.steps=30", "log_every=10", "precision=fp64", "optimizer.learning_rate=1e-4", "tracker=none", "progress=false",
        "trainer.accelerator=cpu", f"results_dir={tmp_path}",
    ]  # fmt: skip
    outcome = run.execute(config.compose(words))
    assert outcome.state == "done", outcome.why
    assert outcome.directory is not None
    rows = [row for row in outcome.directory.history_table().to_pylist() if row["event"] == "train"]
    for name in ("curvature", "noise_floor", "significant"):
        assert all(math.isfinite(row[f"optimizer_{name}"]) for row in rows[1:])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"variant": "dense"}, "variant=dense: must be one of full, subspace, diagonal"),
        ({"variant": "full", "dense_limit": 3}, "at most dense_limit=3 weights in a block; there are 4"),
        ({"block_size": 3}, "block_size=3: must be a divisor of the number of weights, 4"),
        ({"beta": 1.0}, r"beta=1.0: must be in \(0, 1\)"),
        ({"gamma": 0.0}, "gamma=0.0"),
        ({"cut": 0.0}, "cut=0.0: must be > 0"),
        ({"dimension": 0}, "dimension=0"),
        ({"max_step": 0.0}, "max_step=0.0: must be > 0, or null"),
        ({"noise_multiple": -1.0}, "noise_multiple=-1.0"),
        ({"rotation": "pca"}, "rotation=pca"),
        ({"statistics": "none"}, "statistics=none"),
    ],
)
def test_values_that_are_not_accepted(options, message):
    with pytest.raises(ValueError, match=message):
        OGR([nn.Parameter(torch.zeros(4))], **options)
