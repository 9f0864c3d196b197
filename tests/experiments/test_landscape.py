"""The study landscape on minima that are known: curves are quadratic, and losses and norms are set."""

import importlib
import sys
from functools import cache
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from optbench.analysis.studies import analysis_of, folder_of
from optbench.errors import UserError

SEEDS = range(4)
DECAYS, RATES, BATCHES = (0.0, 1e-3), (0.05, 0.1), (64, 1024)
X = np.linspace(-1, 1, 9)
WAY = np.linspace(-0.5, 1.5, 9)


def module(name):
    """A module beside the analysis of the study."""
    folder = str(folder_of("landscape"))
    sys.path.insert(0, folder)
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(folder)


def curvature(protocol, decay, batch):
    """Steeper at the large batch: 16 times at equal epochs, 4 times at equal train loss."""
    return (16.0 if protocol == "epochs" else 4.0) if batch == 1024 else 1.0


def row(protocol, decay, rate, batch, seed, **changes):
    """A run; the weights of the large batch are the smaller ones without weight decay, and the larger ones with it."""
    norm = {(0.0, 64): 20.0, (0.0, 1024): 10.0, (1e-3, 64): 5.0, (1e-3, 1024): 8.0}[decay, batch]
    run = {"run_id": f"{protocol}-{decay}-{rate}-{batch}-{seed}", "seed": seed, "batch": batch, "state": "done"}
    run |= {"config.optimizer.weight_decay": decay, "config.optimizer.learning_rate": rate, "optimizer": "nesterov"}
    run |= {"config.budget.stop_at_target": protocol == "matched", "steps_to_target": 100.0, "steps": 100}
    run |= {"test_accuracy": 0.9 - 1e-3 * seed, "test_loss": 0.4 + 0.01 * seed, "train_loss": 0.1 * (1 + 1e-3 * seed)}
    run |= {"sharpness_adaptive": 1.0, "sharpness_sam": 1.0, "sharpness_keskar": 2.0, "eigenvalues_top": 3.0}
    return run | {"displacement_weight_norm": norm} | changes


def made(change=lambda run: {}, steep=curvature):
    """A study of both protocols; ``change``: fields of a run that differ. Along lines the ends are as steep as ``steep`` says."""
    runs, measured = [], {}
    for protocol in ("matched", "epochs"):
        for decay in DECAYS:
            for rate in RATES if protocol == "matched" else RATES[1:]:
                for seed in SEEDS:
                    for batch in BATCHES:
                        run = row(protocol, decay, rate, batch, seed)
                        runs.append(run | change(run))
                        a = steep(protocol, decay, batch) * np.exp(0.01 * seed * (batch == 1024))
                        lines = {"positions": X, "loss": np.stack([0.1 + 0.2 * X + a * X**2] * 2)}
                        measured[run["run_id"], "landscape"] = [SimpleNamespace(arrays=lambda lines=lines: lines)]
                    small, large = (steep(protocol, decay, batch) for batch in BATCHES)
                    # Between the minima each half of the way is the parabola of its end.
                    loss = np.where(WAY < 0.5, small * WAY**2, large * np.exp(0.01 * seed) * (1 - WAY) ** 2)
                    line = {"positions": WAY, "train_loss": loss, "test_loss": loss + 1}
                    measured[run["run_id"], "interpolation"] = [SimpleNamespace(arrays=lambda line=line: line)]
    for run_id, height in (("matched-0.0-0.1-64-0", 1.0), ("matched-0.001-0.1-1024-0", 9.0)):
        plane = {"x": X, "y": X, "loss_surface": height * (0.1 + np.add.outer(X**2, X**2))}
        measured[run_id, "plane"] = [SimpleNamespace(arrays=lambda plane=plane: plane)]
    frame = pd.DataFrame(runs)
    return SimpleNamespace(name="a study", runs=frame, measurements=lambda r, probe: measured.get((r, probe), []))


@pytest.fixture(autouse=True)
def few_permutations(monkeypatch):
    monkeypatch.setattr(module("landscape_tables"), "REPETITIONS", 200)


def findings(**options):
    return analysis_of("landscape")(made(**options))


@cache
def plain():
    return findings()


def of_measure(table, measure, protocol="equal train loss", decay=0.0, rate=0.1):
    chosen = table[(table["measure"] == measure) & (table["weight_decay"] == decay)]
    if "protocol" in table:
        chosen = chosen[(chosen["protocol"] == protocol) & (chosen["learning_rate"] == rate)]
    assert len(chosen) == 1
    return chosen.iloc[0]


def outcomes(found, words, by):
    return [claim.outcome for claim in found.claims if claim.claim.startswith(words) and claim.matched_by == by]


def test_ratios_of_curves_that_are_known_are_of_seed_pairs():
    found = plain().tables["differences"]
    logs = np.log(4) + 0.01 * np.array(SEEDS)
    width = stats.t.ppf(0.975, 3) * logs.std(ddof=1) / 2
    for measure in ("filter_rise", "line_rise"):
        one = of_measure(found, measure)
        assert [one["ratio"], one["low"], one["high"]] == pytest.approx(
            np.exp([logs.mean(), logs.mean() - width, logs.mean() + width])
        )
    assert of_measure(found, "filter_rise")["small_batch"] == pytest.approx(0.5**2)
    assert of_measure(found, "line_rise")["small_batch"] == pytest.approx(0.25**2)
    assert of_measure(found, "filter_rise", "equal epochs")["ratio"] == pytest.approx(16 * np.exp(0.015))
    assert of_measure(found, "norm", decay=1e-3)["ratio"] == pytest.approx(1.6)


def test_depth_is_the_share_of_the_logarithm_that_is_gone_at_equal_train_loss():
    one = of_measure(plain().tables["depth"], "filter_rise")
    assert one["removed"] == pytest.approx(4)
    # log 16 at equal epochs, log 4 at equal train loss, and 0.015 for the seeds in both.
    assert one["share"] == pytest.approx(1 - (np.log(4) + 0.015) / (np.log(16) + 0.015))
    assert one["share_low"] <= one["share"] <= one["share_high"]
    bounds = module("landscape_tables").fieller(np.array([1.0, 2.0, 4.0, 3.0]), np.array([5.0, 6.0, 6.0, 8.0]))
    for bound in bounds:
        assert stats.ttest_1samp(
            [1 - 5 * bound, 2 - 6 * bound, 4 - 6 * bound, 3 - 8 * bound], 0
        ).pvalue == pytest.approx(0.05)
    assert bounds[0] < 2.5 / 6.25 < bounds[1]
    # Where there is no factor at equal epochs, no share of it is told.
    assert np.isnan(of_measure(plain().tables["depth"], "sam")["share"])


def test_runs_that_do_not_reach_the_target_have_no_part_and_are_reported():
    def change(run):
        missed = run["run_id"] == "matched-0.0-0.1-1024-2"
        return {"steps_to_target": np.nan, "eigenvalues_top": 1e6} if missed else {}

    found = findings(change=change)
    one = of_measure(found.tables["differences"], "top")
    assert (one["seeds"], one["ratio"]) == (3, pytest.approx(1))
    own = found.tables["settings"].query("protocol == 'equal train loss' and reached < runs")
    assert own[["weight_decay", "learning_rate", "batch", "reached", "runs"]].to_numpy().tolist() == [
        [0, 0.1, 1024, 3, 4]
    ]
    assert own["low"].iloc[0] == pytest.approx(stats.beta.ppf(0.025, 3, 2))
    assert set(found.tables["correlations"]["settings"]) == {7}
    assert "31 of 32 runs reached" in found.notes[0]
    assert "3 of 4 at weight decay 0, learning rate 0.1, batch 1,024" in found.notes[0]


def test_equal_epochs_do_not_ask_for_the_target():
    found = findings(change=lambda run: {} if run["config.budget.stop_at_target"] else {"steps_to_target": np.nan})
    assert of_measure(found.tables["differences"], "filter_rise", "equal epochs")["seeds"] == 4


def flipped(protocol, decay, batch):
    """The small-batch end is the steeper one with weight decay, and the large-batch end without."""
    return 4.0 if (batch == 1024) == (decay == 0) else 1.0


@pytest.mark.parametrize("by", ["epochs", "train loss"])
def test_the_reversal_needs_both_orders(by):
    words = ("Along the line", "With weight decay the small", "Weight decay reverses")
    assert [outcomes(findings(steep=flipped), start, by) for start in words] == [["agrees"], ["agrees"], ["agrees"]]
    assert [outcomes(plain(), start, by) for start in words] == [["agrees"], ["disagrees"], ["disagrees"]]


@pytest.mark.parametrize("decay", DECAYS)
def test_without_its_precondition_the_reversal_is_not_tested(decay):
    def same_norm(run):
        return {"displacement_weight_norm": 7.0} if run["config.optimizer.weight_decay"] == decay else {}

    found = findings(steep=flipped, change=same_norm)
    start = "Along the line" if decay == 0 else "With weight decay the small"
    assert outcomes(found, start, "epochs") == ["not tested"]
    assert outcomes(found, "Weight decay reverses", "epochs") == ["not tested"]
    assert any(f"is not met at weight decay {decay:g}." in note for note in found.notes)
    assert not any("is not met" in note for note in findings(steep=flipped).notes)


@pytest.mark.parametrize(("factor", "outcome"), [(1.05, "agrees"), (1.2, "not tested")])
def test_minima_that_are_not_equally_deep_are_not_compared(factor, outcome):
    found = findings(change=lambda run: {"train_loss": run["train_loss"] * (factor if run["batch"] == 1024 else 1)})
    start = "The large-batch minimum is the sharper one along"
    assert outcomes(found, start, "train loss") == [outcome, outcome]
    assert outcomes(found, start, "epochs") == ["agrees", "agrees"]
    assert any("nothing is claimed" in note for note in found.notes) == (outcome == "not tested")


def test_settings_are_the_units_of_a_correlation_with_either_result(monkeypatch):
    """Two of eight settings are steep; these alone have a larger test loss, and the test error is the same for all."""

    def change(run):
        steep = run["batch"] == 1024 and run["config.optimizer.weight_decay"] == 0
        return {"test_loss": 0.5 + 0.1 * steep, "test_accuracy": 0.9}

    monkeypatch.setattr(module("landscape_tables"), "REPETITIONS", 2000)
    found = findings(change=change, steep=lambda protocol, decay, batch: 4.0 if batch == 1024 and decay == 0 else 1.0)
    table = found.tables["correlations"].set_index(["measure", "outcome", "scope"])
    one = table.loc["filter_rise", "test_loss", "all minima"]
    # One of the 28 places of the two steep settings, drawn 2,000 times.
    assert one["p"] == pytest.approx(1 / 28, abs=0.015)
    assert (one["settings"], one["minima"]) == (8, 32)
    own = table.xs("all minima", level="scope")["p"]
    assert one["p_holm"] == pytest.approx(min(1, own.notna().sum() * own.min()))
    assert table.xs("test_error", level="outcome")["rho"].isna().all()
    assert "12 are needed" in found.answer
    assert {claim.outcome for claim in found.claims if "follows" in claim.claim} == {"not tested"}


@pytest.mark.parametrize(
    ("changes", "outcome"),
    [
        ({}, "agrees"),
        ({"p_holm": 0.06}, "undecided"),
        ({"low": -0.1}, "undecided"),
        ({"rho": -0.8, "low": -0.9, "high": -0.6}, "disagrees"),
        ({"settings": 11}, "not tested"),
    ],
)
def test_a_correlation_is_claimed_over_enough_settings_and_after_the_correction(changes, outcome):
    row = {
        "measure": "filter_rise",
        "outcome": "test_error",
        "scope": "all minima",
        "rho": 0.8,
        "low": 0.5,
        "high": 0.9,
    }
    ranks = pd.DataFrame([row | {"p": 1e-4, "p_holm": 1e-3, "settings": 18, "minima": 180} | changes])
    own = module("landscape_claims")
    made_claims = own.claims(made().runs, pd.DataFrame(), ranks, 0.1)
    assert [claim.outcome for claim in made_claims if claim.claim.endswith("follows the test error.")] == [outcome]


def test_figures_tell_decays_by_colour_and_batches_by_marker_and_planes_have_one_scale():
    found = plain()
    charts = {chart.name: chart for chart in found.charts}
    assert list(charts)[:5] == [
        "measures_against_test_loss",
        "factors",
        "curves",
        "lines_equal_train_loss",
        "lines_equal_epochs",
    ]
    looks = charts["measures_against_test_loss"].looks()
    small, large = (looks[f"weight decay 0, batch {batch}"] for batch in ("64", "1,024"))
    decayed = looks["weight decay 0.001, batch 64"]
    assert small.colour == large.colour != decayed.colour
    assert small.marker == decayed.marker != large.marker
    planes = [chart.surface for name, chart in charts.items() if name.startswith("plane")]
    assert [plane.range for plane in planes] == [pytest.approx((0.1, 18.9))] * 2
    for chart in found.charts:
        chart.matplotlib()
        chart.plotly()


def test_a_sweep_that_has_only_begun():
    study = made()
    study.runs = study.runs.assign(state=["done"] + ["pending"] * (len(study.runs) - 1))
    found = analysis_of("landscape")(study)
    assert "12 are needed" in found.answer
    assert {claim.outcome for claim in found.claims} == {"not tested"}
    study.runs = study.runs.assign(state="pending")
    with pytest.raises(UserError, match="none of its runs has a measurement"):
        analysis_of("landscape")(study)


def test_the_answer_says_with_which_measures_a_result_rises_and_falls():
    follows = analysis_of("landscape").__globals__["_follows"]
    known = pd.DataFrame([("a", 0.6, 0.01), ("b", -0.7, 0.02), ("c", -0.8, 0.2)], columns=["meaning", "rho", "p_holm"])
    assert follows(known, "test loss") == "the test loss rises with a (+0.60) and falls with b (-0.70)"
    assert follows(known[1:], "test loss") == "the test loss falls with b (-0.70)"
    assert follows(known[2:], "test error") == "the test error is not known to follow any of 1 measures"
    assert follows(known[:0], "test error") == ""
