"""Zeroth-order descent: its estimates against closed forms of their moments, and that nothing is kept between its draws."""

import math

import pytest
import torch
from torch import nn

from optbench import config, randomness
from optbench.errors import UserError
from optbench.objective import Network, Objective
from optbench.optimizers.zeroth_order import ZerothOrder
from optbench.training import checkpointing, run

SIZE = 20
DISTRIBUTIONS = ["gaussian", "sphere", "rademacher"]


class Function(nn.Module):
    """A function of two weights, (4, 3) and (8,), as a model whose outputs are its values."""

    def __init__(self, function, start):
        super().__init__()
        self.function = function
        self.matrix = nn.Parameter(start[:12].clone().view(4, 3))
        self.vector = nn.Parameter(start[12:].clone())

    def forward(self, inputs):
        return self.function(self.point()).expand(len(inputs))

    def point(self):
        return torch.cat([self.matrix.flatten(), self.vector])


def objective_of(model):
    nothing = torch.zeros(1, dtype=torch.float64)
    return Objective(Network(model), lambda outputs, targets: outputs.mean(), nothing, nothing)


def a_quadratic():
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(SIZE, SIZE, dtype=torch.float64, generator=generator)
    hessian, slope = (root + root.T) / 2, torch.randn(SIZE, dtype=torch.float64, generator=generator)
    return hessian, slope, lambda point: slope @ point + 0.5 * point @ hessian @ point


def estimates(count, function, **options):
    """ĝ of the steps 0 .. count - 1, all at the point 0, (count, SIZE)."""
    model = Function(function, torch.zeros(SIZE).double())
    optimizer = ZerothOrder(model.parameters(), lr=1.0, **options)
    found = []
    for _ in range(count):
        optimizer.step(objective_of(model))
        found.append(-model.point().detach().clone())
        with torch.no_grad():
            model.matrix.zero_()
            model.vector.zero_()
    return torch.stack(found)


def direction(distribution, seed, number):
    """The direction of draw ``number``, by the formula."""
    normal = randomness.normal(randomness.key(seed, "direction", number), torch.arange(SIZE))
    return {"gaussian": normal, "sphere": normal / normal.norm(), "rademacher": normal.sign()}[distribution]


# ---- the estimate -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
@pytest.mark.parametrize("difference", ["forward", "central"])
def test_an_estimate_is_its_formula(distribution, difference):
    hessian, slope, function = a_quadratic()
    smoothing, scale = 0.3, SIZE if distribution == "sphere" else 1
    options = {"distribution": distribution, "difference": difference, "smoothing": smoothing, "seed": 5}
    [first, second] = estimates(2, function, directions=3, **options)
    for found, step in ((first, 0), (second, 1)):
        expected = torch.zeros(SIZE).double()
        for number in range(3 * step, 3 * step + 3):
            u = direction(distribution, 5, number)
            bias = 0.5 * smoothing * u @ hessian @ u if difference == "forward" else 0.0  # the rest is exact
            expected += scale * (slope @ u + bias) * u / 3
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_estimates_have_the_stated_mean_and_second_moment(distribution):
    _, slope, _ = a_quadratic()
    count = 800
    found = estimates(count, lambda point: slope @ point, distribution=distribution, smoothing=1.0)
    squares = found.square().sum(1) / slope.square().sum()
    factor = SIZE + 2 if distribution == "gaussian" else SIZE
    assert abs(squares.mean() - factor) < 4 * squares.std() / math.sqrt(count)
    error = found.std(0) / math.sqrt(count)
    assert ((found.mean(0) - slope).abs() < 5 * error).all()


def test_the_bias_of_forward_differences_is_that_of_the_curvature():
    """At a stationary point E ‖ĝ‖² = μ²/4 E[(uᵀHu)² ‖u‖²] = μ²/4 (d + 4) (tr² H + 2 ‖H‖²) for normal u."""
    hessian, _, _ = a_quadratic()
    count, smoothing = 1200, 0.5
    options = {"difference": "forward", "smoothing": smoothing}
    squares = estimates(count, lambda point: 0.5 * point @ hessian @ point, **options).square().sum(1)
    expected = smoothing**2 / 4 * (SIZE + 4) * (hessian.trace() ** 2 + 2 * hessian.square().sum())
    assert abs(squares.mean() - expected) < 4 * squares.std() / math.sqrt(count)
    central = estimates(5, lambda point: 0.5 * point @ hessian @ point, smoothing=smoothing)
    assert central.abs().max() < 1e-12


def test_the_best_rate_lowers_half_a_square_by_the_stated_factor():
    """50 steps from ones on ½ ‖x‖² with the rate 1 / (d + 2): (1 - 1 / (d + 2))^50 of the loss in the mean."""
    ends, replicas = [], 30
    for seed in range(replicas):
        model = Function(lambda point: 0.5 * point @ point, torch.ones(SIZE).double())
        optimizer = ZerothOrder(model.parameters(), lr=1 / (SIZE + 2), smoothing=1e-3, seed=seed)
        for _ in range(50):
            optimizer.step(objective_of(model))
        ends.append(float(model.point().detach().square().mean()))
    ends = torch.tensor(ends)
    expected = (1 - 1 / (SIZE + 2)) ** 50
    assert expected == pytest.approx(0.0977, abs=1e-4)
    assert abs(ends.mean() - expected) < 4 * ends.std() / math.sqrt(replicas)


# ---- its draws ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_a_direction_drawn_again_is_the_same(distribution):
    weights = [torch.zeros(4, 3).double(), torch.zeros(8).double()]
    optimizer = ZerothOrder([nn.Parameter(each) for each in weights], distribution=distribution)
    one, other = (torch.cat([part.flatten() for part in optimizer._drawn(7, weights)]) for _ in range(2))
    assert torch.equal(one, other)
    assert not torch.equal(one, torch.cat([part.flatten() for part in optimizer._drawn(8, weights)]))
    length = {"gaussian": one.norm().item(), "sphere": 1.0, "rademacher": math.sqrt(SIZE)}[distribution]
    assert one.norm().item() == pytest.approx(length)


def test_only_the_step_is_remembered_and_only_losses_are_taken():
    _, _, function = a_quadratic()
    model = Function(function, torch.ones(SIZE).double())
    for difference, losses in (("forward", 4), ("central", 6)):
        optimizer = ZerothOrder(model.parameters(), difference=difference, directions=3)
        objective = objective_of(model)
        start = float(objective_of(model).loss())
        value = optimizer.step(objective)
        assert (objective.values, objective.evaluations, objective.products) == (losses, 0, 0)
        assert all(parameter.grad is None for parameter in model.parameters())
        assert not optimizer.state
        assert optimizer.param_groups[0]["step"] == 1
        assert (float(value) == start) == (difference == "forward")


# ---- in a run -----------------------------------------------------------------------------------------------------------------

WORDS = [
    "optimizer=zeroth_order", "dataset=rosenbrock", "model=problem", "batch=4", "dataset.noise=0.1", "budget.steps=30",
    "optimizer.learning_rate=1e-4", "precision=fp64", "tracker=none", "progress=false", "trainer.accelerator=cpu",
]  # fmt: skip


def test_a_run_is_the_loop_written_out(tmp_path):
    outcome = run.execute(config.compose([*WORDS, "dataset.noise=0", "seed=3", f"results_dir={tmp_path}"]))
    assert outcome.state == "done", outcome.why
    state = checkpointing.load(outcome.directory.checkpoint, outcome.directory.run_id)["task"]

    def function(x, y):
        return (1 - x) ** 2 + 100 * (y - x**2) ** 2

    point = torch.tensor([-1.2, 1.0], dtype=torch.float64)
    for step in range(30):
        u = randomness.normal(randomness.key(3, "direction", step), torch.arange(2))
        slope = (function(*(point + 1e-3 * u)) - function(*(point - 1e-3 * u))) / 2e-3
        point = point - 1e-4 * slope * u
    torch.testing.assert_close(state["model"]["weights"], point, rtol=1e-9, atol=1e-9)
    assert outcome.summary["oracle_values"] == 60
    assert outcome.summary["oracle_gradients"] == 0


def test_clipping_is_refused():
    message = r"clip_norm=1\.0: optimizer=zeroth_order takes losses alone, no gradient to clip; accepted: null"
    with pytest.raises(UserError, match=message):
        config.compose([*WORDS, "clip_norm=1.0"])


def test_a_closure_without_losses_at_other_weights_is_refused():
    optimizer = ZerothOrder([nn.Parameter(torch.zeros(2))])
    with pytest.raises(UserError, match="needs the loss at other weights"):
        optimizer.step(lambda: torch.zeros(()))


@pytest.mark.parametrize(
    "options", [{"distribution": "cauchy"}, {"difference": "backward"}, {"smoothing": 0.0}, {"directions": 0}]
)
def test_values_that_are_not_accepted(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}=.*: must be"):
        ZerothOrder([nn.Parameter(torch.zeros(2))], **options)
