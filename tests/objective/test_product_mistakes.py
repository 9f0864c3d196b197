"""Kernels and precisions that products need, and what is refused."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from optbench.errors import UserError
from optbench.models.layers import BatchNorm
from optbench.objective import Execution, LossScale, Network, Objective
from optbench.objective.losses import Loss
from optbench.objective.products.graph import differentiable_twice
from tests.objective.product_problems import (
    KEY,
    RECURRENT,
    counted,
    dense,
    flat,
    mlp,
    objective_of,
    problem,
    vectors_of,
)


@pytest.mark.parametrize("name", [*RECURRENT, "transformer"])
def test_float32_kernels_are_differentiable_twice(name):
    """In float32 the CPU has fused kernels for these models, without second derivatives."""
    model, inputs, targets, loss = problem(name)
    inputs = inputs.float() if inputs.is_floating_point() else inputs
    objective = Objective(Network(model.float()), loss, inputs, targets, dropout_key=KEY)
    vector = vectors_of(objective)[0]
    _, jacobian, middle, _, curvature, _ = dense(name)
    direction = flat(vector).double()
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(flat(objective.hvp(vector)).double(), curvature @ direction, **close)
    torch.testing.assert_close(objective.jvp(vector).double().flatten(), jacobian @ direction, **close)
    expected = jacobian.T @ middle @ jacobian @ direction
    torch.testing.assert_close(flat(objective.ggnvp(vector)).double(), expected, **close)


def test_kernels_are_switched_off_only_where_they_have_to_be():
    seen = []
    with differentiable_twice(mlp()):
        seen.append((torch.backends.cudnn.enabled, torch.backends.cuda.flash_sdp_enabled()))
    with differentiable_twice(nn.Sequential(nn.LSTM(2, 2))):
        seen.append((torch.backends.cudnn.enabled, torch.backends.cuda.flash_sdp_enabled()))
    assert seen == [(True, False), (False, False)]
    assert torch.backends.cudnn.enabled
    assert torch.backends.cuda.flash_sdp_enabled()


def test_under_autocast_products_are_those_of_full_precision():
    model, inputs, targets, loss = problem("mlp")
    objectives = [
        Objective(Network(model.float()), loss, inputs.float(), targets, Execution(dtype=dtype))
        for dtype in (None, torch.bfloat16)
    ]
    vector = vectors_of(objectives[0])[0]
    expected = objectives[0].hvp(vector) + objectives[0].ggnvp(vector)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = objectives[1].hvp(vector) + objectives[1].ggnvp(vector)
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize("execution", [{"dtype": torch.float16}, {"loss_scale": LossScale()}])
def test_fp16_is_refused(execution):
    objective = objective_of("mlp", **execution)
    with pytest.raises(UserError, match=r"precision=fp16.* need fp32, tf32, bf16 or fp64"):
        objective.hvp(vectors_of(objective)[0])


class Absolute(Loss):
    def per_example(self, outputs, targets):
        return (outputs - targets).abs().sum(1)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (Absolute(), r"loss=Absolute: the curvature .* not known; accepted are cross_entropy, mse, bernoulli"),
        (F.mse_loss, r"loss=mse_loss: .* not known; accepted are cross_entropy, mse, bernoulli"),
    ],
)
def test_a_loss_of_unknown_curvature_is_named(loss, message):
    model, inputs, targets, _ = problem("squared error")
    objective = Objective(Network(model), loss, inputs, targets)
    vector = vectors_of(objective)[0]
    objective.hvp(vector)
    with pytest.raises(UserError, match=message):
        objective.ggnvp(vector)
    with pytest.raises(UserError, match=message):
        objective.quadratic([vector])
    with pytest.raises(UserError, match="not known"):
        objective.sample_targets(0)


@pytest.mark.parametrize("method", ["hvp", "ggnvp", "empirical_fisher_vp", "jvp"])
def test_a_vector_that_does_not_fit(method):
    objective = objective_of("mlp")
    vector = vectors_of(objective)[0]
    for wrong in (vector[:-1], [vector[0].T, *vector[1:]]):
        with pytest.raises(UserError, match=rf"objective\.{method}: a vector of shapes .*needed is one tensor"):
            getattr(objective, method)(wrong)


def test_outputs_that_do_not_fit():
    with pytest.raises(UserError, match=r"objective\.vjp: a tensor of shape \(9, 3\); the outputs have \(10, 3\)"):
        objective_of("mlp").vjp(torch.zeros(9, 3, dtype=torch.float64))


def test_a_jacobian_that_does_not_fit_in_memory():
    objective = objective_of("mlp", micro_batch=4)
    needed = 10 * 3 * 43 * 8
    assert objective.jacobian(memory_limit=needed).numel() * 8 == needed
    passes = counted(objective)
    with pytest.raises(
        UserError, match=r"10 examples x 3 outputs x 43 parameters take 10320 bytes.*memory_limit=10319"
    ):
        objective.jacobian(memory_limit=needed - 1)
    assert len(passes) == 1


def test_last_layer_gradients_need_a_linear_layer_that_no_batch_norm_follows():
    model, inputs, targets, loss = problem("mlp")
    objective = Objective(Network(nn.Sequential(model, BatchNorm(3).double())), loss, inputs, targets)
    with pytest.raises(UserError, match="batch norm after the last linear layer"):
        objective.last_layer_gradients()
    with objective.evaluation_mode():
        objective.last_layer_gradients()
    bare = Objective(
        Network(nn.Sequential(nn.Conv1d(4, 3, 1, dtype=torch.float64), nn.Flatten())), loss, inputs, targets
    )
    with pytest.raises(UserError, match="has no linear layer"):
        bare.last_layer_gradients()
