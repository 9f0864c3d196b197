"""The real command of a search, whose processes are killed at random until it may end."""

import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

KILLS = 5


def start(words, results):
    command = [sys.executable, "-m", "optbench", "-m", *words, f"results_dir={results}", "sweep=s"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def run(words, results):
    """The command, undisturbed."""
    process = start(words, results)
    assert process.wait(timeout=300) == 0, process.stdout.read()


def processes_of(results):
    """The command, the supervisor and the workers that work on the results folder."""
    found = []
    for folder in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            if str(results).encode() in (folder / "cmdline").read_bytes():
                found.append(int(folder.name))
    return found


def run_and_kill(words, results, seed, finished=dict):
    """Start the command over and over, and kill all its processes once, and then one at a time; returns the number of kills.

    A kill comes once something has been written since the last one, so that the search gets on however fast the machine is.
    ``finished()``: the ends of runs by their ids, which no later process may change.
    """
    draw, kills, ends = random.Random(seed), 0, {}
    for _ in range(40):
        process = start(words, results)
        while kills < KILLS and process.poll() is None:
            begun = written(results)
            while process.poll() is None and written(results) == begun:
                time.sleep(0.02)
            time.sleep(0.3 * draw.random())
            victims = processes_of(results)
            if process.poll() is None and victims:
                ends |= finished()
                for victim in victims if kills == 0 else [draw.choice(victims)]:
                    with suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)
                kills += 1
        ended = process.wait(timeout=300)
        assert {run: end for run, end in finished().items() if run in ends} == ends
        if ended == 0:
            break
    return kills


def written(results):
    """The bytes of all histories."""
    return sum(path.stat().st_size for path in Path(results).glob("runs/*/history.jsonl"))
