"""Variants of methods, and bfloat16, resume bit for bit; the defaults of every choice do in tests/test_promises.py."""

import pytest
import torch
from built import build

from optbench.config import choices, read_choice
from optbench.testing import evaluating, resuming, subject, weights

NAMES = sorted(choices("optimizer"))
DECOUPLED = ["sgd", "momentum", "adam", "rmsprop"]
# Those that need more than a closure are not for bfloat16.
NEED_AN_OBJECTIVE = {
    name
    for name in NAMES
    if (info := (choice := read_choice("optimizer", name))["info"]).get("products")
    or (info["family"] == "second_order" and choice["_target_"].startswith("optbench."))
}
VARIANTS = [(name, "optimizer.weight_decay_mode=decoupled", "optimizer.weight_decay=0.1") for name in DECOUPLED]
VARIANTS += [
    ("lars", "optimizer.lr_in_momentum=true", "optimizer.nesterov=true"),
    ("lamb", "optimizer.clamp=[0.1,1.0]"),
]
OURS = ["lars", "lamb", "lion", "muon"]


@pytest.mark.parametrize("words", VARIANTS, ids=" ".join)
def test_variants_resume_bit_for_bit(words):
    chosen = subject.of([f"optimizer={words[0]}", *words[1:]])
    resuming.resume(chosen, (torch.float32, torch.float64, torch.bfloat16))


@pytest.mark.parametrize("name", sorted({*NAMES} - NEED_AN_OBJECTIVE))
def test_runs_in_bfloat16_resume_bit_for_bit(name):
    resuming.resume(subject.of([f"optimizer={name}"]), (torch.bfloat16,))


@pytest.mark.parametrize("name", OURS)
def test_ours_take_steps_without_a_closure_and_leave_what_has_no_gradient(name):
    """`certify` allows an optimizer that needs a closure: ours do without."""
    chosen = subject.of([f"optimizer={name}"])
    evaluating.without_closure(chosen)
    weights.unused(chosen)


@pytest.mark.parametrize("name", OURS)
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
