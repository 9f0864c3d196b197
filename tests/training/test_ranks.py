"""Several ranks of one run: what workers remember, who waits for whom, who writes, and how they part."""

import os
import signal
import socket
import sys
import time

import pytest
import torch

from optbench import config
from optbench.errors import UserError
from optbench.training import run
from optbench.training.launch_environment import launched
from optbench.training.meeting import meet
from optbench.training.task import Task

WORDS = [
    "dataset=digits", "dataset.train_limit=256", "dataset.validation=64", "model=logreg", "optimizer=sgd", "batch=64",
    "budget.steps=3", "evaluate_train=64", "tracker=none", "progress=false", "trainer=ddp", "trainer.accelerator=cpu",
]  # fmt: skip


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def place(rank, port, size=2):
    """The variables of one rank that torchrun started."""
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_WORLD_SIZE": str(size),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def start(function, environment, output):
    """Call ``function`` in a process of its own, which ends like any other; its output goes to a file."""
    pid = os.fork()
    if pid:
        return pid
    status = 70
    try:
        with output.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        os.environ.update(environment)
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        torch.set_num_threads(1)
        function()
        status = 0
    except UserError as error:
        print(error)
        status = 2
    except SystemExit as asked:
        status = asked.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def end(pids, seconds=120):
    """The exit codes of processes, each of which must end by itself."""
    codes, until = {}, time.monotonic() + seconds
    while len(codes) < len(pids):
        for pid in set(pids) - set(codes):
            ended, code = os.waitpid(pid, os.WNOHANG)
            if ended:
                codes[pid] = os.waitstatus_to_exitcode(code)
        if time.monotonic() > until:
            for pid in set(pids) - set(codes):
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            raise AssertionError(f"still running after {seconds} s; ended: {codes}")
        time.sleep(0.02)
    return [codes[pid] for pid in pids]


def on_two_ranks(folder, *words, before=lambda rank: None):
    """Train on two ranks; returns their exit codes and their output."""
    chosen = config.compose([*WORDS, *words, f"results_dir={folder / 'results'}"])

    def train(rank):
        before(rank)
        outcome = run.execute(chosen)
        print(outcome.state, outcome.why)
        if outcome.state == "failed":
            sys.exit(1)

    port = free_port()
    outputs = [folder / f"rank{rank}.txt" for rank in range(2)]
    pids = [start(lambda rank=rank: train(rank), place(rank, port), outputs[rank]) for rank in range(2)]
    return end(pids), [path.read_text() for path in outputs], chosen


def only_run(folder, results="results"):
    from optbench.store import RunDirectory

    (path,) = (folder / results / "runs").iterdir()
    return RunDirectory(path)


# ---- what workers send ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["communication=sign"],
        ["communication=local", "communication.period=4", "communication.shards=sorted", "optimizer=momentum"],
    ],
    ids=lambda words: words[0],
)
def test_what_workers_remember_goes_on_with_another_number_of_ranks(tmp_path, words):
    """Two ranks fail in the middle of a period after the checkpoint of step 2; one rank continues, and ends where one ends."""
    words = [*words, "communication.workers=4", "precision=fp64", "budget.steps=6", "checkpoint_every=2"]
    codes, outputs, chosen = on_two_ranks(tmp_path, *words, before=failing(1, no_room, step=3))
    assert codes == [1, 1], outputs
    alone = {**chosen, "trainer": {**chosen["trainer"], "devices": 1}}
    assert run.execute(alone).state == "done"
    assert run.execute({**alone, "results_dir": str(tmp_path / "whole")}).state == "done"
    continued, whole = (torch.load(only_run(tmp_path / name, "").checkpoint) for name in ("results", "whole"))
    assert continued["task"]["communication"]["workers"].keys() == {0, 1, 2, 3}
    for name, weights in whole["task"]["model"].items():
        torch.testing.assert_close(continued["task"]["model"][name], weights, rtol=1e-9, atol=1e-12)


# ---- waiting ------------------------------------------------------------------------------------------------------------


def test_a_rank_without_rank_0_says_for_whom_it_waits_and_ends(tmp_path, monkeypatch):
    port = free_port()
    for name, value in place(1, port).items():
        monkeypatch.setenv(name, value)
    chosen = config.compose([*WORDS, "trainer.rendezvous_seconds=1.5", f"results_dir={tmp_path / 'results'}"])
    began = time.monotonic()
    with pytest.raises(
        UserError, match=rf"rank 1 has waited 2 s for rank 0 at 127\.0\.0\.1:{port} .*rendezvous_seconds"
    ):
        run.execute(chosen)
    assert time.monotonic() - began < 30
    assert list(tmp_path.iterdir()) == []


def test_rank_0_without_the_others_writes_nothing(tmp_path, monkeypatch):
    port = free_port()
    for name, value in place(0, port).items():
        monkeypatch.setenv(name, value)
    chosen = config.compose([*WORDS, "trainer.rendezvous_seconds=1", f"results_dir={tmp_path / 'results'}"])
    with pytest.raises(UserError, match=rf"rank 0 has waited 1 s for rank 1 at 127\.0\.0\.1:{port}; "):
        run.execute(chosen)
    assert list(tmp_path.iterdir()) == []


def test_who_waits_long_says_so_once(monkeypatch, capsys):
    from optbench.training import meeting

    monkeypatch.setattr(meeting, "_PATIENCE_SECONDS", 0.2)
    port = free_port()
    with pytest.raises(UserError, match="rank 0 has waited 1 s for rank 1"):
        meet(launched(place(0, port, size=3)), 1.0)
    assert capsys.readouterr().err == f"optbench: rank 0 waits for rank 1 at 127.0.0.1:{port} and 1 more\n"


def test_a_rank_that_cannot_come_is_not_waited_for():
    with pytest.raises(UserError, match="in vain: rank 1 has ended with exit status 3"):
        meet(launched(place(0, free_port())), 60.0, lambda: "rank 1 has ended with exit status 3")


# ---- writing, failing, parting ----------------------------------------------------------------------------------------------


def test_a_run_in_other_hands_is_left_alone_by_all_ranks(tmp_path):
    from optbench.store import RunDirectory, RunLock

    chosen = config.compose([*WORDS, f"results_dir={tmp_path / 'results'}"])
    directory = RunDirectory.at(tmp_path / "results", config.run_id(chosen))
    directory.make()
    with RunLock(directory.lock):
        codes, outputs, _ = on_two_ranks(tmp_path)
    assert codes == [2, 2], outputs
    assert list(directory.path.iterdir()) == []


def failing(rank_that_fails, how, step=1):
    def before(rank):
        if rank != rank_that_fails:
            return
        take_step = Task.take_step

        def fail(task):
            if task.step == step:
                how()
            take_step(task)

        Task.take_step = fail

    return before


def no_room():
    raise MemoryError("no room on this rank")


@pytest.mark.parametrize("rank", [0, 1])
def test_the_rank_that_fails_says_why_and_only_rank_0_writes_it(tmp_path, rank):
    codes, outputs, _ = on_two_ranks(tmp_path, before=failing(rank, no_room))
    assert codes == [1, 1], outputs
    directory = only_run(tmp_path)
    assert directory.status().state == "failed"
    assert directory.status().why == ("rank 1: " if rank else "") + "MemoryError: no room on this rank"
    log = directory.log.read_text()
    assert "in no_room" in log
    assert log.count("Traceback") == 1


def test_a_signal_to_one_rank_stops_both_at_the_same_step(tmp_path):
    """Rank 1 is told to stop while it takes a step, and rank 0 never."""
    told = failing(1, lambda: os.kill(os.getpid(), signal.SIGTERM))
    codes, outputs, _ = on_two_ranks(tmp_path, "log_every=1", "budget.steps=6", before=told)
    assert codes == [0, 0], outputs
    assert outputs == ["preempted stopped by SIGTERM at step 2\n"] * 2


def test_a_rank_that_is_killed_ends_the_other_too(tmp_path):
    codes, outputs, _ = on_two_ranks(tmp_path, before=failing(1, lambda: os.kill(os.getpid(), signal.SIGKILL)))
    assert codes == [1, -signal.SIGKILL], outputs
    assert only_run(tmp_path).status().state == "failed"


def test_ranks_above_0_write_nothing(tmp_path):
    """Nothing in the run's directory is opened for writing by another process than rank 0."""

    def watched(rank):
        def hook(event, arguments):
            if (
                event == "open"
                and rank != 0
                and "results" in str(arguments[0])
                and set(str(arguments[1])) & set("wax+")
            ):
                os.write(2, f"rank {rank} writes {arguments[0]}\n".encode())
            if event in ("os.rename", "os.mkdir", "os.link", "os.remove") and rank != 0 and "results" in str(arguments):
                os.write(2, f"rank {rank}: {event} {arguments}\n".encode())

        sys.addaudithook(hook)

    codes, outputs, _ = on_two_ranks(tmp_path, "probe=[displacement]", "probe.displacement.every=1", before=watched)
    assert codes == [0, 0], outputs
    assert outputs[1] == "done \n"
    assert only_run(tmp_path).summary()["status"] == "done"
