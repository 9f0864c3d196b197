"""resume: one run goes on from its frozen configuration, as its command would let it."""

import os

import pytest

import optbench
from optbench.__main__ import main
from optbench.store import RunLock
from optbench.training.task import Task

TINY = {"dataset": "digits", "model": "mlp", "tracker": "none", "budget": {"steps": 6}, "eval_every": "2"}


@pytest.fixture(autouse=True)
def _a_folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def stopped():
    """A run that was asked for with force=true, and was stopped at step 2."""

    def stop(step, row):
        raise optbench.Stop

    with pytest.raises(optbench.Stop):
        optbench.run(**TINY, force=True, on_evaluation=stop)
    return optbench.run(**TINY, dry_run=True)


def test_a_stopped_run_goes_on_where_it_was_stopped(stopped, monkeypatch, capsys):
    taken, take_step = [], Task.take_step
    monkeypatch.setattr(Task, "take_step", lambda task: (taken.append(task.step), take_step(task)))
    assert main(["resume", stopped.run_id[:12]]) == 0
    assert f"{stopped.run_id}: done" in capsys.readouterr().out
    assert taken == [2, 3, 4, 5]
    whole = optbench.run(**TINY, results_dir="undisturbed")
    assert (
        stopped.history()["validation_loss"].dropna().tolist() == whole.history()["validation_loss"].dropna().tolist()
    )
    taken.clear()
    assert main(["resume", stopped.run_id]) == 0
    assert "done already" in capsys.readouterr().out
    assert taken == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["seed=3"], "seed=3: not a setting of the command resume; accepted: tracker, data_dir, as KEY=VALUE"),
        (["again"], "again: not a setting of the command resume"),
        (["tracker=wnadb"], "tracker=wnadb: no such tracker"),
    ],
)
def test_what_is_refused(stopped, words, message, capsys):
    assert main(["resume", stopped.run_id, *words]) == 2
    assert message in capsys.readouterr().err
    assert stopped.state == "preempted"


def test_a_run_at_work_is_left_alone(stopped, capsys):
    with RunLock(stopped.path / "lock"):
        assert main(["resume", stopped.run_id]) == 2
    assert f"is held by process {os.getpid()}" in capsys.readouterr().err
