"""A warm process that kills runs, workers, supervisors and commands at random moments: `killing.py FOLDER KIND KILLS SEED`.

It forks what it kills, so that a kill costs no start of an interpreter, starts the same again after every kill, and in the
end holds what came of it against an undisturbed sweep. It prints what it found as one JSON object.
"""

import contextlib
import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import time
from itertools import count
from pathlib import Path
from types import SimpleNamespace

import matplotlib.figure  # noqa: F401 (what every child would otherwise import)
import torch
from mortal_workers import Log, check_log, fork

from optbench import config
from optbench.cli.train import train_one
from optbench.store import RunDirectory, run_directories
from optbench.store.measured import without_measured
from optbench.sweep import launch
from optbench.sweep.grid.expand import Cell, Expansion
from optbench.sweep.launchers import local
from optbench.sweep.worker import process
from optbench.training import run

# Rows, evaluations, measurements and checkpoints at many steps of a run that is over in a moment.
WORDS = [
    *["dataset=digits", "model=mlp", "optimizer=adam", "budget.steps=24", "eval_every=12", "log_every=4"],
    *["checkpoint_every=5", "evaluate_train=64", "tracker=none", "trainer.accelerator=cpu", "progress=false"],
    # Few of its pictures, of which drawing one takes longer than all the steps.
    *["probe=displacement", "probe.displacement.every=8", "probe.displacement.log_spaced=null"],
    *["launcher.workers=2", "launcher.max_retries=1000"],
]
RUNS = 3  # of a sweep
KILLS_AT_ONE = 10  # before it is let go to its end
PR_SET_CHILD_SUBREAPER = 36


def in_silence(output, function):
    """Call ``function`` in a child that prints to ``output``; returns its process id."""

    def call():
        descriptor = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        os._exit(function() or 0)

    return fork(call)


class ForkedWorkers:
    """In place of `subprocess.Popen` of the worker's program: the same in a forked child."""

    def __init__(self, words, pass_fds, stdout, **options):
        def call():
            os.setsid()
            os.dup2(stdout.fileno(), 1)
            os.dup2(stdout.fileno(), 2)
            for number in {*range(3, 256)} - {*pass_fds, LOG.descriptor}:
                with contextlib.suppress(OSError):
                    os.close(number)
            os._exit(process.main(words[words.index("optbench.sweep.worker.process") + 1 :]))

        self.pid, self.returncode = fork(call), None

    def poll(self):
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self):
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.returncode

    def terminate(self):
        os.kill(self.pid, signal.SIGTERM)


def keep_a_log():
    """Note who takes a run, leaves it, and has finished it; which nothing that is killed can undo."""
    train, finish = run._Prepared.train, RunDirectory.finish

    def noted_train(self, lock):
        LOG.begin()
        LOG.say(self.directory.run_id, "take")
        if self.directory.is_finished:
            LOG.say(self.directory.run_id, "again")
        outcome = train(self, lock)
        LOG.say(self.directory.run_id, "leave")
        return outcome

    def noted_finish(self, *arguments):
        finish(self, *arguments)
        LOG.say(self.run_id, "done")

    run._Prepared.train, RunDirectory.finish = noted_train, noted_finish


# ---- what is started and killed -----------------------------------------------------------------------------------------------


def configs(results, seeds):
    return [{**config.compose([*WORDS, f"seed={seed}"]), "results_dir": str(results)} for seed in seeds]


def command(results):
    """A sweep's command, whose workers are forked, too."""
    configured = [{**given, "sweep": "s"} for given in configs(results, range(RUNS))]
    cells = [Cell((f"seed={given['seed']}",), given, given) for given in configured]
    expansion = Expansion(cells, {"seed": [str(seed) for seed in range(RUNS)]}, 0)
    local.subprocess = SimpleNamespace(Popen=ForkedWorkers, DEVNULL=subprocess.DEVNULL, STDOUT=subprocess.STDOUT)
    return lambda: launch.sweep(expansion, [*WORDS, f"seed=range({RUNS})", "sweep=s"]).status


def supervisor(results):
    """The process that forks the workers of a sweep that is planned already."""
    return lambda: process.main([str(results), "s", "--workers", "2", "--max-retries", "1000"])


def direct(results):
    [given] = configs(results, [0])
    return lambda: train_one(given)


def wait_for(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def wait_for_all():
    """Until no process is left: those whose parent was killed are this one's by now."""
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return


def children(pid):
    try:
        return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def ended(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"


def kill_some(start, kind, seconds, kills, draw):
    """Start it over and over, and kill it or one of its workers up to ``kills`` times; returns the killed."""
    killed = set()
    while len(killed) < kills:
        pid = start()
        until = time.monotonic() + draw.random() * seconds
        if kind == "worker":
            while len(killed) < kills and not ended(pid):
                time.sleep(draw.random() * seconds / 4)
                workers = children(pid)
                if workers and not ended(pid):
                    victim = draw.choice(workers)
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(victim, signal.SIGKILL)
                        killed.add(victim)
        else:
            while time.monotonic() < until and not ended(pid):
                time.sleep(0.001)
            if not ended(pid):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
        if wait_for(pid) == 0 and all_done(start.results):
            break
    return killed


def all_done(results):
    return all(directory.is_finished for directory in run_directories(results))


class Starter:
    def __init__(self, kind, results, output):
        self.results, self._output = results, output
        results.mkdir(parents=True)
        if kind in ("worker", "supervisor"):  # planned by a command that does not start it
            planning = command(results)

            def plan():
                launch.dispatch = lambda *arguments: 0
                return planning()

            assert wait_for(in_silence(output, plan)) == 0, output.read_text()
        self._function = {"run": direct, "command": command}.get(kind, supervisor)(results)

    def __call__(self):
        return in_silence(self._output, self._function)


# ---- what came of it --------------------------------------------------------------------------------------------------


def results_of(directory):
    """Everything that a run left, but for times: its summary, rows, measurements and weights."""

    weights = torch.load(directory.checkpoint, weights_only=True)["task"]["model"]
    return [
        without_measured(directory.summary()),
        [without_measured(row) for row in directory.rows()],
        [without_measured(row) for row in directory.history_table().to_pylist()],
        [without_measured(row) for row in directory.measurements.rows()],
        {name: tensor.numpy().tobytes() for name, tensor in weights.items()},
    ]


def files(results):
    """All that lies in ``results``, but for code.diff, which says how the work tree was, and the index.

    A run enters the index after it has ended, so that a kill between the two leaves it out, and nothing misses it.
    """
    paths = (path.relative_to(results) for path in results.rglob("*") if path.name != "code.diff")
    return {str(path) for path in paths if path.parts[0] != ".index"}


def main(folder, kind, kills, seed):
    global LOG
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    torch.set_num_threads(1)
    draw = random.Random(seed)
    temporary, output = folder / "tmp", folder / "output"
    temporary.mkdir()
    os.environ["TMPDIR"] = str(temporary)
    LOG = Log(folder / "log")
    LOG.descriptor = LOG._file
    keep_a_log()

    whole = Starter(kind, folder / "whole", output)
    began = time.monotonic()
    assert wait_for(whole()) == 0, output.read_text()
    seconds = time.monotonic() - began
    undisturbed = {directory.run_id: results_of(directory) for directory in run_directories(whole.results)}

    found = {"kills": 0, "runs": 0, "differing": [], "lost": [], "double": [], "litter": []}
    for session in count():
        if found["kills"] >= kills:
            break
        start = Starter(kind, folder / f"killed{session}", output)
        (folder / "log").write_bytes(b"")
        killed = kill_some(start, kind, seconds, min(KILLS_AT_ONE, kills - found["kills"]), draw)
        found["kills"] += len(killed)
        wait_for_all()
        # The same once more: twice where it is the second time that there is nothing to do.
        for _ in range(2):
            if wait_for(start()) != 0:
                found["lost"].append(output.read_text()[-2000:])
            wait_for_all()
        judge(start.results, whole.results, undisturbed, killed, found)
        (folder / "found.json").write_text(json.dumps(found))  # for whoever has to end it before it is done
    found["litter"] += [str(path) for path in temporary.iterdir()]
    print(json.dumps(found))


def judge(results, whole, undisturbed, killed, found):
    directories = {directory.run_id: directory for directory in run_directories(results)}
    found["runs"] += len(undisturbed)
    for run_id, expected in undisturbed.items():
        if run_id not in directories or directories[run_id].status().state != "done":
            found["lost"].append(f"{results}: {run_id}")
        elif results_of(directories[run_id]) != expected:
            found["differing"].append(f"{results}: {run_id}")
    found["litter"] += [f"{results}: {name}" for name in sorted(files(results) ^ files(whole))]
    try:
        check_log(LOG.lines(), killed)
    except AssertionError as error:
        found["double"].append(str(error))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
