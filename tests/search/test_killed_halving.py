"""search=halving through the real command, whose processes are killed: the same rungs, and no evaluation twice."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from optbench.store import run_directories
from optbench.store.measured import without_measured
from optbench.sweep.plan import Plan
from optbench.sweep.search.record import Record, answers
from tests.search.test_killed_search import processes_of

KILLS = 5
WORDS = [
    *["dataset=digits", "model=mlp", "tracker=none", "budget.steps=270", "eval_every=30", "checkpoint_every=25"],
    *["optimizer=adam,momentum", "trial=range(9)", "schedule=cosine", "search=halving", "search.round=6"],
    *["launcher.workers=2", "launcher.max_retries=1000", "progress=false", "evaluate_train=64"],
]


def start(results):
    words = [sys.executable, "-m", "optbench", "-m", *WORDS, f"results_dir={results}", "sweep=s"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


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
    process = start(undisturbed)
    assert process.wait(timeout=300) == 0, process.stdout.read()
    draw, kills = random.Random(3), 0
    for _ in range(40):
        process = start(killed)
        if kills < KILLS:
            until = time.monotonic() + 4 + 8 * draw.random()
            while time.monotonic() < until and process.poll() is None:
                time.sleep(0.05)
            victims = processes_of(killed)
            if process.poll() is None and victims:
                for victim in victims if kills == 0 else [draw.choice(victims)]:
                    with suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)
                kills += 1
                process.wait(timeout=300)
                continue
        if process.wait(timeout=300) == 0:
            break
    assert kills >= 3
    assert {until for _, _, until in picks(killed)} == {30, 90, None}
    assert picks(killed) == picks(undisturbed)
    assert left(killed) == left(undisturbed)
    assert answers(Plan(killed, "s").path)[-1]["why"] == "all 2 brackets are decided"
