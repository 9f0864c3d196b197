"""The study scaling_rules on made-up runs: the laws that were put in are found, and what is missing is said."""

import math

import numpy as np
import pandas as pd
import pytest

from optbench.analysis.laws.transfer import reaches
from tests.experiments import committed
from tests.experiments.made_runs import analyse, drawn, rate_runs, store


def test_the_exponents_of_the_rates_are_found(tmp_path):
    truth = {"sgd": 1.0, "adam": 0.5}
    findings = analyse("scaling_rules", store(tmp_path, "scaling_rules", rate_runs(truth)))
    laws = findings.tables["laws"].set_index("optimizer")
    for optimizer, exponent in truth.items():
        row = laws.loc[optimizer]
        assert row["exponent"] == pytest.approx(exponent, abs=0.03)
        assert row["low"] <= exponent <= row["high"] < row["low"] + 0.2
        assert (row["smallest_batch"], row["largest_batch"], row["batches"]) == (16, 1024, 5)
    assert "SGD as batch^1.00" in findings.answer
    assert "the linear rule is compatible with SGD" in findings.answer
    assert "the square-root rule is compatible with Adam" in findings.answer
    assert "bend" not in findings.answer
    assert "predicted_exponents" not in findings.tables
    outcomes = {(claim.method, claim.source.split()[0]): claim.outcome for claim in findings.claims}
    assert outcomes["sgd", "Goyal"] == "agrees"
    assert outcomes["adam", "Malladi"] == "agrees"
    assert outcomes["momentum", "Goyal"] == "not tested"
    assert findings.answer.startswith(
        "Claims of papers about the linear and the square-root rule: agrees 2, disagrees 0"
    )
    # The rule that is right costs nothing; the other one that much at 64 times the batch (a factor of 8 in the rate).
    transfer = findings.tables["transfer"].set_index(["optimizer", "batch", "rule"])["excess"]
    assert transfer["sgd", 1024, "linear"] == pytest.approx(0, abs=0.02)
    assert transfer["adam", 1024, "square root"] == pytest.approx(0, abs=0.02)
    assert transfer["sgd", 1024, "square root"] == pytest.approx(math.exp(0.1 * 9) - 1, abs=0.15)
    # Half an octave beside the best rate costs 2.5 %, an octave 11 %.
    reach = findings.tables["reach"].set_index(["optimizer", "rule"])
    expected = {
        ("sgd", "linear"): 1024,
        ("sgd", "square root"): 32,
        ("adam", "square root"): 1024,
        ("adam", "linear"): 32,
    }
    assert {key: reach.loc[key, "batch"] for key in expected} == expected
    assert {key: reach.loc[key, "surely"] for key in expected} == expected
    assert any(
        "with linear scaling, costs at most 5 %" in note and "SGD 1024 (1024)" in note for note in findings.notes
    )
    drawn(findings)


@pytest.mark.parametrize(("high", "outcome"), [(0.9, "agrees"), (1.1, "undecided")])
def test_a_claim_that_changes_without_one_seed_is_undecided(high, outcome):
    bounds = [(0.3, 0.9), (0.2, high)]
    rows = [
        {"optimizer": "adam", "without_seed": seed, "exponent": 0.5, "low": low, "high": top}
        for seed, (low, top) in enumerate(bounds)
    ]
    table = pd.DataFrame([{"optimizer": "adam", "exponent": 0.5, "low": 0.3, "high": 0.8, "runs": 9}])
    runs = pd.DataFrame([{"dataset": "digits", "model": "mlp", "scale": "smoke"}])
    claims = committed.parts("scaling_rules")["claims"](runs, table, pd.DataFrame(rows))
    assert {claim.method: claim.outcome for claim in claims}["adam"] == outcome


def test_the_law_without_a_seed_is_that_of_the_other_runs(tmp_path):
    """The best rate of seed 2 is an octave lower at the largest of five batches, which takes 0.1 from the slope."""
    runs = rate_runs({"sgd": 1.0}, batches=(16, 32, 64, 128, 256), seeds=3)
    for config, metrics, *_ in runs:
        if config["seed"] == 2 and config["batch"] == 256 and "validation_loss" in metrics:
            octaves = math.log2(config["optimizer"]["learning_rate"]) + 3
            metrics["validation_loss"] = 0.4 * math.exp(0.1 * octaves**2)
    findings = analyse("scaling_rules", store(tmp_path, "scaling_rules", runs))
    found = findings.tables["without_a_seed"].set_index("without_seed")["exponent"]
    assert found[2] == pytest.approx(1, abs=0.04)
    assert found[[0, 1]].to_list() == pytest.approx([found[2] - 0.1] * 2, abs=0.03)
    row = findings.tables["laws"].iloc[0]
    assert (row["least_without_a_seed"], row["most_without_a_seed"]) == (found.min(), found.max())


def test_a_rule_reaches_no_farther_than_the_first_batch_at_which_it_costs_more_or_is_unknown():
    costs = {"a": [0.01, 0.06, 0.0], "b": [0.05, 0.04, math.nan], "c": [0.5, 0.0, 0.0]}
    rows = [
        {"optimizer": name, "base": 8, "batch": batch, "rule": "linear", "excess": cost, "high": cost + 0.005}
        for name, own in costs.items()
        for batch, cost in zip((32, 16, 64), (own[1], own[0], own[2]), strict=True)
    ]
    found = reaches(pd.DataFrame(rows)).set_index("optimizer")
    assert found["batch"].to_dict() == {"a": 16, "b": 32, "c": 8}
    assert found["surely"].to_dict() == {"a": 16, "b": 8, "c": 8}
    assert reaches(pd.DataFrame()).empty


def test_a_bend_is_found_and_the_slope_before_it_is_not_averaged_with_the_plateau(tmp_path):
    batches = tuple(2**power for power in range(4, 13))
    runs = [
        run
        if run[0]["batch"] <= 256
        else (run[0], run[1] | {"validation_loss": 1.2 * run[1]["validation_loss"]}, *run[2:])
        for run in rate_runs({"momentum": 1.0}, batches=batches, bend=256)
        if "validation_loss" in run[1]
    ]
    findings = analyse("scaling_rules", store(tmp_path, "scaling_rules", runs))
    row = findings.tables["laws"].iloc[0]
    assert row["exponent"] == pytest.approx(1, abs=0.03)  # over all batches it would be a half
    assert row["largest_batch"] == 256
    assert row["bend"] == pytest.approx(256, rel=0.1)
    assert row["slope_after"] == pytest.approx(0, abs=0.03)
    assert row["p_bend"] < 0.05
    assert "with a bend at batch 2" in findings.answer
    assert {claim.outcome for claim in findings.claims if claim.method == "momentum"} == {"agrees", "disagrees"}
    drawn(findings)


def test_what_is_measured_along_a_run_predicts_beside_them(tmp_path):
    """λ₁' = 20 / b⁰·²: the limit of SGD grows as b⁰·², that of Adam as its root."""
    study = store(tmp_path, "scaling_rules", rate_runs({"sgd": 1.0, "adam": 0.5}))
    batches = np.array([16.0, 64.0, 256.0])
    tops = 20 / batches**0.2
    arrays = {"batch_sizes": batches, "top": np.stack([tops, tops], 1)}
    arrays |= {"full_top": np.array(20 / 1024**0.2), "examples": np.array(1024)}
    run = study.plan.directory(study.runs.loc[study.runs["optimizer"] == "sgd", "run_id"].iloc[0])
    run.measurements.write("batch_hessian", 64, {}, arrays, 0.1, {})
    run.measurements.write("noise_scale", 64, {"simple": 300.0}, {}, 0.1, {})
    findings = analyse("scaling_rules", study)
    predicted = findings.tables["predicted_exponents"].set_index("optimizer")["exponent"]
    assert predicted.to_dict() == pytest.approx({"adam": 0.1, "sgd": 0.2})
    charts = {chart.name: chart for chart in findings.charts}
    assert "batch Hessian at step 64" in {one.label for one in charts["exponents"].series}
    assert any("noise scale is 300 examples" in note for note in findings.notes)
    drawn(findings)


def test_a_grid_that_is_too_small_says_what_is_missing(tmp_path, recwarn):
    runs = rate_runs({"sgd": 1.0}, seeds=1, batches=(16,))
    findings = analyse("scaling_rules", store(tmp_path, "scaling_rules", runs))
    assert "takes two batch sizes" in findings.answer
    assert "The runs have the batch sizes 16." in findings.answer
    assert "python -m optbench -m experiment=scaling_rules scale=laptop" in findings.answer
    for chart in findings.charts:
        chart.matplotlib().savefig(tmp_path / f"{chart.name}.png")
    assert [str(warning.message) for warning in recwarn] == []
