"""Averages are over seeds only: what differs in more is refused by an analysis, and kept apart by the general report."""

import re

import numpy as np
import pandas as pd
import pytest

from optbench import config as configuration
from optbench.__main__ import main
from optbench.analysis.laws.gap import gap_by_batch
from optbench.analysis.laws.learning_rates import sweep_of
from optbench.analysis.report.overview import overview
from optbench.analysis.statistics import settings
from optbench.analysis.statistics.pairs import differences_by_seed
from optbench.analysis.statistics.profiles import scores_by_task
from optbench.analysis.statistics.selection import select
from optbench.analysis.statistics.settings import MixedSettings, distinguishing, seeds_only, varied
from optbench.analysis.statistics.tuning_budget import curves
from optbench.analysis.study import Study
from optbench.sweep.plan import Entry, Plan

WORDS = ("optimizer=adam", "model=mlp", "dataset=digits", "batch=64", "ghost_batch_size=null", "tracker=none")


def stored(root, runs, experiment="things"):
    """A sweep of runs that are done: each the words of its configuration, its accuracy and its cell."""
    plan, entries = Plan(root, "things"), []
    for words, accuracy, cell in runs:
        config = configuration.compose([*WORDS, *words])
        directory = plan.directory(configuration.run_id(config))
        directory.create(config)
        results = {f"{part}_accuracy": accuracy for part in ("train", "validation", "test")}
        results |= {f"{part}_loss": 1 - accuracy for part in ("train", "validation", "test")}
        results |= {"gap_accuracy": 0.0, "gap_loss": 0.0, "run_id": directory.run_id, "status": "done"}
        directory.finish(results | {"optimizer": "adam", "batch": 64, "seed": config["seed"], "trial": 0}, "done")
        entries.append(Entry(directory.run_id, cell))
    plan.extend(entries, {"experiment": experiment})
    return Study.read(root, "things")


def two_settings(root, experiment="things"):
    """A choice of the user's own that inherits Adam's name, with another beta2: one seed of each."""
    return stored(
        root,
        [
            (["seed=0"], 0.8, {"optimizer": "adam", "seed": "0"}),
            (["seed=1", "optimizer.beta2=0.9"], 0.9, {"optimizer": "mine", "seed": "1"}),
        ],
        experiment,
    )


def test_two_settings_of_one_name_are_not_two_seeds(tmp_path):
    study = two_settings(tmp_path)
    findings = overview(study)
    best = findings.tables["best_settings"]
    assert best["cell.optimizer"].tolist() == ["adam", "mine"]
    assert best["seeds"].tolist() == [1, 1]
    assert "best of 2 cells is mine" in findings.answer
    assert "of one seed: no interval can be given" in findings.answer
    assert re.search(r"kept apart: .* optimizer\.beta2 is 0\.999 and 0\.9", findings.notes[0])


def test_settings_that_no_axis_tells_apart_are_named_by_what_differs(tmp_path):
    words = [["seed=0"], ["seed=1"], ["seed=0", "optimizer.beta2=0.9"], ["seed=1", "optimizer.beta2=0.9"]]
    study = stored(tmp_path, [(each, 0.8 + 0.01 * k, {"seed": str(k % 2)}) for k, each in enumerate(words)])
    findings = overview(study)
    best = findings.tables["best_settings"].set_index("config.optimizer.beta2")
    assert best["seeds"].to_dict() == {0.9: 2, 0.999: 2}
    assert best["test_accuracy"].to_dict() == pytest.approx({0.999: 0.805, 0.9: 0.825})
    assert "beta2 0.9" in findings.answer


def test_a_run_of_other_hardware_is_no_further_seed(tmp_path):
    """The same setting and seed under two ids, as of two results folders or of two versions of the code."""
    study = stored(tmp_path, [(["seed=0"], 0.8, {"seed": "0"}), (["seed=1"], 0.9, {"seed": "1"})])
    again = study.runs.iloc[[0]].assign(run_id="again", **{"config.micro_batch": 8, "config.trainer.devices": 2})
    study.runs = pd.concat([study.runs, again.assign(test_accuracy=0.1)], ignore_index=True)
    findings = overview(study)
    assert findings.tables["best_settings"]["seeds"].tolist() == [2]
    assert findings.tables["best_settings"]["test_accuracy"].tolist() == pytest.approx([0.85])
    assert any("1 of 3 runs are of the setting and seed of another one" in note for note in findings.notes)


AVERAGES = {
    "select": lambda runs: select(runs, ["optimizer"], results=["test_accuracy"]),
    "scores_by_task": lambda runs: scores_by_task(runs, "test_accuracy"),
    "sweep_of": lambda runs: sweep_of(runs, rate="base_learning_rate"),
    "curves": lambda runs: curves(runs),
    "differences_by_seed": lambda runs: differences_by_seed(runs, "test_accuracy", "optimizer", "adam", "sgd"),
    "gap_by_batch": lambda runs: gap_by_batch(runs, pd.DataFrame(), "step"),
}


@pytest.mark.parametrize("average", AVERAGES)
def test_no_estimator_averages_over_more_than_seeds(tmp_path, average):
    runs = two_settings(tmp_path).runs
    with pytest.raises(MixedSettings, match=r"optimizer\.beta2 is 0\.999 and 0\.9"):
        AVERAGES[average](runs)


@pytest.mark.parametrize("study", ["scaling_rules", "optimizer_comparison", "generalization_gap"])
def test_a_study_of_mixed_settings_is_reported_without_its_own_analysis(tmp_path, study, capsys):
    two_settings(tmp_path, study)
    assert main(["report", "things", "--results-dir", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert re.search(r"own analysis is left out, since it would average over more than seeds: .*optimizer\.beta2", out)
    assert "of one seed: no interval can be given" in out


def frame(**columns):
    return pd.DataFrame(columns)


def test_a_frame_without_settings_is_compared_by_its_configuration():
    runs = frame(
        optimizer="adam",
        seed=[0, 1],
        status="done",
        **{"config.seed": [0, 1], "config.batch": 8, "config.optimizer.beta2": 0.9},
    )
    assert len(seeds_only(runs, ["optimizer"])) == 2
    machine = {
        "config.micro_batch": [1, 2],
        "config.trainer.devices": [1, 2],
        "config.probe.trace.name": ["trace", None],
    }
    assert len(seeds_only(runs.assign(**machine), ["optimizer"])) == 2
    with pytest.raises(MixedSettings, match=r"of optimizer=adam differ .*: optimizer\.beta2 is 0\.9 and not set"):
        seeds_only(runs.assign(**{"config.optimizer.beta2": [0.9, np.nan]}), ["optimizer"])
    # A trial draws options: they are part of the setting, and the column tells them apart.
    drawn = runs.assign(trial=[0, 1], **{"config.optimizer.beta2": [0.9, 0.8]})
    assert len(seeds_only(drawn, ["optimizer", "trial"])) == 2


def test_of_one_seed_the_run_that_came_to_a_result_counts():
    runs = frame(setting="a", seed=[0, 0, 0, 1], status=["failed", "diverged", "done", "running"], run=list("abcd"))
    assert seeds_only(runs, [])["run"].tolist() == ["c", "d"]
    # What nothing is known of is neither mixed nor twice.
    assert len(seeds_only(runs.assign(setting=None), [])) == 4


def test_labels_that_come_twice_name_no_other_run():
    tuned = frame(setting="a", seed=[0, 1], status="done", run=["a0", "a1"], side="tuned")
    defaults = frame(setting=["b", "b", "b"], seed=[0, 1, 1], status="done", run=["b0", "b1", "again"], side="default")
    assert seeds_only(pd.concat([tuned, defaults]), ["side"])["run"].tolist() == ["a0", "a1", "b0", "b1"]


def test_the_fewest_columns_that_tell_settings_apart():
    options = {
        "config.optimizer.a": [1, 1, 2, 2],
        "config.optimizer.b": [1, 2, 1, 2],
        "config.optimizer.c": [5, 6, 7, 8],
    }
    runs = frame(optimizer="x", setting=list("pqrs"), seed=0, **options)
    assert distinguishing(runs, ["optimizer"]) == ["config.optimizer.c"]
    assert distinguishing(runs.drop(columns="config.optimizer.c"), ["optimizer"]) == [
        "config.optimizer.a",
        "config.optimizer.b",
    ]
    assert distinguishing(runs, ["config.optimizer.c"]) == []
    assert distinguishing(frame(setting=["p", "q"], seed=0), []) == ["setting"]


def test_settings_are_neither_the_machines_nor_descriptions():
    names = [
        "config.batch",
        "config.trainer.devices",
        "config.results_dir",
        "config.model._target_",
        "config.probe.a.at",
        "x",
    ]
    runs = pd.DataFrame([dict.fromkeys(names, 1)])
    assert settings.setting_columns(runs) == ["config.batch"]
    assert settings.setting_columns(runs, probes=True) == ["config.batch", "config.probe.a.at"]


@pytest.mark.parametrize("dtype", [object, "str", "string"])
@pytest.mark.parametrize(
    ("values", "differ"),
    [(["a", "a"], False), (["a", "b"], True), (["a", None], True), ([None, None], False), ([], False), (["a"], False)],
)
def test_texts_vary_by_their_values_whatever_pandas_keeps_them_in(dtype, values, differ):
    runs = pd.DataFrame({"config.loss.name": pd.Series(values, dtype=dtype)})
    assert varied(runs, ["config.loss.name"]) == ["config.loss.name"] * differ
