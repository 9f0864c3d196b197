"""search=halving through the real command, whose processes are killed: the same rungs, and no evaluation twice."""

import pytest

from optbench.store import run_directories
from optbench.store.measured import without_measured
from optbench.sweep.plan import Plan
from optbench.sweep.search.record import Record, answers
from tests.search.killed import run, run_and_kill

WORDS = [
    *["dataset=digits", "model=mlp", "tracker=none", "budget.steps=270", "eval_every=30", "checkpoint_every=25"],
    *["optimizer=adam,momentum", "trial=range(9)", "schedule=cosine", "search=halving", "search.round=6"],
    *["launcher.workers=2", "launcher.max_retries=1000", "progress=false", "evaluate_train=64"],
]


def left(results):
    """By run: its state, and all rows but for times."""
    return {
        run.run_id: (run.status().state, run.status().step, [without_measured(row) for row in run.rows()])
        for run in run_directories(results)
    }


def picks(results):
    return [(each.round, dict(each.pick.cell), each.pick.until) for each in Record.of(Plan(results, "s").path).chosen]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_killed_halving_ends_with_the_same_rungs(tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    run(WORDS, undisturbed)
    kills = run_and_kill(WORDS, killed, 3)
    assert kills >= 3
    assert {until for _, _, until in picks(killed)} == {30, 90, None}
    assert picks(killed) == picks(undisturbed)
    assert left(killed) == left(undisturbed)
    assert answers(Plan(killed, "s").path)[-1]["why"] == "all 2 brackets are decided"
