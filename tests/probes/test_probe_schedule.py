import itertools

import pytest

from optbench.probes import ProbeSchedule


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, []),
        ({"every": 4}, [4, 8, 12]),
        ({"every": 20}, []),
        ({"at": (3, 1, 99)}, [1, 3]),
        ({"start": True}, [0]),
        ({"end": True}, [13]),
        ({"log_spaced": 1}, [1, 10]),
        ({"log_spaced": 3}, [1, 2, 5, 10]),  # 10^(1/3) = 2.15, 10^(2/3) = 4.64
        ({"every": 5, "at": (5, 6), "start": True, "end": True}, [0, 5, 6, 10, 13]),
    ],
)
def test_the_steps_at_which_a_probe_measures(options, expected):
    schedule = ProbeSchedule(13, **options)
    assert [step for step in range(14) if schedule.due(step)] == expected
    assert schedule.is_empty == (not expected)


@pytest.mark.parametrize("every", [None, 1, 4])
@pytest.mark.parametrize("log_spaced", [None, 2, 50])
@pytest.mark.parametrize("at", [(), (7, 20)])
def test_next_is_the_first_later_step_that_is_due(every, log_spaced, at):
    schedule = ProbeSchedule(30, every, at, log_spaced, True, True)
    due = [step for step in range(31) if schedule.due(step)]
    for step in range(30):
        assert schedule.next(step) == next(later for later in itertools.count(step + 1) if later in due)


def test_nothing_comes_after_the_last_single_step():
    assert ProbeSchedule(30, at=(7,)).next(7) is None


def test_a_run_that_ends_early_is_measured_at_its_end():
    assert not ProbeSchedule(30, end=True).due(11)
    assert ProbeSchedule(30, end=True).due(11, ending=True)
    assert not ProbeSchedule(30, start=True).due(11, ending=True)


def test_where_a_run_diverges_only_those_measure_that_are_to():
    assert ProbeSchedule(30, on_divergence=True).due(11, diverged=True)
    assert not ProbeSchedule(30, every=11, end=True).due(11, diverged=True)
    assert not ProbeSchedule(30, on_divergence=True).is_empty
