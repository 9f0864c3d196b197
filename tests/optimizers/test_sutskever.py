"""The recipe of Sutskever et al. 2013 as a composed choice: sparse initialization, Nesterov momentum and its schedule."""

import torch

from optbench import config
from optbench.config import RunConfig
from optbench.objective.losses import CrossEntropy
from optbench.training import run

RATE, PERIOD, STEPS = 0.05, 4, 10


def build():
    chosen = config.compose([
        "init=sparse", "optimizer=nesterov", f"optimizer.learning_rate={RATE}", "momentum_schedule=sutskever",
        f"momentum_schedule.period={PERIOD}", "momentum_schedule.final_steps=2", "momentum_schedule.final=0.6",
        "momentum_schedule.maximum=0.8", "model=mlp", "model.hidden=[20]", "dataset=digits", "dataset.train_limit=200",
        "dataset.validation=16", "batch=32", f"budget.steps={STEPS}", "precision=fp64", "tracker=none",
    ])  # fmt: skip
    read = RunConfig.of(chosen)
    task = run.build_task(read, run.load_data(read))
    task.configure_optimizers()
    task.model.train()
    return task


def test_every_unit_starts_from_fifteen_normal_weights_and_a_bias_of_zero():
    for name, parameter in build().model.named_parameters():
        if name.endswith("bias"):
            assert not parameter.any()
        else:
            assert ((parameter != 0).sum(1) == min(15, parameter.shape[1])).all()
            assert 0.8 < parameter[parameter != 0].std() < 1.2


def test_the_steps_are_those_of_nesterov_momentum_under_the_schedule():
    """v ← μv - ε∇f(θ + μv), θ ← θ + v. What the model holds is θ + μv, where the gradient is taken.

    torch steps to θ + v + μv with the μ of the step it makes. Where μ changes to μ', the next step so begins at θ + μv in
    place of θ + μ'v: the parameters of the recipe, but for (μ' - μ) v at each of the few changes.
    """
    task = build()
    momenta = [0.5, 0.5, 0.5, 0.5, 0.75, 0.75, 0.75, 0.75, 0.6, 0.6]
    held = [parameter.detach().clone() for parameter in task.model.parameters()]
    velocity = [torch.zeros_like(parameter) for parameter in held]
    twin = build()
    for step, momentum in enumerate(momenta):
        position = [ahead - momentum * v for ahead, v in zip(held, velocity, strict=True)]  # θ
        inputs, targets = task.source.batch(step, step * 32, 32, 0, 1)
        with torch.no_grad():
            for parameter, ahead in zip(twin.model.parameters(), held, strict=True):
                parameter.copy_(ahead)
        loss = CrossEntropy()(twin.model(inputs), targets)
        gradients = torch.autograd.grad(loss, list(twin.model.parameters()))
        velocity = [momentum * v - RATE * g for v, g in zip(velocity, gradients, strict=True)]
        position = [theta + v for theta, v in zip(position, velocity, strict=True)]
        held = [theta + momentum * v for theta, v in zip(position, velocity, strict=True)]
        task.take_step()
        assert task.optimizer.param_groups[0]["momentum"] == momentum
        torch.testing.assert_close([*task.model.parameters()], held, rtol=1e-10, atol=1e-12)
