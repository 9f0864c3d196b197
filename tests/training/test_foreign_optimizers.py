"""Optimizers of one's own with an unusual step or other weights that count: nothing in the bench is changed for them."""

import shutil

import pytest
import torch

from optbench import config
from optbench.config import search_path
from optbench.testing import resuming
from optbench.training import checkpointing, run

CODE = '''
import torch


class WithMean(torch.optim.SGD):
    """SGD that remembers the mean of all its weights."""

    def step(self, closure):
        loss = super().step(closure)
        for group in self.param_groups:
            for parameter in group["params"]:
                state = self.state[parameter]
                state["count"] = state.get("count", 0) + 1
                own = parameter.detach().clone()
                state["mean"] = state["mean"].lerp(own, 1 / state["count"]) if "mean" in state else own
        return loss


class Averaged(WithMean):
    def evaluation_parameters(self):
        return {parameter: state["mean"] for parameter, state in self.state.items()}


class Switching(WithMean):
    """It puts the mean into the weights itself, and has no exact way back."""

    def eval(self):
        for parameter, state in self.state.items():
            state["offset"] = state["mean"] - parameter.detach()
            parameter.data.add_(state["offset"])

    def train(self):
        for parameter, state in self.state.items():
            parameter.data.sub_(state.pop("offset"))


class Extragradient(torch.optim.Optimizer):
    """w' = w - a g(w),  w <- w - a g(w')."""

    def __init__(self, params, lr):
        super().__init__(params, {"lr": lr})

    @torch.no_grad()
    def step(self, closure):
        moved = [(group["lr"], each) for group in self.param_groups for each in group["params"]]
        loss = closure()
        before = [each.clone() for _, each in moved]
        for rate, each in moved:
            each.sub_(each.grad, alpha=rate)
        closure()
        for (rate, each), start in zip(moved, before, strict=True):
            each.copy_(start - rate * each.grad)
        return loss
'''
CHOICE = """
_target_: my_methods.{target}
name: {name}
learning_rate: 0.5
info:
  about: mine
  source: mine
  family: sgd
  evaluations: {evaluations}
  schema:
    learning_rate: float > 0
"""
METHODS = {"averaged": "Averaged", "switching": "Switching", "extragradient": "Extragradient"}
WORDS = [
    "dataset=digits", "dataset.train_limit=200", "dataset.validation=16", "batch=32", "budget.steps=6", "tracker=none",
    "evaluate_train=null", "progress=false", "log_every=1",
]  # fmt: skip
NORMS = ["model=wrn", "model.depth=10", "model.width=1", "model.dropout=0.3", "ghost_batch_size=16"]


@pytest.fixture(autouse=True)
def mine(tmp_path, monkeypatch):
    """A folder with the code and the choices, as docs/how-to/optimizer.md describes it."""
    (tmp_path / "my_methods.py").write_text(CODE)
    choices = tmp_path / "mine" / "optimizer"
    choices.mkdir(parents=True)
    for name, target in METHODS.items():
        evaluations = "several" if name == "extragradient" else "one"
        (choices / f"{name}.yaml").write_text(CHOICE.format(name=name, target=target, evaluations=evaluations))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("OPTBENCH_CONF", str(tmp_path / "mine"))
    monkeypatch.delenv("OPTBENCH_PATH", raising=False)
    yield tmp_path
    search_path.look_in([])


def ended(*words):
    """The directory of a finished run, and the state of its checkpoint."""
    outcome = run.execute(config.compose([*WORDS, *words]))
    assert outcome.state == "done", outcome.why
    return outcome.directory, checkpointing.load(outcome.directory.checkpoint, outcome.directory.run_id)


def means(state):
    return [each["mean"] for each in state["task"]["optimizer"]["state"].values()]


@pytest.mark.parametrize("name", ["averaged", "switching"])
def test_other_weights_count_and_looking_at_them_changes_nothing(name):
    seldom, state = ended(f"optimizer={name}", *NORMS)
    shutil.rmtree(seldom.path)
    _, often = ended(f"optimizer={name}", *NORMS, "eval_every=1steps", "results_dir=often")
    trained = state["task"]["model"]
    for key, value in often["task"]["model"].items():
        assert torch.equal(value, trained[key]), key
    final = checkpointing.final_weights(state)
    names = [key for key in final if not key.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    for key, mean in zip(names, means(state), strict=True):
        torch.testing.assert_close(final[key], mean, rtol=1e-6, atol=1e-7)
        assert not torch.equal(final[key], trained[key])


def test_two_evaluations_are_of_one_batch_and_the_first_is_that_of_the_step():
    directory, _ = ended("optimizer=extragradient", *NORMS, "clip_norm=1.0")
    plain, _ = ended("optimizer=sgd", "optimizer.learning_rate=0.5", *NORMS, "clip_norm=1.0", "results_dir=plain")
    ours, others = (
        [row for row in each.history_table().to_pylist() if row["event"] == "train"] for each in (directory, plain)
    )
    assert directory.summary()["oracle_gradients"] == 12
    # Both begin at the same weights, with the same batch.
    assert ours[0]["loss"] == pytest.approx(others[0]["loss"], rel=1e-6)
    assert ours[0]["gradient_norm"] == pytest.approx(others[0]["gradient_norm"], rel=1e-6)
    assert ours[-1]["loss"] != others[-1]["loss"]


@pytest.mark.parametrize("name", METHODS)
def test_a_killed_run_ends_where_an_undisturbed_one_does(name):
    resuming.kill(config.compose([*WORDS, *NORMS, f"optimizer={name}", *resuming.KILLED]))
