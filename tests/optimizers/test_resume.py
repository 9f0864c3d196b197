"""A run that is stopped, written to a file and read back ends bit for bit where an undisturbed one ends."""

import pytest
import torch
from built import build

from optbench.config import choices, read_choice

NAMES = sorted(choices("optimizer"))
DECOUPLED = ["sgd", "momentum", "adam", "rmsprop"]
# Those that need more than a closure are resumed in tests/test_promises.py and in their own tests.
NEED_AN_OBJECTIVE = {
    name
    for name in NAMES
    if (choice := read_choice("optimizer", name))["info"]["family"] == "second_order"
    and choice["_target_"].startswith("optbench.")
}
VARIANTS = [(name, {}) for name in NAMES if name not in NEED_AN_OBJECTIVE]
VARIANTS += [(name, {"weight_decay_mode": "decoupled", "weight_decay": 0.1}) for name in DECOUPLED]
VARIANTS += [("lars", {"lr_in_momentum": True, "nesterov": True}), ("lamb", {"clamp": [0.1, 1.0]})]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(("name", "options"), VARIANTS, ids=str)
def test_resuming_is_bit_exact(name, options, dtype, problem, choice, through_a_file):
    config = choice(name, **options)
    rate = config.get("learning_rate")
    undisturbed = problem.model(dtype)
    problem.train(undisturbed, build(config, undisturbed, rate), 7)

    first = problem.model(dtype)
    optimizer = build(config, first, rate)
    problem.train(first, optimizer, 3)
    saved = through_a_file({"model": first.state_dict(), "optimizer": optimizer.state_dict()})

    second = problem.model(dtype)
    optimizer = build(config, second, rate)
    second.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    problem.train(second, optimizer, 4, first=3)
    for resumed, expected in zip(second.parameters(), undisturbed.parameters(), strict=True):
        assert torch.equal(resumed, expected)


@pytest.mark.parametrize("name", ["lars", "lamb", "lion", "muon"])
def test_a_step_without_a_closure_is_the_same_step(name, problem, choice):
    models = [problem.model(), problem.model()]
    optimizers = [build(choice(name), model, 0.05) for model in models]
    losses = problem.train(models[0], optimizers[0], 3)
    for step in range(3):
        optimizers[1].zero_grad()
        loss = problem.loss(models[1], step)
        loss.backward()
        assert optimizers[1].step() is None
        assert torch.equal(losses[step], loss)
    for one, other in zip(models[0].parameters(), models[1].parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", ["lars", "lamb", "lion", "muon"])
def test_parameters_without_a_gradient_stay(name, problem, choice):
    model = problem.model()
    optimizer = build(choice(name), model, 0.05)
    model.bias.grad = torch.ones_like(model.bias)
    optimizer.step()
    assert torch.equal(model.weight.detach(), torch.tensor(problem.start["weight"]))
    assert not torch.equal(model.bias.detach(), torch.tensor(problem.start["bias"]))


@pytest.mark.parametrize("name", ["lars", "lamb", "lion", "muon"])
def test_parameters_of_several_dtypes_move_together(name, problem, choice):
    model = problem.model()
    alone = problem.model()
    for each in (model, alone):
        for parameter in each.parameters():
            parameter.grad = torch.ones_like(parameter)
    model.register_parameter("extra", torch.nn.Parameter(torch.ones(2, 2, dtype=torch.float32)))
    model.extra.grad = torch.ones_like(model.extra)
    build(choice(name), model, 0.5).step()
    build(choice(name), alone, 0.5).step()
    assert (model.extra < 1).all()
    assert torch.equal(model.bias, alone.bias)
