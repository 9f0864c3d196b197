"""Rounds of a search: a pure function of the results, whatever is killed and whoever is faster."""

import random
from contextlib import suppress

import pytest

from optbench.store import files
from optbench.store.files import StoreError
from optbench.sweep.grid import lattice as lattices
from optbench.sweep.plan import Plan
from optbench.sweep.search import asking, methods, reading, record
from optbench.sweep.search.asking import take_searched
from optbench.sweep.search.record import Record
from tests.search.searched import FollowsResults, asker, finish, folders, picks_of, start

pytestmark = pytest.mark.usefixtures("composed_once", "impatient")


@pytest.fixture(autouse=True)
def _follows(monkeypatch):
    monkeypatch.setattr(reading, "method", lambda name: FollowsResults())


def train_to_the_end(plan):
    """One worker, undisturbed."""
    for claim in take_searched(asker(plan), 0, 10**6, lambda: False, lambda asked: None):
        claim.lock.release()
        finish(claim.directory)
    return picks_of(plan)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setattr(reading, "method", lambda name: FollowsResults())
    plan = start(tmp_path_factory.mktemp("undisturbed"))
    picks = train_to_the_end(plan)
    patch.undo()
    return picks


def test_a_search_ends_with_each_cell_chosen_once_and_each_run_planned(undisturbed, tmp_path):
    cells = [tuple(cell.items()) for _, cell, _ in undisturbed]
    assert len(cells) == len(set(cells)) == 20
    assert [number for number, _, _ in undisturbed] == sorted(number for number, _, _ in undisturbed)
    plan = start(tmp_path)
    assert train_to_the_end(plan) == undisturbed
    assert {entry.run_id for entry in plan.entries()} == set(folders(tmp_path)) == {run for _, _, run in undisturbed}


@pytest.mark.parametrize("seed", range(6))
def test_several_workers_in_any_order_make_the_same_picks(seed, tmp_path, undisturbed):
    draw = random.Random(seed)
    plan = start(tmp_path)
    askers = [asker(plan) for _ in range(3)]
    for _ in range(2000):
        one = draw.choice(askers)
        if draw.random() < 0.5:
            if one.ask().outcome == "over":
                break
        else:
            waiting = [
                run for entry in plan.entries() if (run := plan.directory(entry.run_id)).status().state == "pending"
            ]
            if waiting:
                finish(draw.choice(waiting))
    else:
        pytest.fail("the search did not end")
    assert picks_of(plan) == undisturbed


class Killed(BaseException):
    """Stands for a process that is killed between two operations."""


@pytest.mark.parametrize("seed", range(8))
def test_a_kill_at_any_write_leaves_the_same_picks(seed, tmp_path, undisturbed, monkeypatch):
    draw = random.Random(seed)
    plan = start(tmp_path)
    left = [0]
    write = files.write_atomically

    def write_or_die(*arguments, **options):
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        write(*arguments, **options)
        if left[0] == -1:
            raise Killed  # after the write

    for module in ("optbench.sweep.plan", "optbench.sweep.search.record", "optbench.store.run_directory"):
        monkeypatch.setattr(f"{module}.write_atomically", write_or_die)
    kills = 0
    for _ in range(400):
        left[0] = draw.choice([draw.randint(1, 30), -draw.randint(1, 30)])
        if left[0] < 0:
            left[0] = -left[0]
        try:
            with suppress(StoreError):
                if train_to_the_end(plan):
                    break
        except Killed:
            kills += 1
    assert kills >= 5
    left[0] = 10**9
    train_to_the_end(plan)
    assert picks_of(plan) == undisturbed
    assert set(folders(tmp_path)) == {run for _, _, run in undisturbed}


def test_the_last_round_is_not_looked_at(tmp_path, undisturbed):
    plan = start(tmp_path)
    one = asker(plan)
    assert [one.ask().outcome for _ in range(3)] == ["round", "round", "waiting"]
    assert picks_of(plan) == undisturbed[:8]
    first, second = undisturbed[:4], undisturbed[4:8]
    for _, _, run in second:
        finish(plan.directory(run))
    assert one.ask().outcome == "waiting"
    for _, _, run in first:
        finish(plan.directory(run))
    assert one.ask().outcome == "round"
    assert picks_of(plan) == undisturbed[:12]


def test_a_run_that_failed_counts_as_ended(tmp_path):
    plan = start(tmp_path)
    one = asker(plan)
    one.ask()
    one.ask()
    for number, entry in enumerate(plan.entries()):
        run = plan.directory(entry.run_id)
        if number % 2:
            run.set_status("failed", "out of memory")
        else:
            finish(run)
    assert one.ask().outcome == "round"
    states = [each.state for each in one.search.seen(one.search.record())]
    assert states.count("failed") == 4


def test_runs_that_are_there_already_are_not_trained_again(tmp_path, undisturbed):
    plan = start(tmp_path)
    train_to_the_end(plan)
    before = {run: plan.directory(run).status().since for run in folders(tmp_path)}
    again = start(tmp_path, name="other")
    asked = asker(again)
    outcomes = []
    while not outcomes or outcomes[-1] != "over":
        outcomes.append(asked.ask().outcome)
    assert "waiting" not in outcomes
    assert picks_of(again) == undisturbed
    assert {run: plan.directory(run).status().since for run in folders(tmp_path)} == before


def test_a_cell_that_cannot_run_is_a_failed_pick(tmp_path, monkeypatch):
    class OneBad(FollowsResults):
        def choose(self, problem, seen, options):
            if seen:
                return super().choose(problem, [], options) if len(seen) < 2 else asking.Choice(why="enough")
            cell = {"optimizer": "adam", "optimizer.learning_rate": "-1", "batch": "32", "seed": "0"}
            return asking.Choice((asking.Pick(cell),))

    plan = start(tmp_path)
    one = asker(plan)
    one.search.method = OneBad()
    assert one.ask().outcome == "round"
    (bad,) = Record.of(plan.path).chosen
    assert bad.run_id == ""
    assert "optimizer.learning_rate=-1" in bad.why
    assert [each.state for each in one.search.seen(one.search.record())] == ["failed"]
    assert plan.entries() == []


def test_a_damaged_record_is_said_with_its_line(tmp_path):
    plan = start(tmp_path)
    asker(plan).ask()
    path = plan.path / record.PICKS
    path.write_bytes(path.read_bytes() + b'{"round": 1, "cell"\n')
    with pytest.raises(StoreError, match=r"picks\.jsonl is damaged: line 5 is no pick"):
        Record.of(plan.path)


def test_a_sweep_of_a_whole_grid_has_no_search(tmp_path):
    plan = Plan(tmp_path, "grid")
    plan.extend([], {"command": ["--multirun", "seed=0,1"]})  # as versions wrote it that had no searches
    assert reading.Search.of(plan) is None
    plan.extend([], {"command": ["--multirun", "seed=0,1"], "search": {"name": "grid"}})
    assert reading.Search.of(plan) is None


def test_every_search_of_conf_has_a_method():
    from optbench.config import choices

    names = set(choices("search")) - {"grid"}
    assert names == set(methods._METHODS)
    assert {type(methods.method(name)).__name__ for name in names}


def test_the_first_places_of_long_axes_are_spread():
    assert len(lattices._spread(range(1000))) == lattices._SAMPLED
    assert lattices._spread(range(1000))[-1] == 999
