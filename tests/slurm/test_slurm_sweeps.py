"""launcher=slurm on a real Slurm: packed arrays, preemption, time limits, crashes, several ranks, two commands at once."""

import json
import os
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
import sabotage
from sweeps import (
    LONG,
    ROOT,
    assert_as_if_undisturbed,
    by_seed,
    directories,
    start,
    states,
    sweep,
    training,
    wait_for,
)

from optbench.__main__ import main
from optbench.store import RunDirectory
from optbench.sweep.plan import plans

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.xdist_group("slurm"), pytest.mark.usefixtures("cluster")]
SLURM = ["launcher=slurm", "launcher.signal_delay=30"]
OVER = ("COMPLETED", "FAILED", "CANCELLED", "TIMEOUT", "NODE_FAIL", "OUT_OF_MEMORY")


def slurm(*words):
    return subprocess.run(words, capture_output=True, text=True, check=True, timeout=60).stdout


def job_ids(folder):
    [plan] = plans(folder)
    return [job_id for job in plan.jobs() for job_id in job["ids"]]


def job_states(folder):
    """The state of every job of the sweep, those that are over included, and the node where it is or was."""
    found = {}
    for line in slurm("squeue", "--noheader", "--array", "--states=all", "--format=%i %T %N").splitlines():
        job_id, state, *node = line.split()
        found[job_id] = (state, *node)
    return [found[job_id] for job_id in job_ids(folder)]


def is_over(folder):
    return all(state[0] in OVER for state in job_states(folder))


def submit(folder, *words, expect=0):
    """Submit a sweep; returns what the command printed, and fails if it waited for the jobs."""
    began = time.time()
    output = sweep(folder, *SLURM, *words, expect=expect)
    assert time.time() - began < 20
    return output


def finish(folder, seconds=150):
    wait_for(lambda: is_over(folder), seconds)
    return states(folder)


def optbench(capsys, *words):
    """Another command, in this process; returns its exit status and what it printed."""
    capsys.readouterr()
    status = main([*map(str, words)])
    return status, capsys.readouterr().out


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The result of LONG where nothing happens to it."""
    folder = tmp_path_factory.mktemp("undisturbed")
    sweep(folder, *LONG)
    return by_seed(folder)


def test_an_array_of_packed_jobs_over_two_nodes(tmp_path, capsys):
    output = submit(tmp_path, "seed=range(12)", "launcher.runs_per_job=3", "launcher.cpus=3", "launcher.workers=2")
    assert re.search(r"submitted \d+_\[0-3\]: 12 runs in 4 jobs", output)
    [plan] = plans(tmp_path)
    assert f"python -m optbench status {plan.name}" in output
    assert finish(tmp_path) == ["done"] * 12
    assert [state for state, _ in job_states(tmp_path)] == ["COMPLETED"] * 4
    assert {node for _, node in job_states(tmp_path)} == {"n1", "n2"}
    assert all(directory.log.read_text().count("process ") == 1 for directory in directories(tmp_path))
    status, printed = optbench(capsys, "status", plan.name, "--results-dir", tmp_path, "--json")
    assert status == 0
    assert json.loads(printed)["counts"]["done"] == 12


@pytest.mark.parametrize(
    "signals", [["USR2"], pytest.param(["TERM", "USR2"], marks=pytest.mark.exhaustive)], ids=" ".join
)
def test_a_preempted_job_is_requeued_and_ends_bit_for_bit_the_same(tmp_path, undisturbed, signals):
    submit(tmp_path, *LONG, "launcher.runs_per_job=2", "launcher.workers=2", "launcher.cpus=2")
    wait_for(lambda: training(tmp_path))
    for name in signals:
        slurm("scancel", f"--signal={name}", job_ids(tmp_path)[0])
    wait_for(lambda: "preempted" in states(tmp_path))
    finish(tmp_path)
    assert_as_if_undisturbed(tmp_path, undisturbed)
    assert [state for state, _ in job_states(tmp_path)] == ["COMPLETED"]
    assert any(directory.log.read_text().count("process ") == 2 for directory in directories(tmp_path))


def test_a_job_that_reaches_its_time_limit_is_requeued_and_ends_bit_for_bit_the_same(tmp_path, undisturbed):
    # Slurm may signal up to a minute early, which here is at once: the run gets a few seconds at a time, or none where the
    # signal comes before submitit listens, which ends the job; the same command then submits what is left.
    words = ["launcher.time=1", "launcher.signal_delay=45", "budget.steps=3000"]
    for _ in range(4):
        submit(tmp_path, *LONG, *words, "launcher.runs_per_job=2", "launcher.workers=2", "launcher.cpus=2")
        if finish(tmp_path, 300) == ["done"] * 2:
            break
    assert_as_if_undisturbed(tmp_path, undisturbed)


def test_a_worker_that_is_killed_is_replaced_within_its_job(tmp_path, undisturbed):
    submit(tmp_path, *LONG, "launcher.runs_per_job=2")
    directory = wait_for(lambda: training(tmp_path))
    os.kill(directory.status().pid, signal.SIGKILL)
    finish(tmp_path)
    assert_as_if_undisturbed(tmp_path, undisturbed)
    assert [state for state, _ in job_states(tmp_path)] == ["COMPLETED"]


def test_a_cancelled_job_is_told_of_and_retried(tmp_path, undisturbed, capsys):
    submit(tmp_path, *LONG)
    wait_for(lambda: training(tmp_path))
    slurm("scancel", *job_ids(tmp_path))
    wait_for(lambda: is_over(tmp_path))
    [plan] = plans(tmp_path)

    def counts():
        _, printed = optbench(capsys, "status", plan.name, "--results-dir", tmp_path, "--json")
        return json.loads(printed)["counts"]

    wait_for(lambda: counts()["running"] == 0)
    assert counts()["done"] + counts()["preempted"] + counts()["missing"] + counts()["lost"] == 2
    assert counts()["done"] < 2
    status, printed = optbench(capsys, "retry", plan.name, "--results-dir", tmp_path)
    assert status == 0
    assert "submitted" in printed
    finish(tmp_path)
    assert_as_if_undisturbed(tmp_path, undisturbed)


def test_a_failed_run_is_failed_in_slurm_too(tmp_path, monkeypatch, capsys):
    sabotage.install(ROOT / "conf", tmp_path / "conf")
    monkeypatch.setenv("OPTBENCH_CONF", str(tmp_path / "conf"))
    words = ["init=sabotage", f"init.notes={tmp_path}", "init.how=nothing,error", "launcher.runs_per_job=1"]
    submit(tmp_path / "results", *words)
    finish(tmp_path / "results")
    by_kind = {run.config()["init"]["how"]: run.status() for run in directories(tmp_path / "results")}
    assert by_kind["nothing"].state == "done"
    assert (by_kind["error"].state, by_kind["error"].why) == ("failed", "RuntimeError: sabotage")
    assert [state for state, _ in job_states(tmp_path / "results")] == ["COMPLETED", "FAILED"]
    [plan] = plans(tmp_path / "results")
    _, printed = optbench(capsys, "status", plan.name, "--results-dir", tmp_path / "results")
    assert "RuntimeError: sabotage" in printed


def test_two_commands_at_the_same_moment_train_each_run_once(tmp_path):
    words = [*SLURM, "launcher.runs_per_job=6", "budget.steps=60"]
    first = start(tmp_path, *words, "seed=range(8)", "sweep=first")
    second = start(tmp_path, *words, "seed=range(4,12)", "sweep=second")
    for process in (first, second):
        output = process.communicate(timeout=60)[0]
        assert process.returncode == 0, output

    def all_over():
        jobs = [job_id for plan in plans(tmp_path) for job in plan.jobs() for job_id in job["ids"]]
        listed = slurm("squeue", "--noheader", "--array", "--format=%i").split()
        return not set(jobs) & set(listed)

    wait_for(all_over, 150)
    assert states(tmp_path) == ["done"] * 12
    for directory in directories(tmp_path):
        assert directory.log.read_text().count("process ") == 1
        steps = [row["step"] for row in directory.rows() if row["event"] == "train"]
        assert steps == sorted(set(steps))


# ---- several ranks ----------------------------------------------------------------------------------------------------------

DDP = ["precision=fp64", "budget.steps=4", "log_every=1", "optimizer=momentum", "model=lenet5"]


def losses(directory):
    return [row["loss"] for row in directory.rows() if row["event"] == "train"]


@pytest.mark.parametrize(("nodes", "devices"), [pytest.param(1, 2, marks=pytest.mark.exhaustive), (2, 1)])
def test_two_ranks_give_what_one_gives(tmp_path, nodes, devices):
    sweep(tmp_path / "one", *DDP, "seed=0")
    ranks = ["trainer=ddp", f"trainer.num_nodes={nodes}", f"trainer.devices={devices}"]
    submit(tmp_path / "two", *DDP, *ranks, "seed=0")
    assert finish(tmp_path / "two") == ["done"]
    [one], [two] = directories(tmp_path / "one"), directories(tmp_path / "two")
    assert one.run_id == two.run_id
    assert losses(two) == pytest.approx(losses(one), rel=1e-9)
    assert len(losses(two)) == 4
    assert json.loads((two.path / "environment.json").read_text())["ranks"] == 2


@pytest.mark.parametrize(
    ("how", "why"),
    [
        pytest.param("error", "rank 1: RuntimeError: sabotage", marks=pytest.mark.exhaustive),
        ("kill", "rank 1 was killed by SIGKILL"),
    ],
)
def test_a_rank_that_fails_ends_the_others_and_marks_the_run(tmp_path, monkeypatch, how, why):
    sabotage.install(ROOT / "conf", tmp_path / "conf")
    monkeypatch.setenv("OPTBENCH_CONF", str(tmp_path / "conf"))
    words = ["init=sabotage", f"init.notes={tmp_path}", f"init.how={how}", "init.rank=1", "launcher.max_retries=0"]
    submit(tmp_path / "results", *DDP, *words, "trainer=ddp", "seed=0")
    assert finish(tmp_path / "results", 90) == ["failed"]
    [directory] = directories(tmp_path / "results")
    assert why in directory.status().why
    assert [state for state, _ in job_states(tmp_path / "results")] == ["FAILED"]


# ---- one run, and none ------------------------------------------------------------------------------------------------------


def test_one_run_without_multirun_is_submitted(tmp_path, capsys):
    words = ["dataset=digits", "model=mlp", "budget.steps=5", "tracker=none", f"results_dir={tmp_path}", *SLURM]
    status, printed = optbench(capsys, *words)
    assert status == 0
    assert re.search(r"submitted \d+: 1 run in 1 job", printed)
    assert finish(tmp_path) == ["done"]


def test_slurm_debug_writes_the_scripts_and_submits_nothing(tmp_path, capsys):
    before = slurm("squeue", "--noheader", "--states=all")
    output = sweep(tmp_path, "launcher=slurm_debug", "seed=range(3)")
    [path] = re.findall(r"(\S+\.sh): written, not submitted", output)
    assert "#SBATCH --array=0-2" in Path(path).read_text()
    assert states(tmp_path) == ["pending"] * 3
    assert slurm("squeue", "--noheader", "--states=all") == before


def test_a_snapshot_is_what_a_job_runs(tmp_path):
    submit(tmp_path, "seed=0", "launcher.snapshot=true")
    assert finish(tmp_path) == ["done"]
    [plan] = plans(tmp_path)
    [copy] = (plan.path / "code").iterdir()
    assert (copy / "optbench" / "sweep" / "worker" / "process.py").is_file()
    [directory] = directories(tmp_path)
    assert isinstance(directory, RunDirectory)
    script = next((plan.path / "jobs").glob("*.sh")).read_text()
    assert str(copy) in script
