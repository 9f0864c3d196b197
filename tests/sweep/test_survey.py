"""The states of a sweep's runs, told from files written by hand; and putting them back."""

import json
import os
import subprocess
import sys
import time
from datetime import UTC, datetime

import pytest

from optbench.store import RunDirectory, RunLock, processes
from optbench.sweep.plan import Entry, Plan
from optbench.sweep.reset import reset
from optbench.sweep.status.jobs import LocalCommand
from optbench.sweep.status.survey import PHASES, in_words, survey

HERE = os.uname().nodename
FRESH, STALE = 5, 61  # seconds since the last heartbeat
NOBODY = None

pytestmark = pytest.mark.usefixtures("stopped_clock")


def ago(seconds):
    return datetime.fromtimestamp(time.time() - seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def make_run(plan, run_id, state, why="", since=0, host=None, held=NOBODY, progress=None, moved=0):
    """A run as others would have left it; ``held``: seconds since the heartbeat of whoever holds its lock."""
    directory = plan.directory(run_id)
    directory.create("batch: 64\n")
    status = {"state": state, "why": why, "since": ago(since), "host": host, "pid": 4242 if host else None}
    (directory.path / "status.json").write_text(json.dumps(status))
    if held is not NOBODY:
        holder = {"host": host, "machine": "boot", "pid": 4242, "started": "1", "token": "theirs"}
        directory.lock.write_text(json.dumps(holder))
        os.utime(directory.lock, (time.time() - held,) * 2)
    if progress is not None:
        directory.set_progress(*progress)
        os.utime(directory.path / "progress.json", (time.time() - moved,) * 2)
    return directory


def process_called(*words):
    """A process with ``words`` on its command line, which are there to be read once it has printed something."""
    program = "import time; print(flush=True); time.sleep(60)"
    process = subprocess.Popen([sys.executable, "-c", program, *words], stdout=subprocess.PIPE)
    process.stdout.readline()
    return process


@pytest.fixture
def plan(tmp_path):
    plan = Plan(tmp_path, "demo")
    plan.path.mkdir(parents=True)
    return plan


def look(plan, run_ids=("run",), queued=lambda ids: {}, **options):
    plan.extend([Entry(run_id, {"batch": "64"}) for run_id in run_ids], {})
    return survey(plan, queued, **options)


@pytest.mark.parametrize(
    ("run", "state"),
    [
        ({"state": "done"}, "done"),
        ({"state": "diverged"}, "diverged"),
        ({"state": "failed", "why": "RuntimeError"}, "failed"),
        ({"state": "preempted"}, "preempted"),
        ({"state": "paused", "why": "at step 3 of 9"}, "paused"),
        ({"state": "paused", "host": "node7", "held": FRESH, "since": 5}, "running"),
        ({"state": "pending"}, "missing"),
        ({"state": "running", "host": "node7", "held": FRESH}, "running"),
        ({"state": "running", "host": "node7", "held": FRESH, "since": 599}, "running"),
        ({"state": "running", "host": "node7", "held": FRESH, "since": 601}, "stuck"),
        ({"state": "running", "host": "node7", "held": FRESH, "since": 999, "progress": (1, 9, 1.0, 2.0)}, "running"),
        # It moved long ago, and so has begun; or that was an earlier attempt, and this one has only begun.
        ({"state": "running", "host": "node7", "held": FRESH, "since": 999, "progress": (1, 9, 1.0, 2.0), "moved": 700},
         "stuck"),
        ({"state": "running", "host": "node7", "held": FRESH, "since": 5, "progress": (1, 9, 1.0, 2.0), "moved": 700},
         "running"),
        ({"state": "running", "host": "node7", "held": STALE, "since": 100}, "lost"),
        ({"state": "running", "host": "node7"}, "lost"),
        # Taken, but not marked as running yet.
        ({"state": "pending", "host": "node7", "held": FRESH}, "running"),
        ({"state": "preempted", "host": "node7", "held": FRESH, "since": 9999}, "running"),
        ({"state": "pending", "host": "node7", "held": STALE}, "missing"),
    ],
)  # fmt: skip
def test_the_state_of_a_run_for_which_no_job_is_alive(plan, run, state):
    make_run(plan, "run", **run)
    seen = look(plan)
    assert [each.state for each in seen.runs] == [state]
    assert seen.is_over == (state not in ("running", "stuck"))
    assert seen.counts == {each: int(each == state) for each in PHASES}


@pytest.mark.parametrize(
    ("run", "state"),
    [
        ({"state": "pending"}, "queued"),
        ({"state": "preempted", "why": "stopped by SIGTERM at step 3"}, "queued"),
        ({"state": "running", "host": "node7", "held": STALE}, "queued"),
        ({"state": "running", "host": "node7", "held": FRESH}, "running"),
        ({"state": "failed"}, "failed"),
        ({"state": "paused"}, "paused"),
        ({"state": "done"}, "done"),
    ],
)
def test_the_state_of_a_run_while_a_job_is_in_the_queue(plan, run, state):
    make_run(plan, "run", **run)
    plan.note_job(kind="slurm", ids=["7_0", "7_1"], runs=2, folder="jobs")
    plan.note_job(kind="slurm", ids=["9"], runs=1, folder="jobs")
    asked = []

    def queued(ids):
        asked.append(ids)
        return {"7_1": "PENDING"}

    seen = look(plan, queued=queued)
    assert seen.runs[0].state == state
    if state in ("done", "failed"):
        assert asked == []  # nobody waits for an answer that changes nothing
    else:
        assert asked == [["7_0", "7_1", "9"]]
        assert seen.jobs.slurm == {"7_1": "PENDING"}
        assert not seen.is_over


def test_jobs_that_are_over_take_nothing(plan):
    make_run(plan, "run", "pending")
    plan.note_job(kind="slurm", ids=["7_0"], runs=1, folder="jobs")
    assert look(plan, queued=lambda ids: {}).runs[0].state == "missing"


def test_where_squeue_does_not_answer_its_jobs_may_be_alive(plan):
    make_run(plan, "run", "pending")
    plan.note_job(kind="slurm", ids=["7_0"], runs=1, folder="jobs")
    seen = look(plan, queued=lambda ids: None)
    assert (seen.runs[0].state, seen.runs[0].why) == ("queued", "squeue does not answer here")
    assert seen.jobs.unanswered == ["7_0"]


def test_a_local_command_is_alive_while_its_process_is(plan):
    make_run(plan, "run", "pending")
    process = process_called("optbench.sweep.worker.process", "demo")
    try:
        plan.note_job(kind="local", host=HERE, pid=process.pid)
        seen = look(plan)
        assert (seen.runs[0].state, seen.jobs.local) == ("queued", [LocalCommand(HERE, process.pid)])
    finally:
        process.kill()
    while (status := processes.process_of(process.pid)) and status[0] != "Z":
        time.sleep(0.01)
    assert look(plan).runs[0].state == "missing"  # a zombie has ended
    process.communicate()
    assert look(plan).runs[0].state == "missing"


@pytest.mark.parametrize("words", [["demo"], ["optbench.sweep.worker.process", "another"]], ids=" ".join)
def test_a_process_that_has_the_id_of_an_earlier_worker_is_none(plan, words):
    make_run(plan, "run", "pending")
    process = process_called(*words)
    try:
        plan.note_job(kind="local", host=HERE, pid=process.pid)
        assert look(plan).runs[0].state == "missing"
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("since", "at_work", "state"),
    [(110, False, "queued"), (130, False, "missing"), (9999, True, "queued")],
    ids=["starting", "silent", "at work"],
)
def test_a_local_command_elsewhere_is_alive_while_it_works_on_a_run(plan, since, at_work, state):
    make_run(plan, "run", "pending")
    make_run(plan, "other", "running", host="node7", held=FRESH if at_work else STALE)
    line = {"kind": "local", "host": "node7", "pid": 77, "since": ago(since)}
    (plan.path / "jobs.jsonl").write_text(json.dumps(line) + "\n")
    assert look(plan, ["run", "other"]).runs[0].state == state


def test_how_far_a_running_run_is(plan):
    progress = (120, 300, 45.0, 0.25)
    make_run(plan, "run", "running", since=99, host="node7", held=FRESH, progress=progress, moved=3)
    [run] = look(plan).runs
    assert (run.step, run.steps, run.rate, run.loss, run.host, run.pid) == (*progress, "node7", 4242)
    assert run.idle == pytest.approx(3)
    assert run.seconds_left == (300 - 120) / 45
    assert run.cell == {"batch": "64"}


def test_how_long_is_stuck_can_be_said(plan):
    make_run(plan, "run", "running", since=99, host="node7", held=FRESH)
    assert look(plan, stuck_after=100).runs[0].state == "running"
    [run] = look(plan, stuck_after=98).runs
    assert run.state == "stuck"
    assert "process 4242 on node7" in run.why


def test_why_is_told(plan):
    make_run(plan, "lost", "running", host="node7", held=STALE)
    make_run(plan, "failed", "failed", why="RuntimeError: the cable is loose")
    diverged = make_run(plan, "diverged", "diverged")
    (diverged.path / "summary.json").write_text('{"why": "the loss was nan at step 12"}')
    assert [run.why for run in look(plan, ["lost", "failed", "diverged"]).runs] == [
        "its process ended without a word (it was process 4242 on node7)",
        "RuntimeError: the cable is loose",
        "the loss was nan at step 12",
    ]


def test_a_run_that_ends_between_two_looks_is_not_lost(plan, monkeypatch):
    directory = make_run(plan, "run", "running", host="node7")
    status = RunDirectory.status

    def ends_meanwhile(self):
        seen = status(self)
        (directory.path / "status.json").write_text(json.dumps({"state": "done", "since": ago(0)}))
        return seen

    monkeypatch.setattr(RunDirectory, "status", ends_meanwhile)
    assert look(plan).runs[0].state == "done"


ODD = b'{"state": "running", "host": [1], "since": 5, "why": null}'
NUMBERS = b'{"state": "running", "step": Infinity, "steps": NaN, "rate": 1e-320, "loss": true}'
GARBAGE = [NUMBERS, b"", b"{", b"[]", b"null", b'{"state": 3}', ODD, b"\xff\x00"]


@pytest.mark.parametrize("garbage", GARBAGE)
@pytest.mark.parametrize("name", ["status.json", "progress.json", "lock", "summary.json", "config.yaml"])
def test_damaged_files_never_raise(plan, name, garbage):
    for run_id, state in (("run", "running"), ("other", "diverged")):
        directory = make_run(plan, run_id, state, host="node7", held=FRESH, progress=(1, 2, 3.0, 4.0))
        (directory.path / name).write_bytes(garbage)
    (plan.path / "jobs.jsonl").write_bytes(b'{"kind": "local", "pid": "x"}\n{"kind": "slurm", "ids": 7}\n{"kind"')
    seen = look(plan, ["run", "other", "never made"])
    assert len(seen.runs) == sum(seen.counts.values()) == 3
    assert seen.runs[2].state == "missing"
    assert seen.runs[2].why == "status.json is absent"


def test_nothing_is_written(plan):
    make_run(plan, "run", "running", host="node7", held=STALE)
    plan.extend([Entry("run", {})], {})
    before = {path: path.stat().st_mtime_ns for path in plan.results_dir.rglob("*")}
    survey(plan, lambda ids: {})
    assert {path: path.stat().st_mtime_ns for path in plan.results_dir.rglob("*")} == before


@pytest.mark.parametrize(
    ("counts", "words"),
    [
        ({"done": 46, "failed": 2, "lost": 0}, "48 runs: 46 done, 2 failed"),
        ({"done": 1}, "1 run: 1 done"),
        ({}, "0 runs"),
    ],
)
def test_counts_in_words(counts, words):
    assert in_words(counts) == words


# ---- putting runs back --------------------------------------------------------------------------------------------------------


def with_results(plan, run_id, state, crashes=0):
    directory = plan.directory(run_id)
    directory.create("batch: 64\n")
    directory.append({"event": "train", "step": 1})
    directory.checkpoint.parent.mkdir()
    directory.checkpoint.write_bytes(b"weights")
    directory.set_status(state, "why", crashes)
    return directory


@pytest.mark.parametrize(
    ("state", "restart", "kept"),
    [
        ("failed", False, True),
        ("failed", True, False),
        ("running", False, True),  # nobody's: its process died
        ("diverged", False, False),
        ("done", False, False),
    ],
)
def test_reset_puts_back_and_clears_what_starts_over(plan, state, restart, kept):
    directory = with_results(plan, "run", state, crashes=2)
    other = with_results(plan, "other", "preempted")
    assert reset([directory, other], [state], restart) == ["run"]
    assert (directory.status().state, directory.status().crashes) == ("pending", 0)
    assert directory.checkpoint.exists() == (directory.path / "history.jsonl").exists() == kept
    assert other.status().state == "preempted"
    assert not directory.lock.exists()


def test_reset_leaves_alone_what_somebody_works_on(plan):
    directory = with_results(plan, "run", "running")
    with RunLock(directory.lock):
        assert reset([directory], ["running", "failed"]) == []
    assert directory.status().state == "running"


def test_reset_leaves_alone_what_somebody_has_finished_meanwhile(plan, monkeypatch):
    directory = with_results(plan, "run", "failed")
    acquire = RunLock.acquire

    def after_another(self):
        directory.set_status("done")
        acquire(self)

    monkeypatch.setattr(RunLock, "acquire", after_another)
    assert reset([directory], ["failed"]) == []
    assert directory.status().state == "done"
    assert directory.checkpoint.exists()
