"""The page in a real browser, and what it is made of."""

import json
import os
import re

import pandas as pd
import pytest
from chromium import Browser, needs_chromium
from planned import sweep

from optbench.analysis import study_page
from optbench.analysis.chart import Chart, Reference, Series
from optbench.analysis.findings import Findings
from optbench.analysis.page import Page, cell, to_script
from optbench.analysis.study import Study

WIDTHS = [1280, 400]


def findings():
    names = [f"a rather long name of optimizer {number}" for number in range(9)]
    panels = [
        Series(label=label, panel=panel, x=[32, 128], y=[0.1, 0.4], low=[0.05, 0.3], high=[0.2, 0.5])
        for panel in ("mlp", "lenet5", "wrn")
        for label in ("sgd", "adam", "a very long name of an optimizer indeed")
    ]
    charts = [
        Chart(name="rates", title="Rates", caption="Bars.", x_label="Batch", y_label="Rate", log_x=True, series=panels),
        Chart(
            name="names",
            title="Names",
            y_label="Accuracy",
            percent_y=True,
            horizontal=True,
            references=[Reference(0.5, "chance")],
            series=[Series(label="best", x=names, y=[0.8] * 9, low=[0.7] * 9, high=[0.9] * 9, kind="points")],
        ),
    ]
    wide = pd.DataFrame({f"column_{number}": [0.5, float("nan")] for number in range(30)})
    return Findings(
        "Is <b> & co. shown?", "It is, 0.93 [0.81, 1.06].", charts, {"wide": wide}, ["It contradicts the paper."]
    )


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    plan = sweep(folder, states={3: "diverged", 5: "failed", 7: "pending"}, information={"scale": "smoke"})
    study = Study(plan)
    return study_page.write(study, findings(), folder / "things"), study


@pytest.fixture(scope="module")
def browser():
    with Browser() as started:
        yield started


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize("width", WIDTHS)
def test_figures_are_drawn_as_wide_as_the_page_without_an_error(written, browser, width, tmp_path):
    path, _ = written
    browser.open(path, width)
    assert browser.problems() == []
    assert browser.overflow() == 0
    assert browser.evaluate("document.querySelectorAll('.plot .main-svg').length") >= 2
    # The points of both figures: 3 panels of 3 series of 2 points, and 9.
    assert browser.evaluate("document.querySelectorAll('.plot .scatterlayer .points path').length") == 27
    right = browser.evaluate(
        "Math.max(...[...document.querySelectorAll('.plot svg')].map(s => s.getBoundingClientRect().right))"
    )
    assert width - 150 < right <= width
    # Panels stand beside each other where there is room, and below each other where there is none.
    first, second = browser.evaluate(
        "[...document.querySelector('.plot').querySelectorAll('.xaxislayer-above')].slice(0, 2)"
        ".map(axis => axis.getBoundingClientRect().left)"
    )
    assert (second > first + 300) == (width == 1280)
    # At least a third of the width is left for what is drawn beside the names.
    drawn = browser.evaluate(
        "document.querySelectorAll('.plot')[1].querySelector('.nsewdrag').getBoundingClientRect().width"
    )
    assert drawn > width / 3
    if folder := os.environ.get("OPTBENCH_SCREENSHOTS"):
        browser.screenshot(f"{folder}/page-{width}.png")


@needs_chromium
@pytest.mark.slow
def test_the_run_table_sorts_filters_and_opens(written, browser):
    browser.open(written[0])

    def shown(column):
        return browser.evaluate(
            f"[...document.querySelectorAll('#run-table tbody tr[data-run]')].map(row => row.cells[{column}].textContent)"
        )

    headings = browser.evaluate("[...document.querySelectorAll('#run-table th')].map(cell => cell.textContent)")
    accuracy = headings.index("test accuracy")
    assert len(shown(0)) == 24

    sort = f"document.querySelectorAll('#run-table th button')[{accuracy}].click()"
    for expected in ("ascending", "descending"):
        browser.evaluate(sort)
        assert browser.evaluate(f"document.querySelectorAll('#run-table th')[{accuracy}].ariaSort") == expected
        values = shown(accuracy)
        numbers = [float(value) for value in values[:22]]
        assert numbers == sorted(numbers, reverse=expected == "descending")
        # A run that diverged has a result here; those that failed or wait have none, and are last either way.
        assert values[22:] == ["–", "–"]

    typed = "const box = document.querySelector('#run-table input'); box.value = '{}'; box.dispatchEvent(new Event('input'))"
    browser.evaluate("{" + typed.format("ADAM batch=128") + "}")
    assert len(shown(0)) == 6
    assert all("adam-mlp-b128" in name for name in shown(0))
    browser.evaluate("{" + typed.format("") + "}")
    for state in ("failed", "diverged"):
        browser.evaluate(f"document.querySelector('#run-table [data-state={state}]').click()")
    assert sorted(shown(1)) == ["diverged", "failed"]
    assert "2 of 24 runs" in browser.evaluate("document.getElementById('run-table').textContent")

    browser.evaluate("document.querySelector('#run-table .open').click()")
    browser.wait_for("document.querySelector('#run-table .detail .main-svg')")
    assert "optimizer.learning_rate" in browser.evaluate("document.querySelector('#run-table .detail').textContent")
    assert browser.evaluate("document.querySelectorAll('#run-table .detail .scatterlayer .trace').length") == 2
    browser.evaluate("document.querySelector('#run-table .open').click()")
    assert not browser.evaluate("document.querySelector('#run-table .detail')")
    links = browser.evaluate(
        "[...document.querySelector('#run-table tbody tr').querySelectorAll('a')].map(a => [a.text, a.href])"
    )
    assert [text for text, _ in links] == ["history", "configuration", "log"]
    assert browser.problems() == []


@needs_chromium
@pytest.mark.slow
def test_the_browser_sees_errors_and_overflow(browser, tmp_path):
    page = tmp_path / "page.html"
    page.write_text("<div style='width: 3000px'>wide</div><script>console.error('wrong'); missing()</script>")
    browser.open(page)
    assert browser.overflow() > 1000
    assert len(browser.problems()) == 2


def test_the_page_says_what_it_stands_on(written):
    text = written[0].read_text(encoding="utf-8")
    for words in (
        "Is &lt;b&gt; &amp; co. shown?",
        "It is, 0.93 [0.81, 1.06].",
        "2 of 24 runs are not done (1 failed, 1 missing), and nobody works on them: what follows stands on the other 22.",
        "Scale smoke. This stands on 24 runs: 21 done, 1 diverged, 1 failed, 1 missing; 3 seeds (0, 1, 2); 2 trials (0, 1).",
        "It contradicts the paper.",
        "the loss was 99 at step 7",
        "out of &lt;memory&gt;",
        "optbench 0.1.0, torch 2.13.0, python 3.11.7",
        "2 cores of Abacus",
        "abc123",
        "python -m optbench --multirun optimizer=sgd,adam scale=smoke\npython -m optbench report things --scale smoke",
        "which lie in ../runs",
        '<a href="figures/rates.pdf">PDF</a>',
        '<a href="tables/wide.csv">wide.csv</a>',
    ):
        assert words in text, words


def test_the_page_names_no_place_and_asks_for_nothing(written):
    path, study = written
    text = path.read_text(encoding="utf-8")
    assert str(study.results_dir) not in text
    assert "/somewhere" not in text
    assert "secret" not in text
    assert "default-src 'none'" in text
    own = text.replace(re.search(r"<script>.*?</script>", text, re.DOTALL)[0], "")  # without plotly.js
    assert "http" not in own.replace('http-equiv="Content', "")


def test_links_lead_to_files(written):
    path, _ = written
    data = json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)[1])
    assert {label for links in data["runs"]["links"] for label, _ in links} == {"history", "configuration", "log"}
    for links in data["runs"]["links"]:
        for _, address in links:
            assert (path.parent / address).is_file()
    for address in re.findall(r'href="((?:figures|tables)/[^"]+)"', path.read_text(encoding="utf-8")):
        assert (path.parent / address).is_file()


def test_tables_are_csv_and_parquet(written):
    folder, study = written[0].parent / "tables", written[1]
    assert sorted(path.name for path in folder.iterdir()) == ["runs.csv", "runs.parquet", "wide.csv", "wide.parquet"]
    runs = pd.read_parquet(folder / "runs.parquet")
    assert list(runs["run_id"]) == list(study.cells)
    assert list(pd.read_csv(folder / "runs.csv")["state"]) == list(study.runs["state"])
    assert "config.optimizer.learning_rate" in runs
    assert not [name for name in runs if "results_dir" in name or ".info." in name or "_target_" in name]


def test_a_column_of_mixed_values_is_written(tmp_path):
    study_page.write_table(pd.DataFrame({"mixed": [1, "a", None, 0.5]}), tmp_path / "table")
    assert list(pd.read_parquet(tmp_path / "table.parquet")["mixed"][[0, 1, 3]]) == ["1", "a", "0.5"]


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "–"), (float("nan"), "–"), (0.123456, "0.1235"), (1e-7, "1e-07"), (3.0, "3"), (float("inf"), "∞"),
     (True, "yes"), (1_234_567, "1,234,567"), (128, "128"), ("a", "a")],
)  # fmt: skip
def test_cell(value, text):
    assert cell(value) == text


def test_data_cannot_end_its_script():
    assert "<" not in to_script({"a": "</script><script>alert(1)</script>"})
    assert json.loads(to_script({"a": "</script>"})) == {"a": "</script>"}


def test_a_long_table_says_where_the_rest_is():
    page = Page("t")
    page.table(pd.DataFrame({"a": range(100)}), "tables/a.csv")
    assert page.parts[0].count("<tr>") == 61
    assert "The first 60 of 100 rows." in page.parts[1]
