"""Ratios and charts of solutions whose measures are known."""

import numpy as np
import pandas as pd
import pytest

from optbench.analysis.laws.minima import line_chart, measures_chart, ratios

MEASURES = {"sharpness": "Sharpness, %", "loss": "Loss", "absent": "Not measured"}


def solutions():
    """Large over small is 2, 4, 8 for adam's sharpness by seed; sgd's third seed has no large batch, its second no sharpness."""
    rows = []
    for seed, factor in enumerate((2.0, 4.0, 8.0)):
        for batch in (32, 64, 256):
            value = {32: 1.0 + seed, 64: 99.0, 256: (1.0 + seed) * factor}[batch]
            rows.append({"optimizer": "adam", "batch": batch, "seed": seed, "sharpness": value, "loss": 0.5})
            if (seed, batch) != (2, 256):
                value = 0.0 if seed == 1 else 3.0 * batch
                rows.append({"optimizer": "sgd", "batch": batch, "seed": seed, "sharpness": value, "loss": batch / 32})
    return pd.DataFrame(rows)


def test_ratios_are_geometric_and_paired_by_seed():
    found = ratios(solutions(), "optimizer", MEASURES).set_index(["measure", "optimizer"])
    assert set(found.index) == {(name, who) for name in ("sharpness", "loss") for who in ("adam", "sgd")}
    adam = found.loc[("sharpness", "adam")]
    # log2 of the ratios is 1, 2, 3: mean 2, deviation 1, t = 4.3027 with two degrees of freedom.
    width = 4.302653 / np.sqrt(3)
    assert (adam["ratio"], adam["low"], adam["high"]) == pytest.approx((4, 2 ** (2 - width), 2 ** (2 + width)))
    assert (adam["small_batch"], adam["large_batch"], adam["seeds"]) == pytest.approx((2, (2 + 8 + 24) / 3, 3))
    # Seed 1 is not positive, and seed 2 has no partner: one pair is left, which has no interval.
    sgd = found.loc[("sharpness", "sgd")]
    assert (sgd["ratio"], sgd["seeds"]) == (pytest.approx(8), 1)
    assert np.isnan(sgd["low"])
    assert found.loc[("loss", "sgd"), "ratio"] == pytest.approx(8)


@pytest.mark.parametrize("batches", [[], [32], [64]])
def test_without_both_batches_there_is_no_ratio(batches):
    frame = solutions()
    assert ratios(frame[frame["batch"].isin(batches)], "optimizer", MEASURES).empty


def test_the_charts_hold_means_and_ranges():
    chart = measures_chart(solutions(), "optimizer", MEASURES, "sharpness", "Sharpness")
    panels = {(one.panel, one.label): one for one in chart.series}
    assert {panel for panel, _ in panels} == {"Sharpness, %", "Loss"}
    adam = panels["Sharpness, %", "batch 256"]
    assert list(adam.x) == ["adam", "sgd"]
    assert [float(values[0]) for values in (adam.y, adam.low, adam.high)] == pytest.approx([34 / 3, 2, 24])
    x = np.array([0.0, 0.5, 1.0])
    lines = {
        who: [
            {"positions": x, "train_loss": x + seed, "test_loss": 2 * x + seed, "train_accuracy": x} for seed in (1, 3)
        ]
        for who in ("adam", "sgd")
    }
    chart = line_chart(lines, 32, 256, "seed")
    (train, test), _ = [[one for one in chart.series if one.panel == who] for who in lines]
    assert list(train.y) == [2, 2.5, 3]
    assert list(test.y) == [2, 3, 4]
    assert (list(train.low), list(train.high)) == ([1, 1.5, 2], [3, 3.5, 4])
    assert "0 is the solution of batch 32, 1 that of batch 256" in chart.caption
    assert chart.matplotlib() is not None
