"""The study steps_to_target on made-up searches: what was put in is found, and what cannot be known is said."""

import math

import numpy as np
import pandas as pd
import pytest

from tests.experiments.test_studies import accuracies, analyse, configured, drawn, evaluation, store, summarized

BATCHES = (16, 64, 256, 1024)
CRITICAL = {"sgd": 64.0, "kfac": 512.0}


def search_runs(trials=4, seeds=3, evaluations=8, least=50.0, worse=(1.0, 1.3, 1.8, 2.5)):
    """S = least (1 + B_c / B) for the first trial, a factor ``worse`` for the others, by accuracies that are straight lines."""
    runs = []
    for optimizer, critical in CRITICAL.items():
        for batch in BATCHES:
            for seed in range(seeds):
                for trial in range(trials):
                    steps = least * (1 + critical / batch) * worse[trial] * (1 + 0.02 * (seed - 1))
                    config = configured(optimizer, batch, seed, trial)
                    config["budget"]["steps"] = 5_000
                    at = np.linspace(0, 1.3 * steps, evaluations + 1)[1:].round().astype(int).tolist()
                    rows = [evaluation(step, batch, validation_accuracy=0.1 + 0.7 * step / steps) for step in at]
                    summary = summarized(config, **accuracies(0.8, 0.1), classes=10)
                    runs.append((config, summary, "done", rows))
    return runs


@pytest.fixture(scope="module")
def findings(tmp_path_factory):
    return analyse("steps_to_target", store(tmp_path_factory.mktemp("search"), "steps_to_target", search_runs()))


def test_k_facs_advantage_is_a_ratio_of_searches_and_grows_with_the_batch(findings):
    table = findings.tables["advantage"]
    at = table.dropna(subset="batch").set_index("batch")
    for batch in BATCHES:
        truth = (1 + CRITICAL["sgd"] / batch) / (1 + CRITICAL["kfac"] / batch)
        assert at.loc[batch, "ratio"] == pytest.approx(truth, rel=0.01)
        assert at.loc[batch, "low"] < truth < at.loc[batch, "high"]
    trend = table[table["batch"].isna()].iloc[0]
    ratios = [math.log(at.loc[batch, "ratio"]) for batch in BATCHES]
    assert trend["ratio"] == pytest.approx(np.polyfit(np.log(BATCHES), ratios, 1)[0])
    # Of three seeds a side: no exact p-value is below 0.1, and none of equal times above 1.
    assert at["p_logrank"].between(0.1 - 1e-9, 1).all()
    note = next(note for note in findings.notes if note.startswith("Steps over those of K-FAC"))
    assert "sgd" in note
    assert f"slope {trend['ratio']:.2f}" in note
    drawn(findings)


def test_critical_batches_are_compared_as_ratios(findings):
    row = findings.tables["critical_batch_ratios"].set_index(["optimizer", "over"]).loc[("kfac", "sgd")]
    assert row["ratio"] == pytest.approx(8, rel=0.05)
    assert row["low"] > 1
    assert row["identified"]
    assert "told apart from it, where both are identified: kfac." in findings.answer
    table = findings.tables["critical_batch"].set_index(["target", "optimizer"])
    assert table.loc[(0.8, "kfac"), "examples_min"] == pytest.approx(50 * 512, rel=0.05)
    assert (table["not_identified"] == "").all()


def test_a_trial_that_fails_in_one_seed_is_not_chosen_for_its_median(tmp_path):
    runs = []
    for config, summary, status, rows in search_runs():
        first = (config["trial"], config["seed"]) == (0, 2)
        rows = [row | {"validation_accuracy": 0.2} for row in rows] if first else rows
        runs.append((config, summary, status, rows))
    found = analyse("steps_to_target", store(tmp_path, "steps_to_target", runs)).tables["tuned_steps"]
    assert (found["trial"] == 1).all()
    assert (found["reached_share"] == 1).all()
    # Of three runs, Clopper and Pearson: 0.025^(1/3).
    assert found["reached_share_low"].to_numpy() == pytest.approx(0.025 ** (1 / 3))


def test_survival_curves_are_of_the_chosen_trials(findings):
    table = findings.tables["survival"].set_index(["optimizer", "batch"])
    assert table.loc[("sgd", 16.0), "survival"].tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    assert table.loc[("sgd", 16.0), "time"].tolist() == pytest.approx([245, 250, 255], rel=0.01)
    best = findings.tables["tuned_steps"].set_index(["optimizer", "batch"])
    row = best.loc[("sgd", 16)]
    assert row["restricted_mean"] == pytest.approx(250, rel=0.01)
    assert row["restricted_mean_examples"] == pytest.approx(16 * 250, rel=0.01)


def test_times_shorter_than_the_evaluations_allow_are_said_not_to_identify_it(tmp_path):
    """Evaluations 20 steps apart, and steps down to 10."""
    runs = []
    for config, summary, status, _ in search_runs(least=8.0):
        steps = 8.0 * (1 + CRITICAL[config["optimizer"]["name"]] / config["batch"]) * (1 + 0.3 * config["trial"])
        grid = range(20, 800, 20)
        rows = [evaluation(at, config["batch"], validation_accuracy=min(0.1 + 0.7 * at / steps, 0.99)) for at in grid]
        runs.append((config, summary, status, rows))
    findings = analyse("steps_to_target", store(tmp_path, "steps_to_target", runs))
    table = findings.tables["critical_batch"].set_index(["target", "optimizer"])
    assert "evaluations" in table.loc[(0.8, "sgd"), "not_identified"]
    assert "not identified" in findings.answer
    assert "1024" in table.loc[(0.8, "kfac"), "unresolved"]
    assert any(note.startswith("Times shorter than five intervals") for note in findings.notes)
    chart = next(chart for chart in findings.charts if chart.name == "steps_to_target")
    for series in (series for series in chart.series if series.label == "measured"):
        assert series.y[-1] == 10  # the middle of the first interval, as in the fit
        assert (np.array(series.low) <= series.y).all()


def test_one_seed_has_no_intervals(tmp_path):
    findings = analyse("steps_to_target", store(tmp_path, "steps_to_target", search_runs(seeds=1)))
    assert findings.tables["critical_batch"]["critical_batch_low"].isna().all()
    assert findings.tables["advantage"]["low"].isna().all()
    assert not any("nan" in note for note in [findings.answer, *findings.notes])
    assert isinstance(findings.tables["tuned_steps"], pd.DataFrame)
