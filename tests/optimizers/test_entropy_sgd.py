import math

import numpy as np
import pytest
import torch
from torch import nn

from optbench import randomness
from optbench.errors import UserError
from optbench.models.layers import Dropout
from optbench.objective import Network, Objective
from optbench.objective.losses import CrossEntropy
from optbench.optimizers.entropy_sgd import EntropySGD

PLAIN = {"inner_steps": 1, "scope": 0.0, "noise": 0.0, "momentum": 0.0, "averaging": 0.0}


class Closure:
    """The sum of f over the entries of a parameter, and its gradient; counts its evaluations."""

    def __init__(self, parameter, function):
        self.parameter, self.function, self.points = parameter, function, []

    def __call__(self):
        self.points.append(self.parameter.detach().clone())
        self.parameter.grad = None
        loss = self.function(self.parameter).sum()
        loss.backward()
        return loss.detach()


def parameter_at(*values):
    return nn.Parameter(torch.tensor(values, dtype=torch.float64))


def quadratic(curvature):
    return lambda x: 0.5 * curvature * x**2


# ---- the algorithm ------------------------------------------------------------------------------------------------------


def test_one_inner_step_without_noise_and_scope_is_sgd_by_both_rates():
    point = parameter_at(2.0, -1.0)
    EntropySGD([point], lr=0.5, inner_lr=0.3, **PLAIN).step(Closure(point, quadratic(3.0)))
    torch.testing.assert_close(point.detach(), torch.tensor([2.0, -1.0]).double() * (1 - 0.5 * 0.3 * 3))


@pytest.mark.parametrize("fresh", [False, True])
@pytest.mark.parametrize("outer_momentum", [0.0, 0.9])
def test_the_whole_algorithm_in_numpy(fresh, outer_momentum):
    def gradient(x, number):
        return (1 + number % 3) * x**3 - 1 if fresh else x**3 - 1

    rate, inner_rate, gamma, growth, rho, past, decay, inner_steps = 0.7, 0.05, 0.3, 0.1, 0.9, 0.75, 0.01, 4
    point = parameter_at(1.5, -0.5)
    optimizer = EntropySGD(
        [point], lr=rate, inner_lr=inner_rate, inner_steps=inner_steps, scope=gamma, scope_growth=growth, noise=0.2,
        momentum=rho, averaging=past, outer_momentum=outer_momentum, weight_decay=decay, fresh_batches=fresh, seed=3,
    )  # fmt: skip
    x, outer_velocity, number = np.array([1.5, -0.5]), 0.0, 0
    evaluated, reached, starts = [], [], []
    for outer in range(3):
        mean, iterate, velocity = x, x, 0.0
        for _ in range(inner_steps):
            evaluated.append(iterate)
            starts.append(x)
            uniforms = randomness.uniform(randomness.key(3, "entropy_sgd", number), torch.arange(2)).double()
            normal = torch.special.ndtri(uniforms + 2.0**-25).numpy()
            g = gradient(iterate, number) + decay * iterate
            velocity = rho * velocity + g
            scope = gamma * (1 + growth) ** outer * (iterate - x)
            iterate = iterate - inner_rate * (g + rho * velocity + scope) + 0.2 * math.sqrt(2 * inner_rate) * normal
            mean = past * mean + (1 - past) * iterate
            number += 1
        direction = x - mean
        outer_velocity = outer_momentum * outer_velocity + direction
        x = x - rate * (direction + outer_momentum * outer_velocity)
        reached.append(x)

    calls = []

    def closure():
        calls.append(point.detach().numpy().copy())
        point.grad = torch.tensor(gradient(point.detach().numpy(), len(calls) - 1))
        return torch.tensor(0.0)

    for step in range(3 * (inner_steps if fresh else 1)):
        if fresh:  # between the inner steps the parameters rest at x
            np.testing.assert_allclose(point.detach(), starts[step], rtol=1e-12)
        optimizer.step(closure)
        if not fresh:
            np.testing.assert_allclose(point.detach(), reached[step], rtol=1e-12)
    np.testing.assert_allclose(calls, evaluated, rtol=1e-12)
    np.testing.assert_allclose(point.detach(), reached[-1], rtol=1e-12)


def test_a_step_takes_its_number_of_gradients_the_first_where_it_begins():
    point = parameter_at(2.0)
    closure = Closure(point, quadratic(1.0))
    loss = EntropySGD([point], inner_steps=7).step(closure)
    assert len(closure.points) == 7
    assert closure.points[0] == 2
    assert loss == 2


def test_parameters_without_a_gradient_stay():
    point, unused = parameter_at(2.0), parameter_at(5.0)
    EntropySGD([point, unused], noise=1.0).step(Closure(point, quadratic(1.0)))
    assert unused.detach() == 5


# ---- what it samples ----------------------------------------------------------------------------------------------------


def last_inner_iterates(function, start, gamma, noise, inner_lr, inner_steps, chains=20000):
    """x' after ``inner_steps`` in independent chains, all focused at ``start``: η = 1 and no averaging hand it over."""
    point = nn.Parameter(torch.full((chains,), start, dtype=torch.float64))
    optimizer = EntropySGD(
        [point],
        lr=1.0,
        inner_lr=inner_lr,
        inner_steps=inner_steps,
        scope=gamma,
        noise=noise,
        momentum=0.0,
        averaging=0.0,
    )
    optimizer.step(Closure(point, function))
    return point.detach()


def test_a_quadratic_is_sampled_with_its_mean_and_variance():
    h, gamma, noise, rate, start, chains = 2.0, 3.0, 0.3, 0.05, 1.5, 20000
    samples = last_inner_iterates(quadratic(h), start, gamma, noise, rate, 60, chains)
    stationary = gamma * start / (h + gamma)
    variance = noise**2 / (h + gamma) / (1 - rate * (h + gamma) / 2)  # of the chain with steps of finite size
    assert samples.mean() == pytest.approx(stationary, abs=4 * math.sqrt(variance / chains))
    assert samples.var() == pytest.approx(variance, rel=4 * math.sqrt(2 / chains))
    # The gradient of the negative local entropy has the same minimizer as f.
    assert gamma * (start - samples.mean()) == pytest.approx(gamma * h * start / (gamma + h), abs=0.03)


def double_well(x):
    """A wide valley around -1 and a narrow one around 1, both of depth 0."""
    return torch.minimum(0.5 * (x + 1) ** 2, 10 * (x - 1) ** 2)


def negative_local_entropy(x, gamma, noise):
    grid = torch.linspace(-4, 4, 20001, dtype=torch.float64)
    exponent = -(double_well(grid) + 0.5 * gamma * (x - grid) ** 2) / noise**2
    return -(noise**2) * (torch.logsumexp(exponent, 0) + math.log(grid[1] - grid[0]))


def test_local_entropy_is_lower_in_the_wide_valley_and_its_gradient_is_what_the_chain_gives():
    gamma, noise = 1.0, 1.0
    wide, narrow = (negative_local_entropy(torch.tensor(x).double(), gamma, noise) for x in (-1.0, 1.0))
    assert wide < narrow - 0.1
    x = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(negative_local_entropy(x, gamma, noise), x)
    samples = last_inner_iterates(double_well, 0.8, gamma, noise, 0.005, 1500, 4000)
    assert gamma * (0.8 - samples.mean()) == pytest.approx(float(expected), abs=0.05)
    assert expected > 0.3  # towards the wide valley, from a point that f itself would take to the narrow one


def test_the_noise_depends_on_seed_step_and_place_and_on_nothing_else():
    def moved(seed=0, steps=1, generator=0, split=False):
        torch.manual_seed(generator)
        points = [parameter_at(0.0, 0.0), parameter_at(0.0)] if split else [parameter_at(0.0, 0.0, 0.0)]
        for point in points:
            point.grad = torch.zeros_like(point)
        optimizer = EntropySGD(points, **{**PLAIN, "noise": 1.0}, seed=seed)
        for _ in range(steps):
            optimizer.step(lambda: torch.tensor(0.0))
        return torch.cat([point.detach() for point in points])

    base = moved()
    assert len(base.unique()) == 3
    assert torch.equal(base, moved(generator=1))
    assert torch.equal(base, moved(split=True))
    assert not torch.equal(base, moved(seed=1))
    assert not torch.allclose(2 * base, moved(steps=2))


# ---- in training --------------------------------------------------------------------------------------------------------


def training(dtype):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), Dropout(0.5), nn.Linear(8, 3)).to(dtype)
    inputs, targets = torch.randn(12, 4).to(dtype), torch.randint(3, (12,))
    network = Network(model)
    return model, lambda step: Objective(network, CrossEntropy(), inputs, targets, dropout_key=step)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("fresh", [False, True])
def test_resuming_is_bit_exact(fresh, dtype, through_a_file):
    options = {"inner_steps": 4, "fresh_batches": fresh, "outer_momentum": 0.5, "noise": 1e-2}
    model, objective = training(dtype)
    optimizer = EntropySGD.from_model(model, **options)
    for step in range(11):
        if step == 6:  # in the middle of an outer step, if a step is an inner one
            saved = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
        optimizer.step(objective(step))
    resumed, objective = training(dtype)
    optimizer = EntropySGD.from_model(resumed, **options)
    resumed.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    for step in range(6, 11):
        optimizer.step(objective(step))
    for one, other in zip(resumed.parameters(), model.parameters(), strict=True):
        assert torch.equal(one, other)


def test_evaluations_are_counted_by_the_objective():
    model, objective = training(torch.float64)
    optimizer = EntropySGD.from_model(model, inner_steps=5)
    evaluated = objective(0)
    start = evaluated.loss()
    assert optimizer.step(evaluated) == evaluated.value == start
    assert evaluated.evaluations == 5


def test_biases_are_decayed_only_if_asked():
    model, _ = training(torch.float64)
    for both in (False, True):
        optimizer = EntropySGD.from_model(model, weight_decay=0.1, decay_norm_and_bias=both)
        decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
        assert all(decays[id(p)] == (0.1 if both or p.ndim > 1 else 0) for p in model.parameters())


def test_refuses_what_makes_no_sense():
    point = parameter_at(1.0)
    with pytest.raises(UserError, match="needs a closure"):
        EntropySGD([point]).step()
    for options in ({"inner_steps": 0}, {"averaging": 1.0}, {"noise": -1.0}, {"momentum": 1.0}, {"scope": -1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            EntropySGD([point], **options)
