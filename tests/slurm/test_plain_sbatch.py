"""slurm/plain.sbatch: one run a job with nothing but sbatch, its ranks started by srun, requeued when it is preempted."""

import sys
import time
from pathlib import Path

import pytest

from optbench.store import RunDirectory

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.xdist_group("slurm")]
SCRIPT = Path(__file__).parents[2] / "slurm" / "plain.sbatch"


def only_run(folder):
    """The one run of ``folder``, or None while there is none."""
    found = [RunDirectory(path) for path in (folder / "runs").glob("*")]
    assert len(found) <= 1
    return found[0] if found else None


def wait_for(condition, seconds=150):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.2)


def submit(cluster, folder, *words, nodes=1, tasks=1):
    cluster.environment["PYTHON"] = sys.executable
    shape = [f"--nodes={nodes}", f"--ntasks-per-node={tasks}", "--array=3", f"--output={folder}/log"]
    settings = [f"results_dir={folder}", "trainer.accelerator=cpu", *words]
    done = cluster.run("sbatch", "--parsable", *shape, SCRIPT, *settings)
    assert done.returncode == 0, done.stderr
    return f"{done.stdout.strip()}_3"


@pytest.mark.parametrize(("nodes", "tasks"), [pytest.param(1, 2, marks=pytest.mark.exhaustive), (2, 1)])
def test_two_ranks(cluster, tmp_path, nodes, tasks):
    submit(cluster, tmp_path, nodes=nodes, tasks=tasks)
    wait_for(lambda: (run := only_run(tmp_path)) and run.is_finished)
    run = only_run(tmp_path)
    assert (run.config()["seed"], run.config()["trainer"]["num_nodes"]) == (3, nodes)
    assert run.status().state == "done"


def test_a_preempted_job_is_requeued_and_continues(cluster, tmp_path):
    job = submit(cluster, tmp_path, "budget.epochs=100", "eval_every=50epoch")
    wait_for(lambda: (run := only_run(tmp_path)) and (run.progress() or {"step": 0})["step"] > 0)
    assert cluster.run("scancel", "--signal=USR2", job).returncode == 0
    wait_for(lambda: only_run(tmp_path).status().state == "preempted")
    wait_for(lambda: only_run(tmp_path).is_finished)
    assert only_run(tmp_path).status().state == "done"
