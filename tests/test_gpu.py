"""Runs on a CUDA device beside runs on the processor. `benchmarks/gpu.sh` runs these where there is one."""

import signal

import pytest
import torch

import optbench
from optbench import config
from optbench.training import run

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device, and this machine has none"),
]
TINY = ["dataset=digits", "model=wrn", "model.depth=10", "model.width=1", "batch=128", "ghost_batch_size=64", "log_every=1",
        "budget.steps=4", "evaluate_train=256", "tracker=none", "progress=false"]  # fmt: skip
OPTIMIZERS = ["momentum", "adamw", "lamb", "kfac", "hessian_free"]


def execute(folder, *words):
    outcome = run.execute(config.compose([*TINY, f"results_dir={folder}", *words]))
    assert outcome.state == "done", outcome.why
    return outcome


def losses(outcome):
    return [row["loss"] for row in outcome.directory.rows() if row["event"] == "train"]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_the_device_gives_what_the_processor_gives(tmp_path, optimizer):
    words = [f"optimizer={optimizer}", "precision=fp64"]
    device = execute(tmp_path / "gpu", *words, "trainer.accelerator=gpu")
    processor = execute(tmp_path / "cpu", *words, "trainer.accelerator=cpu")
    assert device.summary["run_id"] == processor.summary["run_id"]
    assert losses(device) == pytest.approx(losses(processor), rel=1e-7)
    assert device.summary["peak_device_bytes"] > 0
    assert processor.summary["peak_device_bytes"] is None


@pytest.mark.parametrize("first", ["gpu", "cpu"])
@pytest.mark.parametrize("optimizer", ["momentum", "kfac"])
def test_a_run_goes_on_where_another_device_stopped(tmp_path, monkeypatch, optimizer, first):
    then = "cpu" if first == "gpu" else "gpu"
    words = [f"optimizer={optimizer}", "precision=fp64"]
    whole = execute(tmp_path / "whole", *words, f"trainer.accelerator={then}")
    take_step = run.Task.take_step

    def stopped_at_step_2(task):
        take_step(task)
        if task.step == 2:
            task.stop.receive(signal.SIGTERM)

    monkeypatch.setattr(run.Task, "take_step", stopped_at_step_2)
    begun = config.compose([*TINY, f"results_dir={tmp_path / 'moved'}", *words, f"trainer.accelerator={first}"])
    assert run.execute(begun).state == "preempted"
    monkeypatch.undo()
    moved = execute(tmp_path / "moved", *words, f"trainer.accelerator={then}")
    assert losses(moved) == pytest.approx(losses(whole), rel=1e-7)


def test_micro_batches_are_halved_where_the_memory_of_the_device_runs_out(tmp_path, monkeypatch):
    """The estimate is made to be far too small; the process may have a twentieth of the device."""
    words = ["optimizer=momentum", "model.width=8", "batch=1024", "trainer.accelerator=gpu", "budget.steps=2"]
    words += ["ghost_batch_size=64", "precision=fp64"]
    reference = execute(tmp_path / "small", *words, "micro_batch=64")
    needed = execute(tmp_path / "whole", *words, "micro_batch=1024").summary["peak_device_bytes"]
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.empty_cache()
    torch.cuda.set_per_process_memory_fraction(min(1.0, 0.6 * needed / total))
    monkeypatch.setattr("optbench.training.micro_batch.PEAK", 1e-3)
    try:
        auto = execute(tmp_path / "auto", *words)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert losses(auto) == pytest.approx(losses(reference), rel=1e-9)
    assert auto.summary["peak_device_bytes"] <= 0.6 * needed


@pytest.mark.parametrize("precision", ["tf32", "bf16", "fp16"])
def test_the_precisions_of_the_device_learn(tmp_path, precision):
    words = ["optimizer=momentum", "trainer.accelerator=gpu", "budget.steps=40"]
    fp32 = execute(tmp_path / "fp32", *words)
    other = execute(tmp_path / precision, *words, f"precision={precision}")
    assert other.summary["test_loss"] == pytest.approx(fp32.summary["test_loss"], rel=0.1)


def test_four_workers_share_a_device(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = [word for word in TINY if word != "progress=false"]
    alone = execute(tmp_path / "alone", "optimizer=adamw", "seed=3", "trainer.accelerator=gpu")
    options = ["launcher=local", "launcher.workers_per_device=4", "trainer.accelerator=gpu", "optimizer=adamw"]
    runs = optbench.sweep(*words, *options, seed=optbench.grid(range(8)), results_dir=str(tmp_path / "results"))
    assert {each.state for each in runs} == {"done"}
    [same] = [each for each in runs if each.summary["seed"] == 3]
    assert same.summary["test_loss"] == pytest.approx(alone.summary["test_loss"], rel=1e-3)
