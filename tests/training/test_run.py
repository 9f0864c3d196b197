"""Whole runs: killed ones, several ranks through the real command line, precisions, targets, and every kind of data."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from sklearn.datasets import load_digits

from optbench import config
from optbench.errors import UserError
from optbench.store import RunDirectory
from optbench.store.measured import without_measured
from optbench.training import run

ROOT = Path(__file__).parents[2]
TINY = ["dataset=digits", "model=mlp", "evaluate_train=64", "tracker=none", "progress=false"]


def execute(folder, *overrides):
    outcome = run.execute(config.compose([*TINY, f"results_dir={folder}", *overrides]))
    assert outcome.state in ("done", "diverged"), outcome.why
    return outcome


def command(folder, *words, launcher=("-m", "optbench"), **environment):
    words = [*TINY, f"results_dir={folder}", *words]
    return subprocess.Popen(
        [sys.executable, *launcher, *words],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finished(process):
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return output


def only_run(folder) -> RunDirectory:
    (path,) = (Path(folder) / "runs").iterdir()
    return RunDirectory(path)


def losses(directory) -> list[float]:
    return [row["loss"] for row in directory.rows() if row["event"] == "train"]


# ---- killed -------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_kill_9_in_the_middle_and_the_same_command_again(tmp_path):
    words = [
        "optimizer=adam",
        "model=lenet5",
        "budget.steps=200",
        "eval_every=50",
        "checkpoint_every=20",
        "averaging=ema",
    ]
    finished(command(tmp_path / "whole", *words))
    for kills in range(2):
        process = command(tmp_path / "killed", *words)
        began = time.time()
        while time.time() < began + 120:
            found = list((tmp_path / "killed").glob("runs/*/checkpoints/last.ckpt"))
            if found and found[0].stat().st_mtime > began:
                break  # it has written a checkpoint of its own and is on its way to the next
            time.sleep(0.01)
        os.kill(process.pid, signal.SIGKILL)
        process.communicate()
        assert only_run(tmp_path / "killed").summary() is None, f"kill {kills} came too late to test anything"
    finished(command(tmp_path / "killed", *words))
    whole, killed = only_run(tmp_path / "whole"), only_run(tmp_path / "killed")
    assert without_measured(killed.summary()) == without_measured(whole.summary())
    assert [without_measured(row) for row in killed.rows()] == [without_measured(row) for row in whole.rows()]


def test_a_crash_is_recorded_as_failed_with_its_traceback(tmp_path, monkeypatch):
    def broken(task):
        raise RuntimeError("no such kernel")

    monkeypatch.setattr(run.Task, "take_step", broken)
    outcome = run.execute(config.compose([*TINY, f"results_dir={tmp_path}", "budget.steps=3"]))
    assert (outcome.state, outcome.why) == ("failed", "RuntimeError: no such kernel")
    assert outcome.directory.status().state == "failed"
    assert "Traceback" in outcome.directory.log.read_text()
    monkeypatch.undo()
    assert execute(tmp_path, "budget.steps=3").summary["steps"] == 3


def test_a_run_continues_on_another_machine(tmp_path, monkeypatch):
    """Micro-batches, how often to log: what is not science may change between two commands for one run."""
    one = config.compose([*TINY, f"results_dir={tmp_path}", "budget.steps=4", "micro_batch=32"])
    two = config.compose([*TINY, f"results_dir={tmp_path}", "budget.steps=4", "log_every=1"])
    assert config.run_id(one) == config.run_id(two)
    take_step = run.Task.take_step

    def preempted_at_step_2(task):
        take_step(task)
        if task.step == 2:
            task.stop.receive(signal.SIGTERM)

    monkeypatch.setattr(run.Task, "take_step", preempted_at_step_2)
    assert run.execute(one).state == "preempted"
    monkeypatch.undo()
    outcome = run.execute(two)
    assert outcome.state == "done"
    assert outcome.directory.config()["log_every"] == 1
    assert [row["step"] for row in outcome.directory.rows() if row["event"] == "train"] == [3, 4]
    # Finished, it is left as it is.
    assert run.execute(one).summary == outcome.summary
    assert outcome.directory.config()["log_every"] == 1


def test_a_run_that_is_stopped_before_its_first_step_writes_nothing_of_it(tmp_path, monkeypatch):
    whole = execute(tmp_path / "whole", "budget.steps=3")
    start = run.Task.on_fit_start

    def stopped(task):
        start(task)
        task.stop.receive(signal.SIGTERM)

    monkeypatch.setattr(run.Task, "on_fit_start", stopped)
    outcome = run.execute(config.compose([*TINY, f"results_dir={tmp_path / 'stopped'}", "budget.steps=3"]))
    assert (outcome.state, outcome.signal, outcome.directory.rows()) == ("preempted", signal.SIGTERM, [])
    monkeypatch.undo()
    again = execute(tmp_path / "stopped", "budget.steps=3")
    assert [without_measured(row) for row in again.directory.rows()] == [
        without_measured(row) for row in whole.directory.rows()
    ]


# ---- ranks --------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("launcher", ["ourselves", "torchrun"])
def test_two_ranks_through_the_command_line(tmp_path, launcher):
    words = ["optimizer=momentum", "model=resnet20", "precision=fp64", "budget.steps=4", "log_every=1", "micro_batch=null",
             "trainer.accelerator=cpu", "dataset.train_limit=256", "tracker=csv"]  # fmt: skip
    finished(command(tmp_path / "one", *words))
    ranks = ["trainer=ddp", "trainer.devices=2"]
    if launcher == "torchrun":
        start = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", "-m", "optbench")
        output = finished(command(tmp_path / "two", *words, *ranks, launcher=start))
    else:
        output = finished(command(tmp_path / "two", *words, *ranks))
    one, two = only_run(tmp_path / "one"), only_run(tmp_path / "two")
    assert losses(two) == pytest.approx(losses(one), rel=1e-9)
    assert len(losses(one)) == 4
    for name, value in without_measured(one.summary()).items():
        if isinstance(value, float):
            assert two.summary()[name] == pytest.approx(value, rel=1e-6), name
    # One rank writes and speaks.
    assert output.count("learning rate 0.02") == 1
    assert len(two.rows()) == len(one.rows())
    assert json.loads((two.path / "environment.json").read_text())["ranks"] == 2


# ---- precision and compilation --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("precision", ["fp64", "tf32", "bf16", "fp16"])
def test_precisions_agree_with_fp32(tmp_path, precision):
    reference = execute(tmp_path, "budget.steps=20", "optimizer=momentum").summary
    other = execute(tmp_path, "budget.steps=20", "optimizer=momentum", f"precision={precision}").summary
    assert other["run_id"] != reference["run_id"]
    tolerance = {"fp64": 1e-4, "tf32": 1e-3, "fp16": 2e-2, "bf16": 5e-2}[precision]
    assert other["test_loss"] == pytest.approx(reference["test_loss"], rel=tolerance)
    assert reference["test_loss"] < 1.8  # it has learned something: ln 10 is 2.3
    if precision in ("bf16", "fp16"):
        assert other["test_loss"] != reference["test_loss"]


@pytest.mark.slow
def test_a_compiled_model_gives_the_same_losses(tmp_path):
    words = ("budget.steps=3", "log_every=1", "model=wrn", "model.depth=10", "model.width=1", "ghost_batch_size=64")
    plain = losses(execute(tmp_path / "plain", *words).directory)
    compiled = losses(execute(tmp_path / "compiled", *words, "compile=true").directory)
    assert compiled == pytest.approx(plain, rel=1e-3)


# ---- ends ---------------------------------------------------------------------------------------------------------------


def test_the_step_of_divergence_does_not_depend_on_how_often_rows_are_written(tmp_path):
    words = ("optimizer=sgd", "optimizer.learning_rate=1000", "budget.steps=40")
    outcomes = [execute(tmp_path / every, *words, f"log_every={every}") for every in ("1", "7", "100")]
    assert {outcome.state for outcome in outcomes} == {"diverged"}
    (step,) = {outcome.summary["diverged_step"] for outcome in outcomes}
    assert [outcome.summary["steps"] for outcome in outcomes] == [step] * 3
    history = losses(outcomes[0].directory)
    first = next(i for i, loss in enumerate(history) if loss is None or loss > 10 * history[0])
    assert first == step
    assert outcomes[0].summary["test_loss"] is None
    assert f"step {step}" in outcomes[0].why
    assert outcomes[0].directory.status().state == "diverged"


def test_a_target_is_recorded_and_can_end_the_run(tmp_path):
    words = ["optimizer=adam", "optimizer.learning_rate=0.01", "eval_every=5", "budget.epochs=10", "budget.target=0.8"]
    recorded = execute(tmp_path, *words)
    rows = [row for row in recorded.directory.rows() if row["event"] == "evaluation"]
    reached = next(row for row in rows if row["validation_accuracy"] >= 0.8)
    assert recorded.summary["steps_to_target"] == reached["step"]
    assert recorded.summary["samples_to_target"] == reached["step"] * 128
    assert recorded.summary["steps"] > reached["step"]
    stopped = execute(tmp_path, *words, "budget.stop_at_target=true")
    assert stopped.summary["steps"] == stopped.summary["steps_to_target"] == reached["step"]
    missed = execute(tmp_path, *words, "budget.target=1.1")
    assert missed.summary["steps_to_target"] is None


def test_evaluations_that_grow_are_at_the_first_steps_and_then_far_apart(tmp_path):
    outcome = execute(tmp_path, "eval_every=x1.5", "budget.steps=30", "log_every=7")
    steps = [row["step"] for row in outcome.directory.rows() if row["event"] == "evaluation"]
    assert steps == [1, 2, 3, 4, 6, 9, 13, 19, 28, 30]
    assert {7, 14, 21, 28} <= {row["step"] for row in outcome.directory.rows() if row["event"] == "train"}


def test_the_best_validation_results_and_their_steps(tmp_path):
    outcome = execute(tmp_path, "optimizer=adam", "optimizer.learning_rate=0.03", "eval_every=3", "budget.steps=30")
    rows = [row for row in outcome.directory.rows() if row["event"] == "evaluation"]
    best = min(rows, key=lambda row: row["validation_loss"])
    assert outcome.summary["best_validation_loss"] == best["validation_loss"]
    assert outcome.summary["best_validation_loss_step"] == best["step"]
    best = max(rows, key=lambda row: row["validation_accuracy"])
    assert outcome.summary["best_validation_accuracy_step"] == best["step"]
    gap = outcome.summary["test_loss"] - outcome.summary["train_loss"]
    assert outcome.summary["gap_loss"] == pytest.approx(gap)
    assert outcome.summary["gap_accuracy"] == pytest.approx(
        outcome.summary["train_accuracy"] - outcome.summary["test_accuracy"]
    )


@pytest.mark.parametrize(
    "words", [["budget.steps=4"], ["budget.steps=200", "budget.target=0.5", "budget.stop_at_target=true"]]
)
def test_the_test_set_may_be_evaluated_only_where_a_run_ends(tmp_path, words):
    words = [*words, "eval_every=1", "optimizer.learning_rate=0.02"]
    always = execute(tmp_path / "always", *words)
    ends = execute(tmp_path / "ends", *words, "evaluate_test=false")
    assert always.directory.run_id == ends.directory.run_id
    rows = [row for row in ends.directory.rows() if row["event"] == "evaluation"]
    assert len(rows) > 2
    assert {(row["test_loss"], row["gap_accuracy"]) for row in rows[:-1]} == {(None, None)}
    assert all(row["validation_loss"] is not None for row in rows)
    for name in ("test_loss", "test_accuracy", "gap_loss", "validation_loss", "steps", "steps_to_target"):
        assert ends.summary.get(name) == always.summary.get(name), name
    assert rows[-1]["test_loss"] == ends.summary["test_loss"] > 0


def test_the_squared_error_of_reconstructions_is_recorded(tmp_path):
    words = [
        "model=autoencoder",
        "model.hidden=[8]",
        "model.code=4",
        "budget.steps=20",
        "eval_every=10",
        "precision=fp64",
    ]
    execute(tmp_path, *words, "evaluate_train=null")
    directory = only_run(tmp_path)
    last = [row for row in directory.rows() if row["event"] == "evaluation"][-1]
    weights = list(
        torch.load(directory.path / "checkpoints" / "last.ckpt", weights_only=True)["task"]["model"].values()
    )
    images = (torch.from_numpy(load_digits().images).flatten(1) * (255 / 16)).round() / 255  # kept as 8 bits
    activations = images
    for layer, (weight, bias) in enumerate(zip(weights[::2], weights[1::2], strict=True)):
        activations = activations @ weight.double().T + bias.double()
        activations = activations if layer == 1 else activations.sigmoid()  # the code is linear
    error = (activations - images).square().sum()
    counts = {"train": 1293, "validation": 144, "test": 360}
    assert sum(counts[split] * last[f"{split}_squared_error"] for split in counts) == pytest.approx(
        float(error), rel=1e-10
    )


def test_a_growing_batch_consumes_the_samples_of_its_plan(tmp_path):
    words = ("schedule=batch_growth", "schedule.milestones=[1epoch]", "schedule.growth=4", "schedule.maximum=null",
             "batch=32", "budget.epochs=2", "dataset.train_limit=256", "log_every=1")  # fmt: skip
    outcome = execute(tmp_path, *words)
    samples = [row["samples"] for row in outcome.directory.rows() if row["event"] == "train"]
    assert samples == [32 * step for step in range(1, 9)] + [256 + 128, 256 + 256]


def test_regime_adaptation_keeps_the_number_of_updates(tmp_path):
    words = ("budget.epochs=2", "dataset.train_limit=256", "schedule=multistep", "schedule.milestones=[1epoch]",
             "schedule.gamma=0.1", "log_every=1", "base_batch=32")  # fmt: skip
    small = execute(tmp_path, *words, "batch=32")
    large = execute(tmp_path, *words, "batch=128", "budget.regime_adaptation=true")
    assert small.summary["steps"] == large.summary["steps"] == 16
    rates = [
        [row["learning_rate"] for row in out.directory.rows() if row["event"] == "train"] for out in (small, large)
    ]
    assert rates[0] == rates[1]
    assert len(set(rates[0])) == 2


@pytest.mark.parametrize(
    ("rule", "optimizer", "expected"),
    [("none", "sgd", 0.1), ("linear", "sgd", 0.4), ("sqrt", "sgd", 0.2), ("auto", "sgd", 0.4), ("auto", "adam", 0.2)],
)
def test_the_effective_learning_rate_is_what_the_optimizer_gets(tmp_path, rule, optimizer, expected):
    words = (f"optimizer={optimizer}", "optimizer.learning_rate=0.1", f"scaling={rule}", "batch=256", "base_batch=64")
    outcome = execute(tmp_path, *words, "budget.steps=1", "divergence_factor=null")
    assert outcome.summary["learning_rate"] == pytest.approx(expected)
    assert outcome.summary["base_learning_rate"] == 0.1
    assert outcome.directory.rows()[0]["learning_rate"] == pytest.approx(expected)


# ---- every kind of data ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["dataset=curves", "model=autoencoder", "model.hidden=[32]", "model.code=4", "dataset.examples=300"],
        [
            "dataset=curves",
            "model=autoencoder",
            "model.hidden=[32]",
            "model.code=4",
            "dataset.examples=300",
            "loss=mse",
        ],
        ["dataset=adding", "model=lstm", "model.hidden=8", "dataset.examples=300", "dataset.length=12"],
        ["dataset=memorization", "model=rnn", "model.hidden=8", "dataset.examples=300", "dataset.length=12"],
        ["dataset=temporal_order_2", "model=gru", "model.hidden=8", "dataset.examples=300", "dataset.length=20"],
        ["dataset=text", "model=gpt", "model.layers=1", "model.width=16", "model.heads=2", "dataset.train_limit=300"],
        ["dataset=text", "model=char_lstm", "model.hidden=8", "dataset.train_limit=300"],
        ["dataset=digits", "model=irnn", "model.hidden=8", "init=identity"],
    ],
    ids=lambda words: "-".join(word.split("=")[1] for word in words[:2]) + ("-mse" if "loss=mse" in words else ""),
)
def test_the_loss_falls_on_every_kind_of_data(tmp_path, words):
    if "dataset=text" in words:
        words = [*words, "dataset.sequence_length=16"]
    chosen = config.compose(
        ["optimizer=adam", "optimizer.learning_rate=0.01", "batch=64", "budget.steps=30", "eval_every=29", "log_every=1",
         "evaluate_train=64", "tracker=none", "progress=false", f"results_dir={tmp_path}", *words]
    )  # fmt: skip
    outcome = run.execute(chosen)
    assert outcome.state == "done", outcome.why
    history = losses(outcome.directory)
    assert sum(history[-5:]) < sum(history[:5])
    assert math.isfinite(outcome.summary["gap_loss"])
    reconstructs = chosen["model"]["info"].get("reconstructs")
    assert (outcome.summary["test_accuracy"] is None) == bool(reconstructs)


def test_images_streamed_from_folders(tmp_path):
    from tests.data.fixtures import write_image_folder

    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 12), ("val", 4)):
        images = {
            wnid: [
                (f"{i}.JPEG", torch.randint(0, 256, (40, 48, 3), dtype=torch.uint8, generator=generator).numpy())
                for i in range(count)
            ]
            for wnid in ("n01440764", "n01443537")
        }
        write_image_folder(tmp_path / "data" / "imagenet", split, images)
    words = [
        "dataset=imagenet",
        "dataset.validation=4",
        "dataset.size=32",
        "dataset.workers=2",
        f"data_dir={tmp_path}/data",
    ]
    chosen = ["model=resnet18", "model.stem=imagenet", "batch=8", "ghost_batch_size=4", "budget.steps=3", "log_every=1",
              "optimizer.learning_rate=0.001"]  # fmt: skip
    outcome = run.execute(config.compose([*TINY[2:], *words, *chosen, f"results_dir={tmp_path}"]))
    assert outcome.state == "done", outcome.why
    assert len(losses(outcome.directory)) == 3
    again = run.execute(config.compose([*TINY[2:], *words, *chosen, f"results_dir={tmp_path}/again", "micro_batch=4"]))
    assert losses(again.directory) == pytest.approx(losses(outcome.directory), rel=1e-3)


# ---- before anything is written ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words",
    [
        ["init=identity"],
        ["averaging=swa", "averaging.start=100"],
        ["trainer.accelerator=gpu", "trainer.devices=64"],
        ["schedule.warmup=200"],
    ],
)
def test_what_only_torch_can_tell_is_still_told_before_anything_is_written(tmp_path, words):
    with pytest.raises(UserError, match=words[-1].split("=")[0]):
        run.execute(config.compose([*TINY, *words, f"results_dir={tmp_path}/results", "budget.steps=100"]))
    assert not (tmp_path / "results").exists()


def test_runs_do_not_depend_on_what_ran_before_them_in_the_process(tmp_path):
    """torch's own generator, which an optimizer from elsewhere may draw from, starts at the run's seed."""
    torch.manual_seed(1)
    execute(tmp_path / "one", "budget.steps=1")
    first = torch.rand(3)
    torch.manual_seed(2)
    torch.rand(7)
    execute(tmp_path / "two", "budget.steps=1")
    assert torch.equal(torch.rand(3), first)
