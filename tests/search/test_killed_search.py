"""A search whose commands, supervisors and workers are killed: the same picks, and no finished run again."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from optbench.store import run_directories
from optbench.sweep.search.record import answers
from tests.search.searched import picks_of

KILLS = 5
WORDS = [
    *["dataset=digits", "model=mlp", "tracker=none", "budget.steps=300", "eval_every=150", "checkpoint_every=50"],
    *["optimizer=sgd,adam", "optimizer.learning_rate=geometric(1e-3,1,4)", "batch=32,128", "seed=range(2)"],
    *["search=random", "search.budget=14", "launcher.workers=2", "launcher.max_retries=1000", "progress=false"],
]


def start(results):
    words = [sys.executable, "-m", "optbench", "-m", *WORDS, f"results_dir={results}", "sweep=s"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def processes_of(results):
    """The command, the supervisor and the workers that work on the results folder."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if str(results).encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def finished(results):
    return {run.run_id: run.status().since for run in run_directories(results) if run.is_finished}


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_search_ends_with_the_same_picks_and_no_run_twice(tmp_path):
    from optbench.sweep.plan import Plan

    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    process = start(undisturbed)
    assert process.wait(timeout=300) == 0, process.stdout.read()
    draw, kills = random.Random(7), 0
    for _ in range(40):
        process = start(killed)
        if kills < KILLS:
            until = time.monotonic() + 4 + 8 * draw.random()
            while time.monotonic() < until and process.poll() is None:
                time.sleep(0.05)
            victims = processes_of(killed)
            if process.poll() is None and victims:
                before = finished(killed)
                for victim in victims if kills == 0 else [draw.choice(victims)]:
                    with suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)
                kills += 1
                process.wait(timeout=300)
                assert {run: since for run, since in finished(killed).items() if run in before} == before
                continue
        if process.wait(timeout=300) == 0:
            break
    plan = Plan(killed, "s")
    assert kills >= 3
    assert picks_of(plan) == picks_of(Plan(undisturbed, "s"))
    assert answers(plan.path)[-1]["why"] == "the budget of 14 runs is spent"
    assert finished(killed).keys() == finished(undisturbed).keys()
    for run in run_directories(killed):
        steps = [row["step"] for row in run.rows() if row["event"] == "evaluation"]
        assert steps == sorted(set(steps))
