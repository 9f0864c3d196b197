"""Gaps at matched epochs, updates and train losses, on curves that are straight lines."""

import math

import numpy as np
import pandas as pd
import pytest

from optbench.analysis.laws.gap import common_value, gap_by_batch, matched

NAN = math.nan


def curve(run_id, batch, epochs=4, every=1.0):
    """1024 examples; after e epochs the train loss is 2 - e / 4 and the gap batch / 1024 * e, so test = train + gap."""
    epoch = every * np.arange(1, round(epochs / every) + 1)
    train, gap = 2 - epoch / 4, batch / 1024 * epoch
    rows = pd.DataFrame({"run_id": run_id, "event": "evaluation", "epoch": epoch, "step": epoch * 1024 / batch})
    rows = rows.assign(train_loss=train, test_loss=train + gap, gap_loss=gap)
    rows = rows.assign(train_accuracy=1 - train / 4, test_accuracy=1 - (train + gap) / 4, gap_accuracy=gap / 4)
    steps = rows.assign(event="train", epoch=rows["epoch"] - 0.5, step=rows["step"] - 1)
    return pd.concat([rows, steps.assign(**dict.fromkeys(["train_loss", "test_loss", "gap_loss"], NAN))])


def test_metrics_are_interpolated_to_an_epoch():
    table = matched(curve("a", 128), "epoch", 2.5)
    assert table.loc["a", ["train_loss", "gap_loss", "step"]].tolist() == [1.375, 128 / 1024 * 2.5, 20]


def test_metrics_are_interpolated_to_a_step_and_to_a_train_loss():
    for match, value in (("step", 20), ("train_loss", 1.375)):
        table = matched(curve("a", 128), match, value)
        assert table.loc["a", "epoch"] == pytest.approx(2.5)
        assert table.loc["a", "test_accuracy"] == pytest.approx(1 - (1.375 + 0.3125) / 4)


@pytest.mark.parametrize(
    ("match", "value"), [("epoch", 0.9), ("epoch", 4.1), ("step", 33), ("train_loss", 0.9), ("train_loss", 1.9)]
)
def test_nothing_is_extrapolated(match, value):
    assert matched(curve("a", 128), match, value).loc["a"].isna().all()


def test_a_train_loss_that_comes_back_is_matched_at_its_first_crossing():
    rows = curve("a", 128)
    rows.loc[rows["event"] == "evaluation", "train_loss"] = [2.0, 1.0, 2.0, 0.5]
    assert matched(rows, "train_loss", 1.5).loc["a", "epoch"] == 1.5


@pytest.fixture
def history():
    return pd.concat([curve("s0", 64), curve("s1", 64), curve("l0", 512, epochs=6), curve("l1", 512, epochs=3)])


@pytest.fixture
def runs():
    ids = ["s0", "s1", "l0", "l1", "x"]
    status = ["done"] * 4 + ["diverged"]
    batches, seeds = [64, 64, 512, 512, 512], [0, 1, 0, 1, 2]
    return pd.DataFrame({"run_id": ids, "batch": batches, "seed": seeds, "optimizer": "sgd", "status": status})


def test_the_furthest_that_all_runs_pass(history):
    assert common_value(history, "epoch") == 3
    assert common_value(history, "step") == 6
    assert common_value(history, "train_loss") == 1.25
    assert math.isnan(common_value(history[:0], "epoch"))


def test_gap_against_batch_at_matched_epochs(runs, history):
    table = gap_by_batch(runs, history, "epoch").set_index("batch")
    assert table["value"].tolist() == [3, 3]
    np.testing.assert_allclose(table["gap_loss"], [64 / 1024 * 3, 512 / 1024 * 3])
    np.testing.assert_allclose(table["test_loss_excess"], [0, 448 / 1024 * 3])
    np.testing.assert_allclose(table["test_accuracy_excess"], [0, 448 / 1024 * 3 / 4])
    np.testing.assert_allclose(table["train_loss_excess"], 0, atol=1e-12)
    assert table[["runs", "done", "diverged", "passed"]].to_numpy().tolist() == [[2, 2, 0, 2], [3, 2, 1, 2]]


def test_what_the_batch_costs_is_paired_by_seed(runs, history):
    """Seed 1 is worse by 0.2 at both batches, which cancels, and by 0.06 more at the large one."""
    worse = history["run_id"].map({"s1": 0.2, "l1": 0.26}).fillna(0.0)
    row = (
        gap_by_batch(runs, history.assign(test_loss=history["test_loss"] + worse), "epoch").set_index("batch").loc[512]
    )
    middle, width = 448 / 1024 * 3 + 0.03, 12.7062 * 0.06 / math.sqrt(2) / math.sqrt(2)
    found = row[["test_loss_excess", "test_loss_excess_low", "test_loss_excess_high"]]
    assert found.tolist() == pytest.approx([middle, middle - width, middle + width], rel=1e-5)


def test_matched_updates_are_another_comparison(runs, history):
    """Batch 64 takes 16 steps an epoch and batch 512 two: after 16 updates the large batch is at epoch 8, which none reached."""
    table = gap_by_batch(runs, history, "step", value=16).set_index("batch")
    assert table["passed"].tolist() == [2, 0]
    assert table.loc[64, "gap_loss"] == pytest.approx(64 / 1024)
    assert math.isnan(table.loc[512, "gap_loss"])
    assert table.loc[512, "diverged"] == 1


def test_the_spread_over_seeds_is_shown(runs, history):
    shifted = history.assign(gap_loss=history["gap_loss"] + 0.2 * (history["run_id"] == "s1"))
    row = gap_by_batch(runs, shifted, "train_loss").set_index("batch").loc[64]
    assert row[["gap_loss", "gap_loss_min", "gap_loss_max"]].tolist() == pytest.approx([0.2875, 0.1875, 0.3875])
    assert row["gap_loss_std"] == pytest.approx(0.1 * math.sqrt(2))


def test_a_cell_in_which_all_diverged_is_still_counted(runs, history):
    table = gap_by_batch(runs.assign(status="diverged"), history, "epoch")
    assert table["diverged"].tolist() == [2, 3]
    assert table["gap_loss"].isna().all()
