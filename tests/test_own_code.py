"""An optimizer beside the command, in an empty folder, trains whichever way the command was started and wherever it trains."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from optbench.store import RunDirectory
from optbench.sweep.launchers.slurm.job import Job

ROOT = Path(__file__).parents[1]
WORDS = ["dataset=digits", "model=mlp", "budget.steps=2", "tracker=mine", "evaluate_train=50", "optimizer=mine"]
OPTIMIZER = (
    "import torch\n\n\nclass Mine(torch.optim.SGD):\n    '''It imports what lies beside it.'''\n\n    import beside\n"
)
TRACKER = """\
from optbench.trackers.base import Tracker


class Mine(Tracker):
    def __init__(self, run):
        self.run = run

    def log(self, index, row):
        pass

    def finish(self, summary, state):
        (self.run.path / "mirrored").write_text(state)
        return "mirrored"
"""

pytestmark = pytest.mark.slow


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the user's code and choices in it, and nothing of optbench."""
    for name in ("OPTBENCH_CONF", "OPTBENCH_PATH"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "here"
    files = {
        "my_optimizer.py": OPTIMIZER,
        "my_tracker.py": TRACKER,
        "beside.py": "",
        "html.py": "raise RuntimeError('not the module of Python')\n",
        "mine/optimizer/mine.yaml": "defaults: [sgd]\n_target_: my_optimizer.Mine\n",
        "mine/optimizer/broken.yaml": "defaults: [sgd]\n_target_: broken.Mine\n",
        "broken.py": "import not_there_at_all\n\n\nclass Mine: ...\n",
        "mine/tracker/mine.yaml": "_target_: my_tracker.Mine\ninfo:\n  about: mine\n  schema: {}\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def script(tmp_path):
    """What pip makes of the entry point `optbench`: a script whose folder, and not the working one, is on sys.path."""
    path = tmp_path / "bin" / "optbench"
    path.parent.mkdir()
    path.write_text("import sys\nfrom optbench.__main__ import main\nsys.exit(main())\n")
    return [sys.executable, str(path)]


def call(command, *words, **changes):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), **changes}
    return subprocess.run([*command, *words], env=environment, capture_output=True, text=True, timeout=400, check=False)


def runs():
    return [RunDirectory(path.parent) for path in Path("results/runs").glob("*/config.yaml")]


def test_in_a_direct_run_by_the_installed_command(here, script):
    done = call(script, "--config-dir", "mine", *WORDS)
    assert done.returncode == 0, done.stderr
    assert ": done" in done.stdout
    [run] = runs()
    assert (run.path / "mirrored").read_text() == "done"  # by a process that the run has started
    # And the same command as a module.
    assert "done already" in call([sys.executable, "-m", "optbench"], "--config-dir", "mine", *WORDS).stdout


def test_in_a_run_of_two_ranks(here, script):
    done = call(script, "--config-dir", "mine", *WORDS, "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu")
    assert done.returncode == 0, done.stderr
    assert "trained by 2 ranks" in done.stdout


def test_in_a_local_sweep(here, script):
    done = call(script, "-m", "--config-dir", "mine", *WORDS, "seed=0,1", "launcher.workers=1")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [run.status().state for run in runs()] == ["done", "done"]
    assert all((run.path / "mirrored").is_file() for run in runs())


def test_in_a_job_of_slurm(here, script, tmp_path, monkeypatch):
    words = [
        "-m",
        "--config-dir",
        "mine",
        *WORDS,
        "seed=0,1",
        "launcher=slurm_debug",
        "launcher.runs_per_job=2",
        "sweep=s",
    ]
    done = call(script, *words)
    assert done.returncode == 0, done.stderr
    jobs = here / "results" / "sweeps" / "s" / "jobs"
    [path], [listed] = jobs.glob("debug_*.sh"), jobs.glob("runs-*.txt")
    from submitit.core.utils import DelayedSubmission

    DelayedSubmission(Job(str(here / "results"), "s", runs=str(listed), limit=2)).dump(jobs / "7_submitted.pkl")
    # The script as it is, on a node that was given nothing but what Slurm says of the job.
    (tmp_path / "slurm").mkdir()
    srun = tmp_path / "slurm" / "srun"
    srun.write_text(f'#!/bin/bash\nwhile [ "$1" != {sys.executable} ]; do shift; done\nexec "$@"\n')
    srun.chmod(0o755)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    environment = {"PATH": f"{srun.parent}:{os.environ['PATH']}", "HOME": str(elsewhere), "SLURM_JOB_ID": "7"}
    environment |= {
        "SLURM_NTASKS": "1",
        "SLURM_LOCALID": "0",
        "SLURM_PROCID": "0",
        "SLURM_NODEID": "0",
        "SLURM_JOB_NUM_NODES": "1",
    }
    done = subprocess.run(["bash", path], env=environment, cwd=elsewhere, capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout + done.stderr
    assert [run.status().state for run in runs()] == ["done", "done"]


def test_a_module_that_fails_is_found_before_a_run_is_frozen(here, script):
    done = call(script, "-m", "--config-dir", "mine", *WORDS[:-1], "optimizer=mine,broken", "sweep=s")
    assert done.returncode == 2
    assert done.stderr == (
        "optbench: optimizer._target_=broken.Mine: cannot be imported (No module named 'not_there_at_all'); accepted: the "
        "dotted path of a class or function\n"
    )
    assert not (here / "results").exists()
    done = call(script, "--config-dir", "mine", *WORDS[:-1], "optimizer=broken")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert not (here / "results" / "runs").exists()
