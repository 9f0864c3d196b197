"""The noise scale from the gradients of the steps themselves, and from the halves of batches."""

import copy

import pytest
import torch
import torch.nn.functional as F

from optbench import config
from optbench.config import RunConfig
from optbench.curvature.gradient_noise import NoiseScale
from optbench.errors import UserError
from optbench.objective.execution import LossScale
from optbench.probes import ProbeContext
from optbench.probes.noise_scale import NoiseScaleProbe
from optbench.training import build

WORDS = [
    "model=mlp", "model.hidden=[16]", "dataset=digits", "dataset.train_limit=200", "dataset.augment=none", "batch=40",
    "budget.steps=9", "tracker=none", "precision=fp64",
]  # fmt: skip


def prepared(*words):
    chosen = config.compose([*WORDS, *words])
    read = RunConfig.of(chosen)
    task = build.build_task(read, build.load_data(read))
    task.configure_optimizers()
    return task


def gradient(model, inputs, targets):
    loss = F.cross_entropy(model(inputs), targets)
    return torch.cat([part.reshape(-1) for part in torch.autograd.grad(loss, list(model.parameters()))])


def watched(task, probe, steps=1):
    """Take ``steps`` watched steps; returns the batches and the models that they were taken from."""
    task.watch = probe.watch
    seen = []
    for _ in range(steps):
        batch = task.source.batch(task.step, task.step * 40, 40)
        seen.append((copy.deepcopy(task.model), *batch))
        task.take_step()
    return seen


@pytest.mark.parametrize(("words", "size"), [([], 10), (["clip_norm=0.01"], 10), (["optimizer=lbfgs"], 10), ([], 16)])
def test_it_reads_the_norms_of_the_micro_batches_of_the_step_itself(words, size):
    task = prepared(f"micro_batch={size}", *words)
    probe = NoiseScaleProbe(window=2)
    expected = NoiseScale(0.95, 200)
    for model, inputs, targets in watched(task, probe, 2):
        parts = [
            gradient(model, inputs[start : start + size], targets[start : start + size])
            for start in range(0, 40 - size + 1, size)  # of 16, 16 and 8 examples those with 16
        ]
        small = float(torch.stack(parts).square().sum(1).mean())
        expected.update(small, float(gradient(model, inputs, targets).square().sum()), size, 40)
    found = probe.measure(ProbeContext(task, list)).values
    assert found["watched"] == 1
    assert found["trace"] == pytest.approx(expected.trace, rel=1e-9)
    assert found["gradient_norm_squared"] == pytest.approx(expected.gradient_norm_squared, rel=1e-9)
    assert found["simple"] == pytest.approx(expected.value, rel=1e-9, nan_ok=True)


def test_a_loss_scale_does_not_show():
    plain, scaled = prepared("micro_batch=10"), prepared("micro_batch=10")
    scaled.execution.loss_scale = LossScale(2.0**10)
    found = []
    for task in (plain, scaled):
        probe = NoiseScaleProbe()
        watched(task, probe)
        found.append(probe.measure(ProbeContext(task, list)).values)
    assert found[1]["trace"] == pytest.approx(found[0]["trace"], rel=1e-9)


def test_a_watched_step_is_the_step_bit_for_bit_and_leaves_no_hook():
    plain, other = prepared("micro_batch=10"), prepared("micro_batch=10")
    plain.take_step()
    inner = other.execution.backward
    watched(other, NoiseScaleProbe())
    assert other.execution.backward is inner
    for one, two in zip(plain.model.parameters(), other.model.parameters(), strict=True):
        assert torch.equal(one, two)
        assert torch.equal(one.grad, two.grad)
        assert not two._backward_hooks


def test_an_error_in_the_step_leaves_no_hook():
    task = prepared("micro_batch=10")
    inner = task.execution.backward

    def refuse(closure):
        closure()
        raise RuntimeError("no step")

    task.optimizer.step = refuse
    with pytest.raises(RuntimeError, match="no step"):
        watched(task, NoiseScaleProbe())
    assert task.execution.backward is inner
    assert not any(parameter._backward_hooks for parameter in task.model.parameters())


def test_with_one_micro_batch_it_halves_the_batches_to_come():
    task = prepared()
    probe = NoiseScaleProbe(batches=2)
    watched(task, probe)
    expected = NoiseScale(0.95, 200)
    for step in (1, 2):
        inputs, targets = task.source.batch(step, step * 40, 40)
        halves = [gradient(task.model, inputs[part], targets[part]) for part in (slice(0, 20), slice(20, 40))]
        small = float(torch.stack(halves).square().sum(1).mean())
        expected.update(small, float(gradient(task.model, inputs, targets).square().sum()), 20, 40)
    found = probe.measure(ProbeContext(task, list)).values
    assert found["watched"] == 0
    assert found["trace"] == pytest.approx(expected.trace, rel=1e-9)
    assert found["gradient_norm_squared"] == pytest.approx(expected.gradient_norm_squared, rel=1e-9)


def test_over_many_batches_it_finds_the_noise_of_the_whole_training_set():
    """tr Σ over all 200 examples, and the gradient over all of them, at weights that stand still."""
    task = prepared("batch=20", "schedule=constant", "optimizer.learning_rate=0")
    probe = NoiseScaleProbe(batches=600, decay=None)
    found = probe.measure(ProbeContext(task, list)).values
    split = task.source.splits["train"]
    ((inputs, targets),) = task.source.evaluation("train", 200)
    assert len(split.inputs) == 200
    each = torch.stack([gradient(task.model, inputs[i : i + 1], targets[i : i + 1]) for i in range(200)])
    trace = float((each - each.mean(0)).square().sum(1).mean())
    square = float(each.mean(0).square().sum())
    # Every epoch uses up all examples, so that means over batches vary less than independent ones.
    assert found["trace"] == pytest.approx(trace, rel=0.05)
    assert found["gradient_norm_squared"] == pytest.approx(square, rel=0.2)
    assert found["simple"] == pytest.approx(trace / square, rel=0.25)


def test_a_batch_of_one_is_refused_before_training():
    chosen = config.compose([*WORDS, "batch=1", "probe=noise_scale"])
    read = RunConfig.of(chosen)
    task = build.build_task(read, build.load_data(read))
    with pytest.raises(UserError, match="probe=noise_scale: needs gradients of parts of a batch; accepted: batch >= 2"):
        build.build_probes(read, task, None)
