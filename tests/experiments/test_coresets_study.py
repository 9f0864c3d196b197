"""The study of coresets: its grid, and an analysis of runs that are known."""

import sys
from types import SimpleNamespace

import pandas as pd
import pytest

from optbench.__main__ import main
from optbench.analysis.studies import analysis_of

ACCURACY = {"none": 0.80, "random": 0.70, "craig": 0.75, "adacore": 0.74}
ERROR = {"random": 0.6, "craig": 0.2, "adacore": 0.3}


def analysis():
    """The module of the analysis, with the modules beside it."""
    return sys.modules[analysis_of("coresets").__module__]


@pytest.mark.parametrize(("scale", "runs"), [("smoke", 8), ("laptop", 24)])
def test_every_scale_expands_to_its_runs(scale, runs, tmp_path, capsys):
    words = ["experiment=coresets", f"scale={scale}", "dry_run=true", f"results_dir={tmp_path}", "tracker=none"]
    assert main(["-m", *words]) == 0
    assert f"{runs} runs: {runs} new" in capsys.readouterr().out


def study_of(seeds=(0, 1, 2), accuracy=ACCURACY, status="done"):
    runs, rows, measured = [], [], {}
    for seed in seeds:
        for name, reached in accuracy.items():
            run = {"run_id": f"{name}-{seed}", "status": status, "model": "logreg", "seed": seed, "setting": name}
            run |= {"config.selection.name": name, "test_accuracy": reached + 0.001 * seed, "seconds_training": 2.0}
            if name != "none":
                run |= {"seconds_selection": 6.0, "distinct_examples": 300}
                errors = {"last_layer_error": ERROR[name], "gradient_error": 2 * ERROR[name]}
                measured[run["run_id"]] = [SimpleNamespace(values={key: factor * each for key, each in errors.items()})
                                           for factor in (0.5, 1.5)]  # fmt: skip
            runs.append(run)
            for step in (1, 2, 3, 4):
                at = reached - 0.05 * (4 - step) + 0.001 * seed
                rows.append(
                    {
                        "run_id": run["run_id"],
                        "event": "evaluation",
                        "step": step,
                        "seconds": 0.5 * step,
                        "test_accuracy": at,
                    }
                )
    return SimpleNamespace(
        runs=pd.DataFrame(runs),
        histories=lambda columns: pd.DataFrame(rows)[["run_id", *columns]],
        measurements=lambda run_id, probe: measured.get(run_id, []),
    )


def test_differences_errors_and_speed_are_those_of_the_runs():
    found = analysis().analyse(study_of())
    pairs = found.tables["comparisons"].set_index(["one", "other", "value"])["mean"]
    assert pairs["craig", "random", "test_accuracy"] == pytest.approx(0.05)
    assert pairs["adacore", "craig", "test_accuracy"] == pytest.approx(-0.01)
    assert pairs["craig", "random", "last_layer_error"] == pytest.approx(1 / 3)
    assert pairs["adacore", "craig", "gradient_error"] == pytest.approx(1.5)
    # All examples reach 0.75 at the third evaluation, after 1.5 seconds; subsets take 2 and 6.
    assert pairs["craig", "none", "speed_up"] == pytest.approx(1.5 / 8)
    assert pairs["random", "none", "speed_up"] == pytest.approx(1.0 / 8)
    assert "CRAIG +5.0 [+5.0, +5.0]" in found.answer
    verdicts = {note[:11]: note for note in found.notes if note.startswith("Criterion")}
    for number, verdict in ((1, "holds, in"), (2, "holds, in"), (3, "does not hold, in"), (4, "does not hold.")):
        assert f": {verdict}" in verdicts[f"Criterion {number}"]


def test_subsets_that_all_examples_never_reach_are_counted():
    notes = analysis().analyse(study_of(accuracy=ACCURACY | {"none": 0.5})).notes
    (note,) = [note for note in notes if note.startswith("Criterion 4")]
    assert "is not established. All examples reach the accuracy of CRAIG or AdaCore" in note
    assert "in 0 of 6 pairs" in note
    assert "take 4 to 4 times the seconds" in note


def test_what_intervals_do_not_decide_is_not_established():
    study = study_of()
    study.runs.loc[study.runs["run_id"] == "craig-0", "test_accuracy"] = 0.69
    notes = analysis().analyse(study).notes
    assert any(note.startswith("Criterion 2") and "is not established" in note for note in notes)


@pytest.mark.parametrize("study", [study_of(status="pending"), study_of(seeds=(0,)), study_of(accuracy={"none": 0.8})])
def test_a_sweep_that_has_only_begun(study):
    assert analysis().analyse(study).question
