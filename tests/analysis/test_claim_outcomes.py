"""Outcomes of claims from intervals."""

import math

import pandas as pd
import pytest

from optbench.analysis.claim_outcomes import (
    above,
    all_of,
    batches,
    below,
    effect,
    ended,
    holds,
    place,
    steady,
    within,
)
from optbench.analysis.claims import Claim, table

NAN = math.nan


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (1.1, 2, "agrees"),
        (0.5, 0.9, "disagrees"),
        (0.9, 1.1, "undecided"),
        (1.0, 2, "undecided"),
        (NAN, NAN, "undecided"),
    ],
)
def test_a_value_above_a_bound(low, high, outcome):
    assert above(low, high, 1.0) == outcome
    assert below(-high, -low, -1.0) == outcome
    assert above(low - 1, high - 1) == outcome


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(0.6, 1.9, "agrees"), (0.4, 1.0, "undecided"), (0.1, 0.4, "disagrees"), (3, 4, "disagrees"), (0.1, 9, "undecided"),
     (NAN, NAN, "undecided")],
)  # fmt: skip
def test_a_value_within_bounds(low, high, outcome):
    assert within(low, high, 0.5, 2.0) == outcome


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [
        (0.8, 1.2, "agrees"),
        (0.4, 1.2, "undecided"),
        (0.4, 0.6, "disagrees"),
        (1.1, 2, "disagrees"),
        (NAN, NAN, "undecided"),
    ],
)
def test_an_exponent_is_one_and_not_a_half(low, high, outcome):
    assert holds(low, high, 1.0, 0.5) == outcome


def test_all_parts_of_a_claim_have_to_agree():
    assert all_of(["agrees", "agrees"]) == "agrees"
    assert all_of(["agrees", "undecided"]) == "undecided"
    assert all_of(["agrees", "undecided", "disagrees"]) == "disagrees"
    assert all_of(["agrees", "not tested"]) == "agrees"
    assert all_of(["not tested"]) == all_of([]) == "not tested"


def test_a_claim_that_changes_with_a_part_of_the_runs_is_undecided():
    def made(**outcomes):
        return [
            Claim(claim="It grows.", source="A 2020", method=name, outcome=outcome, runs=3)
            for name, outcome in outcomes.items()
        ]

    found = made(adam="agrees", sgd="agrees", lamb="disagrees", muon="agrees", kfac="not tested")
    parts = [
        made(adam="agrees", sgd="agrees", lamb="disagrees", muon="agrees", kfac="not tested"),
        made(adam="agrees", sgd="undecided", lamb="agrees", kfac="not tested"),  # muon has no claim without this seed
    ]
    others = pd.concat([table(part, "study").assign(without_seed=seed) for seed, part in enumerate(parts)])
    outcomes = {claim.method: claim.outcome for claim in steady(found, others)}
    assert outcomes == {
        "adam": "agrees",
        "sgd": "undecided",
        "lamb": "undecided",
        "muon": "undecided",
        "kfac": "not tested",
    }
    assert [claim.outcome for claim in steady(found, pd.DataFrame())] == [claim.outcome for claim in found]
    assert all(claim.runs == 3 for claim in steady(found, others))


def test_the_fields_of_a_claim():
    assert effect(0.02, 0.01, 0.03, 100) == {"effect": 2.0, "low": 1.0, "high": 3.0}
    turned = effect(-1.0, -2.0, 1.0, -1)
    assert turned == {"effect": 1.0, "low": -1.0, "high": 2.0}
    assert all(math.isnan(effect(1.0)[name]) for name in ("low", "high"))
    runs = pd.DataFrame({"dataset": ["b", "a", None], "model": ["m"] * 3, "status": ["done", "diverged", "failed"]})
    assert place(runs) == {"dataset": "a/b", "model": "m"}
    assert ended(runs) == 2
    assert (batches(32), batches(32.0, 256)) == ("batch=32", "batch=32:256")
