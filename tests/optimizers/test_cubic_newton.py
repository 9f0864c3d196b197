"""Cubic Newton: the minimizer of the model against its conditions and torch's own descent, saddle points, adaptation."""

import math

import pytest
import torch
from test_saddle_free_newton import Function, batch_objective, dense_problem, flat, network, objective_of

from optbench import config
from optbench.data.problems.rosenbrock import Rosenbrock
from optbench.data.problems.saddle import Saddle
from optbench.errors import UserError
from optbench.optimizers.cubic_newton import CubicNewton, cubic_minimizer, cubic_model
from optbench.training import run

FIXED = {"adaptive": False, "subspace": "dense"}


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


def walk(function, start, steps=1, **options):
    """The points that the method visits, and the method."""
    model = Function(function, start)
    optimizer = CubicNewton(model.parameters(), **options)
    points = [model.point.detach().clone()]
    for _ in range(steps):
        optimizer.step(objective_of(model))
        points.append(model.point.detach().clone())
    return torch.stack(points), optimizer


# ---- the model --------------------------------------------------------------------------------------------------------------


def test_a_minimizer_by_its_numbers():
    gradient, eigenvalues = numbers(1.0, 2.0, -0.5), numbers(-3.0, 1.0, 4.0)
    step = cubic_minimizer(gradient, eigenvalues, 2.0)
    torch.testing.assert_close(step, numbers(-3.272099, -0.464510, 0.068441), rtol=0, atol=1e-6)
    assert cubic_model(gradient, eigenvalues, 2.0, step) == pytest.approx(-8.137791, abs=1e-6)
    assert (eigenvalues + step.norm()).min() == pytest.approx(0.3056, abs=1e-4)


@pytest.mark.parametrize("regularization", [1e-3, 1.0, 1e4])
@pytest.mark.parametrize("shift", [-3.0, 0.0, 3.0])
@pytest.mark.parametrize("size", [1e-9, 1.0, 1e6])
def test_a_minimizer_meets_the_conditions_of_the_global_one(regularization, shift, size):
    generator = torch.Generator().manual_seed(1)
    eigenvalues = (torch.randn(8, dtype=torch.float64, generator=generator) + shift).sort().values
    gradient = size * torch.randn(8, dtype=torch.float64, generator=generator)
    step = cubic_minimizer(gradient, eigenvalues, regularization)
    divisors = eigenvalues + 0.5 * regularization * step.norm()
    # The divisors are differences of larger numbers.
    rounding = 1e-14 * float(eigenvalues.abs().max() * step.norm() + gradient.norm())
    assert (divisors * step + gradient).abs().max() <= rounding
    assert divisors.min() >= -1e-9 * eigenvalues.abs().max()


@pytest.mark.parametrize("gradient", [(0.0, 0.0, 0.0), (0.0, 0.2, -0.1)])
def test_the_hard_case_has_the_length_of_the_lowest_eigenvalue(gradient):
    eigenvalues, regularization = numbers(-2.0, 0.5, 1.0), 3.0
    step = cubic_minimizer(numbers(*gradient), eigenvalues, regularization)
    assert step.norm() == pytest.approx(4 / 3)
    divisors = eigenvalues + 2
    torch.testing.assert_close(divisors * step, -numbers(*gradient), rtol=0, atol=1e-12)
    assert step[0] > 0
    # A gradient that is nearly orthogonal to the eigenvector has nearly the same minimizer.
    near = cubic_minimizer(numbers(*gradient) + numbers(-1e-9, 0, 0), eigenvalues, regularization)
    torch.testing.assert_close(near, step, rtol=0, atol=1e-6)


def test_a_gradient_orthogonal_to_the_lowest_eigenvector_is_no_hard_case_if_it_is_long():
    step = cubic_minimizer(numbers(0.0, 10.0), numbers(-1.0, 1.0), 1.0)
    assert step[0] == 0
    length = -step[1]  # l + ½ l² = 10
    assert length == pytest.approx(-1 + math.sqrt(21))


def test_the_minimizer_is_the_end_of_gradient_descent_on_the_model():
    hessian, gradient, regularization = numbers(1.0, 0.4, 0.4, -1.0).view(2, 2), numbers(0.3, 0.1), 2.0

    def model(step):
        return gradient @ step + 0.5 * step @ hessian @ step + regularization / 6 * step.norm() ** 3

    points, _ = walk(lambda p: gradient @ p + 0.5 * p @ hessian @ p, [0.0, 0.0], regularization=2.0, **FIXED)
    torch.testing.assert_close(points[1], numbers(0.0685603, -1.1124346), rtol=0, atol=1e-7)
    # The Cauchy point, with R = (-c + √(c² + 2M‖g‖)) / M and c = gᵀHg / ‖g‖².
    along = gradient @ hessian @ gradient / gradient.square().sum()
    radius = (-along + (along**2 + 2 * regularization * gradient.norm()).sqrt()) / regularization
    assert radius == pytest.approx(0.2459163, abs=1e-7)
    step = -radius * gradient / gradient.norm()
    krylov, _ = walk(
        lambda p: gradient @ p + 0.5 * p @ hessian @ p, [0.0, 0.0], regularization=2.0, adaptive=False,
        krylov_dimension=1, random_directions=0,
    )  # fmt: skip
    torch.testing.assert_close(krylov[1], step)
    for _ in range(3000):
        step = step - 0.1 * torch.func.grad(model)(step)
    torch.testing.assert_close(points[1], step, rtol=0, atol=1e-9)


# ---- saddle points ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subspace", ["dense", "krylov"])
def test_a_saddle_point_is_left(subspace):
    points, _ = walk(Saddle(), [0.0, 0.0], regularization=6.0, adaptive=False, subspace=subspace)
    torch.testing.assert_close(points[1].abs(), numbers(0.0, 1 / 3), rtol=0, atol=1e-12)


@pytest.mark.parametrize("subspace", ["dense", "krylov"])
def test_the_ridge_to_a_saddle_point_is_left_in_the_second_step(subspace):
    points, _ = walk(Saddle(), [0.5, 0.0], 7, regularization=9.0, adaptive=False, subspace=subspace)
    heights = points[:, 1].abs()
    torch.testing.assert_close(heights[:6], numbers(0, 0, 0.18032, 0.49837, 0.81574, 0.97441), rtol=0, atol=1e-5)
    assert heights[6] == pytest.approx(0.99923, abs=1e-5)
    assert float(Saddle()(points[7])) == pytest.approx(-0.25, abs=1e-6)


def test_without_random_directions_a_krylov_space_stays_on_the_ridge():
    points, _ = walk(Saddle(), [0.5, 0.0], 30, adaptive=False, random_directions=0)
    assert (points[:, 1] == 0).all()
    assert points[-1].norm() < 0.1
    stays, _ = walk(Saddle(), [0.0, 0.0], adaptive=False, random_directions=0)
    assert torch.equal(stays[1], stays[0])


# ---- adaptation -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("subspace", ["dense", "krylov"])
@pytest.mark.parametrize(("trials", "steps"), [(1, 32), (5, 22)])
def test_arc_on_rosenbrock(subspace, trials, steps):
    """32 values of M, of which 22 lead to a step."""
    points, _ = walk(Rosenbrock(), [-1.2, 1.0], 34, subspace=subspace, trials=trials)
    norms = torch.stack([torch.func.grad(Rosenbrock())(point).norm() for point in points])
    assert int((norms < 1e-8).nonzero()[0]) == steps


def test_the_regularization_follows_the_ratio():
    """m for f = x⁴ at 1: g = 4, H = 12, of which the third derivative is 24."""
    for start, factor in ((16.0, 0.5), (1e4, 0.5)):
        _, optimizer = walk(lambda p: p[0] ** 4, [1.0], regularization=start, subspace="dense")
        assert optimizer.param_groups[0]["regularization"] == start * factor
        assert optimizer.diagnostics["accepted"] == 1
    # A wall behind a slope: every step is too long until M is large enough.
    points, optimizer = walk(
        lambda p: -p[0] + torch.where(p[0] > 0.01, 100.0, 0.0), [0.0], regularization=1.0, subspace="dense", trials=3
    )
    assert points[1] == points[0]
    assert optimizer.param_groups[0]["regularization"] == 8.0
    assert optimizer.diagnostics["accepted"] == 0
    # A loss that is not a number is no success.
    _, optimizer = walk(lambda p: p[0].log() + p[0], [1.0], regularization=1e-3, subspace="dense", trials=1)
    assert optimizer.param_groups[0]["regularization"] == 2e-3


def test_a_krylov_space_of_all_dimensions_is_the_whole_space():
    size = len(flat(network()))
    found = {}
    for options in ({"subspace": "dense"}, {"krylov_dimension": size}, {"krylov_dimension": 3}):
        model = network()
        optimizer = CubicNewton(model.parameters(), regularization=1.0, **options)
        for number in range(3):
            optimizer.step(batch_objective(model, number))
        found[str(options)] = flat(model)
    dense, krylov, small = found.values()
    torch.testing.assert_close(krylov, dense, rtol=1e-7, atol=1e-9)
    assert not torch.allclose(small, dense, atol=1e-4)


def test_a_step_on_a_network_is_the_minimizer_of_its_dense_model():
    model = network()
    _, gradient, hessian = dense_problem(model)
    start = flat(model)
    optimizer = CubicNewton(model.parameters(), lr=0.5, regularization=5.0, **FIXED)
    optimizer.step(batch_objective(model))
    step = (flat(model) - start) / 0.5
    matrix, slope = hessian(start), gradient(start)
    torch.testing.assert_close(matrix @ step + 2.5 * step.norm() * step, -slope, rtol=0, atol=1e-9)
    assert torch.linalg.eigvalsh(matrix)[0] + 2.5 * step.norm() > 0
    assert optimizer.diagnostics["step_norm"] == pytest.approx(float(0.5 * step.norm()))


# ---- in a run ---------------------------------------------------------------------------------------------------------------


def test_a_run_leaves_the_saddle_point(tmp_path):
    words = [
        "optimizer=cubic_newton", "dataset=saddle", "model=problem", "batch=1", "budget.steps=20", "precision=fp64",
        "tracker=none", "progress=false", "trainer.accelerator=cpu", f"results_dir={tmp_path}", "model.start=[0,0]",
    ]  # fmt: skip
    outcome = run.execute(config.compose(words))
    assert outcome.state == "done", outcome.why
    assert outcome.summary["test_loss"] == pytest.approx(-0.25, abs=1e-9)
    assert outcome.summary["oracle_products"] > 0


def test_values_that_are_not_accepted():
    point = [torch.nn.Parameter(torch.zeros(3))]
    for options in ({"regularization": 0.0}, {"trials": 0}, {"subspace": "half"}, {"krylov_dimension": 0}):
        with pytest.raises(ValueError, match=f"{next(iter(options))}=.*: must be"):
            CubicNewton(point, **options)
    with pytest.raises(UserError, match="beyond dense_limit=2"):
        CubicNewton(point, subspace="dense", dense_limit=2)
