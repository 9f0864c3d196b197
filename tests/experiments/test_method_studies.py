"""The studies of methods against their papers: their analyses find what was put into the store."""

import json

import numpy as np
import pytest
from scipy import stats

from optbench.analysis.studies import analysis_of, folder_of
from optbench.analysis.study import Study
from optbench.sweep.plan import Entry, Plan


def store(root, name, runs):
    """A sweep of the experiment ``name``: runs as (configuration, summary, state, accuracies at steps 10, 20, ...)."""
    plan, entries = Plan(root, name), []
    for number, (config, summary, state, accuracies) in enumerate(runs):
        directory = plan.directory(f"{name}-{number:03d}")
        directory.create(json.dumps(config))
        for place, accuracy in enumerate(accuracies, start=1):
            row = {"event": "evaluation", "step": 10 * place, "seconds": 0.1 * place, "train_loss": 1 - accuracy}
            directory.append({**row, "validation_accuracy": accuracy, "validation_loss": 1 - accuracy})
        known = {key: config[key] for key in ("batch", "seed", "trial")} | {"optimizer": config["optimizer"]["name"]}
        directory.finish({"run_id": directory.run_id, "status": state, **known, **summary}, state)
        entries.append(Entry(directory.run_id, {"seed": str(config["seed"])}))
    plan.extend(entries, {"experiment": name})
    return Study.read(root, name)


def configured(optimizer, batch=128, seed=0, trial=0, steps=100, **options):
    return {
        "optimizer": {"name": optimizer, "learning_rate": 0.1, "info": {}, **options},
        "model": {"name": "lenet5"},
        "dataset": {"name": "fashion_mnist"},
        "budget": {"steps": steps},
        "batch": batch,
        "seed": seed,
        "trial": trial,
    }


def test_first_order_says_which_methods_come_to_the_expected_accuracy(tmp_path):
    def run(optimizer, seed, accuracy, state="done"):
        summary = {"steps": 1290, "learning_rate": 0.1, "test_accuracy": accuracy, "gap_accuracy": 0.01}
        return configured(optimizer, seed=seed), summary, state, []

    runs = [run("adam", seed, 0.85 + 0.01 * seed) for seed in range(3)]
    runs += [run("kfac", seed, 0.9) for seed in range(2)] + [run("rprop", 0, 0.7), run("rprop", 1, 0.1, "diverged")]
    findings = analysis_of("first_order")(store(tmp_path, "first_order", runs))
    assert findings.answer == ("2 of 3 settings come to a test accuracy of 80%; not Rprop at batch 128 (40.0 %).")
    rows = findings.tables["accuracies"].set_index("optimizer")
    [claim] = findings.claims
    assert (claim.outcome, claim.effect, claim.runs) == ("disagrees", pytest.approx(2 / 3), 7)
    only = store(tmp_path / "only", "first_order", runs[:5])
    assert analysis_of("first_order")(only).claims[0].outcome == "agrees"
    assert list(rows.index) == ["kfac", "adam", "rprop"]
    # 0.85, 0.86, 0.87.
    assert rows.loc["adam", ["test_accuracy", "deviation", "worst"]].tolist() == pytest.approx([0.86, 0.01, 0.85])
    assert rows["diverged"].tolist() == [0, 0, 1]
    [chart] = findings.charts
    assert list(chart.series[0].x) == ["K-FAC", "Adam", "Rprop"]
    assert chart.matplotlib()
    assert chart.plotly()


def test_first_order_without_an_accuracy_says_so(tmp_path):
    study = store(tmp_path, "first_order", [(configured("adam"), {}, "diverged", [])])
    assert "Not enough runs" in analysis_of("first_order")(study).answer


def test_the_convolutional_net_is_judged_on_the_seeds_that_nothing_was_chosen_on(tmp_path):
    """Trial 1 is the quicker one on seed 0; what is reported are its seeds 1 to 3."""
    reaches = {0: {0: [0.4, 0.6, 0.9]}, 1: {0: [0.7, 0.9], 1: [0.6, 0.9], 2: [0.7, 0.9], 3: [0.7, 0.75, 0.85]}}
    runs = []
    for trial, by_seed in reaches.items():
        for seed, accuracies in by_seed.items():
            summary = {
                "steps": 30,
                "learning_rate": 0.1,
                "seconds_training": 1.0,
                "validation_accuracy": accuracies[-1],
            }
            runs.append((configured("kfac", 64, seed, trial), summary, "done", accuracies))
    runs.append((configured("momentum", 64, 0, 1), {"learning_rate": 9.0, "steps": 1}, "diverged", []))
    findings = analysis_of("second_order_convnet")(store(tmp_path, "second_order_convnet", runs))
    rows = findings.tables["methods"].set_index("method")
    kfac = rows.loc["K-FAC, batch 64"]
    assert kfac["choice"] == "optimizer=kfac batch=64 trial=1"
    # On straight lines between 10 and 20, and 20 and 30: to 0.8 from 0.6 to 0.9, from 0.7 to 0.9, from 0.75 to 0.85.
    expected = sorted([10 + 10 * 2 / 3, 15.0, 25.0])
    assert [kfac["least"], kfac["steps_to_target"], kfac["most"]] == pytest.approx(expected)
    assert kfac["tried"] == 2
    assert rows.loc["momentum SGD, batch 64", "diverged"] == 1
    assert "K-FAC, batch 64 16.7 [15, 25]" in findings.answer
    [chart] = findings.charts
    assert {series.label for series in chart.series} >= {"K-FAC"}
    assert chart.matplotlib()


def test_steps_of_two_methods_are_compared_seed_by_seed_and_batch_by_batch(tmp_path):
    """K-FAC takes 10 and 20 steps at the batches 64 and 512, and momentum about 30 and 50."""
    reach = {("kfac", 64): 10, ("momentum", 64): 30, ("kfac", 512): 20, ("momentum", 512): 50}
    runs = []
    for (optimizer, batch), steps in reach.items():
        for seed, noise in enumerate((0, -1, 0, 1)):
            # From 0.1 at step 0 on a line to 0.8 at the step in question, by evaluations every 10 steps.
            slope = 0.7 / (steps + noise * (optimizer == "momentum"))
            accuracies = [0.1 + slope * 10 * place for place in range(1, 9)]
            summary = {"steps": 80, "learning_rate": 0.1, "seconds_training": 1.0, "model": "lenet5"}
            runs.append((configured(optimizer, batch, seed), summary, "done", accuracies))
    findings = analysis_of("second_order_convnet")(store(tmp_path, "second_order_convnet", runs))
    table = findings.tables["comparisons"].set_index(["what", "batch"])
    for batch, times in ((64, (29, 30, 31)), (512, (49, 50, 51))):
        logs = np.log(np.array(times) / reach["kfac", batch])
        row = table.loc[("steps to the target", batch)]
        assert row["value"] == pytest.approx(np.exp(logs.mean()))
        low, high = stats.t.interval(0.95, 2, logs.mean(), stats.sem(logs))
        assert (row["low"], row["high"]) == pytest.approx((np.exp(low), np.exp(high)))
    slopes = (np.log([49 / 20, 50 / 20, 51 / 20]) - np.log([2.9, 3.0, 3.1])) / np.log(8)
    trend = findings.tables["comparisons"].set_index("what").loc["trend of the steps"]
    assert trend["value"] == pytest.approx(slopes.mean())
    claims = {(claim.quantity, claim.condition): claim for claim in findings.claims}
    assert claims["steps to the target", "batch=64"].outcome == "agrees"
    assert claims["steps to the target", "batch=64"].effect == pytest.approx(
        table.loc[("steps to the target", 64), "value"]
    )
    falls = claims["steps to the target: exponent of the ratio in the batch", "batch=64:512"]
    assert (falls.outcome, falls.method, falls.against, falls.estimand) == ("disagrees", "momentum", "kfac", "W")
    assert any(note.startswith("Steps to the target, paired by seed") for note in findings.notes)


def test_the_autoencoder_takes_in_the_sweep_of_its_baseline(tmp_path):
    def runs(optimizer, losses):
        summary = {"steps": 20, "learning_rate": 0.1, "seconds_training": 1.0}
        return [
            (
                configured(optimizer, 200, seed),
                {**summary, "train_loss": loss, "test_loss": loss + 8},
                "done",
                [0.5, 0.6],
            )
            for seed, loss in enumerate(losses)
        ]

    store(tmp_path, "second_order_autoencoder_nesterov", runs("nesterov", [1, 220, 222]))
    study = store(tmp_path, "second_order_autoencoder", runs("kfac_natural", [1, 230, 234]))
    findings = analysis_of("second_order_autoencoder")(study)
    rows = findings.tables["methods"].set_index("method")
    # Seed 0, on which options are chosen, does not count: 220 and 222, 230 and 234.
    assert rows["train_loss"].to_dict() == {"K-FAC, natural": 232, "Nesterov": 221}
    assert rows["train_loss_deviation"].tolist() == pytest.approx([8**0.5, 2**0.5])
    assert findings.answer.startswith(
        "Train loss at the end, mean and standard deviation over seeds: Nesterov 221 ± 1.4;"
    )
    assert {series.label for series in findings.charts[0].series} == {"Natural K-FAC", "SGD with Nesterov momentum"}
    loss = next(claim for claim in findings.claims if claim.unit == "nats an example")
    # 230 - 220 and 234 - 222.
    assert (loss.effect, loss.outcome) == (11, "undecided")
    # Both curves are below the loss at the first evaluation, step 10, and K-FAC's 20 steps are no fewer.
    assert (findings.claims[0].outcome, findings.claims[0].effect) == ("disagrees", pytest.approx(0.5))


def test_an_experiment_is_analysed_by_the_study_beside_its_file_whose_name_it_extends(tmp_path, monkeypatch):
    assert folder_of("second_order_entropy_baselines").name == "second_order"
    assert folder_of("second_order").name == "second_order"
    assert folder_of("scaling_rules").name == "scaling_rules"
    assert folder_of("scaling_rules_of_mine") is None
    # One of the user's own, from another place, is not taken for one of ours.
    own = tmp_path / "conf" / "experiment"
    own.mkdir(parents=True)
    for name in ("scaling_rules_of_mine", "mine_small"):
        (own / f"{name}.yaml").write_text("# @package _global_\nbatch: 32\n")
    analysis = tmp_path / "experiments" / "mine" / "analysis.py"
    analysis.parent.mkdir(parents=True)
    analysis.write_text("def analyse(study):\n    return 'mine'\n")
    monkeypatch.setenv("OPTBENCH_CONF", str(tmp_path / "conf"))
    assert folder_of("scaling_rules_of_mine") is None
    assert analysis_of("mine_small")(None) == "mine"


@pytest.mark.parametrize("name", ["autoencoder", "convnet", "entropy", "logistic"])
def test_the_charts_draw_the_committed_tables(name, monkeypatch):
    import sys

    import pandas as pd

    folder = folder_of("second_order")
    monkeypatch.syspath_prepend(str(folder))
    import second_order_charts

    results = folder.parents[1] / "results" / "second_order"
    table = pd.read_csv(results / (f"{name}.csv" if name == "convnet" else f"{name}_curves.csv"))
    chart = getattr(second_order_charts, name)(table)
    drawn = chart.plotly().data
    column = {"autoencoder": "train_loss", "convnet": "steps_to_target", "entropy": "test_accuracy", "logistic": "gap"}
    values = np.concatenate([np.array(trace.y, float) for trace in drawn])
    for value in table[column[name]]:
        assert not np.isfinite(value) or np.isclose(values, max(value, 1e-14), rtol=1e-12).any()
    sys.modules.pop("second_order_charts")
