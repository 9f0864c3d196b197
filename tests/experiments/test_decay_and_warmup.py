"""The study decay_and_warmup: the laws and gains that were put into made-up runs of a whole grid are found again."""

import math

import numpy as np
import pytest

from tests.experiments.made_runs import accuracies, analyse, configured, drawn, store, summarized

LEVELS = (0.0, 0.125, 0.5, 2.0, 8.0)
RATES = 2.0 ** np.arange(-8.0, -2.9, 1.0)
BATCHES = (32, 64, 128, 256, 512)


def of_decay(exponent, product):
    """The best weight decay is 1/2 (B/32)^exponent, and the best rate there 1/64 (B/32)^(product - exponent)."""
    rng = np.random.default_rng(0)
    for batch in BATCHES:
        octaves = math.log2(batch / 32)
        best, rate_there = -1 + exponent * octaves, -6 + (product - exponent) * octaves
        for level in LEVELS:
            away = math.log2(level) - best if level else 6.0
            for rate in RATES:
                off = math.log2(rate) - rate_there + 0.5 * away  # a smaller decay has a larger best rate
                for seed in range(3):
                    loss = 0.3 * math.exp(0.004 * away**2 + 0.05 * off**2 + 0.0003 * rng.standard_normal())
                    changes = {"optimizer__weight_decay": level, "schedule__warmup": "5%"}
                    yield made("adamw", batch, seed, rate, loss, changes)


def of_warmup(gains, steps):
    """At each batch a warm-up over 10 % saves ``gains`` of the loss, and its best rate is ``steps`` octaves higher."""
    rng = np.random.default_rng(1)
    for batch, gain, step in zip((64, 512), gains, steps, strict=True):
        for warmup in (0, "10%"):
            for rate in 2.0 ** np.arange(-6.0, 1.1, 1.0):
                for seed in range(3):
                    top = (1 - gain) if warmup else 1.0
                    off = math.log2(rate) + 3 - (step if warmup else 0)
                    loss = 0.4 * top * math.exp(0.05 * off**2 + 0.002 * rng.standard_normal())
                    changes = {"optimizer__weight_decay": 0.0, "schedule__warmup": warmup}
                    yield made("momentum", batch, seed, float(rate), loss, changes)


def made(optimizer, batch, seed, rate, loss, changes):
    config = configured(optimizer, batch=batch, seed=seed, rate=float(rate), **changes)
    return config, summarized(config, **accuracies(0.9, 0.0) | {"validation_loss": loss}), "done", []


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    runs = [*of_decay(0.4, 1.0), *of_warmup((0.0, 0.1), (0, 1))]
    return analyse("decay_and_warmup", store(tmp_path_factory.mktemp("study"), "decay_and_warmup", runs))


def test_the_exponents_are_found(findings):
    laws = findings.tables["laws"].set_index("quantity")
    expected = {
        "weight decay": 0.4,
        "learning rate times weight decay": 1.0,
        "learning rate at the best weight decay": 0.6,
    }
    for quantity, exponent in expected.items():
        row = laws.loc[quantity]
        assert row["exponent"] == pytest.approx(exponent, abs=0.06)
        assert row["low"] <= exponent <= row["high"]
    assert set(laws["batches"]) == {len(BATCHES)}


def test_a_weight_decay_that_is_kept_costs_what_the_bowl_says(findings):
    rules = findings.tables["rules"].set_index(["rule", "batch"])
    # At batch 512 the best decay is 1.6 octaves higher.
    assert rules.loc[("no scaling", 512), "excess"] == pytest.approx(math.exp(0.004 * 1.6**2) - 1, abs=0.006)
    assert rules.loc[("square root", 512), "excess"] == pytest.approx(0, abs=0.006)


def test_gains_and_rates_of_a_warmup_are_found(findings):
    gains = findings.tables["warmup_gains"].set_index("batch")
    assert gains["gain"].to_list() == pytest.approx([0.0, 0.1], abs=0.005)
    assert gains["more"].to_list() == pytest.approx([0.0, 0.1], abs=0.007)
    assert gains["rate_ratio"].to_list() == pytest.approx([1.0, 2.0], rel=0.03)
    assert gains.loc[512, "gain_low"] > 0.08


def test_the_claims_follow_and_everything_is_drawn(findings):
    outcomes = {claim.claim: claim.outcome for claim in findings.claims}
    assert list(outcomes.values()) == ["agrees"] * 5
    assert "learning rate times weight decay as batch^" in findings.answer
    drawn(findings)


def test_other_laws_disagree(tmp_path):
    runs = [*of_decay(0.0, 0.5), *of_warmup((0.1, -0.05), (0, -1))]
    found = analyse("decay_and_warmup", store(tmp_path, "decay_and_warmup", runs)).claims
    assert [claim.outcome for claim in found] == ["disagrees", "agrees", "disagrees", "disagrees", "disagrees"]


def test_one_part_alone_is_analysed(tmp_path):
    findings = analyse("decay_and_warmup", store(tmp_path, "decay_and_warmup", list(of_warmup((0.0, 0.1), (0, 1)))))
    assert [claim.outcome for claim in findings.claims] == ["not tested", "not tested", "agrees", "agrees", "agrees"]
    assert "laws" not in findings.tables
    drawn(findings)


def test_without_runs_there_is_no_answer(tmp_path):
    config = configured("adamw", optimizer__weight_decay=0.0)
    study = store(tmp_path, "decay_and_warmup", [(config, None, "pending", [])])
    assert analyse("decay_and_warmup", study).answer.startswith("Not enough runs")
