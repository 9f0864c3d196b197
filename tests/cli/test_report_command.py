"""`report` and `compare`, as the command line calls them."""

import json
import re
from types import SimpleNamespace

import pandas as pd
import planned
import pytest
from planned import accuracy, sweep, write

from optbench.__main__ import main
from optbench.analysis.report import overview
from optbench.store import RunDirectory

ANALYSIS = """\
import beside
from optbench.analysis.charts.chart import Chart, Series
from optbench.analysis.findings import Findings

def analyse(study):
    if study.counts["done"] < 24:
        raise KeyError("every seed")
    runs = study.runs
    chart = Chart(name="one", title="One", series=[Series(label="a", x=[1], y=[len(runs)])])
    return Findings("Why?", f"Because of {len(runs)} runs{beside.MARK}", [chart], {"all": runs[["run_id"]]}, ["A note."])
"""


@pytest.fixture
def experiments(tmp_path, monkeypatch):
    folder = tmp_path / "experiments"
    (folder / "things").mkdir(parents=True)
    (folder / "things" / "analysis.py").write_text(ANALYSIS)
    (folder / "things" / "beside.py").write_text("MARK = '!'")
    monkeypatch.setenv("OPTBENCH_EXPERIMENTS", str(folder))
    return folder / "things"


def run(*words):
    return main([str(word) for word in words])


def test_a_study_is_reported_by_its_own_analysis(tmp_path, experiments, capsys):
    sweep(tmp_path, "things-smoke", information={"experiment": "things", "scale": "smoke"})
    assert run("report", "things", "--results-dir", tmp_path) == 0
    out = capsys.readouterr().out.splitlines()
    folder = tmp_path / "things-smoke"
    assert out == [
        "Because of 24 runs!",
        "A note.",
        "Scale smoke. This stands on 24 runs: 24 done; 3 seeds (0, 1, 2); 2 trials (0, 1).",
        str(folder / "index.html"),
    ]
    files = {str(path.relative_to(folder)) for path in folder.rglob("*.*")}
    tables = {f"tables/{name}.{ending}" for name in ("all", "runs") for ending in ("csv", "parquet")}
    parts = {f"page/{name}" for name in ("page.json", "commands.parquet", "curves.parquet")}
    assert files == {"index.html", "figures/one.png", "figures/one.pdf", *tables, *parts}
    assert 'class="banner"' not in (folder / "index.html").read_text()


def test_tables_are_written_as_latex_too(tmp_path, capsys):
    sweep(tmp_path, "plain")
    assert run("report", "plain", "--results-dir", tmp_path, "--latex") == 0
    tables = tmp_path / "plain" / "tables"
    assert sorted(path.stem for path in tables.glob("*.tex")) == sorted(
        path.stem for path in tables.glob("*.csv") if path.stem != "runs"
    )
    assert "\\toprule\noptimizer & batch & trial" in (tables / "best_settings.tex").read_text()


def test_while_a_sweep_is_not_over_its_analysis_may_need_more(tmp_path, experiments, capsys):
    sweep(tmp_path, "things", {0: "pending", 1: "failed"})
    assert run("report", "things", "--results-dir", tmp_path, "--output", tmp_path / "elsewhere") == 0
    out = capsys.readouterr().out
    assert "2 of 24 runs are not done (1 failed, 1 missing), and nobody works on them" in out
    assert "The study's own analysis needs more runs than have ended: 'every seed'" in out
    assert "By validation accuracy the best of 4 cells" in out
    assert '<p class="banner">2 of 24 runs are not done' in (tmp_path / "elsewhere" / "index.html").read_text()
    assert not (tmp_path / "things").exists()


def test_an_analysis_that_is_wrong_is_seen_when_the_sweep_is_over(tmp_path, experiments):
    sweep(tmp_path, "things")
    (experiments / "analysis.py").write_text("def analyse(study):\n    return 1 / 0\n")
    with pytest.raises(ZeroDivisionError):
        run("report", "things", "--results-dir", tmp_path)


def test_an_analysis_without_its_function(tmp_path, experiments, capsys):
    sweep(tmp_path, "things")
    (experiments / "analysis.py").write_text("x = 1\n")
    assert run("report", "things", "--results-dir", tmp_path) == 2
    assert "has no function analyse(study)" in capsys.readouterr().err


def test_a_sweep_without_analysis_gets_the_best_of_every_cell(tmp_path, capsys):
    sweep(tmp_path, "plain", {4: "diverged"})
    assert run("report", "plain", "--results-dir", tmp_path) == 0
    best = pd.read_csv(tmp_path / "plain" / "tables" / "best_settings.csv").set_index(["optimizer", "batch"])
    # Trial 1 is better everywhere, but one of its seeds diverged in the first cell (run 4).
    assert best["trial"].to_dict() == {("sgd", 32): 0, ("sgd", 128): 1, ("adam", 32): 1, ("adam", 128): 1}
    assert best["test_accuracy"]["adam", 32] == pytest.approx(accuracy("adam", 32, 1, 1) - 0.05)
    assert best["test_accuracy_std"]["adam", 32] == pytest.approx(0.01)
    # Seeds at 0.01 from each other: Student's t with 2 degrees of freedom, 4.3027 * 0.01 / sqrt(3) = 0.0248.
    assert "Adam, batch 32: test accuracy 81.68 % [79.20 %, 84.16 %]" in capsys.readouterr().out


def test_a_sweep_without_analysis_shows_hyperparameters_curves_and_every_axis(tmp_path):
    sweep(tmp_path, "plain", {4: "diverged"})
    assert run("report", "plain", "--results-dir", tmp_path) == 0
    folder = tmp_path / "plain"
    best = pd.read_csv(folder / "tables" / "best_hyperparameters.csv")
    # The best cell first; trial 1 has half the learning rate of the defaults, and in the last cell one of its seeds diverged.
    assert list(zip(best["optimizer"], best["batch"], strict=True)) == [
        ("adam", 32),
        ("adam", 128),
        ("sgd", 128),
        ("sgd", 32),
    ]
    assert best["optimizer.learning_rate"].tolist() == [0.05, 0.05, 0.05, 0.1]
    charts = {chart["name"]: chart for chart in json.loads((folder / "page" / "page.json").read_text())["charts"]}
    # The batch is the axis of the first figure.
    assert set(charts) == {"best_settings", "learning_curves"}
    [curve] = [
        series
        for series in charts["learning_curves"]["series"]
        if series["label"] == "Adam, batch 32" and series["panel"] == "Validation accuracy"
    ]
    values = [accuracy("adam", 32, seed, 1) for seed in (0, 1, 2)]
    assert curve["x"] == [5, 10]
    assert curve["y"] == [pytest.approx(sum(values) / 6), pytest.approx(sum(values) / 3)]
    assert (curve["low"][1], curve["high"][1]) == (pytest.approx(min(values)), pytest.approx(max(values)))


def sweep_over_rates(folder):
    """A sweep over the rate in place of the trial; one of its 24 runs diverged."""
    path = sweep(folder, "plain", {4: "diverged"}).path / "plan.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        trial = int(line["cell"].pop("trial"))
        line["cell"]["optimizer.learning_rate"] = str(0.1 / (1 + trial))
    path.write_text("".join(f"{json.dumps(line)}\n" for line in lines))


def series_against_the_rate(folder):
    """By label, after a report."""
    assert run("report", "plain", "--results-dir", folder) == 0
    charts = json.loads((folder / "plain" / "page" / "page.json").read_text())["charts"]
    [chart] = [chart for chart in charts if chart["name"] == "against_optimizer_learning_rate"]
    return {one["label"]: one for one in chart["series"]}


def test_an_axis_of_a_sweep_has_a_figure_whose_points_are_runs(tmp_path):
    sweep_over_rates(tmp_path)
    series = series_against_the_rate(tmp_path)
    assert series["Adam"]["x"] == [0.05, 0.1]
    # At each rate the better batch, 32, by the mean over seeds.
    assert series["Adam"]["y"] == [pytest.approx(accuracy("adam", 32, 1, trial) - 0.05) for trial in (1, 0)]
    assert len(series["every run"]["runs"]) == 23
    assert "sgd-mlp-b32-s1-t1-000004" not in series["every run"]["runs"]


def test_of_very_many_runs_a_figure_draws_some(tmp_path, monkeypatch):
    monkeypatch.setattr(overview, "_MOST_POINTS", 10)
    sweep_over_rates(tmp_path)
    drawn = series_against_the_rate(tmp_path)["10 of 23 runs, drawn at random"]
    assert len(drawn["x"]) == len(drawn["y"]) == len(set(drawn["runs"])) == 10


def test_a_sweep_without_any_result(tmp_path, capsys):
    sweep(tmp_path, "plain", dict.fromkeys(range(24), "pending"))
    assert run("report", "plain", "--results-dir", tmp_path) == 0
    out = capsys.readouterr().out
    assert "24 of 24 runs are not done (24 missing)" in out
    assert "No run has come to a result yet." in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["report", "thinks"], "no sweep 'thinks' in .*; did you mean things"),
        (["report", "things", "--scale", "smoke"], "--scale smoke: no sweep of things at this scale"),
        (["report"], "report: the following arguments are required: NAME"),
        (["report", "things", "--output", "{file}"], "--output .*: is not a folder"),
        (["compare", "sgd-mlp-b32-s0-t0"], "is one run; accepted: two or more"),
        (["compare", "sgd-mlp-b32-s0", "adam-mlp-b32-s0-t0"], "is not unique"),
        (["compare", "nothing", "else"], "no run 'nothing'"),
        (["compare", "sgd-mlp-b32-s0-t0", "adam-mlp-b32-s0-t0", "--output", "x.pdf"], "ends in .html"),
        (
            ["compare", "sgd-mlp-b32-s0-t0", "adam-mlp-b32-s0-t0", "--output", "{runs}/x.html"],
            "runs is a place of optb",
        ),
    ],
)
def test_mistakes_are_one_message(words, message, tmp_path, capsys):
    sweep(tmp_path, "things")
    (tmp_path / "file").write_text("")
    words = [word.format(file=tmp_path / "file", runs=tmp_path / "runs") for word in words]
    assert run(*words, "--results-dir", tmp_path) == 2
    err = capsys.readouterr().err
    assert re.search(message, err), err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    "place",
    ["results/runs", "results/sweeps", "results/vintages.json", "results/RUNS/x", "others/sweeps/x/y", "link/runs"],
)
def test_a_report_is_not_written_among_the_runs_of_any_results_folder(place, tmp_path, capsys):
    sweep(tmp_path / "results", "things")
    for folder in ("runs", "sweeps"):
        (tmp_path / "others" / folder).mkdir(parents=True)
    (tmp_path / "link").symlink_to("results")
    before = sorted(tmp_path.rglob("*"))
    words = ["--results-dir", tmp_path / "results", "--output", tmp_path / place]
    assert run("report", "things", *words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "--output" in line
    assert "is a place of optbench's own; accepted: another folder than runs, sweeps and vintages.json" in line
    assert sorted(tmp_path.rglob("*")) == before


def test_a_report_may_lie_in_a_folder_that_is_only_called_runs(tmp_path):
    sweep(tmp_path / "results", "things")
    assert run("report", "things", "--results-dir", tmp_path / "results", "--output", tmp_path / "runs" / "sweeps") == 0
    assert (tmp_path / "runs" / "sweeps" / "index.html").is_file()


def test_compare(tmp_path, capsys):
    sweep(tmp_path, "things", {1: "diverged"})
    names = ["sgd-mlp-b32-s0-t0", "sgd-mlp-b32-s1-t0-000001", "00000c"]
    assert run("compare", *names, "--results-dir", tmp_path, "--output", tmp_path / "side.html") == 0
    out = capsys.readouterr().out
    rows = {line.split("  ")[0]: line for line in out.splitlines()}
    # What they differ in, and nothing else: the learning rate is the same.
    assert "optimizer.name" in rows
    assert "seed" in rows
    assert "optimizer.learning_rate" not in rows
    assert "batch" not in rows
    assert rows["test accuracy"].split()[-1] == f"{accuracy('adam', 32, 0, 0) - 0.05:.4g}"
    assert "the loss was 99 at step 7" in rows["why"]
    page = (tmp_path / "side.html").read_text()
    assert "SGD, seed 1" in page
    assert "Against seconds of training" in page


def test_runs_that_differ_only_by_the_machine(tmp_path, capsys):
    for name in ("a-111111", "b-222222"):
        write(RunDirectory.at(tmp_path, name), ("sgd", 32, 0, 0), "done")
    assert run("compare", "a", "b", "--results-dir", tmp_path) == 0
    assert "(111111)" in capsys.readouterr().out
    [page] = (tmp_path / "comparisons").iterdir()
    text = page.read_text()
    assert "They differ in no setting that can change the result." in text
    assert 'class="banner"' not in text


def test_runs_on_different_data_are_compared_with_a_warning(tmp_path, capsys, monkeypatch):
    write(RunDirectory.at(tmp_path, "a-111111"), ("sgd", 32, 0, 0), "done")
    usual = planned.config
    monkeypatch.setattr(planned, "config", lambda *place: {**usual(*place), "dataset": {"name": "cifar10"}})
    write(RunDirectory.at(tmp_path, "b-222222"), ("sgd", 32, 0, 0), "done")
    assert run("compare", "a", "b", "--results-dir", tmp_path) == 0
    warning = "They differ in data: their results are of different problems."
    assert warning in capsys.readouterr().out
    [page] = (tmp_path / "comparisons").iterdir()
    assert f'<p class="banner">{warning}</p>' in page.read_text()


def test_an_interval_of_accuracies_ends_at_1():
    from optbench.analysis.report.overview import overview

    accuracies = (0.96, 0.98, 1.0)
    runs = pd.DataFrame(
        {"run_id": list("abc"), "optimizer": "sgd", "model": "mlp", "dataset": "digits", "batch": 32, "trial": 0}
    )
    runs = runs.assign(seed=range(3), status="done", validation_accuracy=accuracies, test_accuracy=accuracies)
    histories = pd.DataFrame(columns=["run_id", "event", "step"])
    study = SimpleNamespace(
        runs=runs, plan=SimpleNamespace(name="plain"), information={}, histories=lambda *_, **__: histories
    )
    # 0.98 -/+ 4.3027 * 0.02 / sqrt(3) = 0.0497.
    assert "test accuracy 98.00 % [93.03 %, 100.00 %]" in overview(study).answer
