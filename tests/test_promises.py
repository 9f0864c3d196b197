"""The three promises of the bench, for every optimizer in conf/optimizer: whoever adds a file gets these tests for nothing.

1. The result does not depend on the micro-batch size (to rounding).
2. Several ranks give what one rank gives on the same global batch (to rounding).
3. A run that is killed anywhere and resumed ends bit for bit where an undisturbed one ends.

The network has batch norm (in groups smaller than the batch) and dropout, the two layers that break the first two
promises where nobody sees to it, and every step is clipped and averaged. The first two are held in float64: in float32
the smallest difference grows to a visible one within a few steps, between any two orders of summation.
"""

import copy
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from optbench import config
from optbench.config import RunConfig
from optbench.training import build, run
from optbench.training.task import Task

OPTIMIZERS = sorted(config.choices("optimizer"))
STEPS = 4
COMMON = [
    "model=wrn", "model.depth=10", "model.width=1", "model.dropout=0.3", "dataset=digits", "dataset.train_limit=200",
    "dataset.validation=16", "dataset.crop=1", "batch=64", "ghost_batch_size=16", "clip_norm=1.0", "averaging=ema",
    "schedule=cosine", f"budget.steps={STEPS}", "evaluate_train=64", "tracker=none", "progress=false", "log_every=1",
]  # fmt: skip
# Those that are slow on a network of 78,000 weights take a batch and a budget that are smaller, not other promises.
SMALLER = {
    name: ["batch=16", "ghost_batch_size=4", "budget.steps=3"]
    for name in ("damped_newton", "entropy_sgd", "hessian_free", "lm", "saddle_free", "score_ggn")
}
SMALLER["damped_newton"] += ["optimizer.krylov_dimension=4"]
SMALLER["entropy_sgd"] += ["optimizer.inner_steps=5"]
SMALLER["hessian_free"] += ["optimizer.cg_iterations=5"]
SMALLER["saddle_free"] += ["optimizer.krylov_dimension=4"]


def composed(optimizer: str, *overrides: str) -> config.Config:
    return config.compose([f"optimizer={optimizer}", *COMMON, *SMALLER.get(optimizer, []), *overrides])


def trained(chosen: config.Config) -> Task:
    """The task after its whole budget, trained by Lightning as in any run, without a run directory."""
    read = RunConfig.of(chosen)
    task = build.build_task(read, build.load_data(read))
    recorder = build.build_recorder(read, task, None)
    build.build_trainer(read, [recorder]).fit(task, train_dataloaders=run.StepTokens(task))
    assert recorder.outcome == "done", recorder.why
    return task


def numbers(task: Task) -> dict[str, torch.Tensor]:
    """Parameters, running statistics and their average."""
    assert task.average is not None
    state = {name: tensor.detach().clone() for name, tensor in task.model.state_dict().items()}
    return state | {f"average of {name}": tensor for name, tensor in task.average.state_dict()["average"].items()}


def assert_equal_to_rounding(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=1e-7, atol=1e-9, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.fixture(scope="module")
def undisturbed():
    """What one rank with whole batches reaches in float64, by optimizer."""
    kept: dict[str, dict[str, torch.Tensor]] = {}

    def reach(optimizer: str) -> dict[str, torch.Tensor]:
        if optimizer not in kept:
            kept[optimizer] = numbers(trained(composed(optimizer, "precision=fp64")))
        return kept[optimizer]

    return reach


def micro_batches_of(optimizer: str, groups: int) -> str:
    """The override for micro-batches of so many groups of batch norm; a batch is four of them."""
    return f"micro_batch={groups * composed(optimizer)['ghost_batch_size']}"


# One worker has what one rank reaches, and starts the two ranks, for all tests.
@pytest.mark.xdist_group("promises")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_result_does_not_depend_on_the_micro_batch(optimizer, undisturbed):
    start = {
        name: tensor.clone() for name, tensor in build.build_model(*_model_of(optimizer)).double().state_dict().items()
    }
    whole = undisturbed(optimizer)
    # A test of two equal things is only one if they moved.
    assert any((whole[name] - tensor).abs().max() > 1e-6 for name, tensor in start.items())
    for groups in (1, 3):
        parts = numbers(trained(composed(optimizer, "precision=fp64", micro_batches_of(optimizer, groups))))
        assert_equal_to_rounding(parts, whole)


def _model_of(optimizer: str):
    read = RunConfig.of(composed(optimizer))
    return read, build.load_data(read)


# ---- ranks ----------------------------------------------------------------------------------------------------------

RANK = """
import sys, torch
torch.set_num_threads(1)
from tests.test_promises import OPTIMIZERS, composed, micro_batches_of, numbers, trained
folder, overrides = sys.argv[1], sys.argv[2:]
overrides += ["trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"]
for optimizer in OPTIMIZERS:
    task = trained(composed(optimizer, micro_batches_of(optimizer, 1), *overrides))
    if task.global_rank == 0:
        torch.save(numbers(task), f"{folder}/{optimizer}.pt")
"""


def launch_two_ranks(folder: Path, overrides: list[str], program: str = RANK) -> None:
    """Start two processes as a launcher such as torchrun would, and wait for both."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    root = Path(__file__).parents[1]
    processes = []
    for rank in range(2):
        place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "GROUP_RANK": 0}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "test", "PYTHONPATH": root}
        environment = os.environ | {key: str(value) for key, value in (place | address).items()}
        command = [sys.executable, "-c", program, str(folder), *overrides]
        processes.append(subprocess.Popen(command, env=environment, cwd=root, stderr=subprocess.PIPE, text=True))
    problems = [process.communicate(timeout=500)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], "\n".join(problems)[-4000:]


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    """What two ranks reach: each with two groups of batch norm, in two micro-batches."""
    folder = tmp_path_factory.mktemp("ranks")
    launch_two_ranks(folder, ["precision=fp64"])
    return folder


@pytest.mark.slow
@pytest.mark.xdist_group("promises")
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_two_ranks_give_what_one_gives(optimizer, undisturbed, two_ranks):
    assert_equal_to_rounding(torch.load(two_ranks / f"{optimizer}.pt", weights_only=True), undisturbed(optimizer))


# ---- resume ---------------------------------------------------------------------------------------------------------


class Killed(BaseException):
    """Not an error that anybody handles: the process is gone."""


def without_times(content):
    return {name: value for name, value in content.items() if "seconds" not in name}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_killed_run_ends_where_an_undisturbed_one_does(optimizer, tmp_path, monkeypatch):
    overrides = ["checkpoint_every=2", "eval_every=3", "budget.steps=7", "schedule=plateau", "averaging=swa"]
    whole = run.execute(composed(optimizer, *overrides, f"results_dir={tmp_path}/whole"))
    assert whole.state == "done", whole.why
    chosen = composed(optimizer, *overrides, f"results_dir={tmp_path}/killed")
    take_step = Task.take_step
    for last in (3, 6):  # a step after the checkpoint of step 2; at once after an evaluation and a checkpoint

        def step_or_die(task, last=last):
            if task.step == last:
                raise Killed
            take_step(task)

        monkeypatch.setattr(Task, "take_step", step_or_die)
        with pytest.raises(Killed):
            run.execute(chosen)
        monkeypatch.setattr(Task, "take_step", take_step)
    resumed_at = []
    load = Task.load_training_state
    monkeypatch.setattr(
        Task, "load_training_state", lambda task, state: (resumed_at.append(state["step"]), load(task, state))
    )
    resumed = run.execute(chosen)
    assert resumed_at == [6]
    assert without_times(resumed.summary) == without_times(whole.summary)
    rows = [[without_times(row) for row in outcome.directory.rows()] for outcome in (resumed, whole)]
    assert rows[0] == rows[1]
    ends = [torch.load(outcome.directory.checkpoint, weights_only=True)["task"] for outcome in (resumed, whole)]
    for name, tensor in ends[1]["model"].items():
        assert torch.equal(ends[0]["model"][name], tensor), name


def test_a_recorder_remembers_what_it_has_seen():
    """Whatever a run changes in its recorder is in the recorder's state, so that a resumed run ends with the same summary."""
    chosen = composed("adam", "eval_every=2", "budget.target=0.01")
    read = RunConfig.of(chosen)
    task = build.build_task(read, build.load_data(read))
    recorder = build.build_recorder(read, task, None)
    before = copy.deepcopy({name: value for name, value in vars(recorder).items() if not callable(value)})
    build.build_trainer(read, [recorder]).fit(task, train_dataloaders=run.StepTokens(task))
    changed = {name for name, value in vars(recorder).items() if not callable(value) and value != before.get(name)}
    # When it last wrote is a matter of the clock, whether it writes one of the rank, and the loss is for those who watch.
    changed -= {"_last_checkpoint", "_writes", "loss"}
    # A copy of the probes is never equal to them; what they remember is tested with them.
    changed -= {"probes"}
    assert changed == {"last_row", "evaluation", "first_loss", "results", "outcome"}
    assert changed <= set(recorder.state())
