"""Weights for evaluation that an optimizer offers: who sees them, and that training does not."""

import numpy as np
import pytest
import torch
from torch import nn

from optbench import config
from optbench.config import RunConfig
from optbench.errors import UserError
from optbench.training import build, checkpointing, run
from optbench.training.evaluation import Evaluator
from optbench.training.evaluation_weights import evaluation_weights

WORDS = [
    "optimizer=schedule_free_sgd", "optimizer.learning_rate=0.5", "dataset=digits", "dataset.train_limit=200",
    "dataset.validation=16", "batch=32", "budget.steps=6", "evaluate_train=null", "tracker=none", "progress=false",
]  # fmt: skip
NORMS = ["model=wrn", "model.depth=10", "model.width=1", "ghost_batch_size=16"]


def executed(folder, *words):
    outcome = run.execute(config.compose([*WORDS, *words, f"results_dir={folder}"]))
    assert outcome.state == "done", outcome.why
    return outcome


def task_after(steps, *words):
    read = RunConfig.of(config.compose([*WORDS, *words]))
    task = build.build_task(read, build.load_data(read))
    task.configure_optimizers()
    task.model.train()
    for _ in range(steps):
        task.take_step()
    return task


def test_evaluations_do_not_touch_the_training(tmp_path):
    ends = [
        torch.load(executed(tmp_path / every, *NORMS, f"eval_every={every}").directory.checkpoint)
        for every in ("1steps", "6steps")
    ]
    for name, weights in ends[0]["task"]["model"].items():
        assert torch.equal(weights, ends[1]["task"]["model"][name]), name


def test_evaluations_are_of_the_offered_weights_with_their_own_statistics():
    task = task_after(5, *NORMS)
    trained = {name: each.clone() for name, each in task.model.state_dict().items()}
    found = Evaluator()(task)
    assert all(torch.equal(each, trained[name]) for name, each in task.model.state_dict().items())
    assert all(module.training for module in task.model.modules())

    # By hand: x in the place of the parameters, and the mean and variance of each group of 16 examples.
    with torch.no_grad():
        for parameter, average in task.optimizer.evaluation_parameters().items():
            parameter.copy_(average)
    norms, seen = task.network.norms, []
    handles = [
        norm.register_forward_pre_hook(lambda norm, inputs: seen.append((norm, inputs[0].detach()))) for norm in norms
    ]
    (inputs, _) = next(task.source.evaluation("train", 192, 192))
    for norm in norms:
        norm.group, norm.recording = 16, "hold"
    task.model.train()
    with torch.no_grad():
        task.model(inputs)
    for handle in handles:
        handle.remove()
    for norm, values in seen:
        groups = (
            values.view(12, 16, *values.shape[1:]).transpose(1, 2).flatten(2)
        )  # group, channel, examples and places
        norm.running_mean.copy_(groups.mean(2).mean(0))
        norm.running_var.copy_(groups.var(2).mean(0))
    task.model.eval()
    inputs, targets = next(task.source.evaluation("test", 10000, None))
    with torch.no_grad():
        expected = nn.functional.cross_entropy(task.model(inputs), targets)
    assert found["test_loss"] == pytest.approx(float(expected), rel=1e-5)


class Foreign(torch.optim.SGD):
    """Evaluates at twice the weights."""

    def eval(self):
        for parameter in self.param_groups[0]["params"]:
            parameter.data.mul_(2)

    def train(self):
        for parameter in self.param_groups[0]["params"]:
            parameter.data.mul_(0.5).add_(1e-3)  # an inexact way back


def test_a_foreign_optimizer_may_switch_the_weights_itself():
    task = task_after(2, "model=logreg")
    task.optimizer = Foreign(task.model.parameters(), lr=0.1)
    before = [parameter.detach().clone() for parameter in task.model.parameters()]
    with evaluation_weights(task):
        for parameter, own in zip(task.model.parameters(), before, strict=True):
            assert torch.equal(parameter, 2 * own)
    for parameter, own in zip(task.model.parameters(), before, strict=True):
        assert torch.equal(parameter, own)


def test_the_final_weights_are_those_for_evaluation(tmp_path):
    outcome = executed(tmp_path, "model=logreg")
    state = checkpointing.load(outcome.directory.checkpoint, outcome.directory.run_id)
    final = checkpointing.final_weights(state)
    trained = state["task"]["model"]
    assert not any(torch.equal(final[name], trained[name]) for name in trained)
    # A run that starts from it, and does not move, evaluates as it did.
    again = executed(
        tmp_path, "model=logreg", "init=run", f"init.source={outcome.directory.run_id}", "optimizer=sgd",
        "optimizer.learning_rate=0",
    )  # fmt: skip
    assert again.summary["test_loss"] == pytest.approx(outcome.summary["test_loss"], rel=1e-6)


def test_a_probe_measures_the_weights_for_evaluation(tmp_path):
    outcome = executed(
        tmp_path, "model=logreg", "probe=interpolation", "probe.interpolation.examples=null", "precision=fp64"
    )
    (file,) = (outcome.directory.path / "probes").glob("*.npz")
    arrays = np.load(file)
    at_end = arrays["train_loss"][np.isclose(arrays["positions"], 1.0)]
    assert at_end == pytest.approx(outcome.summary["train_loss"], rel=1e-6)


def test_local_steps_are_refused():
    with pytest.raises(UserError, match=r"communication=local: optimizer=schedule_free_sgd has weights of its own"):
        config.compose([*WORDS, "model=logreg", "communication=local", "communication.workers=2"])
