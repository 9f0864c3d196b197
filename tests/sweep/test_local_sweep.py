"""launcher=local through the real command line: what is done, what is not done twice, and what a crash costs."""

import contextlib
import json
import os
import re
import resource
import shutil
import signal
import subprocess
from pathlib import Path

import pytest
import sabotage
from sweeps import (
    LONG,
    ROOT,
    TINY,
    assert_as_if_undisturbed,
    by_seed,
    directories,
    results,
    start,
    states,
    sweep,
    training,
    wait_for,
)

from optbench import config
from optbench.store import RunDirectory, RunLock, load
from optbench.sweep.plan import Plan, plans
from optbench.training import run


@pytest.fixture
def saboteur(tmp_path, monkeypatch):
    """Words for a sweep whose runs with the even seeds crash in the given way; the odd ones do not."""
    sabotage.install(ROOT / "conf", tmp_path / "conf")
    monkeypatch.setenv("OPTBENCH_CONF", str(tmp_path / "conf"))
    return ["init=sabotage", f"init.notes={tmp_path}"]


# ---- the ordinary case ------------------------------------------------------------------------------------------------------


# Each of the sweeps that several tests look at is trained once.
pytestmark = pytest.mark.xdist_group("local_sweep")


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A sweep of four runs that has ended, and what it printed."""
    folder = tmp_path_factory.mktemp("results")
    return folder, sweep(folder, "optimizer=sgd,adam", "seed=range(2)")


def test_every_cell_is_trained(done):
    folder, output = done
    assert states(folder) == ["done"] * 4
    runs = load(folder)
    assert sorted(zip(runs["config.optimizer.name"], runs["config.seed"], strict=True)) == [
        ("adam", 0), ("adam", 1), ("sgd", 0), ("sgd", 1)
    ]  # fmt: skip
    assert re.search(r"4 runs: 4 done", output)


def test_a_warm_worker_gives_what_a_process_of_its_own_gives(done, tmp_path):
    folder, _ = done
    for directory in directories(folder):
        optimizer, seed = directory.config()["optimizer"]["name"], directory.config()["seed"]
        alone = run.execute(
            config.compose(
                [*TINY, f"optimizer={optimizer}", f"seed={seed}", f"results_dir={tmp_path}", "progress=false"]
            )
        )
        assert results(alone.directory) == results(directory)


def test_the_log_of_a_run_holds_its_own_output_only(done):
    folder, _ = done
    for directory in directories(folder):
        log = directory.log.read_text()
        assert log.count("process ") == 1
        assert "step 6/6" in log


def test_the_same_command_does_nothing_and_says_so_quickly(done):
    folder, _ = done
    before = {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")}
    began = resource.getrusage(resource.RUSAGE_CHILDREN)
    output = sweep(folder, "optimizer=sgd,adam", "seed=range(2)")
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "4 runs: 4 done; nothing to do" in output
    # No worker was started: the time, of the processor so that other tests do not count, is that of the imports.
    assert ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime < 8
    assert {path: path.stat().st_mtime_ns for path in (folder / "runs").rglob("*")} == before


def test_a_wider_grid_over_the_same_axes_adds_to_the_same_plan(done, tmp_path):
    shutil.copytree(done[0], tmp_path / "results")
    folder = tmp_path / "results"
    before = {directory.run_id: directory.summary() for directory in directories(folder)}
    output = sweep(folder, "optimizer=sgd,adam", "seed=range(3)")
    assert "6 runs: 4 done, 2 new; starting 2" in output
    assert len(plans(folder)) == 1
    assert len(plans(folder)[0].entries()) == 6
    assert states(folder) == ["done"] * 6
    assert {run_id: RunDirectory.at(folder, run_id).summary() for run_id in before} == before


def test_dry_run_shows_the_plan_and_writes_nothing(done):
    folder, _ = done
    before = sorted(folder.rglob("*"))
    output = sweep(folder, "optimizer=sgd,adam", "seed=range(5)", "dry_run=true")
    assert "10 runs: 4 done, 6 new" in output
    assert re.search(r"seed +0, 1, 2, 3, 4", output)
    assert re.search(
        r"[\d,]+ examples of training in all; about \d+ seconds for 6 runs, by the pace of earlier ones", output
    )
    assert sorted(folder.rglob("*")) == before


def test_force_trains_again_what_is_done(done, tmp_path):
    shutil.copytree(done[0], tmp_path / "results")
    folder = tmp_path / "results"
    since = {directory.run_id: directory.log.read_text().count("process ") for directory in directories(folder)}
    sweep(folder, "optimizer=sgd,adam", "seed=range(2)", "force=true")
    assert states(folder) == ["done"] * 4
    for directory in directories(folder):
        assert directory.log.read_text().count("process ") == since[directory.run_id] + 1
        assert results(directory) == results(RunDirectory.at(done[0], directory.run_id))


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["batch=32,0"], ["cell batch=0", "int >= 1"]),
        (["batch=32,64", "launcher=local,slurm"], ["launcher=local,slurm", "cannot be an axis"]),
        (["seed=0,1", "trainer.devices=2"], ["trainer.devices=2", "launcher=slurm"]),
        (["seed=0,1", "results_dir=README.md"], ["results_dir=README.md", "not a folder"]),
    ],
)
def test_mistakes_are_found_before_anything_is_written(tmp_path, words, parts):
    output = sweep(tmp_path / "results", *words, expect=2)
    assert "Traceback" not in output
    for part in parts:
        assert part in output
    assert not (tmp_path / "results").exists()


# ---- crashes ----------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("error", "RuntimeError: sabotage"),
        ("kill", "killed by SIGKILL"),
        pytest.param("segfault", "killed by SIGSEGV", marks=pytest.mark.exhaustive),
        pytest.param("exit", "crashed with exit status 5", marks=pytest.mark.exhaustive),
    ],
)
def test_a_crash_costs_its_own_run_and_nothing_else(saboteur, tmp_path, how, why):
    words = [*saboteur, f"init.how=nothing,{how}", "seed=range(2)", "launcher.max_retries=1"]
    output = sweep(tmp_path / "results", *words, expect=1)
    found = {True: [], False: []}
    for directory in directories(tmp_path / "results"):
        found[directory.config()["init"]["how"] == "nothing"].append(directory)
    assert [directory.status().state for directory in found[True]] == ["done"] * 2
    for directory in found[False]:
        assert directory.status().state == "failed"
        assert why in directory.status().why
        assert directory.run_id in output
    assert why in output
    # A crash is a death, which is tried once more; an exception is an answer.
    assert len((tmp_path / how).read_text()) == (2 if how == "error" else 4)
    if how == "segfault":
        assert "Fatal Python error" in found[False][0].log.read_text()


@pytest.mark.slow
def test_a_crash_that_does_not_come_back_is_made_good(saboteur, tmp_path):
    output = sweep(tmp_path / "results", *saboteur, "init.how=kill", "init.times=1", "seed=range(3)")
    assert states(tmp_path / "results") == ["done"] * 3
    assert "killed by SIGKILL" in output
    assert [directory.status().crashes for directory in directories(tmp_path / "results")] == [0] * 3


@pytest.mark.slow
def test_failed_runs_are_left_alone_until_they_are_asked_for(saboteur, tmp_path):
    words = [*saboteur, "init.how=error", "init.times=2", "seed=range(2)"]
    sweep(tmp_path / "results", *words, expect=1)
    assert states(tmp_path / "results") == ["failed"] * 2
    assert "2 failed; nothing to do (retry=failed" in sweep(tmp_path / "results", *words)
    assert states(tmp_path / "results") == ["failed"] * 2
    sweep(tmp_path / "results", *words, "retry=failed")
    assert states(tmp_path / "results") == ["done"] * 2


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    sweep(folder, *LONG)
    return by_seed(folder)


@pytest.mark.slow
def test_a_worker_that_is_killed_is_replaced_and_its_run_ends_bit_for_bit_the_same(tmp_path, undisturbed):
    process = start(tmp_path, *LONG)
    directory = wait_for(lambda: training(tmp_path))
    os.kill(directory.status().pid, signal.SIGKILL)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 0, output
    assert "SIGKILL" in output
    assert_as_if_undisturbed(tmp_path, undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.exhaustive)])
def test_a_stopped_sweep_is_continued_by_the_same_command(tmp_path, undisturbed, number):
    process = start(tmp_path, *LONG)
    wait_for(lambda: training(tmp_path))
    process.send_signal(number)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 128 + number, output
    assert "Traceback" not in output
    assert "preempted" in states(tmp_path)
    assert "failed" not in states(tmp_path)
    assert not list(tmp_path.glob("runs/*/lock"))
    sweep(tmp_path, *LONG)
    assert_as_if_undisturbed(tmp_path, undisturbed)


@pytest.mark.slow
def test_a_second_interrupt_stops_at_once(tmp_path, undisturbed):
    process = start(tmp_path, *LONG)
    wait_for(lambda: training(tmp_path))
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == 130
    sweep(tmp_path, *LONG)
    assert_as_if_undisturbed(tmp_path, undisturbed)


@pytest.mark.slow
def test_workers_outlive_the_command_by_no_more_than_their_run(tmp_path, undisturbed):
    process = start(tmp_path, *LONG)
    directory = wait_for(lambda: training(tmp_path))
    worker = directory.status().pid
    job = Plan(tmp_path, plans(tmp_path)[0].name).jobs()[-1]
    os.kill(job["pid"], signal.SIGKILL)  # the process that the workers were forked from
    process.kill()
    process.communicate()
    wait_for(lambda: not Path(f"/proc/{worker}").exists() or "State:\tZ" in Path(f"/proc/{worker}/status").read_text())
    sweep(tmp_path, *LONG)
    assert_as_if_undisturbed(tmp_path, undisturbed)


@pytest.mark.slow
def test_two_commands_at_the_same_moment_train_each_run_once(tmp_path):
    first = start(tmp_path, "seed=range(12)", "budget.steps=60")
    second = start(tmp_path, "seed=range(6,18)", "budget.steps=60", "optimizer=sgd")
    for process in (first, second):
        output = process.communicate(timeout=120)[0]
        assert process.returncode == 0, output
    assert states(tmp_path) == ["done"] * 18
    for directory in directories(tmp_path):
        assert directory.log.read_text().count("process ") == 1
        steps = [row["step"] for row in directory.rows() if row["event"] == "train"]
        assert steps == sorted(set(steps))


@pytest.mark.slow
def test_what_another_process_has_in_hand_is_said_to_be_left_to_it(tmp_path):
    words = ["seed=0", "optimizer=sgd", f"results_dir={tmp_path}"]
    directory = RunDirectory.at(tmp_path, config.run_id(config.compose([*TINY, *words])))
    directory.make()
    with RunLock(directory.lock):
        output = sweep(tmp_path, *words[:2], "sweep=demo")
    assert "1 run: 1 left in " in output
    who = f"process {os.getpid()} on {os.uname().nodename}"
    place = f"python -m optbench status demo --results-dir {tmp_path} shows their state"
    assert f"demo: 1 run left to {who}, at work on it; {place}\n" in output


# ---- file systems ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own, which can be filled and made read-only."""
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], capture_output=True, text=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.strip()}")
    yield place
    subprocess.run(["umount", "-l", str(place)], check=False)


def fill(path):
    """Let ``path`` take all the room that its file system has left."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(bytes(4096))


@pytest.mark.slow
def test_a_full_disk_stops_the_sweep_with_the_reason_and_room_continues_it(small_disk, undisturbed):
    process = start(small_disk, *LONG)
    wait_for(lambda: training(small_disk))
    filler = small_disk / "filler"
    fill(filler)
    output = process.communicate(timeout=60)[0]
    assert process.returncode == 1, output
    assert "No space left on device" in output
    assert "Traceback" not in output
    filler.unlink()
    sweep(small_disk, *LONG, "retry=failed")
    assert_as_if_undisturbed(small_disk, undisturbed)


@pytest.mark.slow
def test_a_folder_that_becomes_read_only_stops_the_sweep_with_the_reason(small_disk, undisturbed):
    process = start(small_disk, *LONG)
    wait_for(lambda: training(small_disk))
    # Over itself, since a file system with open files cannot be made read-only.
    subprocess.run(["mount", "--bind", str(small_disk), str(small_disk)], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", str(small_disk)], check=True)
    output = process.communicate(timeout=60)[0]
    subprocess.run(["umount", "-l", str(small_disk)], check=True)
    assert process.returncode == 1, output
    assert "Read-only file system" in output
    assert "Traceback" not in output
    sweep(small_disk, *LONG, "retry=failed")
    assert_as_if_undisturbed(small_disk, undisturbed)


@pytest.mark.slow
def test_half_written_files_of_a_crash_are_made_good(tmp_path, undisturbed):
    process = start(tmp_path, *LONG)
    wait_for(lambda: training(tmp_path))
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    for directory in directories(tmp_path):
        if (directory.path / "history.jsonl").exists():
            with (directory.path / "history.jsonl").open("a") as file:
                file.write('{"event": "train", "step": 99')
        (directory.path / "summary.json").write_text('{"run_id": "')
        (directory.path / ".summary.json.123-abcd.tmp").write_text("{")
    sweep(tmp_path, *LONG)
    assert_as_if_undisturbed(tmp_path, undisturbed)
    for directory in directories(tmp_path):
        assert json.loads((directory.path / "summary.json").read_text())["status"] == "done"
