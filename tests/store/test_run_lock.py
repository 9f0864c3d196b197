import errno
import json
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import optbench.store.lock as lock_module
from optbench.errors import UserError
from optbench.store import RunDirectory, RunLock, RunLocked, StoreError, processes
from optbench.store.lock import Held, look

WORKERS = Path(__file__).with_name("lock_workers.py")
ROOT = Path(__file__).parents[2]


def start(*arguments, **options) -> subprocess.Popen:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.Popen([sys.executable, WORKERS, *map(str, arguments)], env=environment, text=True, **options)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "lock"


@pytest.fixture
def clocks_stand_still(stopped_clock, monkeypatch):
    monkeypatch.setattr(lock_module, "_server_time", lambda file: stopped_clock)


def held_by(path, age=0.0, **changes):
    """Write a lock as another process would have left it ``age`` seconds ago."""
    holder = {"host": "node7", "machine": "boot", "pid": 4242, "started": "1", "token": "theirs"} | changes
    path.write_text(json.dumps(holder))
    touched = time.time() - age
    os.utime(path, (touched, touched))


def dead_process():
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def on_this_machine(**changes):
    return {"host": os.uname().nodename, "machine": processes.this_machine(), **changes}


def test_only_one_object_holds_it(path):
    with RunLock(path):
        with pytest.raises(RunLocked, match=f"process {os.getpid()} on {os.uname().nodename}"), RunLock(path):
            pass
        assert path.exists()
    assert list(path.parent.iterdir()) == []


@pytest.mark.usefixtures("clocks_stand_still")
def test_the_message_names_holder_and_heartbeat(path):
    held_by(path, age=30)
    with pytest.raises(RunLocked, match=r"process 4242 on node7, last heartbeat 30 s ago") as caught:
        RunLock(path).acquire()
    assert isinstance(caught.value, UserError)
    assert (caught.value.host, caught.value.pid) == ("node7", 4242)
    assert caught.value.age == pytest.approx(30)
    assert pickle.loads(pickle.dumps(caught.value)).pid == 4242
    assert json.loads(path.read_text())["token"] == "theirs"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.usefixtures("clocks_stand_still")
@pytest.mark.parametrize(
    ("holder", "free"),
    [
        ({"age": 61}, True),
        ({"age": 59}, False),
        (on_this_machine(pid=os.getpid()), True),  # the process id was used again: another start time
        (on_this_machine(pid=os.getpid(), started=None), False),
        (on_this_machine(pid=os.getpid(), started=processes.process_of(os.getpid())[1]), False),
        (on_this_machine(pid=dead_process()), True),
        ({"pid": dead_process(), "host": os.uname().nodename}, False),  # a container elsewhere with our host name
        ({"pid": dead_process(), "machine": processes.this_machine()}, False),
        ({"pid": -1, "age": 59}, False),  # not a lock we wrote: only its age counts
        ({"pid": -1, "age": 61}, True),
        ({"pid": "4242", "surprise": 1, "age": 61}, True),
    ],
)
def test_which_locks_are_abandoned(path, holder, free):
    held_by(path, **holder)
    if free:
        with RunLock(path):
            assert json.loads(path.read_text())["pid"] == os.getpid()
        assert list(path.parent.iterdir()) == []
    else:
        with pytest.raises(RunLocked):
            RunLock(path).acquire()


@pytest.mark.usefixtures("clocks_stand_still")
@pytest.mark.parametrize(
    ("holder", "abandoned"),
    [
        ({"age": 61}, True),
        ({"age": 59}, False),
        ({"age": 59, "stale_after": 58}, True),
        (on_this_machine(pid=dead_process()), True),
        (on_this_machine(pid=os.getpid(), started=None), False),
        ({"pid": dead_process(), "host": os.uname().nodename}, False),
    ],
)
def test_a_look_tells_the_holder_and_touches_nothing(path, holder, abandoned):
    stale_after = holder.pop("stale_after", 60.0)
    held_by(path, **holder)
    before = path.stat()
    held = look(path, stale_after)
    after = path.stat()
    written = json.loads(path.read_text())
    assert (held.host, held.pid, held.abandoned) == (written["host"], written["pid"], abandoned)
    assert held.age == pytest.approx(holder.get("age", 0))
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.usefixtures("clocks_stand_still")
@pytest.mark.parametrize(("age", "abandoned"), [(59, False), (61, True)])
def test_a_look_at_a_damaged_lock_tells_its_age(path, age, abandoned):
    path.write_text('{"host"')
    os.utime(path, (time.time() - age,) * 2)
    assert look(path) == Held("unknown host", 0, pytest.approx(age), abandoned)


def test_a_look_where_nobody_holds_it(path):
    assert look(path) is None
    with RunLock(path):
        held = look(path)
        assert (held.host, held.pid, held.abandoned) == (os.uname().nodename, os.getpid(), False)
    assert look(path) is None


def test_a_look_that_the_file_system_refuses(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match=r"cannot read .*file/lock"):
        look(tmp_path / "file" / "lock")


def test_an_empty_lock_file_after_a_power_failure_is_taken_over_when_old(path):
    path.touch()
    with pytest.raises(RunLocked, match="damaged"):
        RunLock(path).acquire()
    os.utime(path, (0, 0))
    with RunLock(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()


@pytest.mark.parametrize(("server_age", "free"), [(59, False), (61, True)])
def test_age_is_measured_by_the_clock_of_the_file_server(path, monkeypatch, server_age, free):
    held_by(path, age=-3600)  # the server's clock is an hour ahead of ours
    written = path.stat().st_mtime
    monkeypatch.setattr(lock_module, "_server_time", lambda file: written + server_age)
    if free:
        with RunLock(path):
            pass
    else:
        with pytest.raises(RunLocked, match="59 s ago"):
            RunLock(path).acquire()


def test_heartbeat_touches_the_file(path):
    with RunLock(path, heartbeat=0.02, stale_after=1) as lock:
        os.utime(path, (0, 0))
        deadline = time.monotonic() + 5
        while path.stat().st_mtime == 0 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert path.stat().st_mtime == pytest.approx(time.time(), abs=5)
        assert not lock.lost.is_set()


@pytest.mark.parametrize("replaced", [False, True])
def test_a_lost_lock_is_noticed_and_left_alone(path, replaced):
    lock = RunLock(path, heartbeat=0.02, stale_after=1)
    with lock:
        path.unlink()
        if replaced:
            held_by(path, age=0.5)
            before = path.stat().st_mtime
        assert lock.lost.wait(5)
    if replaced:
        assert json.loads(path.read_text())["token"] == "theirs"
        assert path.stat().st_mtime == before
    else:
        assert not path.exists()


def test_release_leaves_the_lock_of_another(path):
    lock = RunLock(path)
    lock.acquire()
    path.unlink()
    held_by(path)
    lock.release()
    assert lock.lost.is_set()
    assert json.loads(path.read_text())["token"] == "theirs"


def test_a_forked_child_does_not_release(path):
    with RunLock(path) as lock:
        child = os.fork()
        if child == 0:
            lock.release()
            try:
                RunLock(path).acquire()
            except RunLocked:
                os._exit(7)
            os._exit(1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        assert json.loads(path.read_text())["pid"] == os.getpid()
        assert not lock.lost.is_set()
    assert not path.exists()


def test_a_lock_can_be_taken_again(path):
    lock = RunLock(path)
    for _ in range(3):
        with lock:
            assert path.exists()
        assert not path.exists()


def test_killed_holder_is_replaced_at_once_even_as_a_zombie(path):
    process = start("hold", path, 10, 60, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(RunLocked, match=f"process {process.pid} "):
            RunLock(path).acquire()
    finally:
        process.kill()
    deadline = time.monotonic() + 5
    while processes.process_of(process.pid)[0] != "Z" and time.monotonic() < deadline:
        time.sleep(0.01)
    with RunLock(path):  # its parent, this process, has not waited for it yet
        pass
    process.communicate()


def test_a_holder_that_stops_is_replaced_and_learns_of_it(path, monkeypatch):
    process = start("hold", path, 0.05, 0.8, stdout=subprocess.PIPE)
    try:
        assert process.stdout.readline() == "held\n"
        monkeypatch.setattr(lock_module, "this_machine", lambda: "another machine")
        time.sleep(0.9)
        with pytest.raises(RunLocked):  # it beats, though it has held the lock for longer than stale_after
            RunLock(path, 0.05, 0.8).acquire()
        process.send_signal(signal.SIGSTOP)
        time.sleep(0.9)
        with RunLock(path, 0.05, 0.8) as lock:
            process.send_signal(signal.SIGCONT)
            assert process.stdout.readline() == "lost\n"
            assert process.wait(5) == 0
            assert not lock.lost.wait(0.1)
    finally:
        process.kill()
        process.communicate()


def test_eight_processes_hold_it_one_at_a_time(path):
    log, turns = path.with_name("log"), 6
    processes = [start("compete", path, log, turns) for _ in range(8)]
    assert [process.wait(60) for process in processes] == [0] * 8
    lines = log.read_text().splitlines()
    assert len(lines) == 2 * 8 * turns
    for entered, left in zip(lines[::2], lines[1::2], strict=True):
        assert entered.split()[0] == "enter"
        assert left == entered.replace("enter", "leave")
    assert list(path.parent.iterdir()) == [log]


def check_take_over(folder, number, rounds):
    for turn in range(rounds):
        held_by(folder / f"lock{turn}", age=100)
    processes = [start("take_over", folder, number, rounds) for _ in range(number)]
    assert [process.wait(120) for process in processes] == [0] * number
    winners = sorted(map(int, (folder / "winners").read_text().split()))
    assert winners == list(range(rounds))
    # Nothing is left of the fight: no claims, no temporary files.
    assert {file.name for file in folder.iterdir()} == {
        "meeting",
        "winners",
        *(f"lock{turn}" for turn in range(rounds)),
    }


def test_one_of_two_takes_an_abandoned_lock(tmp_path):
    check_take_over(tmp_path, number=2, rounds=60)


@pytest.mark.slow
def test_one_of_six_takes_an_abandoned_lock(tmp_path):
    check_take_over(tmp_path, number=6, rounds=200)


def test_the_slower_of_two_does_not_remove_the_lock_of_the_faster(path, monkeypatch):
    held_by(path, age=100)
    faster, slower = RunLock(path), RunLock(path)
    remove = RunLock._remove

    def overtaken(self, *arguments, **options):
        if self is slower and faster._holder is None:
            faster.acquire()  # between the slower one's look at the abandoned lock and its claim on it
        return remove(self, *arguments, **options)

    monkeypatch.setattr(RunLock, "_remove", overtaken)
    with pytest.raises(RunLocked):
        slower.acquire()
    assert json.loads(path.read_text())["token"] == faster._holder.token
    faster.release()
    assert list(path.parent.iterdir()) == []


def test_a_claimant_that_slept_puts_back_what_it_took(path):
    held_by(path)
    inode = path.stat().st_ino
    RunLock(path)._take_away("an older token")
    assert path.stat().st_ino == inode
    assert list(path.parent.iterdir()) == [path]


def test_a_claimant_that_died_holds_nobody_up(path):
    held_by(path, age=100)
    held_by(path.with_name(".lock.theirs.claim0"), **on_this_machine(pid=dead_process(), token="dead"))
    held_by(path.with_name(".lock.theirs.claim1"), age=100, token="silent")
    with RunLock(path):
        assert json.loads(path.read_text())["pid"] == os.getpid()
    assert list(path.parent.iterdir()) == []


def test_a_claimant_at_work_is_respected(path):
    held_by(path, age=100)
    held_by(path.with_name(".lock.theirs.claim0"), token="other", host="node8", pid=99)
    with pytest.raises(RunLocked, match="process 99 on node8"):
        RunLock(path).acquire()
    assert json.loads(path.read_text())["token"] == "theirs"


def test_a_holder_that_wakes_up_during_the_takeover_keeps_its_lock(path, monkeypatch):
    held_by(path, age=100)
    claim = RunLock._claim

    def woken(self, *arguments):
        claims = claim(self, *arguments)
        os.utime(path)
        return claims

    monkeypatch.setattr(RunLock, "_claim", woken)
    with pytest.raises(RunLocked):
        RunLock(path).acquire()
    assert json.loads(path.read_text())["token"] == "theirs"
    assert list(path.parent.iterdir()) == [path]


def test_a_missing_folder_is_reported_with_its_path(tmp_path):
    with pytest.raises(StoreError, match=r"cannot lock .*absent/lock: No such file"):
        RunLock(tmp_path / "absent" / "lock").acquire()


@pytest.mark.parametrize(("heartbeat", "stale_after"), [(0, 60), (60, 60), (10, 5)])
def test_intervals_that_make_no_sense(path, heartbeat, stale_after):
    with pytest.raises(ValueError, match="heartbeat < stale_after"):
        RunLock(path, heartbeat, stale_after)


# ---- file systems and clocks that are not as they should be --------------------------------------------------------------------


@pytest.fixture(params=[errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK], ids=errno.errorcode.get)
def no_hard_links(request, monkeypatch):
    def refuse(source, target, **options):
        raise OSError(request.param, os.strerror(request.param))

    monkeypatch.setattr(os, "link", refuse)


@pytest.mark.usefixtures("no_hard_links")
def test_without_hard_links_only_one_holds_it_and_nothing_is_left(path):
    with RunLock(path):
        assert look(path).pid == os.getpid()
        with pytest.raises(RunLocked, match=f"process {os.getpid()}"):
            RunLock(path).acquire()
    assert list(path.parent.iterdir()) == []


@pytest.mark.usefixtures("no_hard_links")
@pytest.mark.parametrize("content", ['{"host"', ""])
def test_without_hard_links_an_abandoned_lock_is_taken_over_also_one_that_was_never_filled(path, content):
    held_by(path, **on_this_machine(pid=dead_process()))
    with RunLock(path):
        pass
    path.write_text(content)
    with pytest.raises(RunLocked):  # somebody may be filling it
        RunLock(path).acquire()
    os.utime(path, (time.time() - 61,) * 2)
    with RunLock(path):
        pass
    assert list(path.parent.iterdir()) == []


@pytest.mark.usefixtures("no_hard_links")
def test_without_hard_links_a_run_is_created_once(tmp_path):
    run = RunDirectory.at(tmp_path, "run")
    assert run.create("batch: 1\n") is True
    assert run.create("batch: 1\n") is False
    with pytest.raises(UserError, match="batch"):
        run.create("batch: 2\n")
    # Whoever created it died before the file was filled.
    (run.path / "config.yaml").write_bytes(b"")
    run.create("batch: 1\n")
    assert run.config() == {"batch": 1}


def test_a_file_system_that_refuses_for_another_reason_is_reported(path, monkeypatch):
    def refuse(source, target):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(os, "link", refuse)
    with pytest.raises(StoreError, match=f"cannot lock {path}: Read-only file system"):
        RunLock(path).acquire()


def refuse_every_change(monkeypatch):
    """Let the file system be read-only from now on; reading works."""

    def refuse(*arguments, **options):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    for call in ("link", "unlink", "rename", "replace", "utime"):
        monkeypatch.setattr(os, call, refuse)


def with_it(path):
    return RunLock(path)


def given_back(path):
    lock = RunLock(path)
    lock.acquire()
    return lock.given_back()


@pytest.mark.parametrize("hold", [with_it, given_back])
def test_the_write_that_failed_is_told_not_the_lock_that_could_not_be_given_back(path, monkeypatch, hold):
    def write():
        with hold(path):
            refuse_every_change(monkeypatch)
            raise StoreError("cannot write history: Read-only file system")

    with pytest.raises(StoreError, match="cannot write history"):
        write()


@pytest.mark.parametrize("hold", [with_it, given_back])
def test_a_lock_that_cannot_be_given_back_is_told_where_nothing_else_failed(path, monkeypatch, hold):
    with pytest.raises(StoreError, match=f"cannot unlock {path}: Read-only file system"), hold(path):
        refuse_every_change(monkeypatch)


def test_a_lock_can_be_kept_beyond_the_block(path):
    lock = RunLock(path)
    lock.acquire()
    with lock.given_back() as kept:
        kept.pop_all()
    assert path.exists()
    lock.release()
    assert not path.exists()


def test_a_heartbeat_in_the_future_is_no_lock_for_ever(path):
    held_by(path, age=-3600)
    assert look(path).abandoned
    with pytest.raises(RunLocked):  # its holder may live, and have another clock
        RunLock(path).acquire()
    held = path.stat().st_mtime
    assert held == pytest.approx(time.time(), abs=5)  # from now on it ages
    with pytest.raises(RunLocked):
        RunLock(path).acquire()
    assert path.stat().st_mtime == held
    os.utime(path, (held - 61,) * 2)
    with RunLock(path):
        pass
    assert list(path.parent.iterdir()) == []


def test_a_living_holder_whose_clock_is_ahead_keeps_it(path):
    for _ in range(3):
        held_by(path, age=-3600)  # it touches the lock again before it is stale
        with pytest.raises(RunLocked):
            RunLock(path).acquire()


def test_the_next_holder_removes_what_the_dead_left_beside_the_lock_and_nothing_else(path):
    dead = on_this_machine(pid=dead_process())
    litter = [path.with_name(f".lock.{token}.{kind}") for token, kind in [("a", "new"), ("b", "claim0"), ("c", "old")]]
    for file in litter:
        held_by(file, **dead)
    living = path.with_name(".lock.d.new")
    held_by(living, **on_this_machine(pid=os.getpid(), started=processes.process_of(os.getpid())[1]))
    elsewhere, forgotten = path.with_name(".lock.e.claim0"), path.with_name(".lock.f.claim0")
    held_by(elsewhere)
    held_by(forgotten, age=61)
    other_lock = path.with_name(".plan.lock.a.new")
    held_by(other_lock, **dead)
    with RunLock(path):
        assert sorted(path.parent.iterdir()) == sorted([path, living, elsewhere, other_lock])
