"""Products with the derivatives of the objective against dense float64 matrices of independent functions."""

import pytest
import torch
from torch import nn

from optbench.objective import Execution, Network, Objective
from optbench.objective.losses import NO_TARGET, CrossEntropy
from tests.objective.product_problems import (
    COUPLED,
    KEY,
    PROBLEMS,
    TIGHT,
    N,
    assert_is,
    dense,
    elementary,
    every_micro_batch,
    every_problem,
    flat,
    objective_of,
    problem,
    vectors_of,
)


@every_problem
@every_micro_batch
def test_hessian(name, micro_batch):
    objective, expected = objective_of(name, micro_batch=micro_batch), dense(name)[4]
    vectors = vectors_of(objective)
    for vector in vectors:
        assert_is(flat(objective.hvp(vector)), expected @ flat(vector))
    for vector, product in zip(vectors, objective.hvps(vectors), strict=True):
        assert_is(flat(product), expected @ flat(vector))


@every_problem
@every_micro_batch
@pytest.mark.parametrize("cached_graphs", [1, None])
def test_gauss_newton(name, micro_batch, cached_graphs):
    objective, (_, jacobian, middle, *_) = (
        objective_of(name, micro_batch=micro_batch, cached_graphs=cached_graphs),
        dense(name),
    )
    expected = jacobian.T @ middle @ jacobian
    vectors = vectors_of(objective)
    for vector in vectors:
        assert_is(flat(objective.ggnvp(vector)), expected @ flat(vector))
    for vector, product in zip(vectors, objective.ggnvps(vectors), strict=True):
        assert_is(flat(product), expected @ flat(vector))


@every_problem
@every_micro_batch
def test_empirical_fisher(name, micro_batch):
    objective, each = objective_of(name, micro_batch=micro_batch), dense(name)[5]
    vectors = vectors_of(objective)
    expected = [each.T @ (each @ flat(vector)) / N for vector in vectors]
    assert_is(flat(objective.empirical_fisher_vp(vectors[0])), expected[0])
    assert_is(
        torch.stack([flat(product) for product in objective.empirical_fisher_vps(vectors)]), torch.stack(expected)
    )


@every_problem
@every_micro_batch
def test_quadratic(name, micro_batch):
    objective, (_, jacobian, middle, *_) = objective_of(name, micro_batch=micro_batch), dense(name)
    vectors = vectors_of(objective)
    along = torch.stack([jacobian @ flat(vector) for vector in vectors])
    for _ in range(2):  # by forward mode; then by a graph, where a product has left one
        assert_is(objective.quadratic(vectors), along @ middle @ along.T)
        objective.ggnvp(vectors[0])


@every_problem
@every_micro_batch
def test_gradient(name, micro_batch):
    objective, expected = objective_of(name, micro_batch=micro_batch), dense(name)[3]
    for _ in range(2):
        found = objective.gradient()
        assert_is(flat(found), expected)
        assert not any(part.requires_grad for part in found)
        objective.hvp(vectors_of(objective)[0])
    objective()
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in objective.network.parameters]
    assert_is(flat(grads), expected)


@every_problem
@every_micro_batch
def test_jacobian_products_and_outputs(name, micro_batch):
    objective, (outputs, jacobian, *_) = objective_of(name, micro_batch=micro_batch), dense(name)
    vector, back = vectors_of(objective)[0], torch.randn(outputs.shape, dtype=torch.float64)
    for _ in range(2):
        assert_is(objective.outputs(), outputs)
        assert_is(objective.jvp(vector).flatten(), jacobian @ flat(vector))
        assert_is(flat(objective.vjp(back)), jacobian.T @ back.flatten() / N)
        objective.ggnvp(vector)
    loss, targets = objective.loss_function, problem(name)[2]
    inner = loss.output_hessian_product(objective.outputs(), targets, objective.jvp(vector))
    assert_is(flat(objective.vjp(inner)), flat(objective.ggnvp(vector)))
    gradients = loss.output_gradient(objective.outputs(), targets)
    assert_is(flat(objective.vjp(gradients)), dense(name)[3])


@every_problem
@every_micro_batch
def test_jacobian(name, micro_batch):
    objective, (outputs, expected, *_) = objective_of(name, micro_batch=micro_batch), dense(name)
    found = objective.jacobian()
    assert found.shape == (N, outputs[0].numel(), expected.shape[1])
    assert_is(found.flatten(0, 1), expected)


def last_linear(model):
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


@pytest.mark.parametrize("name", [name for name in PROBLEMS if name != "tied"])
@every_micro_batch
def test_last_layer_gradients(name, micro_batch):
    objective = objective_of(name, micro_batch=micro_batch)
    model, inputs, targets, loss = problem(name)
    twin = elementary(model)
    layer, network = last_linear(twin), Network(twin)
    if name == "transformer":  # the use as an embedding is not one of the layer
        layer.weight = nn.Parameter(layer.weight.detach().clone())
    if network.draw is not None:
        network.draw[0] = KEY
    losses = loss.per_example(twin(inputs), targets)
    expected = [torch.autograd.grad(value, list(layer.parameters()), retain_graph=True) for value in losses]
    found = objective.last_layer_gradients()
    assert len(found) == len(expected[0])
    for tensor, each in zip(found, zip(*expected, strict=True), strict=True):
        assert_is(tensor, torch.stack(each))


@every_problem
@every_micro_batch
def test_per_example_losses(name, micro_batch):
    outputs, *_ = dense(name)
    _, _, targets, loss = problem(name)
    assert_is(objective_of(name, micro_batch=micro_batch).per_example_losses(), loss.per_example(outputs, targets))


@every_problem
def test_symmetry(name):
    """u^T H v = v^T H u and u^T G v = v^T G u."""
    objective = objective_of(name)
    u, v = vectors_of(objective, 2)
    for product in (objective.hvp, objective.ggnvp, objective.empirical_fisher_vp):
        assert_is(flat(u) @ flat(product(v)), flat(v) @ flat(product(u)))


@pytest.mark.parametrize("name", ["mlp", "batch norm", "transformer"])
def test_frozen_parameters_are_left_out(name):
    model, inputs, targets, loss = problem(name)
    chosen = [index for index, _ in enumerate(model.parameters()) if index % 2]
    kept = torch.cat([torch.full((p.numel(),), bool(i % 2)) for i, p in enumerate(model.parameters())])
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(bool(index % 2))
    objective = Objective(Network(model), loss, inputs, targets, dropout_key=KEY)
    vector = vectors_of(objective)[0]
    assert len(vector) == len(chosen)
    _, jacobian, middle, gradient, curvature, _ = dense(name)
    part = jacobian[:, kept]
    assert_is(flat(objective.gradient()), gradient[kept])
    assert_is(flat(objective.hvp(vector)), curvature[kept][:, kept] @ flat(vector))
    assert_is(objective.jvp(vector).flatten(), part @ flat(vector))
    assert_is(flat(objective.ggnvp(vector)), part.T @ middle @ part @ flat(vector))
    assert_is(objective.jacobian().flatten(0, 1), part)


@every_problem
def test_samples_do_not_depend_on_how_the_batch_is_cut(name):
    whole = objective_of(name).sample_targets(7)
    torch.testing.assert_close(objective_of(name, micro_batch=4).sample_targets(7), whole, **TIGHT)
    assert not torch.equal(objective_of(name).sample_targets(8), whole)
    model, inputs, targets, loss = problem(name)
    if name not in COUPLED and name not in ("dropout", "gru", "transformer"):  # whose examples know their place
        share = Objective(Network(model), loss, inputs[5:], targets[5:], Execution(rank=1))
        torch.testing.assert_close(share.sample_targets(7), whole[5:], **TIGHT)
    if isinstance(loss, CrossEntropy):
        assert torch.equal(whole == NO_TARGET, targets == NO_TARGET)


@pytest.mark.parametrize("name", ["smoothed", "squared error", "without half", "language model", "tied"])
def test_sampled_gradients_have_the_second_moment_of_gauss_newton(name):
    """Over many keys, the mean of u u^T is the Hessian of the loss in the outputs, example by example."""
    objective, middle = objective_of(name), dense(name)[2]
    outputs, draws = objective.outputs(), 600
    found = torch.stack(
        [
            objective.loss_function.sampled_output_gradient(outputs, objective.sample_targets(key)).flatten(1)
            for key in range(draws)
        ]
    )
    each = middle.view(N, found.shape[2], N, -1) * N
    for example in range(N):
        expected = each[example, :, example]
        moment = found[:, example].T @ found[:, example] / draws
        assert (moment - expected).abs().max() < 6 * (expected.abs().max() + 1e-12) * (3 / draws) ** 0.5
        assert found[:, example].mean(0).abs().max() < 6 * (expected.abs().max() / draws) ** 0.5 + 1e-12


# Its Hessian of a network with layer norm is wrong in the norm's weight, as torch.func's is.
@pytest.mark.parametrize("name", ["smoothed", "squared error", "conv", "batch norm in eval mode"])
def test_curvlinops_agrees(name):
    curvlinops = pytest.importorskip("curvlinops")
    model, inputs, targets, _ = problem(name)
    objective = objective_of(name, micro_batch=4)
    mean = {
        "smoothed": nn.CrossEntropyLoss(label_smoothing=0.2),
        "squared error": nn.MSELoss(reduction="sum"),
    }.get(name, nn.CrossEntropyLoss())
    # Its squared error is summed over the outputs of the batch, where ours is half of the sum, over the examples.
    factor = 0.5 / N if name == "squared error" else 1.0
    for operator, product in (
        (curvlinops.HessianLinearOperator, objective.hvp),
        (curvlinops.GGNLinearOperator, objective.ggnvp),
    ):
        peer = operator(model, mean, list(model.parameters()), [(inputs, targets)], check_deterministic=False)
        vector = vectors_of(objective)[0]
        assert_is(flat(product(vector)), factor * (peer @ flat(vector)))
