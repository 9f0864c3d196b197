"""A report of very many runs: the page shows a part and says so, the files have all; and it is the same with an index."""

import pandas as pd
import pytest

from optbench.analysis.report import run_table, study_page
from optbench.analysis.report.overview import overview
from optbench.analysis.study import Study
from optbench.store import RunDirectory, index, load
from optbench.sweep.plan import Entry, Plan

CONFIG = "batch: 8\ntrial: 0\nseed: {seed}\noptimizer: {{name: sgd, learning_rate: 0.1}}\n"


def make(results, number, code="abc"):
    entries = []
    for seed in range(number):
        run = RunDirectory.at(results, f"run-{seed:02}")
        run.create(CONFIG.format(seed=seed))
        run.append({"step": 5, "event": "evaluation", "train_loss": 1 / (1 + seed)})
        run.write_environment({
            "cores": 2 + seed % 2, "host": f"node{seed}", "command": [str(seed)],
            "code": [{"fingerprint": code, "commit": f"{seed % 2}a2b3c4d5e6f7", "changed": seed == 0, "since": str(seed)}],
        })  # fmt: skip
        run.finish({"code": code, "train_loss": 1 / (1 + seed), "flag": seed > 3}, "diverged" if seed == 1 else "done")
        entries.append(Entry(run.run_id, {"seed": str(seed)}))
    plan = Plan(results, "many")
    plan.extend(entries, {})
    return plan


@pytest.fixture
def plan(tmp_path):
    return make(tmp_path, 12)


def written(plan, folder):
    study = Study(plan)
    path = study_page.write(study, overview(study), folder)
    tables = {file.name: file.read_bytes() for file in sorted((folder / "tables").iterdir())}
    return path.read_text(), tables, (folder / "page" / "page.json").read_text()


def test_the_report_is_the_same_with_an_index(plan, tmp_path, monkeypatch):
    folder = tmp_path / "report"
    before, studied = written(plan, folder), Study(plan)
    environments = studied.environments
    monkeypatch.setattr(index, "MANY", 1)
    load(tmp_path)
    study = Study(plan)
    assert len(study.survey.known) == 12
    assert study.environments == environments
    assert [(each["cores"], each["runs"]) for each in environments] == [(2, 6), (3, 6)]
    assert study.commits("run-00") == studied.commits("run-00") == ["0a2b3c4d5e with changes"]
    pd.testing.assert_frame_equal(study.runs, studied.runs)
    assert written(plan, folder) == before


def test_an_environment_that_changed_is_read_again(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(index, "MANY", 1)
    load(tmp_path)
    RunDirectory.at(tmp_path, "run-03").write_environment({"cores": 64})
    study = Study(plan)
    assert {each["cores"] for each in study.environments} == {2, 3, 64}
    assert study.commits("run-03") == []


def test_of_very_many_runs_the_page_shows_a_part(plan, tmp_path, monkeypatch):
    monkeypatch.setattr(run_table, "MOST_SHOWN", 10)
    monkeypatch.setattr(run_table, "SHOWN_OF_MORE", 4)
    text, _, _ = written(plan, tmp_path / "report")
    assert "The table shows 4 of 12 runs, spaced evenly in the order of the sweep. All of them:" in text
    assert len(pd.read_csv(tmp_path / "report" / "tables" / "runs.csv")) == 12
    commands = pd.read_parquet(tmp_path / "report" / "page" / "commands.parquet")
    curves = pd.read_parquet(tmp_path / "report" / "page" / "curves.parquet")
    assert list(commands["run_id"]) == list(curves["run_id"]) == ["run-00", "run-04", "run-07", "run-11"]
    from optbench.analysis.report import record

    data = record.read(tmp_path / "report", tmp_path).data
    assert data["runs"]["values"][0] == ["run-00", "run-04", "run-07", "run-11"]
    assert data["curves"]["lengths"] == [1, 1, 1, 1]


def test_a_long_table_is_written_as_a_short_one(plan, tmp_path, monkeypatch):
    text = 'a "quoted", text'
    table = pd.DataFrame({"x": [0.1, 1e-300, None], "n": [1, 2, 3], "b": [True, False, True], "why": ["", text, None]})
    for long, name in ((20_000, "short"), (1, "long")):
        monkeypatch.setattr(study_page, "_LONG", long)
        study_page.write_table(table, tmp_path / name)
    short, long = (pd.read_csv(tmp_path / f"{name}.csv") for name in ("short", "long"))
    pd.testing.assert_frame_equal(short.fillna(""), long.fillna(""))
    assert list(long["why"])[1] == text


def test_of_many_unsuccessful_runs_the_first_are_shown(plan, tmp_path, monkeypatch):
    for seed in range(2, 8):
        RunDirectory.at(tmp_path, f"run-{seed:02}").set_status("failed", "out of memory")
    monkeypatch.setattr(study_page, "_MOST_UNSUCCESSFUL", 5)
    text, _, _ = written(plan, tmp_path / "report")
    assert "The first 5 are shown" in text
