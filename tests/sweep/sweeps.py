"""Parts that the tests of sweeps share: the real command line as a process, and what it left behind."""

import os
import subprocess
import sys
import time
from pathlib import Path

from optbench.store import RunDirectory
from optbench.store.measured import without_measured

ROOT = Path(__file__).parents[2]
TINY = ["dataset=digits", "model=mlp", "budget.steps=6", "evaluate_train=64", "tracker=none", "trainer.accelerator=cpu"]

# Long enough to be disturbed, with checkpoints on the way.
LONG = [
    "budget.steps=3000",
    "checkpoint_every=50",
    "eval_every=1000",
    "log_every=100",
    "optimizer=adam",
    "seed=range(2)",
]


def start(folder, *words, **environment):
    """A sweep's command with its output to be read; two workers."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}:{Path(__file__).parent}"} | environment
    command = [sys.executable, "-m", "optbench", "-m", *TINY, "launcher.workers=2", f"results_dir={folder}", *words]
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def sweep(folder, *words, expect=0, **environment):
    """Run a sweep to its end; returns what it printed."""
    process = start(folder, *words, **environment)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == expect, output
    return output


def directories(folder):
    return sorted((RunDirectory(path) for path in (Path(folder) / "runs").iterdir()), key=lambda run: run.run_id)


def states(folder):
    return [directory.status().state for directory in directories(folder)]


def by_seed(folder):
    return {directory.config()["seed"]: directory for directory in directories(folder)}


def results(directory):
    """Everything but times and where it was trained."""
    summary = without_measured(directory.summary())
    rows = [{name: value for name, value in row.items() if name != "seconds"} for row in directory.rows()]
    return summary, rows


def assert_as_if_undisturbed(folder, undisturbed):
    assert states(folder) == ["done"] * len(undisturbed)
    for seed, directory in by_seed(folder).items():
        assert results(directory) == results(undisturbed[seed])


def wait_for(condition, seconds=60):
    until = time.time() + seconds
    while time.time() < until:
        if found := condition():
            return found
        time.sleep(0.02)
    raise AssertionError("waited in vain")


def training(folder):
    """A run that is in the middle of its steps, past a checkpoint; None if there is none."""
    for path in Path(folder).glob("runs/*/checkpoints/last.ckpt"):
        directory = RunDirectory(path.parents[1])
        if directory.status().state == "running":
            return directory
    return None
