"""The three promises for a model from elsewhere, with torch's own batch norm and dropout: see test_promises.py."""

import pytest
import torch
from torch import nn

from optbench.config import Config, RunConfig
from optbench.errors import UserError
from optbench.training import build, run
from optbench.training.task import Task
from tests.test_promises import (
    Killed,
    assert_equal_to_rounding,
    composed,
    launch_two_ranks,
    numbers,
    trained,
    without_times,
)

RANK = """
import sys, torch
torch.set_num_threads(1)
from tests.test_users_model import chosen
from tests.test_promises import numbers, trained
folder, *overrides = sys.argv[1:]
task = trained(chosen(*overrides, "trainer=ddp", "trainer.devices=2", "trainer.accelerator=cpu"))
if task.global_rank == 0:
    torch.save(numbers(task), f"{folder}/theirs.pt")
"""


class Theirs(nn.Module):
    """Written for torch alone."""

    def __init__(self, data):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.3), nn.AdaptiveAvgPool2d(2), nn.Flatten()
        )
        self.head = nn.Sequential(nn.Linear(32, 16), nn.BatchNorm1d(16), nn.Dropout(0.2), nn.Linear(16, 10))

    def forward(self, inputs):
        return self.head(self.body(inputs))


class Functional(Theirs):
    def forward(self, inputs):
        return nn.functional.dropout(super().forward(inputs), 0.1, self.training)


def chosen(*overrides: str, target: str = "Theirs") -> Config:
    config = composed("adam", *overrides)
    # Its file does not say that it has batch norm.
    info = {"about": "theirs", "accepts": ["image"], "batch_norm": False, "schema": {}}
    config["model"] = {"_target_": f"tests.test_users_model.{target}", "name": "theirs", "info": info}
    return config


def test_the_result_does_not_depend_on_the_micro_batch():
    whole = numbers(trained(chosen("precision=fp64")))
    assert int(whole["body.1.num_batches_tracked"]) == 4
    for size in (16, 48):
        assert_equal_to_rounding(numbers(trained(chosen("precision=fp64", f"micro_batch={size}"))), whole)


@pytest.mark.slow
def test_two_ranks_give_what_one_gives(tmp_path):
    launch_two_ranks(tmp_path, ["precision=fp64", "micro_batch=16"], RANK)
    whole = numbers(trained(chosen("precision=fp64")))
    assert_equal_to_rounding(torch.load(tmp_path / "theirs.pt", weights_only=True), whole)


def test_a_killed_run_ends_where_an_undisturbed_one_does(tmp_path, monkeypatch):
    overrides = ["checkpoint_every=2", "budget.steps=6"]
    whole = run.execute(chosen(*overrides, f"results_dir={tmp_path}/whole"))
    assert whole.state == "done", whole.why
    take_step = Task.take_step

    def step_or_die(task):
        if task.step == 3:
            raise Killed
        take_step(task)

    with monkeypatch.context() as patched:
        patched.setattr(Task, "take_step", step_or_die)
        with pytest.raises(Killed):
            run.execute(chosen(*overrides, f"results_dir={tmp_path}/killed"))
    resumed = run.execute(chosen(*overrides, f"results_dir={tmp_path}/killed"))
    assert without_times(resumed.summary) == without_times(whole.summary)
    ends = [
        torch.load(outcome.directory.checkpoint, weights_only=True)["task"]["model"] for outcome in (resumed, whole)
    ]
    assert ends[0].keys() == ends[1].keys()
    assert all(torch.equal(ends[0][name], tensor) for name, tensor in ends[1].items())


def test_groups_that_do_not_fit_are_refused_although_its_file_does_not_say_that_it_has_batch_norm():
    read = RunConfig.of(chosen() | {"micro_batch": 10})
    raw = build.load_data(read)
    with pytest.raises(UserError, match="micro_batch=10: with ghost_batch_size=16"):
        build.build_task(read, raw)


def test_a_functional_dropout_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(UserError, match="Functional draws from torch's generator"):
        run.execute(chosen(f"results_dir={tmp_path}/results", target="Functional"))
    assert not (tmp_path / "results").exists()


def test_the_history_of_a_float64_run_holds_float64_losses(tmp_path):
    losses = {}
    for precision in ("fp64", "fp32"):
        outcome = run.execute(chosen(f"precision={precision}", f"results_dir={tmp_path}/{precision}"))
        rows = [row for row in outcome.directory.rows() if row["event"] == "train"]
        losses[precision] = [row["loss"] for row in rows]
        assert len(rows) == 4
        exact = [float(torch.tensor(loss, dtype=torch.float32)) == loss for loss in losses[precision]]
        assert all(exact) if precision == "fp32" else not any(exact)
    assert losses["fp64"] == pytest.approx(losses["fp32"], rel=1e-4)
