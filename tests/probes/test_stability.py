"""The largest stable eigenvalue: held against torch's optimizers themselves, on a quadratic."""

import math

import pytest
import torch

from optbench.config import RunConfig, compose
from optbench.probes.base import ProbeContext
from optbench.probes.stability import Stability, coupled_decay, stability_limit
from optbench.training.build import build_task, load_data

RATE = 0.1
METHODS = {
    "gradient descent": lambda parameters: torch.optim.SGD(parameters, RATE),
    "heavy ball": lambda parameters: torch.optim.SGD(parameters, RATE, momentum=0.9),
    "dampened": lambda parameters: torch.optim.SGD(parameters, RATE, momentum=0.8, dampening=0.5),
    "nesterov": lambda parameters: torch.optim.SGD(parameters, RATE, momentum=0.9, nesterov=True),
    # With a second moment that stands still: D = sqrt(4) + 0.5 = 2.5.
    "adam": lambda parameters: torch.optim.Adam(parameters, RATE, betas=(0.9, 1 - 1e-12), eps=0.5),
    "rmsprop": lambda parameters: torch.optim.RMSprop(parameters, RATE, alpha=1 - 1e-12, momentum=0.7, eps=0.5),
    "rmsprop, centered": lambda parameters: torch.optim.RMSprop(
        parameters, RATE, alpha=1 - 1e-12, eps=0.5, centered=True
    ),
}


def grown(method, factor):
    """The growth in 3,000 steps of a parameter with the curvature ``factor`` times the largest stable one."""
    parameter = torch.nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    optimizer = METHODS[method]([parameter])

    def stand_still():
        state = optimizer.state[parameter]
        if "exp_avg_sq" in state:
            state["exp_avg_sq"].fill_(4.0)
            state["step"].fill_(1e15)  # (1 - 1e-12)^1e15 = 0: no correction of the bias
        if "square_avg" in state:
            state["square_avg"].fill_(4.0)
        if "grad_avg" in state:
            state["grad_avg"].zero_()

    parameter.grad = torch.zeros_like(parameter)
    optimizer.step()  # which makes the state
    stand_still()
    limit = stability_limit(optimizer, [parameter])
    scale = 1.0 if limit.preconditioner is None else float(limit.preconditioner[0])
    assert scale == pytest.approx(2.5 if optimizer.state[parameter].keys() & {"exp_avg_sq", "square_avg"} else 1.0)
    curvature = factor * limit.threshold * scale
    for _ in range(3000):
        parameter.grad = curvature * parameter.detach()
        stand_still()
        optimizer.step()
    return abs(float(parameter.detach()))


@pytest.mark.parametrize("method", METHODS)
def test_below_the_limit_steps_shrink_and_above_it_they_grow(method):
    assert grown(method, 0.99) < 1e-2
    assert not grown(method, 1.01) < 1e2


@pytest.mark.parametrize("steps", [1, 3, 10, 1000])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_the_limit_of_adam_before_its_bias_correction_has_done_its_work(steps, amsgrad):
    """torch's Adam itself, held at step number ``steps`` with its second moment: below the limit it shrinks, above it grows."""

    def growth(factor):
        parameter = torch.nn.Parameter(torch.tensor([1e-150], dtype=torch.float64))  # whose squared gradient is nothing
        optimizer = torch.optim.Adam([parameter], RATE, betas=(0.9, 0.99), eps=0.5, amsgrad=amsgrad)
        curvature = 0.0
        for taken in range(2000):
            parameter.grad = curvature * parameter.detach()
            state = optimizer.state[parameter]
            if state:
                state["step"].fill_(steps - 1)
                for name in state.keys() & {"exp_avg_sq", "max_exp_avg_sq"}:
                    state[name].fill_(4.0)
            optimizer.step()
            if taken == 1:
                limit = stability_limit(optimizer, [parameter])
                curvature = factor * limit.threshold * float(limit.preconditioner[0])
        return abs(float(parameter.detach())) / 1e-150

    assert growth(0.98) < 1e-2
    assert growth(1.02) > 1e2


def test_the_limit_of_adam_by_the_eigenvalues_of_its_iteration():
    """(θ, m) after a step at which D stands still is a linear function of (θ, m) before, stable up to spectral radius 1."""
    parameter = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = torch.optim.Adam([parameter], RATE, betas=(0.8, 0.99), eps=0.1)
    for step in (1, 2, 3):
        parameter.grad = torch.tensor([3.0], dtype=torch.float64)
        optimizer.step()
        limit = stability_limit(optimizer, [parameter])
        curvature = limit.threshold * float(limit.preconditioner[0])
        rate = RATE / (1 - 0.8**step) / (3.0 + 0.1)  # of m; the corrected second moment is 3²
        pushed = 0.2 * curvature
        matrix = torch.tensor([[1 - rate * pushed, -rate * 0.8], [pushed, 0.8]], dtype=torch.float64)
        assert float(torch.linalg.eigvals(matrix).abs().max()) == pytest.approx(1.0, rel=1e-9)


@pytest.mark.parametrize(
    ("optimizer", "expected"),
    [
        (lambda p: torch.optim.SGD(p, 0.1), 20),
        (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9), 38),
        (lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, nesterov=True), 3.8 / 0.28),
        (lambda p: torch.optim.Adam(p, 0.1), 380),  # 38 / eta
        (lambda p: torch.optim.AdamW(p, 0.1, betas=(0.5, 0.9)), 60),
        (lambda p: torch.optim.Adagrad(p, 0.1), 20),
        (lambda p: torch.optim.RMSprop(p, 0.1), 20),
    ],
)
def test_limits_by_hand(optimizer, expected):
    parameter = torch.nn.Parameter(torch.ones(2))
    chosen = optimizer([parameter])
    parameter.grad = torch.ones(2)
    chosen.step()
    assert stability_limit(chosen, [parameter]).threshold == pytest.approx(expected)


@pytest.mark.parametrize("name", ["Adam", "AdamW", "RMSprop", "Adagrad"])
def test_before_the_first_step_there_is_no_preconditioner(name):
    parameter = torch.nn.Parameter(torch.ones(2))
    assert stability_limit(getattr(torch.optim, name)([parameter], 0.1), [parameter]) is None


def test_the_limit_of_other_methods_is_not_known():
    parameter = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.Adadelta([parameter], 0.1)
    parameter.grad = torch.ones(2)
    optimizer.step()
    assert stability_limit(optimizer, [parameter]) is None


def test_after_the_first_step_of_adam_the_preconditioner_is_the_gradient():
    parameter = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    optimizer = torch.optim.Adam([parameter], 0.1, eps=1e-3)
    parameter.grad = torch.tensor([3.0, 4.0], dtype=torch.float64)
    optimizer.step()
    (scale,) = stability_limit(optimizer, [parameter]).preconditioner
    # Its first step, -lr m̂ / (√v̂ + ε) with m̂ = m / (1 - β₁), is ten times that of m.
    torch.testing.assert_close(scale, 0.1 * (parameter.grad + 1e-3))


def test_only_decay_that_is_added_to_the_gradient_is_part_of_the_matrix():
    first, second = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    groups = [{"params": [first], "weight_decay": 0.3}, {"params": [second], "weight_decay": 0.0}]
    assert coupled_decay(torch.optim.SGD(groups, 0.1), [first, second]) == [0.3, 0.0]
    assert coupled_decay(torch.optim.Adam(groups, 0.1), [second, first]) == [0.0, 0.3]
    assert coupled_decay(torch.optim.AdamW(groups, 0.1), [first, second]) == [0.0, 0.0]


def dense_hessian(task, inputs, targets):
    model = task.model
    names = [name for name, _ in model.named_parameters()]
    sizes = [parameter.numel() for parameter in model.parameters()]
    shapes = [parameter.shape for parameter in model.parameters()]
    flat = torch.cat([parameter.detach().reshape(-1) for parameter in model.parameters()])

    def loss(vector):
        parts = [part.view(shape) for part, shape in zip(vector.split(sizes), shapes, strict=True)]
        outputs = torch.func.functional_call(model, dict(zip(names, parts, strict=True)), (inputs,))
        return torch.nn.functional.cross_entropy(outputs, targets)

    return torch.autograd.functional.hessian(loss, flat)


@pytest.mark.parametrize("words", [["optimizer=momentum", "optimizer.weight_decay=0.5"], ["optimizer=adam"]], ids=str)
def test_the_eigenvalues_are_those_of_the_dense_matrix(words):
    chosen = compose([
        "model=mlp", "model.hidden=[4]", "model.activation=tanh", "dataset=digits", "dataset.train_limit=24", "batch=8",
        "precision=fp64", "budget.steps=3", "tracker=none", *words,
    ])  # fmt: skip
    read = RunConfig.of(chosen)
    task = build_task(read, load_data(read))
    task.configure_optimizers()
    task.take_step()
    values = Stability(steps=300, tolerance=1e-9, examples=24).measure(ProbeContext(task, list)).values
    inputs, targets = next(iter(task.source.evaluation("train", 24, 24)))
    matrix = dense_hessian(task, inputs, targets)
    decay = torch.cat([
        torch.full((parameter.numel(),), 0.5 if "weight_decay" in words[-1] and parameter.ndim > 1 else 0.0)
        for parameter in task.model.parameters()
    ]).double()  # fmt: skip
    matrix = matrix + torch.diag(decay)
    assert values["top"] == pytest.approx(float(torch.linalg.eigvalsh(matrix)[-1]), rel=1e-8)
    rate = task.optimizer.param_groups[0]["lr"]
    if "adam" not in words[0]:
        assert values["ratio"] == pytest.approx(values["top"] * rate / 3.8)
        return
    squares = torch.cat([
        task.optimizer.state[parameter]["exp_avg_sq"].reshape(-1) for parameter in task.model.parameters()
    ])  # fmt: skip
    scale = (1 - 0.9) * ((squares / (1 - 0.999)).sqrt() + 1e-8)
    dense = matrix / (scale.sqrt()[:, None] * scale.sqrt()[None, :])
    top = float(torch.linalg.eigvalsh(dense)[-1])
    assert values["preconditioned_top"] == pytest.approx(top, rel=1e-6)
    assert values["ratio"] == pytest.approx(top * rate / 38, rel=1e-6)
    assert math.isfinite(top)
