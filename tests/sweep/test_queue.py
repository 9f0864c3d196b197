import os
import random
import re
import signal
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mortal_workers import DIED, Log, check_done, check_log, die_at, files, fork, make_runs, train, wait, work

from optbench.store import RunLock, tidy
from optbench.store.claims import claim, record_crash, take
from optbench.sweep.plan import Entry, Plan

FILES = {"config.yaml", "config.json", "status.json", "history.jsonl", "history.parquet", "summary.json"}
LOCK_LEFTOVER = re.compile(r"\.lock\.[0-9a-f]{32}\.(new|old|claim\d)")


@pytest.fixture
def run(tmp_path):
    return make_runs(tmp_path, ["run"])[0]


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path / "log")


def die(function, *arguments):
    """Call ``function`` in a process that ends right after it, without a word."""

    def call():
        function(*arguments)
        os._exit(DIED)

    assert wait(fork(call)) == DIED


def lose(directory, max_retries=100):
    """Take the run in a process that dies while it trains."""

    def begin():
        claimed = claim(directory, max_retries)
        directory.set_status("running", crashes=claimed.crashes)

    die(begin)


# ---- any plan, killed anywhere any number of times ---------------------------------------------------------------------------


@st.composite
def histories(draw):
    """Some runs; generations of workers, each with the change to the file system at which it dies (None: at its end)."""
    workers = draw(st.integers(1, 3))
    lives = st.lists(st.none() | st.integers(0, 150), min_size=workers, max_size=workers)
    return {
        "runs": draw(st.integers(1, 4)),
        "steps": draw(st.integers(1, 5)),
        "every": draw(st.integers(1, 6)),
        "generations": [*draw(st.lists(lives, max_size=3)), [None] * workers],
        "supervised": draw(st.booleans()),
    }


def check_history(folder, runs, steps, every, generations, supervised):
    directories = make_runs(folder, [f"run{number}" for number in range(runs)])
    log, killed = Log(folder / "log"), set()
    for lives in generations:
        pids = []
        for number, last_change in enumerate(lives):
            first = number * runs // len(lives)
            pids.append(fork(work, directories, log, steps, every, first, 100, last_change))
        statuses = {pid: wait(pid) for pid in pids}
        assert set(statuses.values()) <= {0, DIED}
        killed |= {pid for pid, status in statuses.items() if status == DIED}
        if supervised:
            for directory in directories:
                record_crash(directory, "its process was killed", max_retries=100)
    check_log(log.lines(), killed)
    for directory in directories:
        check_done(directory, steps)
        # What else there is was left by those who were killed, and stops nobody: a lock on a run that was done.
        with RunLock(directory.lock):
            pass
        assert not directory.lock.exists()
        if not killed:
            assert files(directory) - {"checkpoints/last.ckpt"} == FILES


@settings(max_examples=25, deadline=None)
@given(history=histories())
def test_any_plan_killed_anywhere_ends_with_every_run_done_once(history):
    with tempfile.TemporaryDirectory() as folder:
        check_history(Path(folder), **history)


@pytest.mark.exhaustive
@settings(max_examples=75, deadline=None)
@given(history=histories())
def test_many_plans_killed_anywhere_end_with_every_run_done_once(history):
    with tempfile.TemporaryDirectory() as folder:
        check_history(Path(folder), **history)


def test_a_run_killed_at_each_of_its_changes_is_completed_by_the_next_worker(tmp_path):
    number, status = 0, DIED
    while status == DIED:
        folder = tmp_path / str(number)
        [directory] = make_runs(folder, ["run"])
        log = Log(folder / "log")
        pid = fork(work, [directory], log, 3, 2, 0, 1, number)
        status = wait(pid)
        finished = directory.status().state == "done"
        die(work, [directory], log, 3, 2)
        check_done(directory, 3)
        check_log(log.lines(), {pid})
        if not finished or status == 0:
            # A process that dies while it takes or gives back the lock leaves a file or two that decide nothing.
            left = {name for name in files(directory) if not LOCK_LEFTOVER.fullmatch(name)}
            assert left == FILES | {"checkpoints/last.ckpt"}, number
        number += 1
    assert status == 0
    assert number > 30  # so many crashes were survived
    assert files(directory) == FILES | {"checkpoints/last.ckpt"}


def check_random_kills(folder, runs, kills):
    directories = make_runs(folder, [f"run{number}" for number in range(runs)])
    log = Log(folder / "log")
    seed = random.randrange(1 << 30)
    draw = random.Random(seed)

    def start():
        return fork(work, directories, log, 5, 2, draw.randrange(runs))

    living, killed = [start() for _ in range(3)], set()
    for _ in range(kills):
        time.sleep(draw.random() * 0.04)
        victim = living.pop(draw.randrange(3))
        os.kill(victim, signal.SIGKILL)
        assert wait(victim) in (0, -signal.SIGKILL)
        killed.add(victim)
        living.append(start())
    assert [wait(pid) for pid in living] == [0] * 3, seed
    assert wait(start()) == 0
    check_log(log.lines(), killed)
    taken, left = ([line for line in log.lines() if line[2] == word] for word in ("take", "leave"))
    for directory in directories:
        check_done(directory, 5)
    return len(taken) - len(left)  # how many died in the middle of a run


def test_workers_killed_at_random_moments(tmp_path):
    # Where others keep the processors busy, the moments may all fall between two runs.
    for number in range(5):
        folder = tmp_path / str(number)
        folder.mkdir()
        if check_random_kills(folder, runs=40, kills=25):
            return
    pytest.fail("no worker died in the middle of a run")


@pytest.mark.exhaustive
def test_workers_killed_at_many_random_moments(tmp_path):
    assert check_random_kills(tmp_path, runs=150, kills=400) > 0


# ---- several workers, several plans ------------------------------------------------------------------------------------------


def test_workers_of_overlapping_plans_do_each_run_once(tmp_path, log):
    narrow, wide = Plan(tmp_path, "narrow"), Plan(tmp_path, "wide")
    names = [f"run{number}" for number in range(16)]
    make_runs(tmp_path, names)
    narrow.extend([Entry(name, {}) for name in names[:10]], {})
    wide.extend([Entry(name, {}) for name in names[4:]], {})
    groups = [[plan.directory(entry.run_id) for entry in plan.entries()] for plan in (narrow, wide)]
    # All four begin at the same runs.
    pids = [fork(work, directories, log, 3, 2, first) for directories, first in [*zip(groups, (4, 0), strict=True)] * 2]
    assert [wait(pid) for pid in pids] == [0] * 4
    check_log(log.lines())
    assert sorted(run_id for _, run_id, word in log.lines() if word == "take") == sorted(names)
    for directory in {directory.path: directory for group in groups for directory in group}.values():
        check_done(directory, 3)
        assert files(directory) == FILES | {"checkpoints/last.ckpt"}


def test_a_run_in_other_hands_is_left_alone_until_they_are_gone(run):
    with RunLock(run.lock):
        run.set_status("running")
        assert claim(run, 5) is None
        assert [*take([run])] == []
        assert record_crash(run, "killed", 5).state == "running"
    assert claim(run, 5) is not None


def test_runs_are_taken_in_order_from_the_first_on_and_around(tmp_path):
    directories = make_runs(tmp_path, "abcd")
    taken = []
    for claimed in take(directories, first=2):
        taken.append(claimed.directory.run_id)
        claimed.directory.finish({})
        claimed.lock.release()
    assert taken == ["c", "d", "a", "b"]


def test_a_run_given_back_meanwhile_is_taken_in_the_next_round(tmp_path):
    first, second = make_runs(tmp_path, "ab")
    elsewhere = RunLock(first.lock)
    elsewhere.acquire()
    taken = []
    for claimed in take([first, second]):
        taken.append(claimed.directory.run_id)
        elsewhere.release()
        claimed.directory.finish({})
        claimed.lock.release()
    assert taken == ["b", "a"]


# ---- which runs are taken ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["done", "diverged", "failed"])
def test_runs_that_have_ended_are_not_taken(run, state):
    run.set_status(state, "because")
    assert claim(run, 5) is None
    assert [*take([run])] == []
    assert record_crash(run, "killed", 5).why == "because"
    assert not run.lock.exists()


@pytest.mark.parametrize("state", ["pending", "preempted", "running"])
def test_runs_that_wait_are_taken(run, state):
    run.set_status(state)
    claimed = claim(run, 5)
    assert (claimed.directory, claimed.crashes) == (run, int(state == "running"))
    assert run.lock.exists()


@pytest.mark.parametrize(("until", "taken"), [(29, False), (30, False), (31, True), (None, True)])
def test_a_paused_run_is_taken_only_for_more_of_it(run, until, taken):
    run.set_status("paused", "at step 30 of 90", step=30)
    assert (claim(run, 5, until) is not None) == taken
    assert run.status().state == ("running" if taken else "paused")
    assert run.status().step == (None if taken else 30)


@pytest.mark.parametrize("step", [None, "30", 1.5])
def test_a_paused_run_whose_place_is_not_known_is_taken(run, step):
    run.set_status("paused", step=step)
    assert claim(run, 5, 10) is not None


def test_a_run_that_is_paused_between_the_look_and_the_lock_is_left_alone(run, monkeypatch):
    acquire = RunLock.acquire

    def late(self):
        run.set_status("paused", step=30)
        acquire(self)

    monkeypatch.setattr(RunLock, "acquire", late)
    assert claim(run, 5, 30) is None
    assert not run.lock.exists()


@pytest.mark.parametrize("state", ["done", "diverged", "failed"])
def test_a_run_that_ends_between_the_look_and_the_lock_is_not_done_again(run, state, monkeypatch):
    acquire = RunLock.acquire

    def late(self):
        run.set_status(state)
        acquire(self)

    monkeypatch.setattr(RunLock, "acquire", late)
    assert claim(run, 5) is None
    assert run.status().state == state
    assert not run.lock.exists()


def test_the_lock_is_given_back_when_the_status_cannot_be_read(run, monkeypatch):
    looks = iter([run.status()])
    monkeypatch.setattr(type(run), "status", lambda self: next(looks))
    with pytest.raises(StopIteration):
        claim(run, 5)
    assert not run.lock.exists()


# ---- crashes ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_retries", [0, 1, 3])
@pytest.mark.parametrize("supervised", [False, True])
def test_a_run_whose_process_keeps_dying_fails_in_the_end(run, max_retries, supervised):
    for death in range(1, max_retries + 2):
        assert (run.status().state, run.status().crashes) != ("failed", death)
        lose(run, max_retries)
        assert run.status().state == "running"
        if supervised:
            status = record_crash(run, "its process was killed by SIGKILL", max_retries)
            assert (status.state, status.crashes) == ("failed" if death > max_retries else "pending", death)
    assert claim(run, max_retries) is None
    status = run.status()
    assert (status.state, status.crashes) == ("failed", max_retries + 1)
    why = "its process was killed by SIGKILL" if supervised else "its process ended without a word (it was process "
    assert status.why.startswith(why)
    assert status.why.endswith(f", {max_retries + 1} times in a row") or max_retries == 0
    assert claim(run, max_retries) is None
    assert [*take([run], max_retries=100)] == []
    assert not run.lock.exists()


def test_a_run_that_is_to_go_on_says_what_happened_to_it(run):
    lose(run)
    status = record_crash(run, "its process was killed by SIGKILL", max_retries=1)
    assert status.why == "its process was killed by SIGKILL; to be continued"


def test_why_a_process_died_is_told_where_another_worker_was_quicker_to_note_it(run):
    lose(run)
    assert claim(run, 0) is None
    status = record_crash(run, "its process was killed by SIGKILL", max_retries=0)
    assert (status.state, status.why, status.crashes) == ("failed", "its process was killed by SIGKILL", 1)
    run.set_status("failed", "a reason of its own")
    assert record_crash(run, "its process was killed by SIGKILL", max_retries=0).why == "a reason of its own"


def test_the_reason_of_a_death_comes_after_the_note_of_a_quicker_worker_that_holds_the_lock(run):
    run.set_status("running")
    lock = RunLock(run.lock)
    lock.acquire()

    def note():
        run.set_status("failed", "its process ended without a word (it was process 7 on here)", 1)
        lock.release()

    timer = threading.Timer(0.2, note)
    timer.start()
    status = record_crash(run, "its process was killed by SIGSEGV", max_retries=0)
    timer.join()
    assert (status.state, status.why) == ("failed", "its process was killed by SIGSEGV")


def test_dying_before_the_training_begins_counts_as_well(run):
    for _ in range(2):
        die(claim, run, 1)
    assert claim(run, 1) is None
    assert (run.status().state, run.status().crashes) == ("failed", 2)


def test_a_claimed_run_is_running(run):
    claim(run, 1)
    assert (run.status().state, run.status().pid) == ("running", os.getpid())


def test_an_orderly_stop_forgets_earlier_crashes(run):
    lose(run)
    claimed = claim(run, 1)
    assert claimed.crashes == 1
    run.set_status("preempted")
    claimed.lock.release()
    lose(run)
    claimed = claim(run, 1)
    assert claimed.crashes == 1


def test_a_worker_does_not_start_a_run_once_more_that_has_died_too_often(tmp_path, log):
    directories = make_runs(tmp_path, "abc")

    def fragile_work():
        for claimed in take(directories, max_retries=1):
            log.begin()
            log.say(claimed.directory.run_id, "take")
            if claimed.directory.run_id == "b":
                os._exit(DIED)
            train(claimed.directory, claimed.crashes, 2, 1, log)
            claimed.lock.release()

    assert [wait(fork(fragile_work)) for _ in range(3)] == [DIED, DIED, 0]
    assert [directory.status().state for directory in directories] == ["done", "failed", "done"]
    assert [run_id for _, run_id, word in log.lines() if word == "take"] == ["a", "b", "b", "c"]


def test_what_the_dead_left_half_written_is_removed_by_the_next(run):
    run.checkpoint.parent.mkdir()
    half_written = [run.checkpoint.with_name("last.123.tmp"), run.path / ".status.json.123-ab.tmp"]
    for path in half_written:
        path.write_bytes(b"half")
    # Whoever plans the run once more may be writing this one at this very moment, without the lock.
    (run.path / ".config.json.123-ab.tmp").write_bytes(b"half")
    claimed = claim(run, 1)
    claimed.lock.release()
    assert not any(path.exists() for path in half_written)
    assert (run.path / ".config.json.123-ab.tmp").exists()


def test_what_the_dead_left_in_a_run_that_is_done_is_removed_without_doing_it_again(run):
    run.finish({})

    def die_holding():
        RunLock(run.lock).acquire()
        (run.path / ".lock.ab.claim0").write_bytes(run.lock.read_bytes())
        run.path.joinpath(".summary.json.123-ab.tmp").write_bytes(b"half")

    before = files(run)
    die(die_holding)
    assert files(run) - before == {"lock", ".lock.ab.claim0", ".summary.json.123-ab.tmp"}
    tidy(run)
    assert files(run) == before
    with RunLock(run.lock):  # somebody who lives is left alone
        tidy(run)
        assert run.lock.exists()


def test_the_means_of_dying_leave_a_write_half_done(tmp_path):
    def write(number):
        die_at(number)
        descriptor = os.open(tmp_path / "file", os.O_WRONLY | os.O_CREAT)
        os.write(descriptor, b"abcdef")

    assert [wait(fork(write, number)) for number in range(3)] == [DIED, DIED, 0]
    (tmp_path / "file").unlink()
    assert wait(fork(write, 1)) == DIED
    assert (tmp_path / "file").read_bytes() == b"abc"


def test_the_means_of_dying_leave_a_file_empty_that_was_being_written(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(number):
        die_at(number)
        path.write_bytes(b"new")

    found = [(wait(fork(write, number)), path.read_bytes()) for number in range(3)]
    assert found == [(DIED, b"old"), (DIED, b""), (0, b"new")]
