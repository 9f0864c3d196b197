"""The copy that is measured: fixed examples, batch norm's statistics, precision, and nothing shared with the run."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from optbench import config
from optbench.config import RunConfig
from optbench.probes.base import ProbeContext
from optbench.probes.interpolation import Interpolation
from optbench.probes.measured import MeasuredModel, copied
from optbench.training import build

WORDS = [
    "model=wrn", "model.depth=10", "model.width=1", "model.dropout=0.3", "dataset=digits", "dataset.train_limit=40",
    "dataset.validation=16", "dataset.crop=1", "batch=16", "ghost_batch_size=8", "tracker=none", "budget.steps=3",
]  # fmt: skip


def prepared(*words):
    chosen = config.compose([*WORDS, *words])
    read = RunConfig.of(chosen)
    task = build.build_task(read, build.load_data(read))
    task.configure_optimizers()
    task.model.train()
    task.take_step()
    return task


@pytest.fixture(scope="module")
def task():
    return prepared()


def first_examples(task, count):
    """The first training examples as the model sees them, without augmentation."""
    split = task.source.splits["train"]
    inputs = split.inputs[:count].float() * task.source._scale + task.source._shift
    return inputs, split.targets[:count]


@pytest.mark.parametrize("examples", [None, 10, 1000])
def test_the_loss_is_that_of_the_first_examples_in_eval_mode(task, examples):
    measured = MeasuredModel(task, examples, "running")
    model = copy.deepcopy(task.model).eval()
    inputs, targets = first_examples(task, min(examples or 40, 40))
    outputs = model(inputs)
    loss, accuracy = measured.objective().evaluate(measured.spec)
    assert loss == pytest.approx(F.cross_entropy(outputs, targets).item(), rel=1e-6)
    assert accuracy == pytest.approx((outputs.argmax(1) == targets).double().mean().item())
    assert float(measured.objective().loss()) == pytest.approx(loss, rel=1e-6)


def test_shares_of_several_ranks_keep_their_micro_batches(task, monkeypatch):
    """Those of a subset need not be equal, so that a new division would have to weigh its parts anew."""
    alone = replace(task.execution, adjustable=True, average=lambda parameters: None)
    monkeypatch.setattr(task, "execution", alone)
    assert MeasuredModel(task, 10).objective().may_halve
    monkeypatch.setattr(task, "execution", replace(alone, world_size=3, rank=1))
    objective = MeasuredModel(task, 10).objective()
    assert sum(part.weight for part in objective._parts) == pytest.approx(3 * 3 / 10)
    assert not objective.may_halve


def test_float64_measures_a_copy_in_double_precision(task):
    measured = MeasuredModel(task, 10, "running", float64=True)
    loss = measured.objective().loss()
    assert loss.dtype == torch.float64
    model = copy.deepcopy(task.model).eval().double()
    inputs, targets = first_examples(task, 10)
    assert float(loss) == pytest.approx(F.cross_entropy(model(inputs.double()), targets).item(), rel=1e-12)
    assert next(task.model.parameters()).dtype == torch.float32


def test_refreshed_statistics_are_the_mean_over_groups_of_the_subset(task):
    """Held against torch's own batch norm with cumulative averages, in batches of the group's size."""
    measured = MeasuredModel(task, 26, "refreshed")
    twin = copy.deepcopy(task.model).train()
    for parent in list(twin.modules()):
        for name, child in list(parent.named_children()):
            if type(child).__name__ == "BatchNorm":
                norm = nn.BatchNorm2d(child.channels, eps=child.eps, momentum=None)
                norm.load_state_dict(child.state_dict(), strict=False)
                norm.reset_running_stats()
                setattr(parent, name, norm)
            elif type(child).__name__ == "Dropout":
                setattr(parent, name, nn.Identity())
    norms = [module for module in twin.modules() if isinstance(module, nn.BatchNorm2d)]
    inputs, _ = first_examples(task, 26)
    with torch.no_grad():
        for start in (0, 8, 16):  # the last two examples make no whole group
            twin(inputs[start : start + 8])
    assert len(norms) == len(measured.network.norms) > 3
    for norm, expected in zip(measured.network.norms, norms, strict=True):
        torch.testing.assert_close(norm.running_mean, expected.running_mean, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(norm.running_var, expected.running_var, rtol=1e-4, atol=1e-6)
        assert not norm.training


def test_an_interpolation_takes_the_statistics_of_every_point(task):
    """At each point what a copy measures that is made of the weights there, also where running variances would be negative."""
    start = [torch.randn_like(parameter) for parameter in task.model.parameters()]
    context = ProbeContext(task, lambda: start, None)
    found = Interpolation(points=5, first=-2, last=2, examples=24).measure(context).arrays
    for position, loss in zip(found["positions"], found["train_loss"], strict=True):
        state = dict(task.model.state_dict())
        for (name, now), then in zip(task.model.named_parameters(), start, strict=True):
            state[name] = torch.lerp(then, now.detach(), float(position))
        there = MeasuredModel(task, 24, state=state)
        assert loss == pytest.approx(there.objective().evaluate(there.spec)[0], rel=1e-5)


def test_batch_statistics_normalize_each_group_by_its_own(task):
    measured = MeasuredModel(task, 16, "batch")
    model = copied(task.model).eval()
    for module in model.modules():
        if type(module).__name__ == "BatchNorm":
            module.train()
            module.recording = "hold"
    inputs, targets = first_examples(task, 16)
    with torch.no_grad():
        outputs = torch.cat([model(inputs[:8]), model(inputs[8:])])
    assert float(measured.objective().loss()) == pytest.approx(F.cross_entropy(outputs, targets).item(), rel=1e-5)


@pytest.mark.parametrize("statistics", ["refreshed", "running", "batch"])
def test_nothing_that_is_done_to_the_copy_reaches_the_run(task, statistics):
    before = copy.deepcopy(task.model.state_dict())
    modes = [module.training for module in task.model.modules()]
    gradients = [parameter.grad.clone() for parameter in task.model.parameters()]
    measured = MeasuredModel(task, 16, statistics)
    objective = measured.objective()
    objective.hvp([torch.ones_like(parameter) for parameter in measured.parameters])
    with torch.no_grad():
        for tensor in (*measured.model.parameters(), *measured.model.buffers()):
            tensor.fill_(7)
    assert all(torch.equal(tensor, before[name]) for name, tensor in task.model.state_dict().items())
    assert [module.training for module in task.model.modules()] == modes
    assert all(norm.recording == "follow" and not norm.recorded for norm in task.network.norms)
    for parameter, gradient in zip(task.model.parameters(), gradients, strict=True):
        assert torch.equal(parameter.grad, gradient)
    assert {tensor.data_ptr() for tensor in task.model.parameters()}.isdisjoint(
        tensor.data_ptr() for tensor in measured.model.parameters()
    )


def test_hooks_of_others_stay_with_the_model():
    model, calls = nn.Sequential(nn.Linear(3, 2)), []
    model[0].register_forward_hook(lambda *arguments: calls.append(1))
    copied(model)(torch.ones(1, 3))
    assert calls == []
    model(torch.ones(1, 3))
    assert calls == [1]


def test_tied_parameters_stay_tied():
    model = nn.ModuleList([nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False)])
    model[1].weight = model[0].weight
    twin = copied(model)
    assert twin[0].weight is twin[1].weight
    assert twin[0].weight is not model[0].weight
