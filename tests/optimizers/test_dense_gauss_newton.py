"""The Gauss-Newton matrix from the Jacobian, against matrices of torch.func in float64."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian, jacrev

from optbench.errors import UserError
from optbench.objective import Execution, Network, Objective
from optbench.objective.losses import Bernoulli, CrossEntropy, SquaredError
from optbench.optimizers.dense_gauss_newton import SquareRoot, check_objective, flattened, shaped
from tests.two_ranks import on_two_ranks

N, OUTPUTS = 6, 3
LOSSES = {"cross_entropy": CrossEntropy(0.1), "mse": SquaredError(), "bernoulli": Bernoulli()}
EXACT = {"rtol": 1e-9, "atol": 1e-12}


def problem(loss, hidden=4):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, hidden), nn.Tanh(), nn.Linear(hidden, OUTPUTS)).double()
    inputs = torch.randn(N, 5, dtype=torch.float64)
    targets = torch.randint(OUTPUTS, (N,)) if loss == "cross_entropy" else torch.rand(N, OUTPUTS, dtype=torch.float64)
    return model, inputs, targets


def objective_of(loss, hidden=4, micro_batch=None):
    model, inputs, targets = problem(loss, hidden)
    return Objective(Network(model), LOSSES[loss], inputs, targets, Execution(micro_batch=micro_batch))


def dense_matrices(loss, hidden=4):
    """The gradient, the Gauss-Newton matrix and the empirical Fisher matrix, from each example's own derivatives."""
    model, inputs, targets = problem(loss, hidden)
    names, shapes = zip(*[(name, tensor.shape) for name, tensor in model.named_parameters()], strict=True)
    start = torch.cat([tensor.detach().flatten() for tensor in model.parameters()])

    def outputs(vector, example):
        parts = vector.split([shape.numel() for shape in shapes])
        values = {name: part.view(shape) for name, part, shape in zip(names, parts, shapes, strict=True)}
        return functional_call(model, values, (example,))

    gauss_newton, fisher, gradient = 0, 0, 0
    for example, target in zip(inputs, targets, strict=True):
        jacobian = jacrev(outputs)(start, example)
        at = outputs(start, example).detach()

        def loss_of(z, target=target):
            return LOSSES[loss](z[None], target[None])

        curvature = hessian(loss_of)(at)
        own = jacobian.T @ jacrev(loss_of)(at)
        gauss_newton = gauss_newton + jacobian.T @ curvature @ jacobian / N
        fisher = fisher + torch.outer(own, own) / N
        gradient = gradient + own / N
    return gradient, {"gauss_newton": gauss_newton, "empirical_fisher": fisher}


@pytest.mark.parametrize("micro_batch", [None, 4])
@pytest.mark.parametrize("curvature", ["gauss_newton", "empirical_fisher"])
@pytest.mark.parametrize("loss", LOSSES)
def test_everything_equals_the_dense_matrix(loss, curvature, micro_batch):
    gradient, matrices = dense_matrices(loss)
    matrix = matrices[curvature]
    root = SquareRoot(objective_of(loss, micro_batch=micro_batch), curvature)
    torch.testing.assert_close(root.gradient, gradient, **EXACT)
    torch.testing.assert_close(root.diagonal(), matrix.diagonal(), **EXACT)
    vector, diagonal = torch.randn(2, len(gradient), dtype=torch.float64)
    diagonal = diagonal.exp()
    torch.testing.assert_close(root.quadratic(vector), vector @ matrix @ vector, **EXACT)
    for damping in (1e-4, 1.0, 1e4):
        expected = torch.linalg.solve(matrix + damping * diagonal.diag(), vector)
        for solver in ("parameters", "outputs", "auto"):
            torch.testing.assert_close(root.solve(vector, damping, diagonal, solver), expected, rtol=1e-7, atol=1e-10)


def test_many_chunks_give_what_one_gives(monkeypatch):
    gradient, matrices = dense_matrices("cross_entropy", 9)
    monkeypatch.setattr("optbench.optimizers.dense_gauss_newton.CHUNK", 100)
    root = SquareRoot(objective_of("cross_entropy", 9))
    diagonal = torch.linspace(1, 2, len(gradient), dtype=torch.float64)
    torch.testing.assert_close(root.diagonal(), matrices["gauss_newton"].diagonal(), **EXACT)
    expected = torch.linalg.solve(matrices["gauss_newton"] + 0.1 * diagonal.diag(), gradient)
    for solver in ("parameters", "outputs"):
        torch.testing.assert_close(root.solve(gradient, 0.1, diagonal, solver), expected, rtol=1e-8, atol=1e-11)


@pytest.mark.parametrize("hidden", [1, 9])
def test_auto_factors_the_smaller_matrix(hidden, monkeypatch):
    sizes = []
    monkeypatch.setattr(
        "torch.linalg.cholesky_ex",
        lambda matrix, real=torch.linalg.cholesky_ex: (sizes.append(len(matrix)), real(matrix))[1],
    )
    root = SquareRoot(objective_of("mse", hidden))
    root.solve(root.gradient, 1.0, torch.ones_like(root.gradient))
    assert sizes == [min(N * OUTPUTS, root.size)]
    assert (root.size < N * OUTPUTS) == (hidden == 1)


def test_a_matrix_that_is_not_positive_definite_gives_not_a_number():
    root = SquareRoot(objective_of("mse"))
    assert root.solve(root.gradient, -10.0, torch.ones_like(root.gradient), "parameters").isnan().all()


def test_flat_vectors_come_back_in_shape_and_type():
    tensors = [torch.randn(2, 3), torch.randn(4, dtype=torch.float64)]
    back = shaped(flattened(tensors), tensors)
    assert all(torch.equal(one, other) and one.dtype == other.dtype for one, other in zip(back, tensors, strict=True))


class TestRefuses:
    def test_a_jacobian_beyond_the_memory_limit_with_the_bytes_it_takes(self):
        # 6 examples x 3 outputs x 39 parameters x 8 bytes, and twice the 18 x 18 matrix.
        needed = 6 * 3 * 39 * 8 + 2 * 8 * 18**2
        check_objective(objective_of("mse"), "gauss_newton", needed, True)
        with pytest.raises(UserError, match=f"6 examples x 3 outputs x 39 parameters .* {needed} bytes"):
            check_objective(objective_of("mse"), "gauss_newton", needed - 1, True)
        with pytest.raises(UserError, match=r"optimizer\.memory_limit=100"):
            SquareRoot(objective_of("mse"), memory_limit=100)

    def test_a_loss_without_known_derivatives(self):
        model, inputs, targets = problem("mse")
        objective = Objective(Network(model), lambda outputs, targets: outputs.sum(), inputs, targets)
        with pytest.raises(UserError, match=r"loss=.*accepted are cross_entropy"):
            check_objective(objective, "gauss_newton", 2**20, False)


def on_one_of_two_ranks(rank):
    model, inputs, targets = problem("cross_entropy")
    share = slice(3 * rank, 3 * rank + 3)
    execution = Execution(micro_batch=2, world_size=2, rank=rank)
    objective = Objective(Network(model), LOSSES["cross_entropy"], inputs[share], targets[share], execution)
    return everything(objective)


def everything(objective):
    found = []
    for curvature in ("gauss_newton", "empirical_fisher"):
        root = SquareRoot(objective, curvature)
        diagonal = torch.linspace(1, 2, root.size, dtype=torch.float64)
        found += [root.gradient, root.diagonal(), root.quadratic(diagonal)]
        found += [root.solve(root.gradient, 0.1, diagonal, solver) for solver in ("parameters", "outputs")]
    return found


@pytest.mark.slow
def test_two_ranks_give_what_one_gives(tmp_path):
    alone = everything(objective_of("cross_entropy"))
    ranks = on_two_ranks(on_one_of_two_ranks, tmp_path)
    for one, other, expected in zip(*ranks, alone, strict=True):
        assert torch.equal(one, other)
        torch.testing.assert_close(one, expected, **EXACT)
