"""Claims of studies: their table, and contradictions between them."""

import math
from pathlib import Path

import pandas as pd
import pytest

from optbench.analysis.claims import COLUMNS, Claim, consistent, in_common_units, table

RESULTS = Path(__file__).parents[2] / "results"
SE = 1.959963984540054


def claim(estimate, se=0.1, **more):
    """A row of a table of claims whose interval has the standard error ``se``."""
    empty = dict.fromkeys(COLUMNS, "")
    values = {"estimate": estimate, "low": estimate - SE * se, "high": estimate + SE * se, "runs": 10}
    names = {"quantity": "gap", "unit": "points", "method": "adam", "against": "sgd", "study": "one"}
    return {**empty, **names, **values, **more}


def found(*rows, known=None):
    return consistent(pd.DataFrame(rows, columns=list(COLUMNS)), known)


def test_a_claim_becomes_a_row():
    made = table(
        [
            Claim(claim="A beats B.", source="C 2020", outcome="agrees", quantity="gain", effect=1.5, low=1.0, high=2.0,
                  unit="points", estimand="S", runs=20, method="a", against="b", matched_by="epochs"),
            Claim(claim="D.", source="E 2021", outcome="not tested", scale="full"),
        ],
        "mine",
        "laptop",
    )  # fmt: skip
    assert list(made.columns) == list(COLUMNS)
    first, second = made.to_dict("records")
    assert (first["estimate"], first["kind"], first["scale"], first["study"]) == (1.5, "S", "laptop", "mine")
    assert (second["scale"], second["study"], second["outcome"]) == ("full", "mine", "not tested")
    assert math.isnan(second["estimate"])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"outcome": "holds"}, "outcome='holds'; accepted: agrees, disagrees, undecided, not tested"),
        ({"estimand": "X"}, "estimand='X'; accepted: W, S, K"),
        ({"effect": 1.0, "unit": "points"}, "has an effect, and no quantity and no estimand"),
        ({"low": 2.0, "high": 1.0}, "low=2 is above high=1"),
    ],
)
def test_a_claim_that_says_too_little_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Claim(**{"claim": "A.", "source": "B", "outcome": "undecided", **wrong})


def test_values_contradict_each_other_beyond_three_standard_errors():
    # se = sqrt(.3² + .4²) = .5, so that 1.5 is three of them.
    for difference, expected in ((1.51, 1), (1.49, 0), (-1.51, 1)):
        pairs = found(claim(0.0, 0.3), claim(difference, 0.4, study="two"))
        assert len(pairs) == expected
    assert pairs["z"][0] == pytest.approx(3.02)
    assert (pairs["study"][0], pairs["other"][0], pairs["contradiction"][0]) == ("one", "two", "different values")


@pytest.mark.parametrize("name", ["quantity", "unit", "method", "dataset", "model", "condition", "matched_by"])
def test_only_equal_places_are_compared(name):
    both = {"dataset": "digits", "model": "mlp", "condition": "batch=32", "matched_by": "epochs"}
    assert len(found(claim(0.0, **both), claim(9.0, **both))) == 1
    assert found(claim(0.0, **both), claim(9.0, **{**both, name: "another"})).empty
    if name in both:  # a claim that names no dataset is one about all
        assert len(found(claim(0.0, **both), claim(9.0, **{**both, name: ""}))) == 1


def test_an_estimate_without_an_interval_contradicts_nothing():
    for bounds in ({"low": math.nan, "high": math.nan}, {"low": 5.0, "high": math.inf}, {"low": 5.0, "high": 5.0}):
        other = claim(5.0, **bounds)
        assert found(claim(0.0), other).empty == (bounds["high"] != 5.0), bounds
    assert found(claim(0.0), claim(math.nan)).empty


def test_steps_at_two_batches_are_compared_in_examples():
    steps = claim(14.5, unit="ratio of steps", condition="batch=200:1000", low=13.0, high=16.0)
    examples = claim(2.9, unit="ratio of examples", condition="batch=200:1000", low=2.7, high=3.1, study="two")
    made = in_common_units(steps | {"method": "adam", "against": "sgd"})
    assert (made["unit"], made["estimate"]) == ("ratio of examples", pytest.approx(2.9))
    assert (made["low"], made["high"]) == (pytest.approx(2.6), pytest.approx(3.2))
    assert found(steps, examples).empty
    # Without the conversion they would be far apart, and so are steps that are called examples.
    assert len(found(steps | {"unit": "ratio of examples"}, examples)) == 1
    # At one batch a ratio of steps is one of examples.
    assert in_common_units(steps | {"condition": "batch=64"})["estimate"] == 14.5
    assert in_common_units(steps | {"condition": ""})["unit"] == "ratio of steps"
    assert in_common_units(claim(30.0, unit="steps", condition="batch=128"))["estimate"] == 30 * 128
    assert in_common_units(claim(0.021, unit="fraction"))["estimate"] == pytest.approx(2.1)


def test_ratios_are_compared_as_logarithms():
    # A factor 2 with an interval of a factor 2 to either side: se = log(2) / 1.96 each, z = 1.96 / sqrt(2).
    one, two = (claim(value, unit="ratio", low=value / 2, high=value * 2) for value in (1.0, 8.0))
    pairs = found(one, two | {"study": "two"})
    assert pairs["z"].abs().tolist() == [pytest.approx(math.log(8) / (math.log(2) / SE * math.sqrt(2)))]
    assert found(one, claim(4.0, unit="ratio", low=2.0, high=8.0)).empty


def test_the_order_of_the_two_methods_does_not_matter():
    difference = claim(2.0, 0.1, method="sgd", against="adam", study="two")
    assert len(found(claim(2.0), difference)) == 1
    assert found(claim(-2.0), difference).empty
    ratio = claim(4.0, unit="ratio of steps", condition="batch=200:1000", low=3.0, high=5.0)
    turned = claim(0.25, unit="ratio of steps", condition="batch=1000:200", low=0.2, high=1 / 3)
    turned_methods = turned | {"method": "sgd", "against": "adam"}
    assert found(ratio, turned_methods).empty
    made = in_common_units(turned_methods)
    assert [made[name] for name in ("estimate", "low", "high")] == [pytest.approx(value) for value in (0.8, 0.6, 1.0)]
    assert (made["method"], made["against"], made["condition"]) == ("adam", "sgd", "batch=200:1000")
    signed = in_common_units(difference)
    assert [signed[name] for name in ("estimate", "low", "high")] == [-2.0, -difference["high"], -difference["low"]]
    assert len(found(ratio, turned)) == 0  # at other batches
    assert len(found(ratio, turned | {"condition": "batch=200:1000"})) == 1


def test_opposite_trends_contradict_each_other_on_any_network():
    falls = claim(-0.4, 0.1, unit="exponent", dataset="digits", model="mlp", condition="batch=64:4096")
    rises = claim(0.3, 0.1, unit="exponent", dataset="text", model="lstm", study="two")
    pairs = found(falls, rises)
    assert pairs["contradiction"].tolist() == ["opposite trends"]
    assert found(falls, claim(0.1, 0.1, unit="exponent", study="two")).empty  # its interval holds 0
    # Exponents of one sign may differ: they are of other networks.
    assert found(falls, claim(-4.0, 0.1, unit="exponent", study="two")).empty


def test_a_known_difference_has_its_reason():
    rows = claim(0.0), claim(9.0, study="two")
    known = pd.DataFrame([
        {"quantity": "gap", "method": "sgd", "against": "adam", "study": "two", "other": "one", "reason": "other data"}
    ])  # fmt: skip
    assert found(*rows)["reason"].tolist() == [""]
    assert found(*rows, known=known)["reason"].tolist() == ["other data"]
    assert found(*rows, known=known.assign(study="three"))["reason"].tolist() == [""]


def test_the_committed_studies_do_not_contradict_each_other_without_a_reason():
    tables = [pd.read_csv(path) for path in sorted(RESULTS.glob("**/tables/claims.csv"))]
    known = pd.read_csv(RESULTS / "known_differences.csv", dtype=str)
    assert list(known.columns) == ["quantity", "method", "against", "study", "other", "reason"]
    assert known["reason"].str.len().gt(20).all()
    rows = pd.concat(tables, ignore_index=True) if tables else pd.DataFrame(columns=list(COLUMNS))
    assert list(rows.columns) == list(COLUMNS)
    pairs = consistent(rows, known)
    assert pairs[pairs["reason"] == ""].to_dict("records") == []
