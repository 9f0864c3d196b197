"""Methods without gradients are steps like others, and every run says how often its method has asked the objective."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from optbench import config
from optbench.models.layers import BatchNorm, set_ghost_batch_size
from optbench.objective import Execution, Network, Objective
from optbench.objective.losses import CrossEntropy
from optbench.objective.oracle import OracleCalls
from optbench.training import run

TINY = [
    "model=mlp",
    "model.hidden=[8]",
    "dataset=digits",
    "batch=32",
    "budget.steps=3",
    "tracker=none",
    "progress=false",
]


def problem(micro=None, trains=False):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 5), BatchNorm(5), nn.Linear(5, 3)).double()
    set_ghost_batch_size(model, 4)
    inputs, targets = torch.randn(8, 4).double(), torch.arange(8) % 3
    objective = Objective(Network(model), CrossEntropy(), inputs, targets, Execution(micro_batch=micro), trains=trains)
    return model, inputs, targets, objective


def statistics_after_one_step(model, inputs):
    groups = model[0](inputs).detach().split(4)
    return 0.1 * torch.stack([group.mean(0) for group in groups]).mean(0)


@pytest.mark.parametrize("micro", [None, 4])
def test_the_first_loss_of_a_training_step_is_recorded_like_a_call(micro):
    model, inputs, targets, objective = problem(micro, trains=True)
    expected, loss = statistics_after_one_step(model, inputs), F.cross_entropy(model(inputs), targets)
    model[1].recorded.clear()
    model[1].running_mean.zero_()
    value = objective.loss()
    moved = [parameter.detach() + 1 for parameter in model.parameters()]
    objective.loss(moved)
    objective()  # neither is recorded
    objective.finish()
    torch.testing.assert_close(value, loss.detach(), rtol=1e-12, atol=1e-12)
    assert objective.value is value
    torch.testing.assert_close(model[1].running_mean, expected, rtol=1e-12, atol=1e-12)


def test_the_losses_of_a_probe_are_not_recorded():
    model, _, _, objective = problem()
    objective.loss()
    assert not model[1].recorded
    objective.finish()
    assert not model[1].running_mean.any()


def test_every_vector_counts_as_a_product():
    model, _, _, objective = problem()
    vector = [torch.ones_like(parameter) for parameter in model.parameters()]
    objective.hvp(vector)
    objective.ggnvps([vector, vector])
    objective.empirical_fisher_vp(vector)
    objective.quadratic([vector, vector, vector])
    objective.jvp(vector)
    objective.vjp(objective.outputs())
    calls = OracleCalls()
    calls.add(objective)
    assert calls == OracleCalls(values=0, gradients=0, products=9)
    objective()
    objective.loss()
    calls.add(objective)
    assert calls == OracleCalls(values=1, gradients=1, products=18)


class _OnlyValues(torch.optim.Optimizer):
    """Keeps a random step if it lowers the loss."""

    def __init__(self, params, lr=0.1):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure=None):
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        before = closure.loss()
        generator = torch.Generator().manual_seed(int(1e6 * float(before)))
        trial = [parameter + 0.1 * torch.randn(parameter.shape, generator=generator) for parameter in parameters]
        if closure.loss(trial) < before:
            for parameter, value in zip(parameters, trial, strict=True):
                parameter.copy_(value)


def test_a_method_without_gradients_trains_and_its_calls_are_in_the_summary(tmp_path):
    chosen = config.compose([*TINY, f"results_dir={tmp_path}", "optimizer=sgd"])
    chosen["optimizer"] = {**chosen["optimizer"], "_target_": f"{__name__}._OnlyValues"}
    for option in set(config.options(chosen["optimizer"])) - {"learning_rate"}:
        del chosen["optimizer"][option]
    outcome = run.execute(chosen)
    assert outcome.state == "done", outcome.why
    counted = {name: outcome.summary[f"oracle_{name}"] for name in ("values", "gradients", "products")}
    assert counted == {"values": 6, "gradients": 0, "products": 0}
    losses = [row["loss"] for row in outcome.directory.rows() if row["event"] == "train"]
    assert losses[0] == pytest.approx(2.3, abs=0.3)


def test_the_calls_of_a_resumed_run_go_on_and_those_of_earlier_versions_are_unknown():
    assert OracleCalls.of_checkpoint({"oracle_calls": {"values": 1, "gradients": 2, "products": 3}}) == OracleCalls(
        1, 2, 3
    )
    assert OracleCalls.of_checkpoint({"evaluations": 7}) == OracleCalls(None, 7, None)
    assert OracleCalls.of_checkpoint({"evaluations": None}) == OracleCalls(None, None, None)
