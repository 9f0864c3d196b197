"""Runs with transforms around their optimizer: they train as typed, have a name of their own, and evaluate what counts."""

import pytest
import torch

from optbench import config
from optbench.__main__ import main
from optbench.store import RunDirectory, load
from optbench.training import checkpointing

WORDS = [
    "dataset=digits", "dataset.train_limit=200", "dataset.validation=16", "batch=32", "budget.steps=7", "tracker=none",
    "progress=false", "model=mlp", "model.hidden=[8]",
]  # fmt: skip


@pytest.fixture
def trained(tmp_path, monkeypatch):
    """Trains by the command and returns the run's directory."""
    monkeypatch.chdir(tmp_path)

    def train(*words):
        assert main([*WORDS, *words]) == 0
        return RunDirectory.at("results", config.run_id(config.compose([*WORDS, *words])))

    return train


def final(run):
    return checkpointing.load(run.checkpoint, run.run_id)


def test_cautious_around_kfac_runs_as_typed(trained):
    plain, cautious = trained("optimizer=kfac"), trained("optimizer=kfac", "transform=[cautious]")
    assert cautious.run_id.startswith("kfac+cautious-mlp-digits-")
    assert cautious.summary()["optimizer"] == "kfac+cautious"
    assert cautious.summary()["status"] == "done"
    weights = [final(run)["task"]["model"] for run in (plain, cautious)]
    assert not any(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    frame = load("results")
    assert sorted(frame["optimizer"]) == ["kfac", "kfac+cautious"]


def test_the_slow_weights_of_lookahead_are_evaluated_and_the_fast_ones_if_asked(trained):
    """After seven steps with a period of five, they differ."""
    slow = trained("optimizer=adamw", "transform=[lookahead]")
    fast = trained("optimizer=adamw", "transform=[lookahead]", "transform.lookahead.evaluate=fast")
    states = [final(run) for run in (slow, fast)]
    trained_weights = [state["task"]["model"] for state in states]
    for name, weights in trained_weights[0].items():
        assert torch.equal(weights, trained_weights[1][name])
    remembered = [each["slow"] for each in states[0]["task"]["optimizer"]["transforms"]["Lookahead"].values()]
    result = checkpointing.final_weights(states[0])
    # Those of the optimizer are in the order of its groups.
    assert all(any(torch.equal(weights, kept) for kept in remembered) for weights in result.values())
    assert torch.equal(
        next(iter(checkpointing.final_weights(states[1]).values())), next(iter(trained_weights[1].values()))
    )
    assert slow.summary()["test_loss"] != fast.summary()["test_loss"]


def test_the_gradient_norm_and_the_loss_are_those_before_the_ascent_of_sam(trained):
    runs = [
        trained("optimizer=sgd", "clip_norm=100", "log_every=1", "budget.steps=1", *words)
        for words in (["transform=[sam,centralize]"], [])
    ]
    first, other = (next(row for row in run.history_table().to_pylist() if row["event"] == "train") for run in runs)
    assert (first["loss"], first["gradient_norm"]) == (other["loss"], other["gradient_norm"])
    assert [run.summary()["oracle_gradients"] for run in runs] == [2, 1]
