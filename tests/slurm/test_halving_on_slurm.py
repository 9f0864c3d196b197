"""search=halving by jobs of a real Slurm: the same rungs as on this machine."""

import pytest
from sweeps import sweep, wait_for
from test_slurm_sweeps import is_over

from optbench.store import run_directories
from optbench.store.measured import without_measured
from optbench.sweep.plan import plans
from optbench.sweep.search.record import Record, answers

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.xdist_group("slurm"), pytest.mark.usefixtures("cluster")]
HALVING = ["optimizer=adam", "trial=range(9)", "budget.steps=18", "eval_every=2", "search=halving"]


def found(folder):
    [plan] = plans(folder)
    picks = [(each.round, dict(each.pick.cell), each.pick.until) for each in Record.of(plan.path).chosen]
    runs = {
        run.run_id: (run.status().state, [without_measured(row) for row in run.rows()])
        for run in run_directories(folder)
    }
    return picks, runs, answers(plan.path)[-1]["why"]


def test_jobs_end_with_the_rungs_of_local_workers(tmp_path):
    here, there = tmp_path / "here", tmp_path / "there"
    sweep(here, *HALVING)
    output = sweep(there, *HALVING, "launcher=slurm", "launcher.signal_delay=30")
    assert "submitted" in output
    wait_for(lambda: is_over(there), 240)
    assert found(there) == found(here)
    assert found(here)[2] == "its bracket is decided"
