"""The display of a sweep, drawn into a string; the clock is the tests' own."""

import io
import time

import pytest
from rich.console import Console

from optbench.sweep.status.display import SweepDisplay, clock
from optbench.sweep.worker.events import Ready, Refused, RunEnded, RunStarted, Searched, WorkerCrashed

DONE, DIVERGED, FAILED, PREEMPTED = "done", "diverged", "failed", "preempted"


@pytest.fixture
def now(monkeypatch):
    """A clock that the test moves: ``now[0] += seconds``."""
    at = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: at[0])
    return at


def display_on(terminal, total=48, width=80, height=24, **options):
    console = Console(
        file=io.StringIO(), force_terminal=terminal, width=width, height=height, markup=False, highlight=False
    )
    return SweepDisplay(console, "demo", total, **options)


def output(display):
    return display.console.file.getvalue()


def drawn(display):
    """The table as it is now, without colors."""
    plain = Console(file=io.StringIO(), width=display.console.width, height=display.console.height, color_system=None)
    plain.print(display.render())
    return plain.file.getvalue().splitlines()


def start(display, worker, run):
    display.report(RunStarted(run, worker=worker))


def end(display, worker, run, state, why="", **more):
    display.report(RunEnded(run, state, why, worker=worker, **more))


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (None, "–"),
        (0, "0:00"),
        (7.4, "0:07"),
        (59.6, "1:00"),
        (192, "3:12"),
        (3723, "1:02:03"),
        (183845, "2 d 03:04:05"),
    ],
)
def test_clock(seconds, shown):
    assert clock(seconds) == shown


def test_lines_where_there_is_no_terminal(now):
    display = display_on(terminal=False, total=5, already=1)
    with display:
        display.report(Ready(2))
        start(display, 0, "adam-1")
        display.refresh(lambda run: pytest.fail("nobody looks at it"))
        end(display, 0, "adam-1", DONE, seconds=3.21)
        end(display, 0, "adam-2", DIVERGED, "the loss was nan at step 12", seconds=0.4)
        end(display, 1, "adam-3", FAILED, "RuntimeError: [the] cable is loose " + 80 * "x", seconds=2)
        end(display, 1, "adam-4", PREEMPTED, "stopped by SIGTERM at step 3", seconds=9.0)
    assert output(display).splitlines() == [
        "[2/5] adam-1: done, 3.2 s",
        "[3/5] adam-2: diverged, 0.4 s: the loss was nan at step 12",
        "[4/5] adam-3: failed, 2.0 s: RuntimeError: [the] cable is loose " + 80 * "x",
        "adam-4: preempted, 9.0 s: stopped by SIGTERM at step 3",
    ]


def test_a_continued_search_has_a_number_of_runs_once_it_says_so(now):
    display = display_on(terminal=False, total=0)
    with display:
        end(display, 0, "a", DONE, seconds=1.0)
        display.report(Searched(chosen=12, ended=9, answer="12 runs", worker=0))
        end(display, 0, "b", DONE, seconds=1.0)
    first, *_, last = output(display).splitlines()
    assert first == "a: done, 1.0 s"
    assert last == "[10/12] b: done, 1.0 s"


def test_a_death_is_told_and_counts_once(now):
    display = display_on(terminal=False, total=2)
    start(display, 0, "adam-1")
    display.report(WorkerCrashed(0, "adam-1", "killed by SIGKILL"))
    end(display, 0, "adam-1", FAILED, "killed by SIGKILL")
    display.report(WorkerCrashed(1, None, "crashed with exit status 70"))
    display.report(Refused("cannot write x: No space left on device"))
    assert output(display).splitlines() == [
        "adam-1: died: killed by SIGKILL",
        "[1/2] adam-1: failed: killed by SIGKILL",
        "worker 1: died: crashed with exit status 70",
        "stopping: cannot write x: No space left on device",
    ]
    assert display.summary() == "2 runs: 1 failed, 1 left in 0:00"


@pytest.mark.parametrize("terminal", [False, True])
def test_nothing_is_shown_when_it_is_switched_off(terminal):
    with display_on(terminal, enabled=False) as display:
        end(display, 0, "adam-1", DONE, seconds=3.2)
        display.refresh(lambda run: None)
    assert output(display) == ""
    assert "1 done" in display.summary()


@pytest.mark.parametrize(
    ("ends", "options", "words"),
    [
        ([DONE] * 46 + [DIVERGED, FAILED], {"total": 48}, "48 runs: 46 done, 1 diverged, 1 failed in 3:12"),
        ([DONE], {"total": 1}, "1 run: 1 done in 3:12"),
        ([DONE, "paused", "paused"], {"total": 4}, "4 runs: 1 done, 2 paused, 1 left in 3:12"),
        ([DONE, PREEMPTED], {"total": 6, "already": 2}, "6 runs: 2 before, 1 done, 1 preempted, 2 left in 3:12"),
    ],
)
def test_the_summary(now, ends, options, words):
    with display_on(terminal=False, **options) as display:
        for number, state in enumerate(ends):
            end(display, 0, f"run{number}", state)
        now[0] += 192
    assert display.summary() == words


def test_a_run_that_was_stopped_and_taken_again_counts_as_it_ended(now):
    display = display_on(terminal=False, total=1)
    end(display, 0, "adam-1", PREEMPTED)
    end(display, 0, "adam-1", DONE, seconds=1)
    assert display.summary() == "1 run: 1 done in 0:00"


def test_time_left_is_the_mean_of_the_finished_over_the_workers(now):
    display = display_on(terminal=True, total=10)
    display.report(Ready(2))
    assert display.seconds_left() is None
    end(display, 0, "run0", DONE, seconds=10.0)
    end(display, 1, "run1", DONE, seconds=14.0)
    assert display.seconds_left() == 8 * 12 / 2
    start(display, 0, "run2")
    now[0] += 5
    assert display.seconds_left() == (8 * 12 - 5) / 2
    now[0] += 100  # this one takes long; it counts as about to end
    assert display.seconds_left() == (8 * 12 - 12) / 2


def test_before_a_run_has_ended_time_left_is_told_by_the_pace_of_those_at_work(now):
    display = display_on(terminal=True, total=10)
    display.report(Ready(2))
    for worker in (0, 1):
        start(display, worker, f"run{worker}")
    now[0] += 7
    display.refresh({"run0": {"step": 3, "steps": 100, "rate": 5.0}, "run1": {"step": 0, "steps": 9, "rate": 0.0}}.get)
    assert display.seconds_left() == (10 * 20 - 2 * 7) / 2


def test_a_last_run_is_not_shared_by_idle_workers(now):
    display = display_on(terminal=True, total=2)
    display.report(Ready(8))
    end(display, 0, "run0", DONE, seconds=10.0)
    assert display.seconds_left() == 10


@pytest.mark.parametrize("width", [80, 200])
def test_the_table(now, width):
    display = display_on(terminal=True, total=48, width=width, already=12)
    display.report(Ready(3))
    long = "momentum-wrn-cifar100-b4096-s3-t12-ec66fe6953"
    start(display, 0, long)
    start(display, 1, "stuck")
    now[0] += 62
    start(display, 2, "fresh")
    end(display, 2, "bad", FAILED, "RuntimeError: " + 200 * "x", seconds=1)
    start(display, 2, "fresh")
    progress = {
        long: {"step": 34, "steps": 4690, "rate": 123.456, "loss": 0.123456, "idle": 0.1},
        "stuck": {"step": 5, "steps": 9, "rate": 2.0, "loss": None, "idle": 75.0},
    }
    display.refresh(progress.get)
    name, counts, bar, header, *workers, problem = drawn(display)
    assert name == "demo"
    assert counts == "13/48 runs, 1 failed, 35 left, 1:02 elapsed, 3:54 to go"
    assert len(bar) == width
    assert header.split() == ["run", "step", "rate", "loss"]
    assert [line.split() for line in workers] == [
        ["0", long, "34/4690", "123/s", "0.1235"],
        ["1", "stuck", "5/9", "idle", "1:15", "–"],
        ["2", "fresh", "for", "0:00"],
    ]
    assert problem.startswith("bad: failed: RuntimeError: xxx")
    assert problem.endswith("…")


def test_a_narrow_terminal_takes_from_the_run_ids_only(now):
    display = display_on(terminal=True, width=50)
    start(display, 0, "momentum-wrn-cifar100-b4096-s3-t12-ec66fe6953")
    display.refresh(lambda run: {"step": 34, "steps": 4690, "rate": 123.456, "loss": 0.123456, "idle": 0.1})
    assert drawn(display)[-1].split() == ["0", "momentum-wrn-cifar100-…", "34/4690", "123/s", "0.1235"]


def test_the_table_stays_within_the_terminal(now):
    display = display_on(terminal=True, height=24)
    display.report(Ready(64))
    for number in range(10):
        end(display, 0, f"bad{number}", FAILED, "why")
    lines = drawn(display)
    assert len(lines) < 24
    assert "and 52 more workers" in lines
    assert lines[-5:] == ["and 6 more before", *(f"bad{number}: failed: why" for number in (6, 7, 8, 9))]


def test_on_a_terminal_the_table_goes_and_what_went_wrong_stays(now):
    with display_on(terminal=True) as display:
        display.report(Ready(1))
        start(display, 0, "adam-1")
        display.refresh(lambda run: {"step": 7, "steps": 9})
        assert "7/9" in output(display)
        display.report(WorkerCrashed(0, "adam-1", "killed by SIGKILL"))
        start(display, 0, "adam-1")
        end(display, 0, "adam-1", DONE, seconds=1.0)
        end(display, 0, "adam-2", FAILED, "RuntimeError: the cable is loose", seconds=1.0)
        before = len(output(display))
    left = output(display)[before:]
    assert "died: killed by SIGKILL; done at another attempt" in left
    assert "failed: RuntimeError: the cable is loose" in left
    assert left.index("adam-1") < left.index("adam-2")
