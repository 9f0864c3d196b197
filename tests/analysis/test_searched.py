"""What a page says of a search: where it looked, what it expects, what it found."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest

from optbench.analysis.charts.chart import Chart, Series, in_one_style
from optbench.analysis.charts.records import from_record, to_record
from optbench.analysis.charts.search_answers import optima, pairs, rungs, surrogate
from optbench.analysis.charts.searched import Looked, where
from optbench.analysis.charts.styles import shaded
from optbench.analysis.findings import Findings
from optbench.analysis.report.searched import Searched
from optbench.analysis.report.study_page import write
from optbench.analysis.study import Study
from optbench.sweep.search import reading
from optbench.sweep.search.asking import Asker, take_searched
from optbench.sweep.search.method import Answer, Grid, Pick, Seen
from tests.search.searched import finish, start

RATE = "optimizer.learning_rate"
AXES = {"optimizer": ("adam", "kfac"), "batch": ("512", "64", "8"), RATE: ("1e-3", "0.01", "0.1"), "seed": ("0", "1")}


def seen(number=0, state="done", value=1.0, **cell):
    first = {key: words[0] for key, words in AXES.items()}
    return Seen(
        Pick({**first, **{key.replace("rate", RATE): word for key, word in cell.items()}}), number, state, value
    )


def looked(*cells, axes=AXES, options=None, space=None):
    return Looked.of("validation_loss", [Grid("", axes)], cells, options or {}, space or {})


def points(chart):
    """(panel, label, row, value) of every point that has a place."""
    return [
        (series.panel, series.label, x, y)
        for series in chart.series
        for x, y in zip(series.x, series.y, strict=True)
        if not math.isnan(y)
    ]


EVERYWHERE = [
    seen(0, batch="64", rate="0.1"),
    seen(1, batch="8", rate="0.01", seed="1"),
    seen(2, batch="512", rate="1e-3"),
    seen(3, optimizer="kfac", rate="0.1", state="diverged", value=None),
    seen(4, optimizer="kfac", rate="0.01"),
    seen(4, optimizer="kfac", state="failed", value=None),
]


def test_every_chosen_cell_has_a_point_shaded_by_its_round():
    [chart] = where(looked(*EVERYWHERE))
    assert sorted(points(chart)) == [
        ("Adam", "round 3", "512", 0.001),
        ("Adam", "rounds 1–2", "64", 0.1),
        ("Adam", "rounds 1–2", "8", 0.01),
        ("K-FAC", "diverged", "512", 0.1),
        ("K-FAC", "round 5", "512", 0.01),
    ]
    assert chart.categories == ["8", "64", "512"], "rows in order, whichever was looked at first"
    shades = {series.label: series.shade for series in chart.series}
    assert shades["rounds 1–2"] < shades["round 3"] < shades["round 5"]
    assert {series.label for series in chart.series if series.hollow} == {"diverged"}
    assert chart.log_y
    assert (chart.x_label, chart.y_label) == ("Batch size (examples)", "Learning rate")


def test_shades_and_open_markers_are_drawn_by_both_and_kept_in_records():
    open_points = Series(label="diverged", x=[1], y=[2], kind="points", shade=1.0, hollow=True)
    early = Series(label="round 1", x=[1], y=[1], kind="points", shade=0.0)
    [chart] = in_one_style([Chart(name="a", title="A", series=[early, open_points])])
    first, last = chart.plotly().data
    assert (first.marker.color, first.marker.symbol) == (shaded(0.0).colour, "circle")
    assert (last.marker.color, last.marker.symbol) == (shaded(1.0).colour, "circle-open")
    drawn = {line.get_label(): line for line in chart.matplotlib().axes[0].lines}
    assert drawn["diverged"].get_fillstyle() == "none"
    assert drawn["round 1"].get_fillstyle() == "full"
    assert drawn["diverged"].get_color() == shaded(1.0).colour
    again = from_record(json.loads(json.dumps(to_record(chart))))
    assert again.plotly().to_json() == chart.plotly().to_json()


def test_shades_become_darker():
    lightness = [sum(int(shaded(share).colour[place : place + 2], 16) for place in (1, 3, 5)) for share in (0, 0.5, 1)]
    assert lightness[0] > lightness[1] > lightness[2]


def test_a_search_of_one_condition_shows_results():
    drawn = {
        RATE: {"distribution": "log_uniform", "low": 1e-5, "high": 1.0},
        "optimizer.beta1": {"distribution": "log_uniform_complement", "low": 1e-3, "high": 1.0},
        "optimizer.nesterov": {"distribution": "categorical", "choices": [True, False]},
    }
    cells = [
        Seen(
            Pick({"seed": "0", RATE: "0.001", "optimizer.beta1": "0.99", "optimizer.nesterov": "true"}), 0, "done", 2.0
        ),
        Seen(Pick({"seed": "0", RATE: "0.1", "optimizer.beta1": "0.5", "optimizer.nesterov": "false"}), 1, "done", 1.0),
        Seen(Pick({"seed": "0", RATE: "0.5", "optimizer.beta1": "0.9", "optimizer.nesterov": "true"}), 1, "diverged"),
        Seen(Pick({"seed": "0", RATE: "0.2", "optimizer.beta1": "0.8", "optimizer.nesterov": "true"}), 2, "waiting"),
    ]
    [chart] = where(looked(*cells, axes={"seed": ("0",)}, space=drawn))
    assert chart.panels == ["Learning rate", "1 − Beta1"]
    found = points(chart)
    assert ("Learning rate", "round 1", 0.001, 2.0) in found
    assert ("Learning rate", "diverged", 0.5, 2.0) in found, "at the worst result"
    assert [y for panel, label, x, y in found if panel == "1 − Beta1" and x == pytest.approx(0.01)] == [2.0]
    assert len(found) == 6


def test_paused_runs_stand_apart():
    cells = [seen(0), seen(1, batch="8", state="paused", value=3.0), seen(1, rate="0.1")]
    [chart] = where(looked(*cells))
    assert [point[2:] for point in points(chart) if point[1] == "paused"] == [("8", 0.001)]
    assert {series.label for series in chart.series if series.hollow} == {"paused"}


def test_a_comparison_of_settings_is_drawn_over_its_seeds():
    axes = {"optimizer": ("adam", "kfac"), "seed": ("0", "1", "2")}
    cells = [
        Seen(Pick({"optimizer": name, "seed": seed}), int(seed), "done", 1.0)
        for name in axes["optimizer"]
        for seed in "012"
    ]
    [chart] = where(looked(*cells, axes=axes, options={"pairs": "all"}))
    assert {(row, value) for _, _, row, value in points(chart)} == {
        (name, seed) for name in ("Adam", "K-FAC") for seed in (0, 1, 2)
    }


ROWS = [
    {"grid": "", "optimizer": "adam", RATE: rate, "batch": batch, "loss": loss, "low": loss - 0.1, "high": high, "runs": 1}
    for batch, losses in ((8.0, (2.0, 1.0, math.inf)), (64.0, (3.0, 2.0, 1.0)))
    for rate, loss, high in zip((0.001, 0.01, 0.1), losses, (2.5, 1.5, math.inf), strict=True)
]  # fmt: skip


def test_the_surrogate_has_a_band_beside_the_runs_of_its_condition():
    cells = [
        seen(0, batch="8", rate="0.01", value=1.25),
        seen(1, batch="64", rate="0.1", value=1.5),
        seen(2, batch="512"),
    ]
    [chart] = surrogate(looked(*cells), Answer("", surrogate=tuple(reversed(ROWS))))
    assert chart.panels == ["batch 64", "batch 8"]
    curve, runs = (
        next(s for s in chart.series if s.panel == "batch 8" and s.label == label) for label in ("expected", "runs")
    )
    assert (curve.x, curve.y) == ([0.001, 0.01, 0.1], [2.0, 1.0, math.inf])
    np.testing.assert_allclose(curve.low[:2], [1.9, 0.9])
    assert (runs.x, runs.y) == ([0.01], [1.25])
    assert chart.matplotlib().axes
    assert chart.plotly().data


def test_optima_stand_in_their_rows():
    rows = [
        {"grid": "", "optimizer": "adam", "batch": "8", "optimum": 0.02, "low": 0.01, "high": 0.03, "chosen": 0.01},
        {"grid": "", "optimizer": "adam", "batch": "64", "optimum": math.nan, "low": math.nan, "high": math.nan},
    ]  # fmt: skip
    given = looked(*EVERYWHERE)
    [chart] = where(given, lambda panels: optima(given, Answer("", tuple(rows)), panels))
    [optimum] = [series for series in chart.series if series.label == "optimum"]
    assert (optimum.panel, optimum.x, optimum.low, optimum.high) == (
        "Adam",
        ["8", "64"],
        pytest.approx([0.01, math.nan], nan_ok=True),
        pytest.approx([0.03, math.nan], nan_ok=True),
    )
    assert "The optimum of each row has its interval." in chart.caption


def test_pairs_show_the_margin():
    curve = [
        {"pair": "a - b", "n": n, "estimate": 0.5, "low": None if n < 4 else 0.1, "high": None if n < 4 else 0.9}
        for n in (2, 4)
    ]
    [chart] = pairs(Answer("", surrogate=tuple(curve)), "validation_accuracy", 0.3)
    assert chart.series[0].x == [2, 4]
    assert sorted(reference.value for reference in chart.references) == [-0.3, 0.0, 0.3]
    assert pairs(Answer("nothing yet"), "validation_loss", None) == []


def test_a_setting_is_one_line_up_to_its_last_rung():
    rows = [
        {"bracket": "", "setting": "a", "rung": 1, "steps": 10, "value": 3.0, "promoted": True},
        {"bracket": "", "setting": "b", "rung": 1, "steps": 10, "value": 4.0, "promoted": False},
        {"bracket": "", "setting": "c", "rung": 1, "steps": 10, "value": None, "promoted": False},
        {"bracket": "", "setting": "a", "rung": 2, "steps": 30, "value": 1.0, "promoted": False},
    ]
    [chart] = rungs(Answer("", tuple(rows)), "validation_loss")
    lines = {series.label: (series.x, series.y) for series in chart.series}
    np.testing.assert_equal(lines["to the last rung"], ([10, 30, math.nan], [3.0, 1.0, math.nan]))
    np.testing.assert_equal(lines["stopped"], ([10, math.nan, 10, math.nan], [4.0, math.nan, math.nan, math.nan]))


@pytest.fixture(scope="module")
def searched_sweep(tmp_path_factory):
    """A random search of 8 cells; its runs are ended without training."""
    plan = start(tmp_path_factory.mktemp("searched"), choice={"name": "random", "budget": 8, "seed": 1})
    asker = Asker(reading.Search.of(plan))
    for claim in take_searched(asker, 0, 1, lambda: False, lambda asked: None):
        claim.lock.release()
        finish(claim.directory)
    return plan


def test_the_page_of_a_searched_sweep(searched_sweep, tmp_path):
    study = Study(searched_sweep)
    found = Searched.of(study)
    assert found.sentence.startswith("8 of 36 runs (22 %), ")
    assert "% of the steps: best of" in found.sentence
    assert found.facts["End"] == "the budget of 8 runs is spent"
    assert found.facts["Options"] == "seed=1, budget=8"
    assert len(points(found.charts[0])) == 8
    page = write(study, Findings("What?", "That."), tmp_path).read_text(encoding="utf-8")
    assert found.sentence in page
    assert (tmp_path / "figures" / "searched_cells.pdf").is_file()


def test_a_run_that_is_several_cells_is_counted_once(searched_sweep):
    """As of two grids that share it."""
    search = reading.Search.of(searched_sweep)
    record = search.record()
    first = record.chosen[0]
    other = next(value for value in ("0.001", "0.01", "0.1") if value != first.pick.cell["optimizer.learning_rate"])
    again = replace(first, pick=replace(first.pick, cell={**first.pick.cell, "optimizer.learning_rate": other}))
    assert again.pick.key not in {each.pick.key for each in record.chosen}
    alone, both = (search.spent(each, search.seen(each)) for each in (record, record.extended([again])))
    assert alone.startswith("8 of 36 runs (22 %), ")
    assert both == alone.replace("8 of 36 runs (22 %)", "8 runs for 9 of 36 cells (25 %)")


def test_a_search_that_cannot_be_composed_again_is_said_to_be(searched_sweep, tmp_path, monkeypatch):
    def refuse(words):
        from optbench.errors import UserError

        raise UserError("optimizer=mine: no such choice")

    monkeypatch.setattr("optbench.sweep.grid.again.compose_again", refuse)
    study = Study(searched_sweep)
    found = Searched.of(study)
    assert found.sentence == "The search of this sweep cannot be read again: optimizer=mine: no such choice"
    page = write(study, Findings("What?", "That."), tmp_path).read_text(encoding="utf-8")
    assert "cannot be read again" in page


def test_a_grid_without_the_searched_axis_has_no_place_in_the_figure():
    elsewhere = Seen(Pick({"batch": "64"}, "measured"), 0, "done", 1.0)
    [chart] = where(looked(elsewhere, *EVERYWHERE, options={"over": RATE}))
    assert sorted(points(chart)) == sorted(points(where(looked(*EVERYWHERE))[0]))
