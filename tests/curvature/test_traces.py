"""Traces and norms from random vectors: their means, variances and standard errors, against exact ones."""

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, hessian

from optbench.curvature import (
    StoppingRule,
    dense_operator,
    displaced_loss,
    frobenius_norm,
    hutch_plus_plus_trace,
    hutchinson_trace,
    in_float64,
    plateau_step,
    projected_trace,
    trace_and_frobenius_norm,
)
from optbench.errors import UserError
from optbench.objective import Execution, Network, Objective
from optbench.objective.losses import CrossEntropy


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def symmetric(size, seed=0):
    entries = torch.randn(size, size, dtype=torch.float64, generator=generator(seed))
    return (entries + entries.T) / 2


def exactly(count, together=None):
    return StoppingRule(relative=0, least=count, most=count, together=together or count)


def variance(matrix, distribution):
    rest = matrix.diagonal().square().sum() if distribution == "rademacher" else 0
    return 2 * float(matrix.square().sum() - rest)


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_the_variance_of_hutchinsons_samples(distribution):
    matrix = symmetric(200)
    found = hutchinson_trace(dense_operator(matrix), generator(1), exactly(30_000, 5000), distribution)
    assert float(found.samples.var()) == pytest.approx(variance(matrix, distribution), rel=0.03)
    assert found.standard_error == pytest.approx(math.sqrt(variance(matrix, distribution) / 30_000), rel=0.02)
    assert found.value == pytest.approx(float(matrix.trace()), abs=4 * found.standard_error)
    assert found.evaluations == 30_000
    assert found.per_dimension == pytest.approx(found.value / 200)


def test_signs_give_the_trace_of_a_diagonal_matrix_at_once():
    found = hutchinson_trace(dense_operator(torch.diag(torch.arange(10.0).double())), generator(), exactly(2))
    assert found.samples.tolist() == [45, 45]
    assert found.standard_error == 0


@pytest.mark.parametrize(("relative", "absolute"), [(0.05, 0.0), (0.0, 5.0)])
def test_the_standard_error_says_when_to_stop(relative, absolute):
    matrix = symmetric(100) + 10 * torch.eye(100, dtype=torch.float64)
    rule = StoppingRule(relative, absolute, least=4, most=10_000, together=3)
    found = hutchinson_trace(dense_operator(matrix), generator(), rule)
    tolerance = max(relative * abs(found.value), absolute)
    assert 4 < found.evaluations < 10_000
    assert found.evaluations % 3 == 0
    assert found.standard_error <= tolerance
    before = found.samples[:-3]  # one round earlier it was not yet enough
    assert float(before.std()) / math.sqrt(len(before)) > max(relative * abs(float(before.mean())), absolute)


def test_no_more_and_no_fewer_than_allowed():
    matrix = dense_operator(symmetric(50))
    assert hutchinson_trace(matrix, generator(), StoppingRule(1e-9, most=25, together=10)).evaluations == 25
    assert hutchinson_trace(matrix, generator(), StoppingRule(1e9, least=7, together=1)).evaluations == 7
    broken = dense_operator(torch.full((3, 3), math.nan, dtype=torch.float64))
    assert math.isnan(hutchinson_trace(broken, generator()).value)


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_the_frobenius_norm(distribution):
    matrix = symmetric(200)
    found = frobenius_norm(dense_operator(matrix), generator(1), exactly(2000), distribution)
    exact = float(matrix.norm())
    assert found.value == pytest.approx(exact, abs=4 * found.standard_error)
    # |A z|^2 = z^T A^2 z has the variance of Hutchinson's samples of A^2.
    error = math.sqrt(variance(matrix @ matrix, distribution) / 2000) / (2 * exact)
    assert found.standard_error == pytest.approx(error, rel=0.1)


def test_the_norm_comes_with_the_trace_for_nothing():
    matrix = dense_operator(symmetric(60))
    trace, norm = trace_and_frobenius_norm(matrix, generator(), exactly(30, 10))
    assert torch.equal(trace.samples, hutchinson_trace(matrix, generator(), exactly(30, 10)).samples)
    alone = frobenius_norm(matrix, generator(), exactly(30, 10))
    assert norm.value == pytest.approx(alone.value, rel=1e-12)
    assert norm.evaluations == 30


def spiked():
    """Ten eigenvalues of 100 over a bulk in [0, 0.1], rotated: trace 1049.5."""
    values = torch.cat([torch.full((10,), 100.0), torch.linspace(0, 0.1, 990)]).double()
    basis = torch.linalg.qr(torch.randn(1000, 1000, dtype=torch.float64, generator=generator(9)))[0]
    return basis @ torch.diag(values) @ basis.T


def test_hutch_plus_plus_takes_out_what_stands_out():
    matrix = spiked()
    whole = dense_operator(matrix)
    trace, simple, better = float(matrix.trace()), [], []
    for seed in range(40):
        simple.append(hutchinson_trace(whole, generator(seed), exactly(60)).value - trace)
        better.append(hutch_plus_plus_trace(whole, generator(seed), 20, exactly(20)))
    assert trace == pytest.approx(1049.5, abs=1e-6)
    assert all(found.evaluations == 60 for found in better)
    errors = torch.tensor([found.value - trace for found in better])
    spread = float(torch.tensor(simple).square().mean().sqrt())
    assert spread == pytest.approx(math.sqrt(variance(matrix, "rademacher") / 60), rel=0.3)
    assert float(errors.square().mean().sqrt()) < spread / 50
    assert abs(float(errors.mean())) < 4 * float(errors.std()) / math.sqrt(40)
    # Its own standard errors are as large as its errors.
    claimed = torch.tensor([found.standard_error for found in better]).square().mean().sqrt()
    assert float(claimed) == pytest.approx(float(errors.square().mean().sqrt()), rel=0.35)


def test_hutch_plus_plus_is_exact_for_low_rank():
    columns = torch.randn(100, 5, dtype=torch.float64, generator=generator())
    matrix = columns @ torch.diag(torch.tensor([1.0, -2, 3, -4, 5]).double()) @ columns.T
    found = hutch_plus_plus_trace(dense_operator(matrix), generator(), sketch=8, rule=exactly(2))
    assert found.value == pytest.approx(float(matrix.trace()), rel=1e-10)


# ---- from values of the loss ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step", [1e-2, 0.3, 10.0])
def test_second_differences_of_a_quadratic_are_exact_for_any_step(step):
    matrix, gradient = symmetric(50) / 7, torch.linspace(-1, 1, 50, dtype=torch.float64)

    def loss(displacement):
        return 0.5 * displacement @ matrix @ displacement + gradient @ displacement + 0.2

    found = projected_trace(loss, 50, generator(), exactly(20), "gaussian", step=step)
    vectors = torch.randn(20, 50, generator=generator()).double()
    expected = ((vectors @ matrix) * vectors).sum(1)
    torch.testing.assert_close(found.samples, expected, rtol=1e-8, atol=1e-8)
    assert found.step == step
    assert found.evaluations == 41


def test_the_plateau_is_between_rounding_and_the_fourth_derivative():
    directions = torch.tensor([[1.0], [-1.0]], dtype=torch.float64)

    def loss(displacement):
        return torch.cos(10 * displacement).sum() + 1.0

    step = plateau_step(loss, directions)
    assert 1e-4 < step < 1e-2

    def error(chosen):
        curvature = (2 * loss(torch.tensor([chosen]).double()) - 2 * loss(torch.zeros(1).double())) / chosen**2
        return abs(float(curvature) + 100)

    assert error(step) < 0.01
    assert error(1.0) > 10  # as an unlucky step would have it
    assert error(1e-8) > 1
    with pytest.raises(UserError, match="three steps"):
        plateau_step(loss, directions, [0.1, 0.2])


def digit_like_net():
    """64-12-10 with tanh: 910 parameters."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10))
    return model, torch.randn(60, 64), torch.randint(10, (60,))


def exact_hessian(model, inputs, targets):
    model = model.double()
    shapes = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def loss(flat):
        parts = flat.split([tensor.numel() for tensor in shapes.values()])
        named = {name: part.view_as(like) for (name, like), part in zip(shapes.items(), parts, strict=True)}
        return F.cross_entropy(functional_call(model, named, (inputs.double(),)), targets)

    return hessian(loss)(torch.cat([tensor.flatten() for tensor in shapes.values()]))


def test_the_trace_of_a_network_without_products():
    model, inputs, targets = digit_like_net()
    objective = Objective(Network(model), CrossEntropy(), inputs, targets, Execution(micro_batch=32))
    loss = displaced_loss(in_float64(objective))
    found = projected_trace(loss, 910, generator(), exactly(500, 100))
    exact = exact_hessian(model, inputs, targets)
    assert found.value == pytest.approx(float(exact.trace()), abs=3 * found.standard_error)
    assert found.standard_error < 0.1 * float(exact.trace())
    assert found.standard_error == pytest.approx(math.sqrt(variance(exact, "rademacher") / 500), rel=0.15)
    products = hutchinson_trace(dense_operator(exact), seeded_past(generator(), 3), exactly(500, 100))
    # The same directions give the same samples as products do, but for the error of the step.
    torch.testing.assert_close(found.samples, products.samples, rtol=1e-4, atol=1e-5)


def seeded_past(source, scanned):
    """The state of ``source`` after the directions of the scan for a step were drawn."""
    torch.randint(0, 2, (scanned, 910), generator=source, dtype=torch.int8)
    return source


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: StoppingRule(least=1), "least=1"),
        (lambda: StoppingRule(least=9, most=8), "least=9, most=8"),
        (lambda: StoppingRule(relative=-1), "relative=-1"),
        (lambda: StoppingRule(together=0), "together=0"),
        (lambda: hutch_plus_plus_trace(dense_operator(torch.eye(3)), generator(), sketch=4), "sketch=4"),
        (lambda: hutchinson_trace(dense_operator(torch.eye(3)), generator(), distribution="x"), "distribution=x"),
    ],
)
def test_mistakes_are_named(make, message):
    with pytest.raises(UserError, match=message):
        make()
