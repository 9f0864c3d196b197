"""Differences paired by seed, by hand."""

import math

import numpy as np
import pandas as pd
import pytest

from optbench.analysis.statistics import intervals
from optbench.analysis.statistics.pairs import differences_by_seed


def frame(rows):
    return pd.DataFrame(rows, columns=["optimizer", "seed", "status", "test_accuracy"])


def test_differences_by_seed():
    runs = frame([
        ("adam", 0, "done", 0.9), ("adam", 1, "done", 0.8), ("adam", 2, "diverged", None), ("adam", 3, "failed", None),
        ("adam", 4, "diverged", None), ("sgd", 4, "diverged", None),
        ("sgd", 3, "done", 0.5), ("sgd", 2, "done", 0.7), ("sgd", 1, "done", 0.75), ("sgd", 0, "done", 0.6),
    ])  # fmt: skip
    pairs = differences_by_seed(runs, "test_accuracy", "optimizer", "adam", "sgd", match=["seed"]).set_index("seed")
    np.testing.assert_allclose(pairs["difference"], [0.3, 0.05, -math.inf, math.nan])
    assert list(pairs.index) == [0, 1, 2, 4]


def test_pairing_takes_out_what_seeds_have_in_common():
    generator = np.random.default_rng(0)
    common = 10 * generator.standard_normal(8)
    runs = frame([
        (name, seed, "done", common[seed] + shift + 0.01 * generator.standard_normal())
        for name, shift in (("adam", 0.5), ("sgd", 0.0))
        for seed in range(8)
    ])  # fmt: skip
    pairs = differences_by_seed(runs, "test_accuracy", "optimizer", "adam", "sgd", match=["seed"])
    interval = intervals.student(pairs["difference"].to_numpy())
    assert interval.estimate == pytest.approx(0.5, abs=0.02)
    assert interval.high - interval.low < 0.05
