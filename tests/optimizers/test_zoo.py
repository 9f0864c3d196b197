import sys

import pytest
import torch
from built import build
from torch import nn

from optbench.errors import UserError
from optbench.optimizers.zoo import _REFUSED

package = pytest.importorskip("pytorch_optimizer")


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.LayerNorm(8), nn.Linear(8, 2)
    )


def train(model, optimizer, steps):
    inputs = torch.randn(16, 1, 4, 4, generator=torch.Generator().manual_seed(1))
    labels = torch.arange(16) % 2
    calls = 0

    def closure():
        nonlocal calls
        calls += 1
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(inputs), labels)
        loss.backward()
        return loss

    losses = [optimizer.step(closure).item() for _ in range(steps)]
    return losses, calls


@pytest.mark.parametrize("name", ["soap", "SOAP", "AdaBelief", "shampoo"])
def test_trains_by_name(name, choice, model):
    optimizer = build(choice("zoo", name=name), model, None)
    losses, calls = train(model, optimizer, 10)
    assert type(optimizer).__name__.lower() == name.lower()
    assert losses[-1] < losses[0]
    assert calls == 10


def test_null_keeps_the_packages_defaults(choice, model):
    default = package.AdaBelief(model.parameters()).param_groups[0]
    for group in build(choice("zoo", name="adabelief"), model, None).param_groups:
        assert (group["lr"], group["initial_lr"], group["eps"]) == (default["lr"], default["lr"], default["eps"])


def test_options_and_decay_are_passed_on(choice, model):
    config = choice("zoo", name="adabelief", weight_decay=0.3, options={"eps": 1e-3})
    matrices, vectors = build(config, model, 0.02).param_groups
    assert (matrices["lr"], matrices["eps"], matrices["weight_decay"], vectors["weight_decay"]) == (
        0.02,
        1e-3,
        0.3,
        0.0,
    )


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"name": "adabelif"}, "adabelief"),
        ({"name": "sam"}, "displaced weights"),
        ({"name": "Lookahead"}, "wraps another"),
        ({"name": "muon"}, "optimizer=muon"),
        ({"name": "soap", "options": {"precondition_freq": 5}}, "precondition_frequency"),
        ({"name": "ranger21"}, "num_iterations"),
        ({"name": "soap", "options": {"lr": 0.1}}, "learning_rate"),
        ({"name": "fromage", "weight_decay": 0.1}, "weight_decay"),
        ({"name": "a2grad"}, "schedule"),
    ],
)
def test_mistakes_are_one_message(overrides, said, choice, model):
    with pytest.raises(UserError, match=said):
        build(choice("zoo", **overrides), model, None)


def test_a_missing_package_names_the_extra(choice, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "pytorch_optimizer.optimizer", None)
    with pytest.raises(UserError, match=r"pip install 'optbench\[zoo\]'"):
        build(choice("zoo"), model, None)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(package.optimizer.OPTIMIZERS.keys() - _REFUSED.keys()))
def test_every_accepted_name_takes_steps_and_resumes(name, choice, model, through_a_file):
    options = {"num_iterations": 100} if name == "ranger21" else {}
    config = choice("zoo", name=name, options=options)
    optimizer = build(config, model, None)
    losses, calls = train(model, optimizer, 3)
    assert calls == 3
    assert all(loss == loss for loss in losses)
    build(config, model, None).load_state_dict(through_a_file(optimizer.state_dict()))
