"""The study steps_to_target on made-up runs: what was put in is found, and what cannot be known is said."""

import math

import numpy as np
import pandas as pd
import pytest

from optbench.analysis.studies import analysis_of
from tests.experiments.made_runs import (
    accuracies,
    analyse,
    configured,
    drawn,
    evaluation,
    store,
    summarized,
    target_runs,
)

BATCHES = (16, 64, 256, 1024)
CRITICAL = {"sgd": 64.0, "kfac": 512.0}
RATES = (0.05, 0.1, 0.2, 0.4)


def rate_runs(seeds=3, evaluations=8, least=50.0, worse=(1.3, 1.0, 1.8, 2.5)):
    """S = least (1 + B_c / B) for the second rate, a factor ``worse`` for the others, by accuracies that are straight lines."""
    runs = []
    for optimizer, critical in CRITICAL.items():
        for batch in BATCHES:
            for seed in range(seeds):
                for rate, factor in zip(RATES, worse, strict=True):
                    steps = least * (1 + critical / batch) * factor * (1 + 0.02 * (seed - 1))
                    config = configured(optimizer, batch, seed, rate=rate)
                    config["budget"]["steps"] = 5_000
                    at = np.linspace(0, 1.3 * steps, evaluations + 1)[1:].round().astype(int).tolist()
                    rows = [evaluation(step, batch, validation_accuracy=0.1 + 0.7 * step / steps) for step in at]
                    summary = summarized(config, **accuracies(0.8, 0.1), classes=10)
                    runs.append((config, summary, "done", rows))
    return runs


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    found = store(tmp_path_factory.mktemp("rates"), "steps_to_target", rate_runs())
    for _, run in found.runs[(found.runs["optimizer"] == "sgd") & (found.runs["base_learning_rate"] == 0.1)].iterrows():
        for step, scale in ((4, 20.0 + run["seed"]), (16, 60.0), (40, 90.0)):
            directory = found.plan.directory(run["run_id"])
            directory.measurements.write("noise_scale", step, {"simple": scale}, {}, 0.1, {})
    return found


@pytest.fixture(scope="module")
def findings(study):
    return analyse("steps_to_target", study)


def test_k_facs_advantage_is_a_ratio_at_the_best_rates_and_grows_with_the_batch(findings):
    table = findings.tables["advantage"]
    at = table.dropna(subset="batch").set_index("batch")
    for batch in BATCHES:
        truth = (1 + CRITICAL["sgd"] / batch) / (1 + CRITICAL["kfac"] / batch)
        assert at.loc[batch, "ratio"] == pytest.approx(truth, rel=0.01)
    trend = table[table["batch"].isna()].iloc[0]
    ratios = [math.log(at.loc[batch, "ratio"]) for batch in BATCHES]
    assert trend["ratio"] == pytest.approx(np.polyfit(np.log(BATCHES), ratios, 1)[0], rel=0.01)
    # Of three seeds a side: no exact p-value is below 0.1, and none of equal times above 1.
    assert at["p_logrank"].between(0.1 - 1e-9, 1).all()
    assert "As the batch grows, K-FAC's advantage in steps grows over SGD." in findings.answer
    assert any(f"over that of the batch: SGD {trend['ratio']:.2f} [" in note for note in findings.notes)
    drawn(findings)


def test_critical_batches_are_compared_as_ratios(findings):
    row = findings.tables["critical_batch_ratios"].set_index(["optimizer", "over"]).loc[("kfac", "sgd")]
    assert row["ratio"] == pytest.approx(8, rel=0.05)
    assert row["low"] > 1
    assert row["identified"]
    assert "That of K-FAC is larger than SGD's." in findings.answer
    assert any(note.startswith("Critical batches over that of SGD: K-FAC 8") for note in findings.notes)
    table = findings.tables["critical_batch"].set_index(["target", "optimizer"])
    assert table.loc[(0.8, "kfac"), "examples_min"] == pytest.approx(50 * 512, rel=0.05)
    assert (table["not_identified"] == "").all()


def test_the_chosen_rate_stands_with_its_runs_and_with_another_search(findings):
    best = findings.tables["chosen_rates"].set_index(["optimizer", "batch"])
    row = best.loc[("sgd", 16)]
    assert (row["rate"], row["edge"], row["tied"], row["seeds"]) == (0.1, "", 1, 3)
    for name in ("restricted_mean", "search_steps"):
        assert row[name] == pytest.approx(250, rel=0.01)
        assert row[f"{name}_low"] < row[name] < row[f"{name}_high"]
    assert row["examples"] == pytest.approx(16 * 250, rel=0.01)
    # Of three runs, all of which reached it, Clopper and Pearson: 0.025^(1/3).
    assert (row["reached_share"], row["reached_share_low"]) == (1, pytest.approx(0.025 ** (1 / 3)))
    table = findings.tables["survival"].set_index(["optimizer", "batch"])
    assert table.loc[("sgd", 16.0), "survival"].tolist() == pytest.approx([2 / 3, 1 / 3, 0])
    assert table.loc[("sgd", 16.0), "time"].tolist() == pytest.approx([245, 250, 255], rel=0.01)


def test_a_saving_in_steps_is_said_with_what_it_costs_in_examples(findings):
    rows = findings.tables["regimes"].set_index(["optimizer", "batch_low"])
    saved = (1 + 64 / 16) / (1 + 64 / 64)
    assert rows.loc[("sgd", 16), "steps_saved"] == pytest.approx(saved, rel=0.01)
    assert rows.loc[("sgd", 16), "examples_spent"] == pytest.approx(4 / saved, rel=0.01)
    assert any(
        "from batch 16 to 64 the steps are divided by 2.5 to 3.7 and the examples multiplied by 1.1 to 1.6" in note
        for note in findings.notes
    )


def test_the_noise_scales_of_all_runs_stand_beside_the_critical_batch(findings):
    claim = next(claim for claim in findings.claims if claim.source == "McCandlish et al. 2018")
    # The medians of all runs are 60, beside a critical batch of 64.
    assert claim.effect == pytest.approx(60 / 64, rel=0.05)
    assert claim.outcome == "agrees"
    note = next(note for note in findings.notes if "noise scale" in note)
    assert "the median of each of 12 runs, lies from 60 to 60 examples; single measurements from 20 to 90" in note
    chart = next(chart for chart in findings.charts if chart.name == "noise_scale")
    assert len(chart.series) == 12


def test_a_rate_that_fails_in_one_seed_is_not_chosen_for_its_median_and_an_edge_is_said(tmp_path):
    runs = []
    for config, summary, status, rows in rate_runs():
        fails = config["optimizer"]["learning_rate"] == 0.1 and config["seed"] == 2
        rows = [row | {"validation_accuracy": 0.2} for row in rows] if fails else rows
        runs.append((config, summary, status, rows))
    findings = analyse("steps_to_target", store(tmp_path, "steps_to_target", runs))
    found = findings.tables["chosen_rates"]
    assert (found["rate"] == 0.05).all()
    assert (found["edge"] == "lowest").all()
    assert any(
        note.startswith("The chosen rate is an end of its line, and only a bound: at 8 of 8") for note in findings.notes
    )


def test_times_shorter_than_the_evaluations_allow_are_said_not_to_identify_it(tmp_path):
    """Evaluations 20 steps apart, and steps down to 10."""
    runs = []
    for config, summary, status, _ in rate_runs(least=8.0):
        factor = {0.05: 1.3, 0.1: 1.0, 0.2: 1.6, 0.4: 1.9}[config["optimizer"]["learning_rate"]]
        steps = 8.0 * (1 + CRITICAL[config["optimizer"]["name"]] / config["batch"]) * factor
        grid = range(20, 800, 20)
        rows = [evaluation(at, config["batch"], validation_accuracy=min(0.1 + 0.7 * at / steps, 0.99)) for at in grid]
        runs.append((config, summary, status, rows))
    findings = analyse("steps_to_target", store(tmp_path, "steps_to_target", runs))
    table = findings.tables["critical_batch"].set_index(["target", "optimizer"])
    assert "evaluations" in table.loc[(0.8, "sgd"), "not_identified"]
    assert "1024" in table.loc[(0.8, "kfac"), "unresolved"]
    assert any(note.startswith("Times shorter than five intervals") for note in findings.notes)


def test_one_seed_has_no_intervals(tmp_path):
    findings = analyse("steps_to_target", store(tmp_path, "steps_to_target", rate_runs(seeds=1)))
    assert findings.tables["critical_batch"]["critical_batch_low"].isna().all()
    assert findings.tables["advantage"]["low"].isna().all()
    assert not any("nan" in note for note in [findings.answer, *findings.notes])
    assert isinstance(findings.tables["chosen_rates"], pd.DataFrame)


def test_outcomes_of_claims_follow_their_tables(study, findings):
    own = analysis_of("steps_to_target").__globals__["claims"]
    names = ("regimes", "critical_batch", "critical_batch_ratios", "noise_scale", "advantage")
    tables = {name: findings.tables[name] for name in names}

    def outcome(source, method, words="", **changes):
        claims = own(study.runs, tables | changes, 0.8)
        found = [one for one in claims if one.source == source and one.method == method and words in one.claim]
        return [one.outcome for one in found]

    assert outcome("Zhang et al. 2019", "kfac") == ["agrees"]
    unknown = tables["critical_batch"].assign(not_identified="wide")
    assert outcome("Zhang et al. 2019", "kfac", critical_batch=unknown) == ["undecided"]
    lower = tables["critical_batch_ratios"].assign(ratio=0.5, low=0.4, high=0.6)
    assert outcome("Zhang et al. 2019", "kfac", critical_batch_ratios=lower) == ["disagrees"]
    assert outcome("Zhang et al. 2019", "adam") == ["not tested"]
    for slope, low, high, expected in (
        (-1.0, -1.1, -0.9, ["agrees", "disagrees"]),
        (0.0, -0.1, 0.1, ["disagrees", "agrees"]),
        (-0.7, -1.2, -0.3, ["undecided", "disagrees"]),
        (-0.2, -0.6, 0.1, ["disagrees", "undecided"]),
    ):
        regimes = tables["regimes"].assign(slope=slope, low=low, high=high)
        assert outcome("Shallue et al. 2019", "sgd", regimes=regimes) == expected
    far = tables["critical_batch"].assign(critical_batch=1.0, critical_batch_low=0.9, critical_batch_high=1.1)
    assert outcome("McCandlish et al. 2018", "sgd", critical_batch=far) == ["disagrees"]
    # One run with another noise scale is enough: none is dropped.
    scales = tables["noise_scale"].copy()
    scales.loc[(scales["batch"] == 16) & (scales["seed"] == 0), "noise_scale"] = 1000.0
    assert outcome("McCandlish et al. 2018", "sgd", noise_scale=scales) == ["undecided"]
    over = tables["advantage"].assign(over="nesterov")
    assert outcome("Martens & Grosse 2015", "nesterov", "grows", advantage=over) == ["agrees"]
    falls = over.assign(ratio=-0.5, low=-1.0, high=-0.1)
    assert outcome("Martens & Grosse 2015", "nesterov", "grows", advantage=falls) == ["disagrees"]


def test_a_claim_that_hangs_on_one_seed_is_undecided(tmp_path):
    """K-FAC's steps fall a little from batch 256 to 1024 in all seeds but one, in which they rise."""
    runs = []
    for config, summary, status, rows in rate_runs(seeds=5):
        if config["optimizer"]["name"] == "kfac" and config["batch"] == 1024:
            factor = 2 * 4 ** (0.3 if config["seed"] == 0 else -0.2)
            rows = [row | {"step": round(row["step"] * factor)} for row in rows]
        runs.append((config, summary, status, rows))
    findings = analyse("steps_to_target", store(tmp_path, "steps_to_target", runs))
    words = "Beyond some batch the steps no longer fall."
    table = findings.tables["without_a_seed"]
    own = table[(table["claim"] == words) & (table["method"] == "kfac")].set_index("without_seed")
    assert own["outcome"].to_dict() == {0: "disagrees", 1: "agrees", 2: "agrees", 3: "agrees", 4: "agrees"}
    assert own.loc[0, "estimate"] == pytest.approx(-0.2, abs=0.02)
    [claim] = [claim for claim in findings.claims if claim.claim == words and claim.method == "kfac"]
    assert claim.outcome == "undecided"
    assert claim.low < 0 < claim.high  # the effect is that of all runs
    note = next(note for note in findings.notes if note.startswith("Decided by all runs, but not without one"))
    assert "Beyond some batch the steps no longer fall (K-FAC: agrees)" in note


def test_the_critical_batch_is_found_and_a_missed_target_is_counted(tmp_path):
    findings = analyse("steps_to_target", store(tmp_path, "steps_to_target", target_runs()))
    table = findings.tables["critical_batch"].set_index(["optimizer", "target"])
    for optimizer, critical in (("sgd", 64), ("kfac", 512)):
        for target in (0.8, 0.78, 0.75):
            row = table.loc[(optimizer, target)]
            assert row["critical_batch"] == pytest.approx(critical, rel=0.05)
            assert row["steps_min"] == pytest.approx(50 * target / 0.8, rel=0.05)
            assert row["critical_batch_low"] <= row["critical_batch"] <= row["critical_batch_high"]
    assert findings.answer.index("SGD") < findings.answer.index("K-FAC")  # in ascending order
    assert "No run reached the target: SGD at batch 1024." in findings.notes
    assert (findings.tables["chosen_rates"].dropna(subset="rate")["rate"] == 0.1).all()
    drawn(findings)


def test_the_costs_to_the_target_are_those_of_the_steps_to_it(tmp_path):
    """kfac costs twice the FLOPs a step; sgd's runs are of an earlier version, which counted none."""
    runs = []
    for config, summary, state, rows in target_runs(seeds=1):
        if config["optimizer"]["name"] == "kfac":
            summary |= {"flops_per_step": 2 * config["batch"], "parameter_bytes": 30, "optimizer_state_bytes": 12}
        runs.append((config, summary, state, rows))
    findings = analyse("steps_to_target", store(tmp_path, "steps_to_target", runs))
    costs = findings.tables["costs"].set_index(["optimizer", "batch"])
    for batch in (16, 64, 256, 1024):
        steps = 50 * (1 + 512 / batch) * 0.98
        assert costs.loc[("kfac", batch), "flops"] == pytest.approx(2 * batch * steps, rel=0.05)
        assert costs.loc[("kfac", batch), "seconds"] == pytest.approx(0.1 * steps, rel=0.05)
        assert costs.loc[("kfac", batch), "bytes"] == 42
    chart = next(chart for chart in findings.charts if chart.name == "costs_to_target")
    drawn = {(series.panel, series.label) for series in chart.series}
    assert {("FLOPs", "K-FAC"), ("Seconds of training", "K-FAC"), ("Seconds of training", "SGD")} <= drawn
    assert ("FLOPs", "SGD") not in drawn
    assert any("8 of 16 runs have no FLOPs" in note for note in findings.notes)
    assert chart.matplotlib().axes
