"""The three promises for a model from elsewhere, with torch's own batch norm and dropout: see test_promises.py."""

import pytest
import torch
from torch import nn

from optbench.config import Config, RunConfig
from optbench.errors import UserError
from optbench.testing.invariance import TwoRanks
from optbench.testing.outcomes import require_close, require_equal
from optbench.testing.trained import numbers, run_in, trained
from optbench.training import build, run
from tests.test_promises import composed


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
        require_close(numbers(trained(chosen("precision=fp64", f"micro_batch={size}"))), whole, f"micro_batch={size}")


@pytest.mark.slow
def test_two_ranks_give_what_one_gives():
    ranks = TwoRanks({"theirs": chosen("precision=fp64", "micro_batch=16")})
    try:
        require_close(ranks.reached("theirs"), numbers(trained(chosen("precision=fp64"))), "two ranks")
    finally:
        ranks.stop()


def test_a_killed_run_ends_where_an_undisturbed_one_does(tmp_path):
    config = chosen("checkpoint_every=2", "budget.steps=6")
    whole = run_in(tmp_path / "whole", config)
    resumed = run_in(tmp_path / "killed", config, kill_before=(3,))
    assert resumed.resumed_at == [2]
    assert resumed.summary == whole.summary
    require_equal(resumed.state["model"], whole.state["model"], "killed and started again")


def test_groups_that_do_not_fit_are_refused_although_its_file_does_not_say_that_it_has_batch_norm():
    read = RunConfig.of(chosen() | {"micro_batch": 10})
    raw = build.load_data(read)
    with pytest.raises(UserError, match="micro_batch=10: with norm_batch=16"):
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
