"""A search whose runs are not trained: their results are a function of the cell, written as a worker would write them."""

import hashlib
from pathlib import Path

from optbench.store import RunLock
from optbench.sweep.grid.again import compose_again
from optbench.sweep.grid.lattice import Lattice
from optbench.sweep.plan import Plan
from optbench.sweep.search import reading
from optbench.sweep.search.asking import Asker
from optbench.sweep.search.method import Answer, Choice, Pick

WORDS = [
    "dataset=digits",
    "model=mlp",
    "tracker=none",
    "budget.epochs=2",
    "optimizer=sgd,adam",
    "optimizer.learning_rate=0.001,0.01,0.1",
    "batch=32,128",
    "seed=range(3)",
]
DIVERGED = 0.15  # of the runs


def fraction(*words):
    """A number in [0, 1) that depends on the words alone."""
    return int.from_bytes(hashlib.sha256(repr(words).encode()).digest()[:6]) / 2**48


class FollowsResults:
    """Chooses by the values seen so far, so that a choice made from other results is another choice."""

    needs_evaluations = False

    def check(self, problem, options):
        """Accept every problem."""

    def choose(self, problem, seen, options):
        (grid,) = problem.grids
        facts = [(sorted(each.pick.cell.items()), each.state, each.value, each.steps, each.round) for each in seen]
        known = {tuple(sorted(each.pick.cell.items())) for each in seen}
        if len(known) >= 20:
            return Choice(why="twenty cells are enough")
        picks = []
        for number in range(200):
            cell = {key: values[int(fraction(facts, number, key) * len(values))] for key, values in grid.axes.items()}
            if tuple(sorted(cell.items())) not in known and len(picks) < options.round_size:
                known.add(tuple(sorted(cell.items())))
                picks.append(Pick(cell))
        return Choice(tuple(picks))

    def answer(self, problem, seen, options):
        return Answer(f"{sum(each.value or 0 for each in seen):.3f}")


def start(results_dir, words=WORDS, name="s", choice=None):
    """Start a search of `FollowsResults` as the command does; returns its plan."""
    lattice = compose_again([*words, "search=random", f"results_dir={results_dir}"])
    assert isinstance(lattice, Lattice)
    plan = Plan(results_dir, name)
    found = reading.Search.planned(plan, lattice, {**lattice.samples[0].config["search"], **(choice or {})})
    command = ["--multirun", *words, "search=random", f"results_dir={results_dir}"]
    plan.extend([], {"command": command, "search": found.information(), "launcher": {}})
    return plan


def asker(plan):
    """A worker's asker of the search of ``plan``."""
    search = reading.Search.of(plan)
    assert search is not None
    return Asker(search)


def finish(run):
    """End a run that is pending as a worker would: done, or diverged, with a value that depends on its id alone."""
    with RunLock(run.lock):
        if run.status().state not in ("pending", "running"):
            return
        luck = fraction(run.run_id)
        diverged = luck < DIVERGED
        summary = {"status": "diverged" if diverged else "done", "steps": 1 if diverged else 42}
        if not diverged:
            summary["validation_loss"] = luck
        run.finish(summary, summary["status"])


def picks_of(plan):
    """The picks in the order of choice, by round."""
    from optbench.sweep.search.record import Record

    return [(each.round, dict(each.pick.cell), each.run_id) for each in Record.of(plan.path).chosen]


def folders(results_dir):
    """The runs that were planned."""
    return sorted(path.name for path in (Path(results_dir) / "runs").iterdir())
