import math
import shutil

import numpy as np
import pytest
from planned import accuracy, sweep

from optbench.analysis.studies import study_of_script
from optbench.analysis.study import Study
from optbench.errors import UserError


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    states = {3: "diverged", 5: "failed", 7: "pending"}
    information = {"experiment": "things", "scale": "smoke"}
    plan = sweep(folder, "things-smoke", states, information)
    sweep(folder / "other", "others")
    plan.directory("adam-mlp-b32-s0-t0-00000c").measurements.write(
        "spectrum", 10, {"top": 2.0}, {"density": np.arange(3.0)}, 0.1, {"steps": 5}
    )
    plan.directory("adam-mlp-b32-s0-t0-00000c").measurements.write("trace", 5, {"trace": 1.0}, {}, 0.1, {})
    return Study(plan)


def test_every_run_of_the_plan_is_a_row(study):
    runs = study.runs
    assert list(runs["run_id"]) == list(study.cells)
    assert len(runs) == 24
    assert list(runs["status"][[0, 3, 5, 7]]) == ["done", "diverged", "failed", "pending"]
    assert list(runs["state"][[0, 3, 5, 7]]) == ["done", "diverged", "failed", "missing"]
    assert list(runs["why"][[0, 3, 5]]) == ["", "the loss was 99 at step 7", "out of <memory>"]
    # Of a run that has no summary, from its configuration.
    assert runs["optimizer"][7] == "sgd"
    assert runs["batch"][7] == 128
    assert math.isnan(runs["test_accuracy"][7])
    assert runs["test_accuracy"][0] == pytest.approx(accuracy("sgd", 32, 0, 0) - 0.05)


def test_cells_are_numbers_where_they_are_numbers(study):
    assert list(study.runs["cell.batch"].unique()) == [32, 128]
    assert study.runs["cell.batch"].dtype == "int64"
    assert list(study.runs["cell.optimizer"].unique()) == ["sgd", "adam"]


def test_counts(study):
    assert {state: count for state, count in study.counts.items() if count} == {
        "done": 21,
        "diverged": 1,
        "failed": 1,
        "missing": 1,
    }
    assert (study.open_runs, study.in_hand, study.is_over) == (2, 0, True)
    assert (study.seeds, study.trials) == ([0, 1, 2], [0, 1])
    assert list(study.unsuccessful["state"]) == ["failed", "diverged", "missing"]
    assert (study.name, study.scale) == ("things", "smoke")


def test_histories_are_of_its_runs_alone(study):
    rows = study.histories(["event", "step", "validation_accuracy"])
    assert list(rows.columns) == ["run_id", "event", "step", "validation_accuracy"]
    assert len(rows) == 2 * 23
    assert set(rows["run_id"]) < set(study.cells)


def test_measurements(study):
    trace, spectrum = study.measurements("adam-mlp-b32-s0-t0-00000c")
    assert (trace.probe, trace.step, trace.values, trace.arrays()) == ("trace", 5, {"trace": 1.0}, {})
    assert spectrum.options == {"steps": 5}
    np.testing.assert_array_equal(spectrum.arrays()["density"], [0.0, 1.0, 2.0])
    assert [one.probe for one in study.measurements("adam-mlp-b32-s0-t0-00000c", "spectrum")] == ["spectrum"]
    assert study.measurements("sgd-mlp-b32-s0-t0-000000") == []


def test_environments_name_no_host(study):
    [environment] = study.environments
    assert environment["runs"] == 23
    assert "host" not in environment


def test_a_run_whose_directory_is_gone_is_a_row_too(tmp_path):
    plan = sweep(tmp_path)
    shutil.rmtree(plan.directory("sgd-mlp-b32-s1-t0-000001").path)
    study = Study(plan)
    assert len(study.runs) == 24
    assert study.runs["state"][1] == "missing"
    assert study.runs["problem"][1] == "its directory is gone"
    assert len(study.histories()) == 2 * 23


def test_read_finds_by_experiment_and_scale(study):
    results = study.results_dir
    assert Study.read(results, "things").plan.name == "things-smoke"
    assert Study.read(results, "things-smoke").plan.name == "things-smoke"
    assert Study.read(results, "things", "smoke").plan.name == "things-smoke"
    with pytest.raises(
        UserError, match=r"--scale small: no sweep of things at this scale .* did you mean smoke\?|accepted: smoke"
    ):
        Study.read(results, "things", "small")
    with pytest.raises(UserError, match=r"no sweep 'thinks'.*did you mean"):
        Study.read(results, "thinks")


def test_a_script_of_a_study_that_was_not_run_says_so(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["between.py", "--results-dir", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        study_of_script("landscape", "Measure.")
    assert ended.value.code == 2
    message = capsys.readouterr().err
    assert message.startswith("optbench: ")
    assert "landscape" in message
