"""Runs outlive a move of the modules that their choices name."""

import pytest

from optbench.config import compose, run_id
from optbench.config.targets import imported
from optbench.moved import current_target, published_target
from optbench.store import RunDirectory


def test_a_run_keeps_its_id_and_is_read_with_the_targets_of_now(tmp_path):
    config = compose(["dataset=digits", "averaging=ema"])
    assert config["loss"]["_target_"] == "optbench.objective.losses.CrossEntropy"
    first = {**config, "loss": {**config["loss"], "_target_": "optbench.losses.CrossEntropy"}}
    first["averaging"] = {**config["averaging"], "_target_": "optbench.averaging.ExponentialMovingAverage"}
    assert run_id(first) == run_id(config)
    directory = RunDirectory(tmp_path / "runs" / run_id(config))
    from optbench.config import to_yaml

    directory.create(to_yaml(first))
    assert directory.config() == config


@pytest.mark.parametrize("target", ["torch.optim.SGD", "optbench.optimizers.KFAC", None, 3, "losses", "my.losses.Mine"])
def test_what_has_not_moved_stays(target):
    assert current_target(target) == target == published_target(target)


@pytest.mark.parametrize(
    "first",
    [
        "optbench.averaging.ExponentialMovingAverage",
        "optbench.inits.xavier",
        "optbench.losses.CrossEntropy",
        "optbench.momentum_schedules.Sutskever",
        "optbench.scaling.learning_rate",
    ],
)
def test_what_has_moved_is_found(first):
    now = current_target(first)
    assert published_target(now) == first
    assert callable(imported(now, "group"))
