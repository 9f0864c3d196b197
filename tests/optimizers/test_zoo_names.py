"""Every name of the installed pytorch-optimizer package: those that are accepted train, resume and keep the promises."""

import random

import numpy as np
import pytest
import torch
from built import build

from optbench.config import choices, read_choice
from optbench.errors import UserError
from optbench.objective import Execution, Objective
from optbench.objective.losses import CrossEntropy
from optbench.optimizers import zoo
from optbench.testing import problem
from optbench.testing.session import Steps
from optbench.training import evaluation_weights

pytest.importorskip("pytorch_optimizer")
STEPS, STOP = 12, 5
# What these have to be given.
GIVEN = {
    "alig": {"learning_rate": 0.1},
    "bsam": {"options": {"num_data": 1000}},
}
# What the state of a step reaches at its defaults.
PERIODS = {
    "conda": {"options": {"update_proj_gap": 4}},
    "scalableshampoo": {"options": {"start_preconditioning_step": 2, "preconditioning_compute_steps": 2}},
    "splus": {"options": {"inverse_steps": 4}},
}


def choice_of(name):
    return {**read_choice("optimizer", "zoo"), "name": name, **GIVEN.get(name, {}), **PERIODS.get(name, {})}


class Trained(Steps):
    """Steps on objectives with micro-batches; counts evaluations, and notes what each step returns beside the loss before it."""

    def __init__(self, name, micro_batch=None, dtype=torch.float64):
        choice = choice_of(name)
        super().__init__(problem.network(dtype=dtype), lambda model: build(choice, model, choice["learning_rate"]))
        self.micro_batch, self.evaluations, self.products, self.losses = micro_batch, [], 0, []

    def step(self, count=1):
        for _ in range(count):
            inputs, targets = problem.batch(self.taken, self.dtype)
            execution = Execution(micro_batch=self.micro_batch, device=inputs.device)
            objective = Objective(self.network, CrossEntropy(), inputs, targets, execution)
            with torch.no_grad():
                before = torch.nn.functional.cross_entropy(self.model(inputs), targets)
            returned = self.optimizer.step(objective)
            objective.finish()
            self.taken += 1
            self.evaluations.append(objective.evaluations)
            self.products += objective.products
            self.losses.append((float(before), float(returned), float(objective.value)))
        return self


@pytest.mark.parametrize("name", zoo.accepted())
class TestEveryAcceptedName:
    def test_trains_and_does_not_depend_on_the_micro_batch(self, name):
        start = Trained(name)
        weights = start.weights()
        whole, parts = start.step(STEPS), Trained(name, micro_batch=5).step(STEPS)
        end = whole.weights()
        assert any(not torch.equal(end[key], weights[key]) for key in end)
        for key, value in parts.weights().items():
            scale = max(float(end[key].abs().max()), 1.0)
            torch.testing.assert_close(value, end[key], rtol=0, atol=1e-10 * scale)
        for before, returned, value in whole.losses:
            assert returned == pytest.approx(before, rel=1e-9)
            assert value == pytest.approx(before, rel=1e-9)
        several = max(whole.evaluations) > 1 or whole.products > 0
        stated = choice_of(name)["info"]["evaluations"]
        assert stated.get(name, stated["others"]) == ("several" if several else "one")

    @pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
    def test_resumes_bit_for_bit(self, name, dtype):
        whole = Trained(name, dtype=dtype).step(STEPS).weights()
        saved = Trained(name, dtype=dtype).step(STOP).state()
        random.seed(1)
        np.random.seed(1)
        resumed = Trained(name, dtype=dtype).load(saved).step(STEPS - STOP).weights()
        for key, value in resumed.items():
            assert torch.equal(value, whole[key]), key

    def test_states_whether_it_exchanges_weights_for_evaluations(self, name):
        choice = choice_of(name)
        model = problem.network()
        start = [each.detach().clone() for each in model.parameters()]
        optimizer = build(choice, model, choice["learning_rate"])
        offers = evaluation_weights.offers(optimizer)
        assert offers == bool(choice["info"]["evaluation_weights"].get(name))
        if offers:  # a probe may look at the weights before the first step
            optimizer.eval()
            optimizer.train()
            assert all(torch.equal(*pair) for pair in zip(start, model.parameters(), strict=True))


@pytest.mark.parametrize("name", sorted(zoo.classes().keys() - set(zoo.accepted())))
def test_every_other_name_is_refused_with_its_reason(name):
    found = zoo.standing(name)
    with pytest.raises(UserError) as caught:
        zoo.from_model(problem.network(), name.upper())
    assert str(caught.value) == f"optimizer.name={name.upper()}: cannot run here: {found.reason}"
    assert found.native is None or f"use optimizer={found.native}" in found.reason


def test_what_is_said_of_names_is_said_of_names_that_there_are():
    known, native = zoo.classes().keys(), choices("optimizer").keys()
    info = read_choice("optimizer", "zoo")["info"]
    assert len(known) > 100
    assert zoo.named() <= known
    assert {found.native for found in map(zoo.standing, known) if found.native} <= native
    for fact in ("scaling", "evaluations", "evaluation_weights", "activations"):
        # The rule of soap is part of the ids of runs that were made before it was refused.
        assert {name for name in info[fact] if name not in ("others", "soap")} <= set(zoo.accepted()), fact
