"""The methods of torch.optim, as configured and built here, against their formulas in NumPy."""

import pytest
import torch
from built import build

from optbench.testing.formulas import (
    adadelta,
    adagrad,
    adam,
    adamax,
    amsgrad,
    momentum,
    nadam,
    nesterov,
    radam,
    rmsprop,
    sgd,
)

METHODS = [sgd, momentum, nesterov, adagrad, adadelta, rmsprop, adam, adamax, nadam, amsgrad, radam]
STEPS = 10


def tolerance(method):
    """Rounding in float64, except that torch keeps the product of NAdam's momenta in float32."""
    return 1e-6 if method is nadam else 1e-9


@pytest.mark.parametrize("decay_norm_and_bias", [False, True])
@pytest.mark.parametrize("mode", ["coupled", "decoupled"])
@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_follows_its_formula_with_weight_decay_on_the_right_tensors(
    method, mode, decay_norm_and_bias, problem, choice, assert_close
):
    lr, decay = 0.03, 0.2

    def update(name, value, g, memory, t):
        decayed = decay * value * (value.ndim > 1 or decay_norm_and_bias)
        if mode == "coupled":
            return method(g + decayed, memory, t, lr)
        return lr * decayed + method(g, memory, t, lr)

    config = choice(
        method.__name__, weight_decay=decay, weight_decay_mode=mode, decay_norm_and_bias=decay_norm_and_bias
    )
    if "momentum" in config and method is not rmsprop:
        config["momentum"] = 0.9
    model = problem.model()
    problem.train(model, build(config, model, lr), STEPS)
    assert_close(model, problem.solve(update, STEPS), rtol=tolerance(method))


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.__name__)
def test_defaults_are_those_of_the_formula(method, problem, choice, assert_close):
    config = choice(method.__name__)
    lr = config["learning_rate"]
    model = problem.model()
    problem.train(model, build(config, model, lr), STEPS)
    expected = problem.solve(lambda name, value, g, memory, t: method(g, memory, t, lr), STEPS)
    assert_close(model, expected, rtol=tolerance(method))


def test_adamw_is_adam_with_decoupled_decay(problem, choice, assert_close):
    lr, decay = 0.03, 0.2

    def update(name, value, g, memory, t):
        return lr * decay * value * (value.ndim > 1) + adam(g, memory, t, lr)

    model = problem.model()
    problem.train(model, build(choice("adamw", weight_decay=decay), model, lr), STEPS)
    assert_close(model, problem.solve(update, STEPS))


def test_adam_with_a_huge_epsilon_is_momentum(problem, choice, assert_close):
    """Choi et al. 2019: for epsilon to infinity and lr = epsilon · lr', Adam is bias-corrected momentum at lr'."""
    lr, mu, huge = 0.05, 0.8, 1e8

    def update(name, value, g, memory, t):
        memory["v"] = mu * memory.get("v", 0) + (1 - mu) * g
        return lr * memory["v"] / (1 - mu**t)

    model = problem.model()
    problem.train(model, build(choice("adam", beta1=mu, epsilon=huge), model, huge * lr), 50)
    assert_close(model, problem.solve(update, 50), rtol=0, atol=1e-6)


def test_weight_decay_acts_at_the_current_learning_rate(problem, choice, assert_close):
    rates = [0.1, 0.01, 0.05]

    def update(name, value, g, memory, t):
        return rates[t - 1] * 0.5 * value * (value.ndim > 1) + momentum(g, memory, t, rates[t - 1])

    config = choice("momentum", weight_decay=0.5, weight_decay_mode="decoupled")
    model = problem.model()
    optimizer = build(config, model, rates[0])
    for step, rate in enumerate(rates):
        for group in optimizer.param_groups:
            group["lr"] = rate
        problem.train(model, optimizer, 1, first=step)
    assert_close(model, problem.solve(update, 3))


def test_float32_fused_kernels_agree_with_the_formula(problem, choice, assert_close):
    model = problem.model(torch.float32)
    optimizer = build(choice("adam"), model, 0.03)
    assert optimizer.param_groups[0]["fused"]
    problem.train(model, optimizer, STEPS)
    expected = problem.solve(lambda name, value, g, memory, t: adam(g, memory, t, 0.03), STEPS)
    assert_close(model, expected, rtol=1e-4, atol=1e-5)
