"""Memory and work in the summary: closed forms of bytes, the peak of one run among several, and what a resumed run keeps."""

import itertools
import json

import pytest
import torch

from optbench import config
from optbench.objective.objective import Objective
from optbench.store import load
from optbench.store.measured import COUNTED, MEASURED, without_measured
from optbench.sweep.verification import compare
from optbench.system import memory
from optbench.testing.trained import Killed
from optbench.training import costs, run
from optbench.training.measured import Measured
from optbench.training.sharding import state_bytes
from optbench.training.task import Task

TINY = ["dataset=digits", "model=mlp", "tracker=none", "progress=false", "budget.steps=6", "micro_batch=32"]
WEIGHTS = 64 * 128 + 128 + 128 * 10 + 10
FACTORS = 65**2 + 128**2 + 129**2 + 10**2


def executed(folder, *words):
    outcome = run.execute(config.compose([*TINY, f"results_dir={folder}", *words]))
    assert outcome.state == "done", outcome.why
    return outcome


@pytest.mark.parametrize(
    ("optimizer", "numbers"),
    [
        ("sgd", 0),
        ("momentum", WEIGHTS),
        ("adam", 2 * WEIGHTS + 4),  # and a number of steps for each of four tensors
        # The running averages, which are those of the inverses, too, until the next inversion; and the inverses.
        ("kfac", WEIGHTS + 2 * FACTORS),
    ],
)
def test_bytes_of_weights_gradients_and_state(tmp_path, optimizer, numbers):
    summary = executed(tmp_path, f"optimizer={optimizer}").summary
    assert summary["parameter_bytes"] == summary["gradient_bytes"] == 4 * WEIGHTS
    assert summary["optimizer_state_bytes"] == 4 * numbers
    assert summary["rank_bytes"] == 4 * (2 * WEIGHTS + numbers)
    assert summary.keys() >= MEASURED | COUNTED


def test_the_rates_of_a_run(tmp_path):
    summary = executed(tmp_path).summary
    assert summary["examples_per_second"] == pytest.approx(6 * 128 / summary["seconds_training"])
    seconds = summary["seconds_evaluation"]
    assert seconds > 0
    assert summary["evaluation_share"] == pytest.approx(seconds / (seconds + summary["seconds_training"]))
    assert summary["flops_per_step"] == 2 * 128 * (64 * 128 * 2 + 128 * 10 * 3)
    assert summary["peak_device_bytes"] is None or torch.cuda.is_available()
    # A micro-batch of 32: inputs, the hidden layer (which ReLU and the next layer share) and outputs at least.
    assert 32 * 4 * (64 + 128 + 10) <= summary["activation_bytes"] <= 32 * 4 * (64 + 2 * 128 + 5 * 10)


def test_lbfgs_counts_the_evaluations_that_happen(tmp_path, monkeypatch):
    calls = []
    original = Objective.__call__
    monkeypatch.setattr(Objective, "__call__", lambda self: calls.append(1) or original(self))
    summary = executed(tmp_path, "optimizer=lbfgs", "budget.steps=2").summary
    of_training = len(calls) - 1  # one more on shapes, to count it
    assert of_training > 2
    assert summary["flops_per_step"] == round(summary["model_flops_per_step"] * of_training / 2)


def test_flops_of_a_batch_that_grows_are_the_mean_over_steps(tmp_path):
    words = ["schedule=batch_growth", "schedule.milestones=[384samples]", "schedule.growth=2", "optimizer=sgd"]
    summary = executed(tmp_path, *words).summary
    assert summary["samples"] > 6 * 128
    assert summary["flops_per_step"] == round(2 * summary["samples"] / 6 * (64 * 128 * 2 + 128 * 10 * 3))


def test_utilization_is_the_share_of_the_peak_of_all_devices(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "NVIDIA A100-SXM4-40GB")
    chosen = config.RunConfig.of(config.compose([*TINY, "precision=bf16", "trainer=ddp", "trainer.devices=2"]))
    assert costs._possible(chosen, torch.device("cuda"), 3.0) == pytest.approx(312e12 * 3 * 2)
    assert costs._possible(chosen, None, 3.0) is None


# ---- measurements ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not memory.reset_peak(), reason="the system does not let the peak be set back")
def test_the_peak_of_the_host_is_that_of_this_run():
    size = 200 * 10**6
    measured = Measured()
    block = torch.ones(size // 4)
    with_block = measured.state()["peak_host_bytes"]
    del block
    after = Measured().state()["peak_host_bytes"]
    assert with_block - after > 0.8 * size


def test_a_peak_that_cannot_be_set_back_is_unknown(monkeypatch):
    monkeypatch.setattr(memory, "reset_peak", lambda: False)
    assert Measured().state()["peak_host_bytes"] is None


def test_parts_of_a_run_have_the_largest_peak_and_the_sum_of_seconds(monkeypatch):
    monkeypatch.setattr(memory, "peak", lambda: 500)
    monkeypatch.setattr(memory, "reset_peak", lambda: True)
    for earlier, expected in ((700, 700), (300, 500), (None, None)):
        part = Measured()
        part.load_state({"peak_host_bytes": earlier, "peak_device_bytes": None, "seconds_evaluation": 2.0})
        with part.evaluation():
            pass
        assert part.state()["peak_host_bytes"] == expected
        assert part.state()["seconds_evaluation"] == pytest.approx(2.0, abs=0.5)
    old = Measured()
    old.load_state(None)
    assert set(old.state().values()) == {None}


def test_a_run_that_was_killed_counts_as_one_that_was_not(tmp_path, monkeypatch):
    whole = executed(tmp_path / "whole", "optimizer=kfac", "checkpoint_every=2").summary
    take_step = Task.take_step

    def step_or_die(task):
        if task.step == 4:
            raise Killed
        take_step(task)

    with monkeypatch.context() as patch:
        patch.setattr(Task, "take_step", step_or_die)
        with pytest.raises(Killed):
            executed(tmp_path / "killed", "optimizer=kfac", "checkpoint_every=2")
    killed = executed(tmp_path / "killed", "optimizer=kfac", "checkpoint_every=2").summary
    assert without_measured(killed) == without_measured(whole)
    assert without_measured(killed).keys() >= COUNTED


# ---- readers ----------------------------------------------------------------------------------------------------------------


def test_runs_of_earlier_versions_have_missing_values_and_agree(tmp_path):
    outcomes = [executed(tmp_path / name, "seed=1") for name in ("new", "old")]
    path = outcomes[1].directory.path / "summary.json"
    kept = {name: value for name, value in outcomes[1].summary.items() if name not in MEASURED | COUNTED}
    path.write_text(json.dumps(kept))
    for one, other in itertools.permutations([outcome.directory for outcome in outcomes]):
        assert not compare(one, other)
    path.write_text(json.dumps(kept | {"flops_per_step": 1}))
    assert "flops_per_step" in compare(outcomes[1].directory, outcomes[0].directory).why
    path.write_text(json.dumps(kept))
    folder = tmp_path / "new" / "runs"
    outcomes[1].directory.path.rename(folder / "of-an-earlier-version")
    frame = load(tmp_path / "new").set_index("run_id")
    assert frame["flops_per_step"].dtype == frame["peak_host_bytes"].dtype == "Int64"
    assert frame["flops_per_step"].isna().tolist() == [run_id == "of-an-earlier-version" for run_id in frame.index]


def test_state_in_one_storage_counts_once():
    base = torch.zeros(10)
    weight = torch.nn.Parameter(torch.zeros(5))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    optimizer.state[weight] = {"one": base[:5], "other": base[5:]}
    assert state_bytes(optimizer) == 40
