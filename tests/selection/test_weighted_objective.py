"""Weights of examples in an objective: an example of weight k counts as k copies of it, in every product."""

import pytest
import torch
from torch import nn

from optbench.objective import Execution, Network, Objective
from optbench.objective.losses import CrossEntropy, OneHotSquaredError
from optbench.objective.vectors import flatten
from optbench.optimizers.dense_gauss_newton import SquareRoot
from optbench.optimizers.kronecker import KroneckerFactors

COPIES = torch.tensor([3, 1, 2, 1, 5, 1])


def network():
    torch.manual_seed(0)
    return Network(nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)).double())


def objectives(loss=None, micro_batch=None):
    """Six examples with weights, and as many copies of each as its weight; the means differ by the factor 13/6."""
    generator = torch.Generator().manual_seed(3)
    inputs, targets = torch.randn(6, 4, dtype=torch.float64, generator=generator), torch.tensor([0, 2, 1, 1, 0, 2])
    loss = loss or CrossEntropy()
    weighted = Objective(network(), loss, inputs, targets, Execution(micro_batch=micro_batch), weights=COPIES.double())
    copied = (torch.repeat_interleave(each, COPIES, 0) for each in (inputs, targets))
    return weighted, Objective(network(), loss, *copied)


def vector(objective, seed=7):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(each.shape, dtype=each.dtype, generator=generator) for each in objective.network.parameters]


FACTOR = 13 / 6


@pytest.mark.parametrize("micro_batch", [None, 4])
@pytest.mark.parametrize("loss", [CrossEntropy(), CrossEntropy(0.1), OneHotSquaredError()], ids=repr)
def test_values_and_gradients_are_those_of_copies(loss, micro_batch):
    weighted, copies = objectives(loss, micro_batch)
    assert float(weighted()) == pytest.approx(FACTOR * float(copies()), rel=1e-13)
    assert float(weighted.loss()) == pytest.approx(FACTOR * float(copies.loss()), rel=1e-13)
    for mine, theirs in zip(weighted.network.parameters, copies.network.parameters, strict=True):
        torch.testing.assert_close(mine.grad, FACTOR * theirs.grad)
    torch.testing.assert_close(flatten(weighted.gradient()), FACTOR * flatten(copies.gradient()))


@pytest.mark.parametrize("micro_batch", [None, 4])
@pytest.mark.parametrize("product", ["hvp", "ggnvp", "empirical_fisher_vp"])
def test_products_are_those_of_copies(product, micro_batch):
    weighted, copies = objectives(micro_batch=micro_batch)
    along = vector(weighted)
    found, expected = (flatten(getattr(each, product)(along)) for each in (weighted, copies))
    torch.testing.assert_close(found, FACTOR * expected)


def test_the_exact_quadratic_model_is_that_of_copies():
    weighted, copies = objectives(micro_batch=4)
    pair = [vector(weighted, 1), vector(weighted, 2)]
    torch.testing.assert_close(weighted.quadratic(pair), FACTOR * copies.quadratic(pair))


@pytest.mark.parametrize("curvature", ["gauss_newton", "empirical_fisher"])
def test_dense_gauss_newton_matrices_are_those_of_copies(curvature):
    weighted, copies = objectives()
    found, expected = (SquareRoot(each, curvature) for each in (weighted, copies))
    torch.testing.assert_close(found.gradient, FACTOR * expected.gradient)

    def matrix(root):
        return root._rows.T @ root._rows * root._scale**2

    torch.testing.assert_close(matrix(found), FACTOR * matrix(expected))


@pytest.mark.parametrize("targets", ["exact", "empirical"])
def test_output_factors_are_those_of_copies(targets):
    weighted, copies = objectives(micro_batch=4)
    found, expected = (KroneckerFactors(each.network.model, targets=targets) for each in (weighted, copies))
    found.evaluate_and_update(weighted)
    expected.evaluate_and_update(copies)
    for mine, theirs in zip(found.current.outputs, expected.current.outputs, strict=True):
        torch.testing.assert_close(mine, FACTOR * theirs)
    # Inputs are independent of weights in K-FAC's approximation: their factor is the plain mean.
    plain, _ = objectives()
    inputs = torch.cat([torch.cat([part.inputs for part in plain._parts]), torch.ones(6, 1, dtype=torch.float64)], 1)
    torch.testing.assert_close(found.current.inputs[0][0], inputs.T @ inputs / 6)


def test_no_weights_and_weights_of_one_give_the_same():
    weighted, _ = objectives()
    part = weighted._parts[0]
    ones = Objective(network(), CrossEntropy(), part.inputs, part.targets, weights=torch.ones(6, dtype=torch.float64))
    plain = Objective(network(), CrossEntropy(), part.inputs, part.targets)
    assert float(ones()) == pytest.approx(float(plain()), rel=1e-15)
    assert float(plain()) == float(nn.functional.cross_entropy(plain.network.model(part.inputs), part.targets).detach())
    torch.testing.assert_close(flatten(ones.gradient()), flatten(plain.gradient()), rtol=1e-14, atol=1e-16)
