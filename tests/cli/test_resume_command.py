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


def test_a_run_that_was_frozen_under_earlier_names_goes_on(tmp_path, capsys):
    probed = {"probe": "eigenvalues", "ghost_batch_size": 64, "cached_graphs": 2}
    options = {"every": 2, "examples": 32, "steps": 2, "largest": 1, "smallest": 1}
    settings = {**TINY, **probed, "probe.eigenvalues": options}

    def stop(step, row):
        raise optbench.Stop

    with pytest.raises(optbench.Stop):
        optbench.run(**settings, on_evaluation=stop)
    stopped = optbench.run(**settings, dry_run=True)
    frozen = stopped.path / "config.yaml"
    text = frozen.read_text()
    for now, first in {"ghost_batch_size:": "norm_batch:", "cached_graphs:": "graphs:"}.items():
        assert now in text
        text = text.replace(now, first)
    text = text.replace("optbench.probes.eigenvalues.Eigenvalues", "optbench.probes.extremes.Extremes")
    text = text.replace("  eigenvalues:", "  extremes:").replace("name: eigenvalues", "name: extremes")
    frozen.write_text(text)
    (stopped.path / "config.json").unlink()
    assert "extremes:" in text
    assert main(["resume", stopped.run_id]) == 0
    assert f"{stopped.run_id}: done" in capsys.readouterr().out
    whole = optbench.run(**settings, results_dir="undisturbed")
    assert whole.run_id == stopped.run_id
    for column in ("validation_loss", "eigenvalues_top"):
        found, expected = (run.history()[column].dropna().tolist() for run in (stopped, whole))
        assert found == expected
        assert len(found) > 2
