"""PSGD Kron: points computed apart, its factors by hand, the times of its updates, and what its draws depend on."""

import itertools
import math

import pytest
import torch
from golden import assert_is, numbers, on_matrix
from torch import nn

from optbench.optimizers import psgd_kron
from optbench.optimizers.psgd_kron import PSGDKron

DRAWS = [
    [[1, -0.5, 0.3], [0.2, 0.8, -1]],
    [[-0.4, 0.6, 1], [1.2, -0.3, 0.5]],
    [[0.7, 0.1, -0.9], [-0.6, 1.1, 0.4]],
]


class Given(PSGDKron):
    """With given draws."""

    def _drawn(self, parameter, update):
        return numbers(DRAWS[update - 1]).flatten()[: parameter.numel()]


def kept(kind=Given, **options):
    """A function that makes an optimizer, and a list of those made."""
    made = []

    def make(parameters):
        made.append(kind(parameters, **options))
        return made[-1]

    return make, made


def factors(optimizer):
    (state,) = optimizer.state.values()
    return state["left"], state["right"]


def test_three_steps_with_the_lower_bound_of_the_norm(monkeypatch):
    monkeypatch.setattr(psgd_kron, "_EXACT", 0)
    make, made = kept(lr=0.05)
    found = on_matrix(make, 3)
    assert_is(found, 0.576383862135, -0.235691141479, 0.040191487655, 0.200317269617, 0.485073757969, -0.471568787492)
    left, _ = factors(made[0])
    assert_is(left.flatten(), 0.971128460441, 0.008212862005, 0, 0.999798267887)


def test_three_steps_with_the_exact_norm():
    assert_is(on_matrix(kept(lr=0.05)[0], 3)[:3], 0.576423308312, -0.235650988764, 0.040000925743)


def test_decay_is_decoupled():
    """A rate of zero for the factors, and one step: the average of gradients is the gradient."""
    weight = nn.Parameter(numbers([[1, 2], [3, 4]]))
    weight.grad = numbers([[0.1, -0.2], [0.3, 0.4]])
    expected = weight.detach() - 0.5 * (weight.grad + 0.1 * weight.detach())
    PSGDKron([weight], lr=0.5, precondition_lr=0, weight_decay=0.1).step()
    torch.testing.assert_close(weight.detach(), expected, rtol=1e-14, atol=0)


def test_a_long_step_is_clipped_to_a_root_mean_square_of_1_1():
    weight = nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    weight.grad = numbers([[3, -4], [0, 12]])
    PSGDKron([weight], lr=1.0, precondition_lr=0).step()
    root_mean_square = 13 / 2
    torch.testing.assert_close(weight.detach(), -weight.grad * 1.1 / (root_mean_square + 1e-6), rtol=1e-13, atol=0)


def test_the_factor_of_a_vector_is_diagonal():
    weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    gradient, noise = numbers([0.2, -0.1, 0.4]), numbers(DRAWS[0][0])
    weight.grad = gradient.clone()
    optimizer = Given([weight], lr=1.0)
    optimizer.step()
    sums = gradient**2 + noise**2
    expected = 1 - 0.1 * (gradient**2 - noise**2) / sums.max()
    left, right = factors(optimizer)
    torch.testing.assert_close(left, expected, rtol=1e-13, atol=0)
    assert torch.equal(right, torch.ones(1, dtype=torch.float64))
    torch.testing.assert_close(weight.detach(), -gradient * expected**2, rtol=1e-13, atol=0)


def test_a_large_side_has_a_diagonal_factor():
    """Against dense matrices, entry by entry: the side of three columns, for which ``max_size`` is 2."""
    weight = nn.Parameter(torch.zeros(2, 3, dtype=torch.float64))
    gradient, noise = numbers([[0.2, -0.1, 0.4], [0.3, 0.1, -0.2]]), numbers(DRAWS[0])
    weight.grad = gradient.clone()
    optimizer = Given([weight], lr=1.0, max_size=2)
    optimizer.step()
    left, right = factors(optimizer)
    up, down = (gradient**2).sum(0), (noise**2).sum(0)
    torch.testing.assert_close(right, 1 - 0.1 * (up - down) / (up + down).max(), rtol=1e-13, atol=0)
    first, second = gradient @ gradient.T, noise @ noise.T
    norm = torch.linalg.matrix_norm(first + second, 2)
    torch.testing.assert_close(
        left, torch.eye(2, dtype=torch.float64) - 0.1 * torch.triu(first - second) / norm, rtol=1e-12, atol=1e-15
    )
    whole = torch.kron(left.T @ left, torch.diag(right**2)) @ gradient.flatten()
    torch.testing.assert_close(weight.detach().flatten(), -whole, rtol=1e-12, atol=0)


def test_balanced_factors_have_equal_largest_entries_and_the_same_product():
    torch.manual_seed(0)
    left, right = torch.randn(3, 3).double(), 7 * torch.randn(2, 2).double()
    state = {"left": left, "right": right}
    psgd_kron._balance(state)
    assert float(state["left"].abs().max()) == pytest.approx(float(state["right"].abs().max()), rel=1e-14)
    torch.testing.assert_close(torch.kron(state["left"], state["right"]), torch.kron(left, right), rtol=1e-13, atol=0)


def updates(steps):
    """The steps, from 1, after which there was an update."""
    weight = nn.Parameter(torch.zeros(1))
    optimizer, found, before = PSGDKron([weight]), [], 0
    for step in range(1, steps + 1):
        optimizer.step()
        if (count := optimizer.param_groups[0]["updates"]) > before:
            found.append(step)
            before = count
    return found


def test_updates_become_rare():
    found = updates(6000)
    assert found[:501] == [*range(1, 502)]
    assert found[501] == 503  # exp(-0.001) is below 1
    assert {later - step for step, later in itertools.pairwise(found[-50:])} == {34}
    # One in two steps lasts until exp(-(n - 500)/1000) is 1/2.
    last = max(step for step, later in itertools.pairwise(found) if later - step == 2)
    assert last == pytest.approx(500 + 1000 * math.log(2), abs=3)


def steps_of(seed=0, names=("first", "second")):
    torch.manual_seed(1)
    weights = {name: nn.Parameter(torch.randn(3, 2, dtype=torch.float64)) for name in names}
    model = nn.ParameterDict(weights)
    optimizer = PSGDKron.from_model(model, lr=0.1, seed=seed)
    for _ in range(3):
        for weight in weights.values():
            weight.grad = weight.detach().clone()
        optimizer.step()
    return weights


def test_draws_are_functions_of_seed_and_name():
    first, again, other = steps_of(), steps_of(), steps_of(seed=1)
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first)


def test_draws_of_two_updates_and_of_two_tensors_of_one_shape_differ():
    weights = [nn.Parameter(torch.zeros(2, 2)) for _ in range(2)]
    optimizer = PSGDKron(weights)
    assert not torch.equal(optimizer._drawn(weights[0], 1), optimizer._drawn(weights[1], 1))
    assert not torch.equal(optimizer._drawn(weights[0], 1), optimizer._drawn(weights[0], 2))
    assert torch.equal(optimizer._drawn(weights[0], 1), PSGDKron(weights)._drawn(weights[0], 1))
