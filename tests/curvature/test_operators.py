"""Operators of an objective against dense float64 matrices of torch.func, and the sums that they must obey."""

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, grad, hessian, jacrev, vmap

from optbench.curvature import (
    displaced_loss,
    extreme_eigenpairs,
    hutchinson_trace,
    in_float64,
    lanczos_quadrature,
    operator,
)
from optbench.curvature.operators import MATRICES
from optbench.errors import UserError
from optbench.models.layers import BatchNorm, Dropout, set_ghost_batch_size
from optbench.objective import Execution, Network, Objective
from optbench.objective.losses import Bernoulli, CrossEntropy, SquaredError
from tests.two_ranks import on_two_ranks

N = 12
TIGHT = {"rtol": 1e-8, "atol": 1e-10}


def mlp(norm=False, dropout=0.0):
    between = BatchNorm(4) if norm else nn.Identity()
    return nn.Sequential(nn.Linear(5, 4), between, nn.Tanh(), Dropout(dropout), nn.Linear(4, 3))


def data(examples=N):
    torch.manual_seed(1)
    return torch.randn(examples, 5, dtype=torch.float64), torch.randint(3, (examples,))


def objective_of(model, loss=None, inputs=None, targets=None, **execution):
    if inputs is None:
        inputs, targets = data()
    return Objective(Network(model), loss or CrossEntropy(), inputs, targets, Execution(**execution))


def network(**options):
    torch.manual_seed(0)
    return mlp(**options).double()


def function(model, loss, inputs, targets):
    """The loss as a function of one flat vector of parameters, and where the model stands."""
    shapes = {name: parameter.detach() for name, parameter in model.named_parameters()}

    def value(flat):
        parts = flat.split([tensor.numel() for tensor in shapes.values()])
        named = {name: part.view_as(like) for (name, like), part in zip(shapes.items(), parts, strict=True)}
        return loss(functional_call(model, named, (inputs,)), targets)

    return value, torch.cat([tensor.flatten() for tensor in shapes.values()])


def dense(model, matrix, inputs, targets):
    loss, flat = function(model, F.cross_entropy, inputs, targets)
    if matrix == "hessian":
        return hessian(loss)(flat)
    if matrix == "empirical_fisher":

        def of_one(parameters, example, target):
            return function(model, F.cross_entropy, example[None], target[None])[0](parameters)

        gradients = vmap(grad(of_one), (None, 0, 0))(flat, inputs, targets)
        return gradients.T @ gradients / len(inputs)
    outputs, _ = function(model, lambda outputs, _: outputs, inputs, targets)
    jacobian, p = jacrev(outputs)(flat), outputs(flat).softmax(1)
    middle = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
    return torch.einsum("nip,nij,njq->pq", jacobian, middle, jacobian) / len(inputs)


def columns(matrix):
    return matrix.products(torch.eye(matrix.dimension, dtype=matrix.dtype)).T


@pytest.mark.parametrize("micro_batch", [None, 5])
@pytest.mark.parametrize("matrix", MATRICES)
def test_products_are_those_of_the_dense_matrix(matrix, micro_batch):
    model = network()
    found = operator(objective_of(model, micro_batch=micro_batch), matrix)
    expected = dense(model, matrix, *data())
    assert expected.abs().max() > 0.01
    torch.testing.assert_close(columns(found), expected, **TIGHT)
    torch.testing.assert_close(found(torch.ones(39, dtype=torch.float64)), expected.sum(1), **TIGHT)
    assert (found.dimension, found.dtype, found.name) == (39, torch.float64, matrix)


def test_weight_decay_adds_its_hessian():
    model = network()
    found = operator(objective_of(model), "hessian", weight_decay=0.3)
    expected = dense(model, "hessian", *data()) + 0.3 * torch.eye(39, dtype=torch.float64)
    torch.testing.assert_close(columns(found), expected, **TIGHT)
    assert found.name == "hessian + 0.3 I"


def test_weights_are_a_block():
    model = network()
    found = operator(objective_of(model), "hessian", parameters="weights")
    block = [*range(20), *range(24, 36)]  # two matrices, 4 x 5 and 3 x 4, each with a bias after it
    torch.testing.assert_close(columns(found), dense(model, "hessian", *data())[block][:, block], **TIGHT)


@pytest.mark.parametrize("matrix", MATRICES)
def test_symmetric_and_linear(matrix):
    found = operator(objective_of(network(norm=True)), matrix)
    generator = torch.Generator().manual_seed(0)
    u, v = found.random_vectors(2, generator, "gaussian")
    assert float(u @ found(v)) == pytest.approx(float(v @ found(u)), rel=1e-10)
    torch.testing.assert_close(found(2 * u - 3 * v), 2 * found(u) - 3 * found(v), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(found.products(torch.stack([u, v])), torch.stack([found(u), found(v)]), **TIGHT)


@pytest.mark.parametrize("loss", [SquaredError(), SquaredError(half=False), CrossEntropy(), Bernoulli()], ids=repr)
def test_of_a_linear_model_gauss_newton_is_the_hessian(loss):
    torch.manual_seed(0)
    model, (inputs, classes) = nn.Linear(5, 3).double(), data()
    targets = classes if isinstance(loss, CrossEntropy) else torch.rand(N, 3, dtype=torch.float64)
    objective = objective_of(model, loss, inputs, targets)
    found = columns(operator(objective, "gauss_newton"))
    assert found.abs().max() > 0.01
    torch.testing.assert_close(found, columns(operator(objective, "hessian")), **TIGHT)
    assert (columns(operator(objective, "empirical_fisher")) - found).abs().max() > 0.01
    assert (columns(operator(objective_of(network()), "gauss_newton")) - dense(network(), "hessian", *data())).any()


@pytest.mark.parametrize(("training", "norm"), [(True, False), (False, True), (True, True)])
def test_the_matrix_is_the_mean_of_those_of_the_batches_unless_batch_norm_couples_examples(training, norm):
    model = network(norm=norm).train(training)
    inputs, targets = data()
    whole = operator(objective_of(model), "hessian")
    parts = [
        operator(objective_of(model, None, inputs[part], targets[part]), "hessian")
        for part in (slice(0, 6), slice(6, 12))
    ]
    difference = (columns(whole) - (columns(parts[0]) + columns(parts[1])) / 2).abs().max()
    assert whole.examples_are_coupled == (training and norm)
    assert (difference > 1e-3) if whole.examples_are_coupled else (difference < 1e-10)


def test_displacements_reach_the_loss():
    model, (inputs, targets) = network(), data()
    loss, flat = function(model, F.cross_entropy, inputs, targets)
    model[0].bias.requires_grad_(False)
    displacement = torch.linspace(-1, 1, 35, dtype=torch.float64)
    every = torch.cat([displacement[:20], torch.zeros(4, dtype=torch.float64), displacement[20:]])
    found = displaced_loss(objective_of(model))(displacement)
    torch.testing.assert_close(found, loss(flat + every), **TIGHT)
    torch.testing.assert_close(objective_of(model).loss(), loss(flat), **TIGHT)


def test_a_copy_in_float64_is_exact_and_leaves_the_original_alone():
    model = network(norm=True, dropout=0.4).float()
    inputs, targets = data()
    objective = Objective(Network(model), CrossEntropy(), inputs.float(), targets, Execution(micro_batch=6), 77)
    set_ghost_batch_size(model, 6)
    objective()
    before = [parameter.clone() for parameter in model.parameters()]
    twin = in_float64(objective)
    found, single = operator(twin), operator(objective)
    vector = single.random_vectors(1, torch.Generator().manual_seed(0))[0]
    assert (found.dtype, single.dtype) == (torch.float64, torch.float32)
    # The same dropout masks and groups: the products differ by the rounding of float32 alone.
    assert 1e-9 < (found(vector.double()) - single(vector)).norm() / single(vector).norm() < 1e-4
    with objective.evaluation_mode():
        evaluated = in_float64(objective)
    assert not evaluated.network.model.training
    assert model.training
    expected = dense(evaluated.network.model, "hessian", inputs.float().double(), targets)
    torch.testing.assert_close(columns(operator(evaluated)), expected, **TIGHT)
    with torch.no_grad():
        next(twin.network.model.parameters()).zero_()
    assert all(torch.equal(one, other) for one, other in zip(before, model.parameters(), strict=True))
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"matrix": "hessain"}, "matrix=hessain: accepted are hessian, gauss_newton, fisher, empirical_fisher"),
        ({"parameters": "biases"}, "parameters=biases: accepted are all, weights"),
        ({"weight_decay": -1.0}, "weight_decay=-1.0: must be"),
        ({"weight_decay": float("nan")}, "weight_decay=nan: must be"),
    ],
)
def test_mistakes_are_named(options, message):
    with pytest.raises(UserError, match=message):
        operator(objective_of(network()), **options)


def test_a_model_without_weights_has_no_block_of_them():
    model = nn.Sequential(nn.LayerNorm(5)).double()
    with pytest.raises(UserError, match="parameters=weights: the model has none"):
        operator(objective_of(model), parameters="weights")


def test_random_vectors_have_the_second_moment_of_the_identity():
    found = operator(objective_of(network()))
    for distribution in ("rademacher", "gaussian"):
        vectors = found.random_vectors(20_000, torch.Generator().manual_seed(0), distribution)
        error = (vectors.T @ vectors / 20_000 - torch.eye(39, dtype=torch.float64)).abs().max()
        assert error < 0.06
        assert (vectors.abs() == 1).all() == (distribution == "rademacher")
    with pytest.raises(UserError, match="distribution=cauchy: accepted are rademacher, gaussian"):
        found.random_vectors(1, torch.Generator(), "cauchy")


@pytest.mark.parametrize("name", ["HessianLinearOperator", "GGNLinearOperator"])
def test_curvlinops_agrees(name):
    curvlinops = pytest.importorskip("curvlinops")
    model, (inputs, targets) = network(), data()
    found = operator(objective_of(model), "hessian" if name.startswith("Hessian") else "gauss_newton")
    peer = getattr(curvlinops, name)(
        model, nn.CrossEntropyLoss(), list(model.parameters()), [(inputs, targets)], check_deterministic=False
    )
    vectors = found.random_vectors(3, torch.Generator().manual_seed(0), "gaussian")
    torch.testing.assert_close(found.products(vectors), (peer @ vectors.T).T, **TIGHT)
    trace = (peer @ torch.eye(39, dtype=torch.float64)).trace()
    estimate = hutchinson_trace(found, torch.Generator().manual_seed(0))
    assert estimate.value == pytest.approx(float(trace), abs=4 * estimate.standard_error)


# ---- ranks ----------------------------------------------------------------------------------------------------------

RANK_NETS = [{"dropout": 0.3}, {"norm": True}]  # whose batch norm has one group over both ranks


def measurements(objective):
    found = operator(in_float64(objective))
    pairs = extreme_eigenpairs(found, torch.Generator().manual_seed(1), steps=10)
    quadrature = lanczos_quadrature(found, torch.Generator().manual_seed(2), 2, 5)
    trace = hutchinson_trace(found, torch.Generator().manual_seed(3))
    loss = displaced_loss(in_float64(objective))(torch.full((found.dimension,), 0.1, dtype=torch.float64))
    return [pairs.values, pairs.residuals, quadrature.values, quadrature.weights, trace.samples, loss]


def on_one_of_two_ranks(rank):
    results, (inputs, targets) = [], data()
    share = slice(6 * rank, 6 * rank + 6)
    for options in RANK_NETS:
        model = network(**options)
        set_ghost_batch_size(model, None, dist.new_group([0, 1]))
        execution = Execution(micro_batch=None if "norm" in options else 4, world_size=2, rank=rank)
        results.append(
            measurements(Objective(Network(model), CrossEntropy(), inputs[share], targets[share], execution))
        )
    return results


@pytest.mark.slow
def test_two_ranks_are_one(tmp_path):
    found = on_two_ranks(on_one_of_two_ranks, tmp_path)
    for number, options in enumerate(RANK_NETS):
        expected = measurements(objective_of(network(**options)))
        for one, other, alone in zip(found[0][number], found[1][number], expected, strict=True):
            assert torch.equal(one, other)
            torch.testing.assert_close(one, alone, rtol=1e-8, atol=1e-10)
