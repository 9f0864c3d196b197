"""SdLBFGS: its pairs and matrix against dense float64 recursions, the batch of both gradients, variance reduction, control."""

import math

import numpy as np
import pytest
import torch
from golden import Point, assert_is, numbers, on_objective
from torch import nn

from optbench import config
from optbench.errors import UserError
from optbench.models.layers import BatchNorm
from optbench.objective import Execution, Network, Objective, Population
from optbench.objective.losses import SquaredError
from optbench.optimizers.quasi_newton import InverseHessian, damped
from optbench.optimizers.sdlbfgs import SdLBFGS, _controlled
from optbench.testing import invariance, resuming

# ---- one pair ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("step", "change", "gamma", "weight", "expected"),
    [
        ([1, 0, 0], [-2, 1, 0], 1.0, 0.25, [0.25, 0.25, 0]),  # sᵀy < 0, so that γ is γ_min
        ([1, 0, 0], [0.1, 1, 0], 10.1, 0.7575, [2.525, 0.7575, 0]),
        ([1, 0], [2, 1], 2.5, 1.0, [2, 1]),  # not damped
    ],
)
def test_pairs_by_their_numbers(step, change, gamma, weight, expected):
    found = damped(numbers(step).double(), numbers(change).double(), 0.25, 1.0)
    assert found.gamma == pytest.approx(gamma, rel=1e-14)
    assert found.weight == pytest.approx(weight, rel=1e-14)
    assert_is(found.change, *expected, tolerance=1e-14)


def test_a_matrix_by_its_numbers():
    matrix = InverseHessian(numbers([[1.0, 0]]), numbers([[2.0, 1]]), 2.5)
    torch.testing.assert_close(matrix @ torch.eye(2).double(), numbers([[0.6, -0.2], [-0.2, 0.4]]), rtol=0, atol=1e-15)
    assert matrix.extreme_eigenvalues() == pytest.approx((0.2763932, 0.7236068), abs=1e-7)


def test_damped_curvature_is_a_share_of_gamma():
    generator = torch.Generator().manual_seed(0)
    shares = []
    for _ in range(200):
        step, change = torch.randn(2, 3, dtype=torch.float64, generator=generator)
        pair = damped(step, change, 0.25, 0.1)
        shares.append(float(step @ pair.change / (pair.gamma * step @ step)))
    assert min(shares) == pytest.approx(0.25, rel=1e-12)
    # Damping begins where the cosine of s and y falls below ½, as γ = yᵀy / sᵀy.
    halfway = numbers([math.cos(1.04), math.sin(1.04)]), numbers([math.cos(1.06), math.sin(1.06)])
    weights = [damped(numbers([1.0, 0]), change, 0.25, 0.1).weight for change in halfway]
    assert weights[0] == 1.0 > weights[1]


# ---- the matrix of several pairs -----------------------------------------------------------------------------------------------


def dense(steps, changes, gamma):
    """H by the recursion V H Vᵀ + s sᵀ/sᵀȳ, in NumPy."""
    size = steps.shape[1]
    matrix = np.eye(size) / gamma
    for step, change in zip(steps.numpy(), changes.numpy(), strict=True):
        turn = np.eye(size) - np.outer(step, change) / (step @ change)
        matrix = turn @ matrix @ turn.T + np.outer(step, step) / (step @ change)
    return torch.from_numpy(matrix)


def random_memory(pairs, size, seed):
    generator = torch.Generator().manual_seed(seed)
    steps = torch.randn(pairs, size, dtype=torch.float64, generator=generator)
    found = [damped(s, torch.randn(size, dtype=torch.float64, generator=generator), 0.25, 0.5) for s in steps]
    return InverseHessian(steps, torch.stack([pair.change for pair in found]), found[-1].gamma)


def nothing(size, gamma):
    return InverseHessian(*torch.zeros(2, 0, size, dtype=torch.float64), gamma)


@pytest.mark.parametrize(("pairs", "size"), [(0, 4), (1, 4), (3, 5), (3, 6), (5, 40)])
def test_products_and_eigenvalues_are_those_of_the_dense_matrix(pairs, size):
    for seed in range(5):
        memory = random_memory(pairs, size, seed) if pairs else nothing(size, 2.0)
        matrix = dense(memory.steps, memory.changes, memory.gamma)
        whole = memory @ torch.eye(size).double()
        torch.testing.assert_close(whole, matrix, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(memory @ matrix[0], matrix @ matrix[0], rtol=1e-9, atol=1e-9)
        values = torch.linalg.eigvalsh(matrix)
        assert memory.extreme_eigenvalues() == pytest.approx((float(values[0]), float(values[-1])), rel=1e-9)
        low, high = memory.eigenvalue_bounds()
        assert low <= float(values[0]) * (1 + 1e-12)
        assert float(values[-1]) <= high * (1 + 1e-12)
        if pairs:  # the secant equation of the newest pair
            torch.testing.assert_close(memory @ memory.changes[-1], memory.steps[-1], rtol=1e-9, atol=1e-9)


def test_the_eigenvalues_of_one_pair_are_roots():
    """z² - a(1 + c/γ)z + a/γ = 0, with a = ‖s‖²/sᵀȳ and c = ‖ȳ‖²/sᵀȳ."""
    memory = random_memory(1, 2, 3)
    step, change, gamma = memory.steps[0], memory.changes[0], memory.gamma
    a, c = float(step @ step / (step @ change)), float(change @ change / (step @ change))
    roots = np.roots([1, -a * (1 + c / gamma), a / gamma])
    assert memory.extreme_eigenvalues() == pytest.approx((min(roots), max(roots)), rel=1e-10)


def test_exact_line_searches_end_after_as_many_steps_as_there_are_eigenvalues():
    values = numbers([1.0, 2, 5, 10, 30, 100])
    point = torch.ones(6, dtype=torch.float64)
    memory = nothing(6, 1.0)
    for _ in range(6):
        gradient = values * point
        assert gradient.norm() > 1e-6
        direction = -(memory @ gradient)
        step = direction * (-(gradient @ direction) / (direction @ (values * direction)))
        point = point + step
        memory = InverseHessian(
            torch.cat([memory.steps, step[None]]), torch.cat([memory.changes, (values * step)[None]]), 1.0
        )
    assert (values * point).norm() < 1e-10


# ---- steps ------------------------------------------------------------------------------------------------------------------


def test_steps_are_those_of_a_dense_loop():
    """The valley of golden.py, with a memory of two pairs, of which more are made."""

    def gradient(point):
        x, y = point
        return np.array([-2 * (1 - x) - 40 * x * (y - x**2), 20 * (y - x**2)])

    point, gamma, pairs = np.array([0.8, 0.2]), 1.0, []
    for _ in range(6):
        memory = InverseHessian(*(numbers([pair[part] for pair in pairs]).view(-1, 2) for part in (0, 1)), gamma)
        before = gradient(point)
        step = -0.05 * dense(memory.steps, memory.changes, gamma).numpy() @ before
        point = point + step
        y = gradient(point) - before
        slope = step @ y
        gamma = max(y @ y / slope, 0.5) if slope > 0 else 0.5
        squared = gamma * step @ step
        weight = 0.75 * squared / (squared - slope) if slope < 0.25 * squared else 1.0
        pairs = [*pairs, (step.tolist(), (weight * y + (1 - weight) * gamma * step).tolist())][-2:]
    found = on_objective(lambda model: SdLBFGS(model.parameters(), lr=0.05, memory=2, gamma_min=0.5), 6)
    assert_is(found, *point, tolerance=1e-11)


class Quadratic(nn.Module):
    def __init__(self, start):
        super().__init__()
        self.point = nn.Parameter(start.clone())

    def forward(self, inputs):
        return self.point.expand(len(inputs), len(self.point))


def on_quadratic(hessian, shifts, sign=1.0, steps=8, **options):
    """Steps on ± ½ (x - b)ᵀ H (x - b), with another b in every batch; the optimizer and its objectives."""
    model = Quadratic(torch.ones(len(hessian)).double())
    optimizer, network, objectives = SdLBFGS(model.parameters(), **options), Network(model), []
    for step in range(steps):
        shift = shifts[step % len(shifts)]

        def loss(outputs, _, shift=shift):
            return sign * 0.5 * (outputs[0] - shift) @ hessian @ (outputs[0] - shift)

        objectives.append(Objective(network, loss, torch.zeros(1, 1).double(), torch.zeros(1)))
        optimizer.step(objectives[-1])
    return optimizer, model, objectives


def test_both_gradients_are_of_one_batch():
    """Where batches differ in their minimum alone, y = H s to rounding; gradients of two batches would differ by their noise."""
    hessian = torch.diag(numbers([1.0, 1.2, 1.5]))
    shifts = [10 * numbers([1.0, -1, 2]), -7 * numbers([1.0, 2, 3]), numbers([0.0, 30, 1])]
    optimizer, model, objectives = on_quadratic(hessian, shifts, lr=0.1)
    state = optimizer.state[model.point]
    assert len(state["steps"]) == 8
    torch.testing.assert_close(state["changes"], state["steps"] @ hessian, rtol=1e-9, atol=1e-9)
    assert all(objective.evaluations == 2 for objective in objectives)


def test_the_matrix_stays_positive_on_a_concave_loss():
    hessian = torch.diag(numbers([1.0, 1.0, 1.0]))
    optimizer, model, _ = on_quadratic(hessian, [numbers([0.0, 0, 0])], sign=-1.0, lr=0.1, gamma_min=2.0)
    state = optimizer.state[model.point]
    slopes = (state["steps"] * state["changes"]).sum(1)
    torch.testing.assert_close(slopes, 0.25 * 2.0 * state["steps"].square().sum(1), rtol=1e-12, atol=0)
    assert model.point.norm() > 3**0.5  # it descends


def test_a_step_of_zero_is_no_pair():
    optimizer, model, _ = on_quadratic(torch.eye(3).double(), [numbers([0.0, 0, 0])], lr=0.0)
    assert not optimizer.state[model.point]
    assert torch.equal(model.point.detach(), torch.ones(3).double())


def test_clipping_is_of_the_direction_and_not_of_the_pair():
    hessian = torch.diag(numbers([1.0, 4.0, 2.0]))
    model = Quadratic(100 * torch.ones(3).double())
    optimizer, network = SdLBFGS(model.parameters(), lr=0.1), Network(model)

    def loss(outputs, _):
        return 0.5 * outputs[0] @ hessian @ outputs[0]

    optimizer.step(Objective(network, loss, torch.zeros(1, 1).double(), torch.zeros(1), Execution(clip_norm=2.0)))
    state = optimizer.state[model.point]
    assert state["steps"][0].norm() == pytest.approx(0.1 * 2.0, rel=1e-6)
    torch.testing.assert_close(state["changes"], state["steps"] @ hessian, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("control", ["exact", "bounds"])
def test_control_keeps_the_eigenvalues_within_the_limits(control):
    hessian = torch.diag(numbers([1e-3, 1.0, 30.0]))
    shifts = [numbers([3.0, -1, 2]), numbers([-5.0, 2, -1])]
    limits = {"lowest": 0.025, "highest": 0.05}
    free, model, _ = on_quadratic(hessian, shifts, lr=0.02, gamma_min=0.01)
    matrix = dense(free.state[model.point]["steps"], free.state[model.point]["changes"], free.param_groups[0]["gamma"])
    values = torch.linalg.eigvalsh(matrix)
    assert values[0] < limits["lowest"] or values[-1] > limits["highest"]
    optimizer, model, _ = on_quadratic(hessian, shifts, lr=0.02, gamma_min=0.01, control=control, **limits)
    state, gamma = optimizer.state[model.point], optimizer.param_groups[0]["gamma"]
    matrix = dense(state["steps"], state["changes"], gamma)
    values = torch.linalg.eigvalsh(matrix)
    assert limits["lowest"] <= values[0]
    assert values[-1] <= limits["highest"]
    found = [optimizer.diagnostics[f"{name}_eigenvalue"] for name in ("smallest", "largest")]
    if control == "exact":
        assert found == pytest.approx([float(values[0]), float(values[-1])], rel=1e-9)
    else:
        assert found[0] <= float(values[0]) * (1 + 1e-12)
        assert float(values[-1]) <= found[1] * (1 + 1e-12)


def test_control_drops_the_oldest_pairs():
    wide, narrow = ([10.0, 0], [0.1, 0]), ([0.0, 1], [0.0, 1])  # with the eigenvalues 100 and 1 of H
    for pairs, kept in (((wide, narrow), 1), ((narrow, narrow), 2), ((narrow, wide), 0)):
        memory = InverseHessian(*(numbers([pair[part] for pair in pairs]) for part in (0, 1)), 4.0)
        found, smallest, largest = _controlled(memory, "exact", 0.2, 2.0)
        torch.testing.assert_close(found.steps, memory.steps[2 - kept :], rtol=0, atol=0)
        torch.testing.assert_close(found.changes, memory.changes[2 - kept :], rtol=0, atol=0)
        assert (smallest, largest) == pytest.approx((0.25, 1.0 if kept else 0.25))
    assert _controlled(memory, "exact", 0.5, 2.0)[0].gamma == 2.0  # without pairs, 1/γ is moved to the limit
    assert _controlled(memory, "exact", 0.01, 0.1)[0].gamma == 10.0


# ---- variance reduction ------------------------------------------------------------------------------------------------------


def regression(seed=0):
    generator = torch.Generator().manual_seed(seed)
    inputs = torch.randn(10, 3, dtype=torch.float64, generator=generator)
    return inputs, torch.randn(10, 2, dtype=torch.float64, generator=generator)


def gradient_of(model, inputs, targets):
    value = 0.5 * (model(inputs) - targets).square().sum(1).mean()
    return torch.cat([each.flatten() for each in torch.autograd.grad(value, list(model.parameters()))])


def test_variance_reduction_by_its_formula():
    torch.manual_seed(0)
    model, (inputs, targets) = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2)).double(), regression()
    optimizer, network = SdLBFGS(model.parameters(), lr=0.1, variance_reduction=True, snapshot_period=3), Network(model)
    population = Population(10, lambda: ((n, inputs[n : n + 4], targets[n : n + 4]) for n in (0, 4, 8)))
    for step in range(5):
        batch = slice(2 * step, 2 * step + 2)
        if step % 3 == 0:
            snapshot = [each.detach().clone() for each in model.parameters()]
            whole = gradient_of(model, inputs, targets)
        state = optimizer.state[network.parameters[0]]
        memory = optimizer._inverse_hessian(network.parameters)
        here = [each.detach().clone() for each in model.parameters()]
        gradient = gradient_of(model, inputs[batch], targets[batch])
        with torch.no_grad():
            torch._foreach_copy_(list(model.parameters()), snapshot)
        there = gradient_of(model, inputs[batch], targets[batch])
        with torch.no_grad():
            torch._foreach_copy_(list(model.parameters()), here)
        start = torch.cat([each.detach().flatten() for each in model.parameters()])
        reduced = gradient - there + whole
        expected = start - 0.1 * dense(memory.steps, memory.changes, memory.gamma) @ reduced
        objective = Objective(network, SquaredError(), inputs[batch], targets[batch], population=population)
        value = optimizer.step(objective)
        found = torch.cat([each.detach().flatten() for each in model.parameters()])
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)
        assert float(value) == pytest.approx(float(objective.value))
        assert objective.evaluations == (2 + 5 if step % 3 == 0 else 3)
        assert "snapshot" in state


def test_variance_reduction_needs_a_training_set_without_batch_norm():
    model = nn.Sequential(nn.Linear(3, 2), BatchNorm(2)).double()
    inputs, targets = regression()
    optimizer = SdLBFGS(model.parameters(), variance_reduction=True)
    whole = Population(10, lambda: iter([(0, inputs, targets)]))
    with pytest.raises(UserError, match=r"variance_reduction=true: .* batch norm computes another loss"):
        optimizer.check(Objective(Network(model), SquaredError(), inputs, targets, population=whole))
    with pytest.raises(UserError, match="does not know"):
        optimizer.check(Objective(Network(model), SquaredError(), inputs, targets))
    SdLBFGS(model.parameters()).check(Objective(Network(model), SquaredError(), inputs, targets))


REDUCED = (
    "optimizer=sdlbfgs", "optimizer.variance_reduction=true", "optimizer.snapshot_period=2", "model=mlp", "model.hidden=[16]",
    "dataset=digits", "dataset.train_limit=70", "dataset.validation=16", "batch=16", "ghost_batch_size=4", "budget.steps=5",
    "clip_norm=1.0", "evaluate_train=16", "tracker=none", "progress=false", "log_every=1", "trainer.accelerator=cpu",
)  # fmt: skip


def test_variance_reduction_does_not_depend_on_micro_batches():
    undisturbed = invariance.Undisturbed(config.compose([*REDUCED, "precision=fp64"]))
    assert not invariance.micro_batch(undisturbed).note


def test_variance_reduction_goes_on_after_a_kill():
    resuming.kill(config.compose([*REDUCED, *resuming.KILLED]))


@pytest.mark.slow
def test_variance_reduction_on_two_ranks():
    undisturbed = invariance.Undisturbed(config.compose([*REDUCED, "precision=fp64"]))
    two = invariance.TwoRanks({"reduced": {**undisturbed.config, "micro_batch": 4}})
    try:
        assert not invariance.ranks(undisturbed, two, "reduced").note
    finally:
        two.stop()


# ---- what is refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [{"memory": 0}, {"damping": 1.0}, {"gamma_min": 0.0}, {"snapshot_period": 0}, {"control": "some"}, {"lowest": 1e6}],
)
def test_values_that_are_not_accepted(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}=.*: must be"):
        SdLBFGS([nn.Parameter(torch.zeros(2))], **options)


def test_a_closure_without_a_batch_is_refused():
    with pytest.raises(UserError, match="needs gradients that are not clipped"):
        SdLBFGS([nn.Parameter(torch.zeros(2))]).step(lambda: torch.zeros(()))


def test_it_minimizes_a_batch():
    model, inputs = Point([3.0, -2.0]), torch.zeros(1, 1, dtype=torch.float64)
    optimizer, network = SdLBFGS(model.parameters(), lr=1.0), Network(model)
    for _ in range(30):
        optimizer.step(Objective(network, lambda outputs, _: outputs[0].cosh().sum(), inputs, torch.zeros(1)))
    assert model.point.abs().max() < 1e-6
