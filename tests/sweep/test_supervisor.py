import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from optbench.sweep.worker.supervisor import TO_BE_RENEWED

PROGRAM = Path(__file__).with_name("scripted_workers.py")
ROOT = Path(__file__).parents[2]
ONE_RUN = ["start a", "end a done"]


class Session:
    def __init__(self, folder, script, state):
        self.folder = folder
        self.process = subprocess.Popen(
            [sys.executable, PROGRAM, folder, json.dumps(script), state],
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            start_new_session=True,
            stderr=subprocess.PIPE,
            text=True,
        )

    def notes(self, name):
        path = self.folder / f"{name}.jsonl"
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def events(self, *kinds):
        return [event for event in self.notes("reports") if event["event"] in kinds]

    def lives(self, worker):
        return [life["pid"] for life in self.notes("lives") if life["worker"] == worker]

    def wait_for(self, condition, seconds=10):
        until = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < until, self.notes("reports")
            time.sleep(0.01)

    def end(self, seconds=10):
        """The exit status; no worker outlives its supervisor."""
        status = self.process.wait(seconds)
        assert not [life["pid"] for life in self.notes("lives") if is_alive(life["pid"])]
        return status


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


@pytest.fixture
def supervise(tmp_path):
    """Start a supervisor; ``script``: what each worker does in each of its lives, see scripted_workers.py."""
    sessions = []

    def start(*script, state="pending"):
        sessions.append(Session(tmp_path, script, state))
        return sessions[-1]

    yield start
    for session in sessions:
        for pid in [session.process.pid, *(life["pid"] for life in session.notes("lives"))]:
            if is_alive(pid):
                os.kill(pid, signal.SIGKILL)
        session.process.communicate()


def test_workers_report_and_end(supervise):
    session = supervise([ONE_RUN], [["start b", "end b diverged"]])
    assert session.end() == 0
    assert sorted((event["event"], event["run"], event["worker"]) for event in session.notes("reports")) == [
        ("end", "a", 0),
        ("end", "b", 1),
        ("start", "a", 0),
        ("start", "b", 1),
    ]


# ---- crashes ------------------------------------------------------------------------------------------------------------------

CRASHES = {
    "kill SIGKILL": "killed by SIGKILL (out of memory?)",
    "kill SIGSEGV": "killed by SIGSEGV",
    "exit 5": "crashed with exit status 5",
    "fail": "crashed with exit status 70",
}


@pytest.mark.parametrize("crash", CRASHES)
def test_a_worker_that_dies_is_replaced_and_its_crash_recorded(supervise, crash):
    session = supervise([["start a", crash], ["start b", "end b done"]], [["start c", "end c done"]])
    assert session.end() == 0
    assert session.events("crash") == [{"event": "crash", "worker": 0, "run": "a", "why": CRASHES[crash]}]
    was = "was " if "killed" in CRASHES[crash] else ""
    assert session.events("crash_recorded") == [
        {"event": "crash_recorded", "run": "a", "why": f"its process {was}{CRASHES[crash]}"}
    ]
    assert sorted(event["run"] for event in session.events("end")) == ["b", "c"]
    assert [len(session.lives(worker)) for worker in (0, 1)] == [2, 1]
    assert ("by the script" in session.process.stderr.read()) == (crash == "fail")


def test_a_run_that_has_died_too_often_has_failed(supervise):
    session = supervise([["start a", "exit 5"], ONE_RUN], state="failed")
    assert session.end() == 1
    [failed] = [event for event in session.events("end") if event["state"] == "failed"]
    assert (failed["run"], failed["worker"], failed["why"]) == ("a", 0, "crashed with exit status 5")


def test_a_worker_that_dies_between_runs_has_no_run_to_lose(supervise):
    session = supervise([[*ONE_RUN, "kill SIGKILL"], ["start b", "end b done"]])
    assert session.end() == 0
    assert [event["run"] for event in session.events("crash")] == [None]
    assert session.events("crash_recorded") == []
    assert [event["run"] for event in session.events("end")] == ["a", "b"]


def test_a_worker_that_dies_before_it_takes_anything_is_given_up(supervise):
    # The other one takes runs all the while: that helps nobody whose own device is broken.
    session = supervise([["sleep 0.1", "exit 5"]], [["runs 20 0.05"]])
    assert session.end() == 1
    assert len(session.lives(0)) == 3
    assert len(session.events("end")) == 20


def test_a_worker_that_takes_a_run_has_its_chances_anew(supervise):
    dying, taking = ["exit 5"], ["start a", "exit 5"]
    session = supervise([dying, dying, taking, dying, dying, ONE_RUN])
    assert session.end() == 0
    assert len(session.lives(0)) == 6


# ---- exit status -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("more", [["start b", "end b failed", "start c", "end c done"], ["give 1"]])
def test_a_failed_run_is_the_exit_status(supervise, more):
    session = supervise([[*ONE_RUN, *more]], [["start d", "end d done"]])
    assert session.end() == 1
    assert len(session.lives(0)) == 1


def test_where_the_file_system_refuses_one_all_are_stopped(supervise):
    session = supervise(
        [["start a", "end a failed", "sleep 0.5", "give 3"]],
        [["listen", "runs 1000 0.1"]],
        [["listen", "runs 1000 0.1"]],
    )
    assert session.end() == 3
    assert [len(session.lives(worker)) for worker in range(3)] == [1, 1, 1]
    assert sorted(event["worker"] for event in session.notes("stopped")) == [1, 2]


# ---- being asked to stop -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "signals", [["SIGTERM"], ["SIGINT"], ["SIGUSR2"], ["SIGTERM", "SIGTERM", "SIGUSR2"], ["SIGUSR2", "SIGINT"]]
)
def test_asked_to_stop_it_asks_each_worker_once(supervise, signals):
    session = supervise([["count"]], [["count"]])
    session.wait_for(lambda: len(session.events("counting")) == 2)
    for name in signals:
        session.process.send_signal(signal.Signals[name])
        time.sleep(0.05)
    assert session.end() == 128 + signal.Signals[signals[0]]
    assert [event["signals"] for event in session.events("received")] == [["SIGTERM"]] * 2


def test_a_worker_that_does_not_listen_yet_learns_of_it_all_the_same(supervise):
    session = supervise([["sleep 0.8", "listen", "runs 1000 0.01"]])
    session.wait_for(lambda: session.lives(0))
    session.process.terminate()
    assert session.end() == 128 + signal.SIGTERM
    assert len(session.events("end")) == 1


def test_a_worker_that_dies_while_all_stop_is_not_replaced(supervise):
    session = supervise([["listen", "start a", "sleep 0.6", "kill SIGKILL"], ONE_RUN])
    session.wait_for(lambda: session.events("start"))
    session.process.terminate()
    assert session.end() == 128 + signal.SIGTERM
    assert len(session.lives(0)) == 1
    assert [event["run"] for event in session.events("crash_recorded")] == ["a"]


def test_a_second_interrupt_ends_all_at_once(supervise):
    session = supervise([["listen", "start a", "sleep 60"]], [["listen", "start b", "sleep 60"]])
    session.wait_for(lambda: len(session.events("start")) == 2)
    session.process.send_signal(signal.SIGINT)
    time.sleep(0.4)
    assert session.process.poll() is None
    session.process.send_signal(signal.SIGINT)
    assert session.process.wait(5) != 0
    session.wait_for(lambda: not any(is_alive(life["pid"]) for life in session.notes("lives")), 5)


def test_workers_without_a_supervisor_end_after_their_run(supervise):
    session = supervise(*[[["listen", "runs 1000 0.1"]]] * 2, [["listen", "runs 1000 3"]])
    session.wait_for(lambda: len(session.events("end")) > 6)
    session.process.kill()
    killed = time.time()
    session.wait_for(lambda: len(session.notes("stopped")) == 3)
    ended = {event["worker"]: event["at"] - killed for event in session.notes("stopped")}
    # The one with the long run keeps nobody else from noticing.
    assert max(ended[0], ended[1]) < ended[2]
    after = [event["worker"] for event in session.notes("begun") if event["at"] > killed]
    assert len(after) == len(set(after)) <= 2  # a report that was already in the pipe


# ---- reports -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("count", "length"), [(3, 200_000), (5000, 20)])
@pytest.mark.parametrize("last", ["give 0", "exit 5"])
def test_reports_arrive_whole_and_in_order(supervise, count, length, last):
    talk = ["start a", f"say {count} {length}", "end a done", last]
    session = supervise([talk, []], [talk, []])
    assert session.end(60) == 0
    for worker in (0, 1):
        said = [event for event in session.events("said") if event["worker"] == worker]
        assert [event["number"] for event in said] == [*range(count)]
        assert all(event["text"] == "é" * length for event in said)
    assert len(session.events("end")) == 2
    assert [event["run"] for event in session.events("crash")] == ([] if last == "give 0" else [None, None])


def test_a_worker_that_asks_for_it_is_renewed_without_a_crash(supervise):
    session = supervise([["start a", "end a failed", f"give {TO_BE_RENEWED}"], ["start b", "end b done"]])
    assert session.end() == 1
    assert len(session.lives(0)) == 2
    assert [(event["event"], event["run"]) for event in session.notes("reports")] == [
        ("start", "a"),
        ("end", "a"),
        ("start", "b"),
        ("end", "b"),
    ]


def test_a_worker_that_was_stopped_alone_tells_in_the_exit_status(supervise):
    session = supervise([["start a", "end a preempted", "give 143"]], [["sleep 0.2", "start b", "end b done"]])
    assert session.end() == 143
