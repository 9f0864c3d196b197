"""Runs that are paused at an evaluation and continued: nothing in them tells that they were."""

import os
import traceback

import pytest
import torch
from rich.console import Console

from optbench import config
from optbench.store import RunDirectory
from optbench.store.claims import claim
from optbench.store.measured import without_measured
from optbench.system.signals import Stop
from optbench.training import run
from optbench.training.recorder import Recorder
from tests.training.test_ranks import end, free_port, place, start

TINY = ["dataset=digits", "evaluate_train=64", "tracker=none", "progress=false", "dataset.train_limit=128", "batch=16"]
TINY += ["budget.steps=12", "eval_every=4", "log_every=3", "checkpoint_every=5"]
RUNS = {
    "momentum with cosine": ["model=mlp", "optimizer=momentum", "schedule=cosine", "schedule.warmup=20%"],
    "batch norm, augmentation": [
        *["model=wrn", "model.depth=10", "model.width=1", "ghost_batch_size=8"],
        *["optimizer=adam", "dataset.crop=1", "averaging=ema"],
    ],
    "kfac": ["model=mlp", "optimizer=kfac", "probe=noise_scale", "probe.noise_scale.every=2"],
}


def planned(folder, *words) -> RunDirectory:
    configured = config.compose([*TINY, f"results_dir={folder}", *words])
    directory = RunDirectory.at(folder, config.run_id(configured))
    directory.create(configured)
    return directory


def train(directory, until=None, signal=None):
    """The outcome of one worker; None if it leaves the run alone."""
    claimed = claim(directory, max_retries=5, until=until)
    if claimed is None:
        return None
    stop = Stop()
    if signal is not None:
        stop.receive(signal)
    with claimed.lock.given_back():
        return run.execute_claimed(claimed, Console(quiet=True), stop, until=until)


def steps_taken(monkeypatch) -> list[int]:
    steps, take_step = [], run.Task.take_step

    def counted(task):
        steps.append(task.step)
        take_step(task)

    monkeypatch.setattr(run.Task, "take_step", counted)
    return steps


def left(directory):
    """All that a run leaves, but for times."""
    state = torch.load(directory.checkpoint, weights_only=True)["task"]
    return [
        without_measured(directory.summary()),
        [without_measured(row) for row in directory.rows()],
        [without_measured(row) for row in directory.measurements.rows()],
        {name: tensor.numpy().tobytes() for name, tensor in state["model"].items()},
    ]


def undisturbed(folder, words):
    """All that a run leaves if nothing happens to it."""
    directory = planned(folder, *words)
    assert train(directory).state == "done"
    return left(directory)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """The words of a run with much to remember, and all that it leaves if nothing happens to it."""
    return RUNS["kfac"], undisturbed(tmp_path_factory.mktemp("whole"), RUNS["kfac"])


@pytest.mark.parametrize("kind", RUNS)
def test_a_run_that_is_paused_twice_and_continued_equals_one_that_never_was(tmp_path, monkeypatch, kind):
    words, expected = RUNS[kind], undisturbed(tmp_path / "whole", RUNS[kind])
    directory, steps = planned(tmp_path / "paused", *words), steps_taken(monkeypatch)
    outcome = train(directory, until=3)  # that is the evaluation at step 4
    status = directory.status()
    assert (outcome.state, outcome.why, outcome.summary) == ("paused", "at step 4 of 12", None)
    assert (status.state, status.why, status.step, status.crashes) == ("paused", "at step 4 of 12", 4, 0)
    assert [row["step"] for row in directory.rows() if row["event"] == "evaluation"] == [4]
    assert train(directory, until=4) is None, "it stands there"
    assert train(directory, until=8).state == "paused"
    assert train(directory).state == "done"
    assert steps == list(range(12))
    assert left(directory) == expected


def test_a_run_that_ends_before_it_is_to_be_paused_is_done(tmp_path):
    for until in (12, 100):
        directory = planned(tmp_path, "model=mlp", f"seed={until}")
        assert train(directory, until).state == "done"
        assert directory.is_finished


def killed_at(monkeypatch, directory, until, owner, name, condition=lambda *arguments: True):
    """Train in a process that dies when ``owner.name`` is called."""
    pid = os.fork()
    if pid == 0:
        try:
            function = getattr(owner, name)

            def dies(*arguments, **options):
                if condition(*arguments):
                    os._exit(9)
                return function(*arguments, **options)

            setattr(owner, name, dies)
            train(directory, until)
            os._exit(0)
        except BaseException:
            traceback.print_exc()
        os._exit(70)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 9


def test_a_run_that_is_killed_while_it_is_paused_is_paused_by_the_next_worker(tmp_path, monkeypatch, uninterrupted):
    words, expected = uninterrupted
    directory, steps = planned(tmp_path, *words), steps_taken(monkeypatch)
    # After the evaluation and before the checkpoint; its last one is that of step 5.
    killed_at(monkeypatch, directory, 8, Recorder, "checkpoint", lambda recorder, trainer, task: task.step == 8)
    assert directory.status().state == "running"
    assert train(directory, until=8).state == "paused"
    assert steps == [5, 6, 7]
    assert train(directory).state == "done"
    assert left(directory) == expected


def test_a_run_that_is_killed_before_it_is_recorded_as_paused_takes_no_step_again(tmp_path, monkeypatch, uninterrupted):
    words, expected = uninterrupted
    directory, steps = planned(tmp_path, *words), steps_taken(monkeypatch)
    killed_at(monkeypatch, directory, 8, RunDirectory, "set_status", lambda run, state, *rest: state == "paused")
    assert directory.status().state == "running"
    outcome = train(directory, until=8)
    assert (outcome.state, directory.status().step, directory.status().crashes) == ("paused", 8, 0)
    assert steps == []
    # Killed again, before it has gone on by a step.
    killed_at(monkeypatch, directory, None, run.Task, "take_step")
    assert train(directory).state == "done"
    assert steps == [8, 9, 10, 11]
    assert left(directory) == expected


def test_a_run_that_others_have_taken_further_is_paused_where_it_is(tmp_path, monkeypatch):
    directory, steps = planned(tmp_path, "model=mlp"), steps_taken(monkeypatch)
    assert train(directory, until=8).state == "paused"
    directory.set_status("pending")
    assert train(directory, until=4).why == "at step 8 of 12"
    assert steps == list(range(8))


def test_the_same_command_by_hand_continues_a_paused_run_to_its_end(tmp_path, monkeypatch, uninterrupted):
    words, expected = uninterrupted
    directory = planned(tmp_path, *words)
    assert train(directory, until=4).state == "paused"
    steps = steps_taken(monkeypatch)
    outcome = run.execute(config.compose([*TINY, f"results_dir={tmp_path}", *words]))
    assert (outcome.state, steps) == ("done", list(range(4, 12)))
    assert left(directory) == expected


def train_by_two(directory, folder, state, until=None):
    """Train with two ranks, of which only rank 0 knows until when; the run ends in ``state`` for both."""

    def follow():
        assert run.execute_as_rank(directory, Console(quiet=True), Stop()).state == state

    port, outputs = free_port(), [folder / f"rank{rank}.txt" for rank in range(2)]
    functions = [lambda: train(directory, until), follow]
    pids = [start(functions[rank], place(rank, port), outputs[rank]) for rank in range(2)]
    assert end(pids) == [0, 0], [output.read_text() for output in outputs]
    assert directory.status().state == state


@pytest.mark.slow
def test_two_ranks_pause_together_and_go_on_together(tmp_path):
    words = ["model=mlp", "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
    directories = [planned(tmp_path / folder, *words) for folder in ("whole", "paused")]
    train_by_two(directories[0], tmp_path, "done")
    train_by_two(directories[1], tmp_path, "paused", until=8)
    assert directories[1].status().step == 8
    train_by_two(directories[1], tmp_path, "done", until=12)
    assert left(directories[1]) == left(directories[0])
