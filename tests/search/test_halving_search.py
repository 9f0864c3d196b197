"""search=halving with its record, its plan and workers that train in no time: kills, several workers, retry."""

import random
from collections import Counter

import pytest

from optbench.cli.sweeps import retry
from optbench.store import RunLock
from optbench.store.claims import claim
from optbench.sweep.planned_runs import PlannedRuns
from optbench.sweep.search import reading
from optbench.sweep.search.asking import take_searched
from optbench.sweep.search.record import Record
from tests.search.searched import asker, fraction, start

WORDS = [
    *["dataset=digits", "model=mlp", "tracker=none", "budget.steps=18", "eval_every=2", "optimizer=adam,sgd"],
    *["trial=range(9)", "seed=range(2)"],
]
STEPS, PERIOD = 18, 2
ENDS = {"diverged": 0.15, "failed": 0.3}  # the shares of runs that end so, at any step

pytestmark = pytest.mark.usefixtures("composed_once", "impatient")


def begin(results_dir, **choice):
    return start(results_dir, WORDS, choice={"name": "halving", **choice})


def loss(run_id, step):
    return 1 / step + fraction(run_id) + fraction(run_id, step) / 5


def train(claimed):
    """Train a run as a worker would: row by row, until it is paused or ends; the log keeps each step."""
    directory, until = claimed.directory, claimed.until
    luck, last = fraction("ends", directory.run_id), 2 + int(fraction("last", directory.run_id) ** 4 * (STEPS - 2))
    ends = "diverged" if luck < ENDS["diverged"] else "failed" if luck < ENDS["failed"] else ""
    done = len(directory.rows()) * PERIOD
    with claimed.lock.given_back():
        for step in range(done + PERIOD, STEPS + 1, PERIOD):
            if until is not None and step - PERIOD >= until:
                break
            if ends and step >= last:
                if ends == "failed":
                    directory.set_status("failed", "out of memory")
                else:
                    directory.finish({"status": "diverged", "steps": step}, "diverged")
                return
            with directory.log.open("a") as log:
                log.write(f"{step}\n")
            row = {"event": "evaluation", "step": step, "validation_loss": loss(directory.run_id, step)}
            directory.append(row)
            done = step
        if done < STEPS:
            directory.set_status("paused", f"at step {done} of {STEPS}", step=done)
        else:
            directory.finish({"status": "done", "steps": STEPS, "validation_loss": loss(directory.run_id, STEPS)})


def work(plan, stop=lambda: False):
    """One worker, until the search is over."""
    for claimed in take_searched(asker(plan), 0, 10**6, stop, lambda asked: None):
        train(claimed)


def picks(plan):
    chosen = Record.of(plan.path).chosen
    return [(each.round, tuple(each.pick.cell.values()), each.pick.until) for each in chosen]


def steps_trained(plan):
    """By run, the evaluations that were made, in order."""
    logs = {entry.run_id: plan.directory(entry.run_id).log for entry in plan.entries()}
    return {run: [int(line) for line in log.read_text().split()] for run, log in logs.items() if log.exists()}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    plan = begin(tmp_path_factory.mktemp("undisturbed"))
    work(plan)
    return plan


def states(plan):
    return {entry.run_id: plan.directory(entry.run_id).status().state for entry in plan.entries()}


def test_runs_stop_at_their_rungs_and_each_step_is_trained_once(undisturbed):
    found = picks(undisturbed)
    assert {until for _, _, until in found} == {2, 6, None}
    assert {values for _, values, until in found if until == 2} == {
        (name, str(trial), str(seed)) for name in ("adam", "sgd") for trial in range(9) for seed in range(2)
    }
    counted = Counter(states(undisturbed).values())
    assert counted.keys() == {"paused", "done", "diverged", "failed"}
    assert counted.total() == 36
    assert counted["done"] == sum(until is None for _, _, until in found)
    for steps in steps_trained(undisturbed).values():
        assert steps == list(range(2, steps[-1] + 1, 2))
    asked = asker(undisturbed).ask()
    assert (asked.outcome, asked.why) == ("over", "all 2 brackets are decided")


@pytest.mark.parametrize("seed", range(4))
def test_several_workers_in_any_order_make_the_same_picks(seed, tmp_path, undisturbed):
    draw, plan = random.Random(seed), begin(tmp_path)
    askers = [asker(plan) for _ in range(3)]
    for _ in range(2000):
        one = draw.choice(askers)
        if draw.random() < 0.3:
            if one.ask().outcome == "over":
                break
            continue
        until = Record.of(plan.path).until()
        run_id = draw.choice(list(until)) if until else None
        if run_id and (claimed := claim(plan.directory(run_id), 5, until[run_id])) is not None:
            train(claimed)
    else:
        pytest.fail("the search did not end")
    assert picks(plan) == picks(undisturbed)
    assert steps_trained(plan) == steps_trained(undisturbed)


class Killed(BaseException):
    """Stands for a process that is killed between two operations."""


@pytest.mark.parametrize("seed", range(4))
def test_kills_at_any_write_leave_the_same_picks_and_no_step_trained_twice(seed, tmp_path, undisturbed, monkeypatch):
    from optbench.store import files

    draw, plan, write = random.Random(seed), begin(tmp_path), files.write_atomically
    left = [10**9]

    def write_or_die(*arguments, **options):
        left[0] -= 1
        if left[0] == 0:
            raise Killed
        write(*arguments, **options)

    for module in ("optbench.sweep.plan", "optbench.sweep.search.record", "optbench.store.run_directory"):
        monkeypatch.setattr(f"{module}.write_atomically", write_or_die)
    kills = 0
    for _ in range(200):
        left[0] = draw.randint(1, 40)
        try:
            work(plan)
            break
        except Killed:
            kills += 1
    assert kills >= 5
    assert picks(plan) == picks(undisturbed)
    assert steps_trained(plan) == steps_trained(undisturbed)
    assert states(plan) == states(undisturbed)


def test_a_run_whose_loss_is_not_finite_at_a_rung_is_the_worst_there(tmp_path):
    """JSON holds no infinity; the row has null."""
    plan = begin(tmp_path, seed=0)
    one = asker(plan)
    one.ask()
    for entry in plan.entries():
        claimed = claim(plan.directory(entry.run_id), 5, 2)
        with claimed.lock.given_back():
            claimed.directory.append({"event": "evaluation", "step": 2, "validation_loss": float("inf")})
            claimed.directory.set_status("paused", step=2)
    seen = one.search.seen(one.search.record())
    assert {(each.state, each.value, each.evaluations) for each in seen} == {("paused", None, ((2, float("inf")),))}
    assert one.ask().outcome == "round"  # it waits for nothing


def test_what_is_seen_of_a_run_that_goes_on_is_what_was_known_when_it_was_paused(undisturbed):
    """Its later evaluations depend on which worker was faster."""
    search = reading.Search.of(undisturbed)
    record = search.record()
    again = {each.run_id for each in record.chosen if each.pick.until == 6}
    run_id = next(run for run in sorted(again) if undisturbed.directory(run).status().state == "paused")
    directory = undisturbed.directory(run_id)
    kept = (directory.path / "status.json").read_bytes()
    directory.set_status("running")
    try:
        [seen] = [
            each
            for each, chosen in zip(search.seen(record), {e.run_id: e for e in record.chosen}.values(), strict=True)
            if chosen.run_id == run_id
        ]
        assert (seen.state, seen.value, [step for step, _ in seen.evaluations]) == ("waiting", None, [2])
    finally:
        (directory.path / "status.json").write_bytes(kept)


def test_retry_trains_failed_runs_to_their_rung_and_paused_ones_to_the_end_if_asked(tmp_path, monkeypatch):
    plan = begin(tmp_path)
    work(plan)
    found = states(plan)
    failed = [run for run, state in found.items() if state == "failed"]
    assert failed
    dispatched = []
    monkeypatch.setattr(
        "optbench.sweep.launchers.dispatch.dispatch", lambda plan, run_ids, launcher: dispatched.append(run_ids) or 0
    )
    information = plan.information()
    launcher = asker(plan).search.problem.lattice.samples[0].config["launcher"]
    plan.extend([], {**{key: value for key, value in information.items() if key != "name"}, "launcher": launcher})
    retry([plan.name, "--results-dir", str(tmp_path)])
    assert dispatched.pop() == failed
    before = Record.of(plan.path).until()
    assert before[failed[0]] is not None
    paused = [run for run, state in found.items() if state == "paused"]
    retry([plan.name, "--paused", "--results-dir", str(tmp_path)])
    assert dispatched.pop() == paused
    after = Record.of(plan.path).until()
    assert {run for run in after if after[run] != before[run]} == set(paused)
    assert {after[run] for run in paused} == {None}
    # All go on, and the search is over with a better answer or the same.
    work(plan)
    assert [states(plan)[run] for run in paused].count("paused") == 0
    assert asker(plan).ask().outcome == "over"


def test_a_sweep_of_the_grid_trains_paused_runs_to_their_end_and_the_search_leaves_them(undisturbed):
    search = reading.Search.of(undisturbed)
    cells = {each.run_id: search.problem.lattice.cell(each.pick) for each in search.record().chosen}
    found = states(undisturbed)
    paused = {run for run, state in found.items() if state == "paused"}
    assert {*PlannedRuns(undisturbed, list(cells.values()), False, "none").to_do} == paused
    assert PlannedRuns(undisturbed, list(cells.values()), False, "none", paused=False).to_do == []
    assert PlannedRuns(undisturbed, list(cells.values()), False, "none").in_words().count("paused") == 1


def test_a_lock_is_not_needed_to_leave_a_paused_run_alone(undisturbed):
    run_id = next(run for run, state in states(undisturbed).items() if state == "paused")
    directory = undisturbed.directory(run_id)
    with RunLock(directory.lock):
        assert claim(directory, 5, directory.status().step) is None
