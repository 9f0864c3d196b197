"""A real run and its mirror in wandb, offline: what the dashboard shows is what the store holds."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from optbench.store import RunDirectory


@pytest.mark.slow
def test_a_run_and_its_offline_mirror_agree(tmp_path, read_wandb):
    words = ["dataset=digits", "model=mlp", "budget.steps=20", "log_every=5", "eval_every=10", "progress=false",
             "tracker.group=study", "tracker.tags=[one,two]", f"results_dir={tmp_path}/results"]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "optbench", *words],
        cwd=Path(__file__).parents[2],
        env=os.environ,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (path,) = (tmp_path / "results" / "runs").iterdir()
    directory, mirrored = RunDirectory(path), read_wandb(path)
    run = mirrored["run"]
    assert (run.run_id, run.run_group, list(run.tags)) == (directory.run_id, "study", ["one", "two"])
    assert mirrored["config"]["batch"] == 128
    assert {"epoch", "samples", "seconds"} <= set(mirrored["metrics"])
    rows = [{key: value for key, value in row.items() if value is not None} for row in directory.rows()]
    assert mirrored["rows"] == rows
    summary = directory.summary()
    for key in ("test_accuracy", "gap_loss", "learning_rate", "steps", "seconds_training"):
        assert mirrored["summary"][key] == summary[key]
