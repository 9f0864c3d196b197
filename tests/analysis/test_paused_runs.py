"""A study some of whose runs a search has paused: they are neither missing nor failed, and have no result."""

import pandas as pd
from planned import sweep

from optbench.analysis import frames
from optbench.analysis.report.study_page import unfinished
from optbench.analysis.study import Study
from optbench.store import load

PAUSED = (3, 7)


def study_of(tmp_path, monkeypatch):
    monkeypatch.setattr("optbench.sweep.launchers.slurm.queued", lambda ids: {})
    plan = sweep(tmp_path, states=dict.fromkeys(PAUSED, "pending"))
    for number in PAUSED:
        run = plan.directory(plan.entries()[number].run_id)
        run.append({"event": "evaluation", "step": 5, "validation_accuracy": 0.9})
        run.set_status("paused", "at step 5 of 10", step=5)
    return Study(plan)


def test_they_are_counted_and_nobody_waits_for_them(tmp_path, monkeypatch):
    study = study_of(tmp_path, monkeypatch)
    assert (study.counts["paused"], study.counts["done"]) == (2, 22)
    assert (study.open_runs, study.is_over) == (0, True)
    assert study.unsuccessful.empty
    assert unfinished(study) == ""


def test_they_have_a_state_and_no_result(tmp_path, monkeypatch):
    study = study_of(tmp_path, monkeypatch)
    runs = study.runs
    paused = runs[runs["status"] == "paused"]
    assert paused.index.tolist() == list(PAUSED)
    assert paused["state"].tolist() == ["paused"] * 2
    assert paused["why"].tolist() == ["at step 5 of 10"] * 2
    outcomes = frames.outcomes(runs, "validation_accuracy")
    assert outcomes.isna().sum() == 2
    assert frames.count(runs)["unfinished"] == 2
    assert pd.isna(load(tmp_path).set_index("run_id").loc[paused["run_id"], "validation_accuracy"]).all()


def test_others_that_wait_are_said(tmp_path, monkeypatch):
    plan = sweep(tmp_path, states={0: "pending", 1: "failed"})
    plan.directory(plan.entries()[2].run_id).set_status("paused", step=5)
    monkeypatch.setattr("optbench.sweep.launchers.slurm.queued", lambda ids: {})
    study = Study(plan)
    assert study.open_runs == 2
    assert unfinished(study).startswith("2 of 24 runs are not done (1 failed, 1 missing)")
