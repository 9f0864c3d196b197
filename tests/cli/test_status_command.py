"""status, retry, cancel and logs, on runs and sweeps written by hand: nothing is trained."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time

import pytest

from optbench.cli.logs import last_lines
from optbench.config import compose
from optbench.errors import UserError
from optbench.store import RunDirectory, RunLock
from optbench.sweep.plan import Entry, Plan

HERE = os.uname().nodename
LAUNCHER = compose(["launcher.workers=2"])["launcher"]
TRACKER = compose(["tracker=none"])["tracker"]
AXES = {"optimizer": ["adam", "sgd"], "seed": [str(seed) for seed in range(12)]}


pytestmark = pytest.mark.usefixtures("an_empty_folder_and_an_empty_queue")


@pytest.fixture
def dispatched(monkeypatch):
    """The runs that were handed to a launcher: (run ids, launcher), in a list."""
    calls = []
    # Runs are called here after what they are doing, which no configuration has as its run id.
    of_the_machine = {"tracker": TRACKER, "data_dir": "data"}
    monkeypatch.setattr("optbench.cli.sweeps.thaw", lambda run: {**run.config(), **of_the_machine})

    def dispatch(plan, run_ids, launcher):
        calls.append((list(run_ids), launcher))
        return 7

    monkeypatch.setattr("optbench.sweep.launchers.dispatch.dispatch", dispatch)
    return calls


def make_run(run_id, state, why="", optimizer="adam", batch=64, seed=0, crashes=0, **summary):
    directory = RunDirectory.at("results", run_id)
    choices = f"optimizer: {{name: {optimizer}}}\nmodel: {{name: mlp}}\ndataset: {{name: digits}}\n"
    directory.create(f"{choices}batch: {batch}\nseed: {seed}\n")
    directory.set_status(state, why, crashes)
    if state in ("done", "diverged"):
        names = {"optimizer": optimizer, "model": "mlp", "dataset": "digits", "batch": batch, "seed": seed}
        (directory.path / "summary.json").write_text(json.dumps(names | summary))
    return directory


def make_sweep(states, name="demo", **information):
    """A sweep of runs called after what they are doing."""
    plan = Plan("results", name)
    for run_id, state in states.items():
        make_run(run_id, state, why=f"why {run_id}")
    entries = [Entry(run_id, {"optimizer": "adam", "seed": str(number)}) for number, run_id in enumerate(states)]
    plan.extend(
        entries, {"command": ["--multirun", "seed=range(12)"], "axes": AXES, "launcher": LAUNCHER, **information}
    )
    return plan


EVERYTHING = {
    "is-done": "done",
    "is-diverged": "diverged",
    "is-failed": "failed",
    "is-preempted": "preempted",
    "is-lost": "running",
    "is-missing": "pending",
    "is-running": "running",
}


@pytest.fixture
def everything():
    """A sweep with a run in every state that does not need a job; one is running, in this very process."""
    plan = make_sweep(EVERYTHING)
    running = plan.directory("is-running")
    running.set_progress(30, 120, 45.0, 0.25)
    with RunLock(running.lock):
        yield plan


# ---- status NAME --------------------------------------------------------------------------------------------------------------


def test_status_of_a_sweep_tells_what_every_run_does(everything, command):
    everything.directory("is-failed").log.write_text("".join(f"line {number}\n" for number in range(9)))
    status, out, err = command("status", "demo")
    assert (status, err) == (0, "")
    lines = out.splitlines()
    assert lines[:3] == [
        "demo: 7 runs: 1 done, 1 diverged, 1 running, 1 preempted, 1 lost, 1 failed, 1 missing",
        "  optimizer=adam,sgd",
        "  seed=0,1,2,3,4,5,6,7,... (12)",
    ]
    [running] = [line for line in lines if line.startswith("is-running")]
    assert running.split() == ["is-running", "30/120", "45/s", "0:02", "0.25", HERE]
    for number, run_id in enumerate(EVERYTHING):
        if run_id not in ("is-done", "is-running"):
            place = lines.index(f"  {run_id}  (optimizer=adam seed={number})")
            assert lines[place + 1] == f"    why {run_id}"
    place = lines.index("    why is-failed")
    assert lines[place + 1 : place + 7] == [*(f"      | line {number}" for number in range(4, 9)), ""]
    assert "is-done" not in out


def test_status_says_how_to_go_on(everything, command, tmp_path):
    _, out, _ = command("status", "demo")
    assert "python -m optbench retry demo    continues 1 failed, 1 preempted, 1 lost, 1 missing\n" in out
    assert "python -m optbench --multirun 'seed=range(12)'    too" in out
    _, out, _ = command("status", "demo", "--results-dir", tmp_path / "results")
    assert f"python -m optbench retry demo --results-dir {tmp_path / 'results'}    continues" in out


ODD = b'{"state": "running", "step": 1, "steps": 1e99, "rate": 1e-320, "why": 3}'


@pytest.mark.parametrize("content", [b"{", b"[1]", ODD])
@pytest.mark.parametrize("name", ["status.json", "progress.json", "summary.json", "lock", "config.yaml"])
def test_damaged_files_are_no_reason_to_say_nothing(name, content, everything, command):
    for run_id in EVERYTHING:
        (everything.directory(run_id).path / name).write_bytes(content)
    (everything.path / "sweep.json").write_bytes(content)
    for words in (["status"], ["status", "demo"], ["status", "--json"], ["status", "demo", "--json"]):
        status, out, err = command(*words)
        assert (status, err) == (0, "")
        assert "demo" in out


def test_status_counts_paused_runs_and_says_how_to_train_them_to_their_end(command):
    make_sweep({"a": "done", "b": "paused", "c": "paused"})
    _, out, _ = command("status", "demo")
    assert out.startswith("demo: 3 runs: 1 done, 2 paused\n")
    assert out.endswith("python -m optbench retry demo --paused    trains 2 paused to their end\n")
    document = json.loads(command("status", "demo", "--json")[1])
    assert (document["over"], document["counts"]["paused"]) == (True, 2)
    _, out, _ = command("status")
    assert "paused" in out


def test_a_sweep_that_is_done_asks_for_nothing(command, monkeypatch):
    monkeypatch.setattr("optbench.provenance.Vintages.of_finished", lambda vintages, directory: "current")
    make_sweep({"a": "done", "b": "done"})
    status, out, _ = command("status", "demo")
    assert (status, out.splitlines()[0]) == (0, "demo: 2 runs: 2 done")
    assert "python -m optbench" not in out


def test_status_shows_twenty_of_a_kind_and_how_many_more(command):
    make_sweep({f"run{number}": "failed" for number in range(23)})
    _, out, _ = command("status", "demo")
    assert "  run19  (" in out
    assert "  run20  (" not in out
    assert "\n  and 3 more\n" in out


def test_status_names_the_jobs_that_are_alive(command, monkeypatch):
    plan = make_sweep({"a": "pending"})
    plan.note_job(kind="slurm", ids=["7_0", "7_1", "7_2"], runs=1, folder="jobs")
    monkeypatch.setattr("optbench.sweep.launchers.slurm.queued", lambda ids: {"7_1": "PENDING", "7_2": "RUNNING"})
    _, out, _ = command("status", "demo")
    assert "Slurm jobs: 1 pending, 1 running (7_1,7_2)\n" in out
    assert out.startswith("demo: 1 run: 1 queued\n")
    monkeypatch.setattr("optbench.sweep.launchers.slurm.queued", lambda ids: None)
    assert "squeue does not answer here (7_0,7_1,7_2)\n" in command("status", "demo")[1]


@pytest.mark.usefixtures("stopped_clock")
@pytest.mark.parametrize(("seconds", "state"), [(100, "running"), (10, "stuck")])
def test_stuck_after(seconds, state, command):
    plan = make_sweep({"a": "running"})
    directory = plan.directory("a")
    written = json.loads((directory.path / "status.json").read_text())
    (directory.path / "status.json").write_text(json.dumps({**written, "since": "2025-01-31T12:00:00Z"}))
    directory.set_progress(1, 9, 1.0, 0.5)
    os.utime(directory.path / "progress.json", (time.time() - 50,) * 2)
    with RunLock(directory.lock):
        _, out, _ = command("status", "demo", "--stuck-after", seconds)
    assert out.startswith(f"demo: 1 run: 1 {state}\n")
    assert ("no step for 50 s" in out) == (state == "stuck")


RUN_KEYS = {"run_id", "cell", "state", "why", "step", "steps", "rate", "loss", "host", "pid", "idle", "seconds_left"}


def test_status_of_a_sweep_as_json(everything, command):
    everything.note_job(kind="slurm", ids=["7"], runs=1, folder="jobs")
    everything.note_job(kind="local", host="node7", pid=42)
    status, out, err = command("status", "demo", "--json")
    assert (status, err) == (0, "")
    document = json.loads(out)
    assert document.keys() == {"name", "results_dir", "total", "over", "counts", "axes", "search", "jobs", "runs"}
    assert (document["name"], document["results_dir"], document["total"]) == ("demo", "results", 7)
    assert document["axes"] == AXES
    assert document["jobs"] == {"slurm": {}, "slurm_unanswered": [], "local": [{"host": "node7", "pid": 42}]}
    assert document["over"] is False
    queued = {"is-preempted": "queued", "is-lost": "queued", "is-missing": "queued"}  # by the command on node7
    assert {run["run_id"]: run["state"] for run in document["runs"]} == {
        run_id: queued.get(run_id, run_id.removeprefix("is-")) for run_id in EVERYTHING
    }
    assert all(run.keys() == RUN_KEYS for run in document["runs"])
    running = document["runs"][-1]
    assert (running["step"], running["steps"], running["rate"], running["seconds_left"]) == (30, 120, 45.0, 2.0)
    assert running["cell"] == {"optimizer": "adam", "seed": "6"}


# ---- status -------------------------------------------------------------------------------------------------------------------


def test_status_of_all_has_a_line_a_sweep_and_a_line_a_run(everything, command):
    make_sweep({"is-done": "done", "b": "done"}, name="other")
    make_run("alone", "done", optimizer="lamb", test_loss=0.5, test_accuracy=0.875)
    status, out, _ = command("status")
    assert status == 0
    cells = [[cell.strip() for cell in re.split("[│┃]", line)[1:-1]] for line in out.splitlines()]
    assert ["sweep", "done", "diverged", "running", "preempted", "lost", "failed", "missing"] in cells
    assert ["demo", "1/7", "1", "1", "1", "1", "1", "1"] in cells
    assert ["other", "2/2", "", "", "", "", "", ""] in cells
    assert "9 runs in results" in out
    assert ["lamb", "mlp", "digits", "64", "0", "done", "–", "–", "–", "0.5", "87.50 %", "–", "–"] in cells


def test_many_runs_are_shown_in_groups_with_the_medians_of_those_that_are_done(command):
    for number in range(99):
        make_run(f"a{number}", "done", batch=64, test_loss=number, test_accuracy=number / 100)
    make_run("b0", "diverged", batch=512, test_loss=7e9)
    _, out, _ = command("status")
    assert out.count("adam") == 100
    make_run("b1", "failed", batch=512)
    make_run("b2", "preempted", batch=512)
    make_run("c", "done", batch=1024)
    (RunDirectory.at("results", "c").path / "summary.json").write_text("{")
    _, out, _ = command("status")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in out.splitlines() if "adam" in line]
    assert rows == [
        ["digits", "mlp", "adam", "64", "99", "99", "", "", "", "–", "49", "49.00 %", "–"],
        ["digits", "mlp", "adam", "512", "3", "", "1", "1", "1", "–", "–", "–", "–"],
        ["digits", "mlp", "adam", "1024", "1", "1", "", "", "", "–", "–", "–", "–"],
    ]
    assert "103 runs in results" in out


def test_status_of_all_as_json(everything, command):
    make_run("alone", "done", test_loss=float("inf"), test_accuracy=0.875)
    (RunDirectory.at("results", "is-missing").path / "config.yaml").write_text("[")
    document = json.loads(command("status", "--json")[1])
    assert document.keys() == {"results_dir", "sweeps", "runs"}
    [sweep] = document["sweeps"]
    assert (sweep["name"], sweep["total"], sweep["over"], sweep["counts"]["failed"]) == ("demo", 7, False, 1)
    runs = {run["run_id"]: run for run in document["runs"]}
    assert runs.keys() == {"alone", *EVERYTHING}
    assert (runs["alone"]["optimizer"], runs["alone"]["test_accuracy"], runs["alone"]["test_loss"]) == (
        "adam",
        0.875,
        None,
    )
    assert runs["is-failed"]["why"] == "why is-failed"
    assert "damaged" in runs["is-missing"]["problem"]
    assert runs["alone"]["problem"] == ""


def test_squeue_that_does_not_answer_is_asked_once(command, monkeypatch):
    for name in ("one", "two"):
        make_sweep({"a": "pending"}, name=name).note_job(kind="slurm", ids=["7"], runs=1, folder="jobs")
    asked = []
    monkeypatch.setattr("optbench.sweep.launchers.slurm.queued", asked.append)
    assert command("status")[0] == 0
    assert asked == [["7"]]


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["status", "dmeo"], ["dmeo", "did you mean demo"]),
        (["status", "demo", "more"], ["more", "usage: optbench status"]),
        (["status", "demo", "--stuck-after", "0"], ["--stuck-after 0", "> 0"]),
        (["status", "demo", "--stuck-after", "nan"], ["--stuck-after nan", "> 0"]),
        (["status", "demo", "--watch"], ["--watch", "needs a terminal"]),
        (["retry"], ["NAME", "usage: optbench retry"]),
        (["retry", "dmeo"], ["dmeo", "did you mean demo"]),
        (["retry", "demo", "--run", "nothing-like-it"], ["nothing-like-it", "accepted is a run id"]),
        (["retry", "demo", "--run", "stranger"], ["stranger", "not a run of the sweep demo"]),
        (["retry", "demo", "--run", "is-running"], ["is-running", "being worked on", HERE]),
        (["retry", "demo", "--run", "is-done"], ["is-done", "force=true"]),
        (["cancel", "dmeo"], ["dmeo", "did you mean demo"]),
        (["logs", "nothing-like-it"], ["nothing-like-it", "accepted is a run id"]),
        (["logs", "is-done", "-n", "-1"], ["--lines -1", ">= 0"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_a_mistake_is_one_message(words, parts, everything, command, dispatched):
    make_run("stranger", "failed")
    status, out, err = command(*words)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("optbench: ")
    for part in parts:
        assert part in err
    assert dispatched == []


def test_watch_shows_until_all_is_over_and_leaves_the_last_view():
    plan = make_sweep({"a": "running"})
    plan.directory("a").set_progress(30, 120, 45.0, 0.25)
    terminal, inner = pty.openpty()
    with RunLock(plan.directory("a").lock):
        process = subprocess.Popen(
            [sys.executable, "-m", "optbench", "status", "demo", "--watch"],
            stdin=inner, stdout=inner, stderr=inner, env={**os.environ, "TERM": "xterm", "COLUMNS": "80"},
        )  # fmt: skip
        os.close(inner)
        shown = read_until(terminal, b"30/120")
        plan.directory("a").set_status("done")
    shown += read_until(terminal, b"1 done")
    assert process.wait(20) == 0
    os.close(terminal)
    assert b"1 running" in shown
    assert shown.index(b"30/120") < shown.index(b"1 done")


def read_until(terminal, wanted, seconds=20):
    shown, deadline = b"", time.monotonic() + seconds
    while wanted not in shown and time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 1 << 16)
    assert wanted in shown
    return shown


# ---- retry --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], ["is-failed", "is-preempted", "is-lost", "is-missing"]),
        (["--failed"], ["is-failed"]),
        (["--diverged"], ["is-diverged"]),
        (["--failed", "--diverged"], ["is-diverged", "is-failed"]),
        (["--run", "is-lost"], ["is-lost"]),
        (["--run", "is-pre", "--run", "is-div"], ["is-preempted", "is-diverged"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_retry_starts_what_it_is_asked_for(words, expected, everything, command, dispatched):
    before = {run_id: everything.directory(run_id).status() for run_id in EVERYTHING}
    status, out, _ = command("retry", "demo", *words)
    assert status == 7
    assert out == f"demo: {len(expected)} run{'s' * (len(expected) > 1)} again\n"
    assert dispatched == [(expected, LAUNCHER)]
    for run_id in EVERYTHING:
        state = everything.directory(run_id).status().state
        if run_id in expected and run_id != "is-preempted":
            assert state == "pending"  # what a worker takes
        else:
            assert everything.directory(run_id).status() == before[run_id]


@pytest.mark.parametrize(
    ("words", "expected"), [([], None), (["--failed"], None), (["--paused"], ["b", "c"]), (["--run", "c"], ["c"])]
)
def test_retry_continues_paused_runs_only_when_it_is_asked_for_them(words, expected, command, dispatched):
    plan = make_sweep({"a": "done", "b": "paused", "c": "paused"})
    for run_id in ("b", "c"):
        plan.directory(run_id).checkpoint.parent.mkdir()
        plan.directory(run_id).checkpoint.write_bytes(b"weights")
    status, out, _ = command("retry", "demo", *words)
    if expected is None:
        assert (status, out) == (0, "demo: nothing to retry (1 done, 2 paused)\n")
    assert [runs for runs, _ in dispatched] == ([] if expected is None else [expected])
    for run_id in ("b", "c"):
        assert plan.directory(run_id).status().state == ("pending" if run_id in (expected or []) else "paused")
        assert plan.directory(run_id).checkpoint.exists()


@pytest.mark.parametrize(
    ("words", "cleared"),
    [
        ([], {"is-diverged": False, "is-failed": False, "is-preempted": False, "is-lost": False}),
        (["--restart"], {"is-failed": True, "is-preempted": False, "is-lost": False, "is-diverged": False}),
        (["--diverged"], {"is-diverged": True, "is-failed": False}),
        (["--run", "is-preempted", "--restart"], {"is-preempted": True, "is-failed": False}),
        (["--run", "is-lost", "--restart"], {"is-lost": True, "is-failed": False}),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_starts_over_and_what_goes_on_from_its_checkpoint(words, cleared, everything, command, dispatched):
    for run_id in cleared:
        checkpoint = everything.directory(run_id).checkpoint
        checkpoint.parent.mkdir()
        checkpoint.write_bytes(b"weights")
    command("retry", "demo", *words)
    assert {run_id: not everything.directory(run_id).checkpoint.exists() for run_id in cleared} == cleared


def test_retry_forgets_earlier_crashes(command, dispatched):
    plan = make_sweep({"a": "failed", "b": "running"})
    plan.directory("a").set_status("failed", crashes=3)
    plan.directory("b").set_status("running", crashes=3)
    command("retry", "demo")
    assert [plan.directory(run_id).status().crashes for run_id in ("a", "b")] == [0, 0]


def test_retry_with_nothing_to_do_says_so(command, dispatched):
    make_sweep({"a": "done", "b": "diverged"})
    status, out, _ = command("retry", "demo")
    assert (status, out) == (0, "demo: nothing to retry (1 done, 1 diverged)\n")
    assert dispatched == []


def test_retry_leaves_to_a_job_in_the_queue_what_it_will_take(command, dispatched, monkeypatch):
    plan = make_sweep({"a": "pending", "b": "failed", "c": "preempted"})
    plan.note_job(kind="slurm", ids=["7"], runs=3, folder="jobs")
    monkeypatch.setattr("optbench.sweep.launchers.slurm.queued", lambda ids: {"7": "PENDING"})
    command("retry", "demo")
    command("retry", "demo", "--run", "c")  # unless it is named
    assert [run_ids for run_ids, _ in dispatched] == [["b"], ["c"]]


def test_retry_passes_by_runs_whose_directory_is_gone(command, dispatched):
    plan = make_sweep({"a": "failed"})
    plan.extend([Entry("gone", {})], plan.information())
    _, out, _ = command("retry", "demo")
    assert "the directories of 1 run are gone" in out
    assert dispatched == [(["a"], LAUNCHER)]


def test_retry_of_a_sweep_that_does_not_know_its_launcher(command, dispatched):
    make_sweep({"a": "failed"}, launcher=None)
    status, _, err = command("retry", "demo")
    assert status == 2
    assert "sweep.json names no launcher" in err


# ---- cancel -------------------------------------------------------------------------------------------------------------------


def process_called(*words):
    """A process with ``words`` on its command line, which are there to be read once it has printed something."""
    program = "import time; print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program, *words], stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


def test_cancel_stops_the_jobs_that_are_alive_and_the_local_command(command, monkeypatch):
    plan = make_sweep({"a": "pending"})
    plan.note_job(kind="slurm", ids=["7_0", "7_1", "7_2"], runs=3, folder="jobs")
    cancelled = []
    monkeypatch.setattr("optbench.sweep.launchers.slurm.queued", lambda ids: {"7_1": "PENDING", "7_2": "RUNNING"})
    monkeypatch.setattr("optbench.sweep.launchers.slurm.cancel", lambda ids, name: cancelled.extend(ids))
    worker = process_called("optbench.sweep.worker.process", "results", "demo")
    bystander = process_called("something", "else")
    try:
        for process in (worker, bystander):
            plan.note_job(kind="local", host=HERE, pid=process.pid)
        status, out, _ = command("cancel", "demo")
        assert status == 0
        assert out.splitlines() == [
            "demo: cancelled 2 Slurm jobs (7)",
            f"demo: asked process {worker.pid} to stop; its runs write a checkpoint first",
        ]
        assert cancelled == ["7_1", "7_2"]
        assert worker.wait(10) == -signal.SIGTERM
        assert bystander.poll() is None  # it has a number that a worker had once
    finally:
        for process in (worker, bystander):
            process.kill()
            process.communicate()


def test_cancel_says_what_it_cannot_stop(command, monkeypatch):
    plan = make_sweep({"a": "pending"})
    plan.note_job(kind="slurm", ids=["7_0", "7_1"], runs=3, folder="jobs")
    plan.note_job(kind="local", host="node7", pid=42)
    monkeypatch.setattr("optbench.sweep.launchers.slurm.queued", lambda ids: None)
    monkeypatch.setattr("optbench.sweep.launchers.slurm.cancel", lambda ids, name: pytest.fail("it was not asked to"))
    status, out, _ = command("cancel", "demo")
    assert status == 1
    assert "squeue does not answer here; its Slurm jobs may be alive (7)" in out
    assert "process 42 on node7 can only be stopped there" in out


def test_cancel_stops_workers_that_have_lost_their_command(command):
    plan = make_sweep({"a": "running"})
    held = "import sys, time; from optbench.store import RunLock; RunLock(sys.argv[1]).acquire(); print(flush=True)"
    words = [
        sys.executable,
        "-c",
        f"{held}; time.sleep(60)",
        plan.directory("a").lock,
        "optbench.sweep.worker.process",
        "demo",
    ]
    worker = subprocess.Popen(words, stdout=subprocess.PIPE)
    try:
        worker.stdout.readline()
        status, out, _ = command("cancel", "demo")
        expected = (
            f"demo: asked process {worker.pid}, whose command is gone, to stop; its run writes a checkpoint first\n"
        )
        assert (status, out) == (0, expected)
        assert worker.wait(10) == -signal.SIGTERM
    finally:
        worker.kill()
        worker.communicate()


def test_cancel_leaves_alone_who_does_not_belong_to_the_sweep(everything, command):
    status, out, _ = command("cancel", "demo")
    expected = f"demo: is-running is worked on by process {os.getpid()} on {HERE}, which is left alone\n"
    assert (status, out) == (1, expected)


def test_cancel_with_nothing_at_work(command):
    make_sweep({"a": "pending"})
    assert command("cancel", "demo") == (0, "demo: nothing is at work on it\n", "")


# ---- logs ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "count", "lines"),
    [
        (b"", 3, []),
        (b"one\ntwo\nthree\n", 2, ["two", "three"]),
        (b"one\ntwo\nthree", 2, ["two", "three"]),
        (b"one\ntwo\n", 9, ["one", "two"]),
        (b"one\n\ntwo\n", 2, ["", "two"]),
        (b"one\n", 0, []),
        (b"10 %\r50 %\r100 %\r\nnext\n", 2, ["100 %", "next"]),
        (b"caf\xe9 \xf0\x9f\n", 1, ["caf� �"]),
        (b"x" * 200_000 + b"\n" + b"y" * 200_000 + b"\nend\n", 2, ["y" * 200_000, "end"]),
    ],
)
def test_last_lines(content, count, lines, tmp_path):
    (tmp_path / "log.txt").write_bytes(content)
    assert last_lines(tmp_path / "log.txt", count) == lines


def test_last_lines_of_no_file(tmp_path):
    assert last_lines(tmp_path / "log.txt", 3) == []


@pytest.mark.parametrize(("words", "shown"), [([], "one\ntwo\nthree\n"), (["-n", "2"], "two\nthree\n")])
def test_logs_prints_the_log(words, shown, command):
    make_run("adam-1", "failed").log.write_text("one\ntwo\nthree\n")
    make_run("sgd-1", "failed")
    assert command("logs", "adam", *words) == (0, shown, "")


def test_logs_of_a_run_that_has_printed_nothing(command):
    make_run("adam-1", "pending")
    assert command("logs", "adam-1") == (0, "adam-1: pending, has printed nothing (results/runs/adam-1/log.txt)\n", "")


@pytest.mark.parametrize("state", ["done", "paused"])
def test_logs_follow_until_the_run_ends_or_is_paused(state, command):
    directory = make_run("adam-1", "running")
    directory.log.write_text("one\ntwo\n")

    def go_on():
        time.sleep(0.2)
        with directory.log.open("a") as file:
            file.write("three\n")
        directory.set_status(state)

    writer = threading.Thread(target=go_on)
    writer.start()
    assert command("logs", "adam-1", "--follow", "-n", "1") == (0, "two\nthree\n", "")
    writer.join()


def test_the_parser_refuses_with_the_usage():
    from optbench.cli.parser import Parser

    with pytest.raises(
        UserError, match=r"^demo: unrecognized arguments: more; usage: optbench demo \[-h\] \[--config-dir DIR\]$"
    ):
        Parser(prog="optbench demo").parse_args(["more"])
