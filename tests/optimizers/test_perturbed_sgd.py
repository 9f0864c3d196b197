"""Perturbed SGD: the distribution of its random steps, when it makes them, and that it leaves saddle points."""

import math

import pytest
import torch
from scipy import stats
from torch import nn

from optbench import config
from optbench.data.problems.beale import Beale
from optbench.optimizers.perturbed_sgd import PerturbedSGD
from optbench.training import run


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def step_with(optimizer, point, gradient):
    point.grad = gradient.clone()
    optimizer.step()


def descend(start, steps, rate=1e-3, **options):
    """The points of the method on Beale's function."""
    point = nn.Parameter(numbers(*start))
    optimizer = PerturbedSGD([point], lr=rate, **options)
    points = [point.detach().clone()]
    for _ in range(steps):
        step_with(optimizer, point, torch.func.grad(Beale())(point.detach()))
        points.append(point.detach().clone())
    return torch.stack(points)


def test_random_steps_are_uniform_in_the_ball():
    size, count, radius = 5, 4000, 0.3
    point = nn.Parameter(torch.zeros(size).double())
    optimizer = PerturbedSGD([point], threshold=1.0, interval=0, radius=radius, seed=7)
    found = []
    for _ in range(count):
        step_with(optimizer, point, torch.zeros(size).double())
        found.append(point.detach().clone())
        point.data.zero_()
    found = torch.stack(found)
    lengths = found.norm(dim=1) / radius
    assert lengths.max() <= 1
    # A share rᵈ of the volume is within r, and coordinates have the variance 1 / (d + 2).
    assert stats.kstest((lengths**size).numpy(), "uniform").pvalue > 1e-3
    assert (found.mean(0).abs() < 5 * radius / math.sqrt((size + 2) * count)).all()
    expected = radius**2 / (size + 2) * torch.eye(size).double()
    torch.testing.assert_close(found.T.cov(), expected, rtol=0.1, atol=6 * radius**2 / (size + 2) / math.sqrt(count))
    # No axis is preferred: E u_i^4 = 3 / (d (d + 2)) for directions u, of which that of a cube has less.
    fourth = ((found / found.norm(dim=1, keepdim=True)) ** 4).sum(1) / size
    assert abs(fourth.mean() - 3 / (size * (size + 2))) < 4 * fourth.std() / math.sqrt(count)


def test_random_steps_are_functions_of_the_seed_and_the_step():
    def points(seed):
        return descend((0.0, 1.0), 3, interval=0, threshold=100.0, seed=seed)

    assert torch.equal(points(1), points(1))
    assert not torch.equal(points(1), points(2))
    first = points(1).diff(dim=0)
    assert len(first.unique(dim=0)) == 3


def test_a_random_step_is_made_where_the_gradient_is_small_and_none_came_lately():
    weights = [nn.Parameter(numbers(1.0, 2.0)), nn.Parameter(numbers(3.0))]
    optimizer = PerturbedSGD(weights, lr=0.1, threshold=0.5, interval=3, radius=1e-2)
    perturbed = []
    # 0.3 and 0.4 have the norm 0.5 together; with 0.41 it is larger.
    for other in (0.41, 0.4, 0.4, 0.4, 0.4, 0.4, 0.41, 0.41, 0.41, 0.4):
        before = [weight.detach().clone() for weight in weights]
        weights[0].grad, weights[1].grad = numbers(0.3, 0.0), numbers(other)
        optimizer.step()
        perturbed.append(optimizer.diagnostics["perturbed"])
        moved = torch.cat([weight.detach() - old for weight, old in zip(weights, before, strict=True)])
        if perturbed[-1]:
            assert 0 < moved.norm() <= 1e-2
        else:
            torch.testing.assert_close(moved, -0.1 * numbers(0.3, 0.0, other), rtol=1e-9, atol=1e-12)
    assert perturbed == [0, 1, 0, 0, 0, 1, 0, 0, 0, 1]
    assert optimizer.diagnostics["gradient_norm"] == pytest.approx(0.5)


def test_weights_without_a_gradient_stay():
    weights = [nn.Parameter(numbers(1.0, 2.0)), nn.Parameter(numbers(3.0))]
    optimizer = PerturbedSGD(weights, threshold=1.0)
    weights[1].grad = numbers(0.0)
    optimizer.step()
    assert weights[0].tolist() == [1.0, 2.0]
    assert weights[1].item() != 3.0


@pytest.mark.parametrize(("distance", "steps"), [(1e-3, 145), (1e-6, 397)])
def test_the_distance_from_a_saddle_point_grows_by_its_curvature(distance, steps):
    """From (0, 1) + r (1, -1) / √2 gradient descent needs about ln(0.05 / r) / ln(1 + 27.75 lr) steps to the distance 0.05."""
    offset = distance / math.sqrt(2)
    points = descend((offset, 1 - offset), 500, radius=0.0, threshold=0.0)
    distances = (points - numbers(0.0, 1.0)).norm(dim=1)
    assert int((distances > 0.05).nonzero()[0]) == steps
    assert steps == pytest.approx(math.log(0.05 / distance) / math.log(1 + 27.75e-3), abs=2.5)


@pytest.mark.parametrize(("distance", "steps"), [(1e-3, 486), (1e-6, 991)])
def test_along_the_stable_direction_it_first_shrinks(distance, steps):
    """From (0, 1) + r (1, 1) / √2 the way is more than twice as long, so that random steps must have all directions."""
    offset = distance / math.sqrt(2)
    points = descend((offset, 1 + offset), 1100, radius=0.0, threshold=0.0)
    distances = (points - numbers(0.0, 1.0)).norm(dim=1)
    assert distances[100] < 0.2 * distance
    assert int((distances > 0.05).nonzero()[0]) == pytest.approx(steps, abs=5)


@pytest.mark.parametrize("seed", range(5))
def test_a_saddle_point_is_left_from_it(seed):
    assert torch.equal(descend((0.0, 1.0), 50, radius=0.0)[-1], numbers(0.0, 1.0))
    points = descend((0.0, 1.0), 600, radius=1e-2, threshold=1e-3, seed=seed)
    assert (points[-1] - numbers(0.0, 1.0)).norm() > 0.05
    assert Beale()(points[-1]) < 14


def test_a_run_leaves_the_saddle_point(tmp_path):
    words = [
        "dataset=saddle", "model=problem", "batch=1", "budget.steps=400", "precision=fp64", "model.start=[0,0]",
        "tracker=none", "progress=false", "trainer.accelerator=cpu", f"results_dir={tmp_path}",
    ]  # fmt: skip
    stays = run.execute(config.compose([*words, "optimizer=sgd"]))
    assert stays.summary["test_loss"] == 0
    leaves = run.execute(config.compose([*words, "optimizer=perturbed_sgd", "optimizer.learning_rate=0.1"]))
    assert leaves.summary["test_loss"] == pytest.approx(-0.25, abs=1e-3)
    assert leaves.summary["oracle_gradients"] == 400


def test_values_that_are_not_accepted():
    for options in ({"threshold": -1.0}, {"interval": -1}, {"radius": -1.0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}=.*: must be"):
            PerturbedSGD([nn.Parameter(torch.zeros(2))], **options)
