"""Two commands at work on one sweep: each says who the other is, and where to look."""

import json
import os

import pytest

from optbench import config
from optbench.__main__ import main
from optbench.provenance import fingerprint
from optbench.store import RunDirectory, RunLock
from optbench.sweep.grid.expand import Cell
from optbench.sweep.plan import Entry, Plan, plans
from optbench.sweep.planned_runs import PlannedRuns
from optbench.sweep.status.activity import at_work, left_to_others

ME = f"process {os.getpid()} on {os.uname().nodename}"
WORDS = ["dataset=digits", "model=mlp", "budget.steps=5", "tracker=none"]


def nobody(job_ids):
    return {}


@pytest.fixture
def plan(tmp_path):
    """A sweep of three runs that wait."""
    plan = Plan(tmp_path / "results", "demo")
    for run_id in "abc":
        plan.directory(run_id).create("batch: 1\n")
    plan.extend([Entry(run_id, {}) for run_id in "abc"], {})
    return plan


def test_nobody_is_at_work_on_a_sweep_that_waits_or_is_not_there(plan):
    assert at_work(plan, nobody) == ""
    assert at_work(Plan(plan.results_dir, "another"), nobody) == ""


def test_a_command_that_has_no_run_yet_is_at_work(plan):
    plan.note_job(kind="local", host="node7", pid=42)
    assert at_work(plan, nobody) == "process 42 on node7"


def test_slurm_jobs_are_at_work_a_few_of_them_by_name(plan):
    plan.note_job(kind="slurm", ids=[f"7_{index}" for index in range(6)], runs=3, folder="jobs")
    queued = {f"7_{index}": "PENDING" for index in range(6)}
    assert at_work(plan, lambda ids: queued) == ", ".join(f"Slurm job 7_{index}" for index in range(4)) + " and 2 more"


def test_a_process_that_no_command_of_the_sweep_started_is_at_work_by_its_lock(plan):
    directory = plan.directory("b")
    with RunLock(directory.lock):
        directory.set_status("running")
        assert at_work(plan, nobody) == ME


def test_what_was_left_is_said_with_who_has_it(plan):
    place = f"python -m optbench status demo --results-dir {plan.results_dir} shows their state"
    assert left_to_others(plan, ["a", "b", "c"]) == []
    plan.directory("c").set_status("done")
    with RunLock(plan.directory("a").lock), RunLock(plan.directory("b").lock):
        assert left_to_others(plan, ["a", "b", "c"]) == [
            f"demo: 2 runs left to {ME}, at work on them; {place}",
            f"demo: 1 run finished by another command meanwhile; {place}",
        ]
        assert left_to_others(plan, ["a"]) == [f"demo: 1 run left to {ME}, at work on it; {place}"]


# ---- the command ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """A sweep's command whose launcher does nothing; returns what it printed."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr("optbench.sweep.launchers.slurm.queued", nobody)
    monkeypatch.setattr("optbench.sweep.launch.dispatch", lambda *arguments: 0)

    def call(*words):
        capsys.readouterr()
        status = main([*WORDS, *words])
        out, err = capsys.readouterr()
        assert (status, err) == (0, "")
        return out

    return call


def test_the_second_command_names_the_first(command):
    words = ["-m", "seed=0,1", "sweep=demo"]
    assert command(*words) == "demo: 2 runs: 2 new; starting 2\n"
    [plan] = plans("results")
    plan.note_job(kind="local", host="node7", pid=42)
    assert command(*words) == (
        "demo: 2 runs: 2 pending; starting 2\n"
        "demo: process 42 on node7 is at work on it too, and each run is done by whoever takes it first; "
        "python -m optbench status demo shows the state\n"
    )


def test_the_second_command_has_nothing_to_do_where_the_first_has_every_run(command):
    words = ["-m", "seed=0", "sweep=demo"]
    command(*words)
    [plan] = plans("results")
    [entry] = plan.entries()
    with RunLock(plan.directory(entry.run_id).lock):
        plan.directory(entry.run_id).set_status("running")
        assert command(*words) == (
            "demo: 1 run: 1 running; nothing to do\n"
            f"demo: {ME} is at work; python -m optbench status demo shows the state\n"
        )


def test_a_run_that_is_done_is_not_submitted_and_the_command_says_so(command):
    command("launcher=slurm_debug")
    [path] = (RunDirectory(folder) for folder in (plans("results")[0].results_dir / "runs").iterdir())
    path.finish({"status": "done", "code": fingerprint(path.config())})
    assert json.loads((path.path / "status.json").read_text())["state"] == "done"
    assert command("launcher=slurm_debug") == (
        f"{path.run_id}: 1 run: 1 done; nothing to do, and nothing is submitted; force=true runs it again\n"
    )


@pytest.fixture
def cells(tmp_path):
    """The cell of one run."""
    given = config.compose([*WORDS, f"results_dir={tmp_path}"])
    return [Cell(("seed=0",), given, given)]


def finish(directory):
    directory.append({"event": "train", "step": 1, "loss": 1.0})
    directory.finish({"run_id": directory.run_id, "steps": 1}, "done")


def test_a_run_that_ends_while_a_command_plans_it_is_kept(tmp_path, cells):
    """A worker outlives its command, and finishes its run between the look of the next command and its start."""
    plan = Plan(tmp_path, "demo")
    PlannedRuns(plan, cells, force=False, retry="none").freeze()
    planned = PlannedRuns(plan, cells, force=False, retry="none")
    [run_id] = planned.to_do
    finish(plan.directory(run_id))
    planned.freeze()
    assert plan.directory(run_id).is_finished


@pytest.mark.parametrize("force", [True, False])
def test_a_run_that_was_asked_for_again_or_lost_its_summary_starts_over(tmp_path, cells, force):
    plan = Plan(tmp_path, "demo")
    first = PlannedRuns(plan, cells, force=False, retry="none")
    first.freeze()
    [run_id] = first.to_do
    directory = plan.directory(run_id)
    finish(directory)
    if not force:
        (directory.path / "summary.json").unlink()
    planned = PlannedRuns(plan, cells, force=force, retry="none")
    assert planned.to_do == [run_id]
    planned.freeze()
    assert directory.status().state == "pending"
    assert list(directory.rows()) == []
