"""A search whose commands, supervisors and workers are killed: the same picks, and no finished run again."""

import pytest

from optbench.store import run_directories
from optbench.sweep.plan import Plan
from optbench.sweep.search.record import answers
from tests.search.killed import run, run_and_kill
from tests.search.searched import picks_of

WORDS = [
    *["dataset=digits", "model=mlp", "tracker=none", "budget.steps=300", "eval_every=150", "checkpoint_every=50"],
    *["optimizer=sgd,adam", "optimizer.learning_rate=geometric(1e-3,1,4)", "batch=32,128", "seed=range(2)"],
    *["search=random", "search.budget=14", "launcher.workers=2", "launcher.max_retries=1000", "progress=false"],
]


def finished(results):
    return {run.run_id: run.status().since for run in run_directories(results) if run.is_finished}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_search_ends_with_the_same_picks_and_no_run_twice(tmp_path):
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    run(WORDS, undisturbed)
    kills = run_and_kill(WORDS, killed, 7, lambda: finished(killed))
    plan = Plan(killed, "s")
    assert kills >= 3
    assert picks_of(plan) == picks_of(Plan(undisturbed, "s"))
    assert answers(plan.path)[-1]["why"] == "the budget of 14 runs is spent"
    assert finished(killed).keys() == finished(undisturbed).keys()
    for directory in run_directories(killed):
        steps = [row["step"] for row in directory.rows() if row["event"] == "evaluation"]
        assert steps == sorted(set(steps))
