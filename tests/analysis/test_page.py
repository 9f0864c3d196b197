"""The page in a real browser, and what it is made of."""

import hashlib
import json
import os
import random
import re
from pathlib import Path
from urllib.parse import unquote, urlparse

import numpy as np
import pandas as pd
import pytest
from chromium import Browser, needs_chromium
from planned import accuracy, sweep

from optbench.analysis.charts.chart import Chart, Reference, Series
from optbench.analysis.claims import Claim, table
from optbench.analysis.findings import Findings
from optbench.analysis.report import run_table, study_page
from optbench.analysis.report.packing import packed
from optbench.analysis.report.page import Page, cell
from optbench.analysis.study import Study
from tests.analysis.packed_text import unpacked

WIDTHS = [1280, 400]


def findings():
    names = [f"a rather long name of optimizer {number}" for number in range(9)]
    # The points of the first panel's last series, which lies above the others, are runs 20 and 21 of the sweep.
    runs = {
        ("mlp", "a very long name of an optimizer indeed"): ["adam-mlp-b128-s2-t0-000014", "adam-mlp-b128-s0-t1-000015"]
    }
    panels = [
        Series(label=label, panel=panel, x=[32, 128], y=[0.1, 0.4], low=[0.05, 0.3], high=[0.2, 0.5],
               runs=runs.get((panel, label)))
        for panel in ("mlp", "lenet5", "wrn")
        for label in ("sgd", "adam", "a very long name of an optimizer indeed")
    ]  # fmt: skip
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
        Chart(name="nothing", title="Steps of <K-FAC>", series=[Series(label="a", x=[1], y=[float("nan")])]),
        Chart(
            name="beside",
            title="Categories in several panels",
            series=[
                Series(label="trace", panel=panel, x=names[:4], y=values, kind="points")
                for panel, values in (("early", [90, 110, 100, 120]), ("late", [150, 130, 140, 160]))
            ],
        ),
    ]
    wide = pd.DataFrame({f"column_{number}": [0.5, float("nan")] for number in range(30)})
    return Findings(
        "Is <b> & co. shown?",
        "It is, 0.93 [0.81, 1.06].",
        charts,
        {"wide": wide},
        ["It contradicts the paper."],
        ["experiments/things/between.py"],
        [
            Claim(claim="<i>Large</i> batches lose.", source="A 2017", outcome="undecided", quantity="loss", effect=0.96,
                  low=-0.47, high=2.38, unit="points", estimand="S", runs=1200),
            Claim(claim="Small ones win.", source="B 2018", outcome="not tested"),
        ],
    )  # fmt: skip


# One browser for all tests.
pytestmark = pytest.mark.xdist_group("page")


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
    # The points of the figures: 3 panels of 3 series of 2 points, 9, and 2 panels of 4.
    assert browser.evaluate("document.querySelectorAll('.plot .scatterlayer .points path').length") == 35
    # What panels share is as wide as the values of all.
    low, high = browser.evaluate("document.querySelectorAll('.plot')[2]._fullLayout.yaxis.range")
    assert 50 < low < 90
    assert 160 < high < 200
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
        numbers = [float(value.removesuffix(" %")) for value in values[:22]]
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
    assert all(Path(unquote(urlparse(address).path)).is_file() for _, address in links)
    # The run that waits has neither a history nor a log.
    browser.evaluate("{" + typed.format("missing") + "}")
    for state in ("failed", "diverged"):
        browser.evaluate(f"document.querySelector('#run-table [data-state={state}]').click()")
    assert browser.evaluate("[...document.querySelectorAll('#run-table tbody a')].map(a => a.text)") == [
        "configuration"
    ]
    assert browser.problems() == []


@needs_chromium
@pytest.mark.slow
def test_a_run_opens_its_own_settings_and_curves(written, browser):
    browser.open(written[0])
    table = pd.read_csv(written[0].parent / "tables" / "runs.csv").set_index("run_id")
    # Of the state, the optimizer, the trial and the seed, each is another one than the last: no run has its neighbour's.
    for number in (3, 6, 13, 23):
        run_id = table.index[number]
        browser.evaluate(f"document.querySelector('[data-run=\"{run_id}\"] .open').click()")
        browser.wait_for("document.querySelector('#run-table .detail .main-svg')")
        facts = browser.evaluate(
            "Object.fromEntries([...document.querySelectorAll('#run-table .detail dt')]"
            ".map(name => [name.textContent, name.nextSibling.textContent]))"
        )
        assert facts["optimizer.name"] == table["optimizer"][run_id]
        assert [int(facts[name]) for name in ("batch", "seed", "trial")] == list(
            table.loc[run_id, ["batch", "seed", "trial"]]
        )
        drawn = browser.evaluate(
            "document.querySelector('#run-table .detail .plot').data.map(trace => [trace.name, trace.x, trace.y])"
        )
        optimizer, batch, seed, trial = (table[name][run_id] for name in ("optimizer", "batch", "seed", "trial"))
        last = accuracy(optimizer, batch, seed, trial)
        assert drawn == [
            ["train loss", [5, 10], [0.4, 0.2]],
            ["validation accuracy", [5, 10], [pytest.approx(last / 2, abs=1e-4), pytest.approx(last, abs=1e-4)]],
        ]
        browser.evaluate("document.querySelector('#run-table .open[aria-expanded=true]').click()")


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize(
    ("element", "content", "reason"),
    [
        ("plotly", "AAAA", "a packed part of this file is damaged"),
        ("plotly", "lzma 20 4 AAAAAAAA", "a packed part of this file is damaged"),
        ("plotly", packed("this is no program", "lzma"), "does not start"),
        ("data", "AAAA", "a packed part of this file is damaged"),
        (None, "", "this browser has no DecompressionStream"),
    ],
    ids=["program without words", "damaged program", "another program", "damaged data", "old browser"],
)
def test_a_page_that_cannot_be_drawn_says_so_once(written, browser, element, content, reason, tmp_path):
    text = written[0].read_text(encoding="utf-8")
    if element:
        text, replaced = re.subn(rf'(id="{element}">)[^<]*', lambda found: found[1] + content, text)
        assert replaced == 1
    path = tmp_path / "broken.html"
    path.write_text(text, encoding="utf-8")
    if element:
        browser.open(path, draws=False)
    else:
        script = browser.call("Page.addScriptToEvaluateOnNewDocument", source="delete window.DecompressionStream")
        browser.open(path, draws=False)
        browser.call("Page.removeScriptToEvaluateOnNewDocument", identifier=script["identifier"])
    browser.wait_for("document.querySelector('figure .banner') !== null")
    messages = browser.evaluate("[...document.querySelectorAll('figure .banner')].map(said => said.textContent)")
    assert len(messages) == 1
    assert messages[0].startswith("The figures cannot be shown: ")
    assert reason in messages[0]
    # What needs no program stays: the answer, and under each figure the links to its files.
    assert browser.evaluate("document.querySelector('.answer').offsetHeight > 0")
    assert browser.evaluate("[...document.querySelectorAll('figcaption a')].every(link => link.offsetHeight > 0)")
    assert browser.overflow() == 0
    table = browser.evaluate("document.getElementById('run-table').textContent")
    if element == "plotly":
        # The table of runs does not need plotly; a run that is opened says why it has no curves.
        assert "24 runs" in table
        browser.evaluate("document.querySelector('#run-table .open').click()")
        browser.wait_for("document.querySelector('#run-table .detail .banner') !== null")
    else:
        assert table.startswith("The table of runs cannot be shown: ")
    if folder := os.environ.get("OPTBENCH_SCREENSHOTS"):
        browser.screenshot(f"{folder}/broken-{element}-{len(content)}.png")


@needs_chromium
@pytest.mark.slow
def test_tables_sort_and_filter(browser, tmp_path):
    page = Page("t")
    names = [f"name {number}" for number in range(12)]
    values = [3.0, -1.5, float("nan"), float("inf"), 0.25, 1e-7, 20.0, -100.0, 1234567.0, 0.0, 8.0, 9.0]
    page.table(pd.DataFrame({"name": names, "value": values, "test_accuracy": [0.5] * 12}), title="Folded")
    path = tmp_path / "page.html"
    path.write_text(page.html(), encoding="utf-8")
    browser.open(path)
    rows = "[...document.querySelectorAll('.sorted tbody tr')].filter(row => !row.hidden)"
    assert browser.evaluate("document.querySelector('details').open") is False
    assert browser.evaluate("document.querySelector('summary').textContent") == "Folded 12 rows"
    assert browser.evaluate(f"{rows}[0].cells[2].textContent") == "50 %"
    order = sorted((value for value in values if value == value), reverse=False)
    for expected in (order, order[::-1]):
        browser.evaluate("document.querySelectorAll('.sorted th button')[1].click()")
        shown = browser.evaluate(f"{rows}.map(row => row.cells[1].textContent)")
        assert shown == [*map(cell, expected), "–"]  # what is missing is last in both directions
    typed = (
        "{const box = document.querySelector('details input'); box.value = '%s'; box.dispatchEvent(new Event('input'))}"
    )
    browser.evaluate(typed % "NAME 11")
    assert browser.evaluate(f"{rows}.map(row => row.cells[0].textContent)") == ["name 11"]
    assert "1 of 12 rows" in browser.evaluate("document.querySelector('details').textContent")
    browser.evaluate(typed % "")
    assert browser.evaluate(f"{rows}.length") == 12
    # On paper a folded table would be lost.
    browser.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert browser.evaluate("document.querySelector('details').open")
    browser.evaluate("dispatchEvent(new Event('afterprint'))")
    assert not browser.evaluate("document.querySelector('details').open")
    assert browser.problems() == []


@needs_chromium
@pytest.mark.slow
def test_a_click_on_a_point_opens_its_run(written, browser):
    browser.open(written[0])
    run = written[1].runs["run_id"][20]
    # A filter that hides the run does not stand in the way.
    browser.evaluate("document.querySelector('#run-table [data-state=failed]').click()")
    assert browser.evaluate(f"document.querySelector('[data-run=\"{run}\"]') === null")
    assert "A click on a point opens its run." in browser.evaluate("document.getElementById('rates').textContent")
    # Two frames, so that the pointer is where the page has been scrolled to.
    point = browser.evaluate(
        "new Promise(done => { const place = document.querySelector('[data-figure]'); place.scrollIntoView();"
        "requestAnimationFrame(() => requestAnimationFrame(() => {"
        "const box = place.querySelector('.scatterlayer .points path').getBoundingClientRect();"
        "done([box.left + box.width / 2, box.top + box.height / 2]); })); })"
    )
    for kind, button in (("mouseMoved", "none"), ("mousePressed", "left"), ("mouseReleased", "left")):
        where = {"x": point[0], "y": point[1], "button": button, "clickCount": 1}
        browser.call("Input.dispatchMouseEvent", type=kind, **where)
        if kind == "mouseMoved":
            browser.wait_for("document.querySelector('.hoverlayer text') !== null")
    browser.wait_for(f"document.querySelector('[data-run=\"{run}\"] .open[aria-expanded=true]') !== null")
    assert browser.evaluate(f"document.querySelector('[data-run=\"{run}\"]').nextSibling.className") == "detail"
    assert browser.problems() == []


@needs_chromium
@pytest.mark.slow
def test_a_dark_page_is_readable_and_prints_on_white(written, browser):
    def brightness(colour):
        return sum(map(int, re.findall(r"\d+", colour)[:3])) / 3

    def look():
        return [
            browser.evaluate(f"getComputedStyle({what}).{style}")
            for what, style in (
                ("document.body", "backgroundColor"),
                ("document.body", "color"),
                ("document.querySelector('.plot .xtick text')", "fill"),
                ("document.querySelectorAll('.plot')[1].querySelector('.points path')", "fill"),
            )
        ]

    browser.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark"}])
    try:
        browser.open(written[0])
        paper, ink, tick, point = map(brightness, look())
        assert paper < 40
        assert min(ink, tick) > 180
        assert point > 100
        browser.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert brightness(look()[2]) < 40
        browser.evaluate("dispatchEvent(new Event('afterprint'))")
        assert brightness(look()[2]) > 180
    finally:
        browser.call("Emulation.setEmulatedMedia", features=[])
    browser.wait_for("getComputedStyle(document.querySelector('.plot .xtick text')).fill === 'rgb(0, 0, 0)'")
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
        "2 of 24 runs are not done (1 failed, 1 missing), and nobody works on them: what follows stands on the other 22. "
        "Needs 2 more runs: python -m optbench retry things",
        "Scale smoke. This stands on 24 runs: 21 done, 1 diverged, 1 failed, 1 missing; 3 seeds (0, 1, 2); 2 trials (0, 1).",
        "It contradicts the paper.",
        "Not drawn, because no run has come so far: Steps of &lt;K-FAC&gt;.",
        "the loss was 99 at step 7",
        "out of &lt;memory&gt;",
        "optbench 0.1.0, torch 2.13.0, python 3.11.7",
        "2 cores of Abacus",
        "abc123",
        "python -m optbench --multirun optimizer=sgd,adam scale=smoke\npython experiments/things/between.py --scale smoke\n"
        "python -m optbench report things --scale smoke",
        "which lie in ../runs",
        '<a href="figures/rates.pdf">PDF</a>',
        '<a href="tables/wide.csv" download>wide.csv</a>',
        '<a href="tables/claims.csv">claims.csv</a>',
        "&lt;i&gt;Large&lt;/i&gt; batches lose.",
        '<span class="outcome not-tested">not tested</span>',
        "<td>+0.96 points [−0.47, +2.38]</td>",
        "S: the setting that a new search would choose, over searches and seeds.",
        "<dt>Batch sizes</dt><dd>32, 128</dd>",
        "<dt>Seeds</dt><dd>3 seeds (0, 1, 2)</dd>",
        "<dt>Code</dt><dd>commit abc123, fingerprint f00 of the package&#39;s files</dd>",
    ):
        assert words in text, words
    # The answer, what it rests on, the protocol, what it shows, and where it came from.
    order = ['class="answer"', 'class="claims"', 'class="protocol"', 'data-figure="0"', "It contradicts the paper.",
             "wide.csv", 'id="run-table"']  # fmt: skip
    places = [text.index(words) for words in order]
    assert places == sorted(places)


def test_the_page_names_no_place_and_asks_for_nothing(written):
    path, study = written
    text = path.read_text(encoding="utf-8")
    assert str(study.results_dir) not in text
    assert "/somewhere" not in text
    assert "secret" not in text
    assert "default-src 'none'" in text
    own = re.sub(r'(<script type="text/plain" id="\w+">)[^<]*', r"\1", text) + unpacked(text, "data")
    assert "http" not in own.replace('http-equiv="Content', "")
    assert "secret" not in own
    assert "/somewhere" not in own


def test_links_lead_to_files(written):
    path, _ = written
    runs = json.loads(unpacked(path.read_text(encoding="utf-8"), "data"))["runs"]
    names = [name for _, name in runs["files"]["names"]]
    assert names == ["history.jsonl", "config.yaml", "log.txt"]
    found = []
    for run_id, there in zip(runs["values"][0], runs["files"]["there"], strict=True):
        in_folder = [(path.parent / runs["files"]["folder"] / run_id / name).is_file() for name in names]
        assert [bool(there >> bit & 1) for bit in range(3)] == in_folder
        found.append(in_folder)
    # Run 7 waits.
    assert found[7] == [False, True, False]
    assert found[0] == [True, True, True]
    for address in re.findall(r'href="((?:figures|tables)/[^"]+)"', path.read_text(encoding="utf-8")):
        assert (path.parent / address).is_file()


def test_tables_are_csv_and_parquet(written):
    folder, study = written[0].parent / "tables", written[1]
    names = {f"{name}.{ending}" for name in ("claims", "runs", "wide") for ending in ("csv", "parquet")}
    assert {path.name for path in folder.iterdir()} == names
    assert pd.read_csv(folder / "claims.csv")[["estimate", "kind", "scale", "study"]].to_dict("records")[0] == {
        "estimate": 0.96, "kind": "S", "scale": "smoke", "study": "things"
    }  # fmt: skip
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
    page = Page("t", data={"a": "</script><script>alert(1)</script> ä"})
    text = page.html()
    assert text == page.html()
    assert "alert" not in text
    assert json.loads(unpacked(text, "data")) == page.data


def test_numbers_of_figures_have_seven_digits():
    page = Page("Digits")
    page.charts.append(Chart(name="a", title="A", series=[Series(label="b", x=[1, 2], y=[1 / 3, 12345678.9])]))
    trace = json.loads(unpacked(page.html(), "data"))["figures"][0]["data"][0]
    assert trace["y"] == [0.3333333, 12345680.0]
    assert trace["name"] == "b"


def test_a_page_is_small(written):
    text = written[0].read_text(encoding="utf-8")
    assert len(text) < 2_100_000
    program = unpacked(text, "plotly")
    assert len(program) > 4_000_000  # all of plotly.js
    assert "sourceMappingURL" not in program  # which the tools of a browser would ask for
    # Of what is to be read, nothing comes after what is unpacked.
    assert text.index("</main>") < text.index('id="data"') < text.index('id="plotly"')


def points(lengths, most):
    """The curves of runs with so many evaluations each, thinned to ``most``: the step of an evaluation is its number."""
    run_ids = [f"run{number}" for number in range(len(lengths))]
    rows = [(run_id, step, step / 7) for run_id, length in zip(run_ids, lengths, strict=True) for step in range(length)]
    histories = (
        pd.DataFrame(rows, columns=["run_id", "step", "train_loss"]).iloc[::-1].sort_values("step", kind="stable")
    )
    found = run_table.curves(pd.DataFrame({"run_id": run_ids}), histories)
    assert max(found["lengths"]) <= most
    assert len(found["values"]["step"]) == len(found["values"]["train_loss"]) == sum(found["lengths"])
    assert found["values"]["train_loss"] == [pytest.approx(step / 7, rel=1e-3) for step in found["values"]["step"]]
    ends = np.cumsum(found["lengths"])
    return [found["values"]["step"][end - length : end] for end, length in zip(ends, found["lengths"], strict=True)]


def test_curves_are_thinned_evenly_with_both_ends():
    short, none, one, long, other = points([3, 0, 1, 800, 80], most=80)
    assert (short, none, one, other) == ([0, 1, 2], [], [0], list(range(80)))
    assert (long[0], long[-1], len(long)) == (0, 799, 80)
    # 799 steps in 79 parts: 10 or 11 each.
    assert set(np.diff(long)) == {10, 11}


def test_of_many_runs_each_keeps_a_few_points(monkeypatch):
    monkeypatch.setattr(run_table, "_POINTS", 800)
    assert points([20] * 50, most=16) == [[0, 1, 3, 4, 5, 6, 8, 9, 10, 11, 13, 14, 15, 16, 18, 19]] * 50
    # 800 points over 200 runs are 4 each, and the fewest are 8: of the steps 0 to 14 every second.
    assert points([15] * 200, most=8) == [list(range(0, 15, 2))] * 200


def test_without_evaluations_there_are_no_curves():
    runs = pd.DataFrame({"run_id": ["a"]})
    assert run_table.curves(runs, pd.DataFrame(columns=["run_id", "step"])) is None
    rows = pd.DataFrame({"run_id": ["a"], "step": [1], "train_loss": [float("nan")]})
    assert run_table.curves(runs, rows) is None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1, 1, 1], False),
        ([0.5, 0.5, float("nan")], True),
        ([float("nan")] * 2, False),
        (["a", "a"], False),
        (["a", None], True),
        # A number and its text, and an integer and a float, are different settings.
        ([1, "1"], True),
        (pd.Series([1, 1.0], dtype=object), True),
        ([], False),
    ],
)
def test_settings_in_which_runs_differ(values, expected):
    assert run_table.varied(pd.DataFrame({"a": values}), ["a"]) == ["a"] * expected


def test_a_long_table_says_where_the_rest_is():
    page = Page("t")
    page.table(pd.DataFrame({"a": range(100)}), "tables/a.csv")
    text = page.body()
    assert text.count("<tr>") == 101
    page.table(pd.DataFrame({"a": range(1000)}), "tables/a.csv")
    text = page.body()
    assert text.count("<tr>") == 101 + 101
    assert "The first 100 of 1,000 rows." in text


@pytest.mark.parametrize("method", ["gzip", "lzma"])
@pytest.mark.parametrize("length", range(40))
def test_a_packed_text_is_read_as_it_was(length, method):
    """Of lengths that fill the last digits in every way; a digit is one character that HTML does not read otherwise."""
    text = "ä<&\\>'"[: length % 7] + "xyz" * length
    content = packed(text, method)
    assert not set("&<\\\n") & set(content)
    assert unpacked(f'<script type="text/plain" id="it">{content}</script>', "it") == text


@needs_chromium
@pytest.mark.slow
def test_figures_beyond_a_height_are_drawn_as_wide_as_the_page_when_they_are_opened(browser, tmp_path):
    page = Page("many")
    series = [
        Series(label=label, x=[1, 2], y=[1, 2]) for label in "abcdefg"
    ]  # of more labels than half a page has room for
    for number in range(7):
        page.figure(Chart(name=f"chart{number}", title=f"Chart {number}", series=series))
    path = tmp_path / "many.html"
    path.write_text(page.html(), encoding="utf-8")
    browser.open(path)
    shown, folded = "[data-figure] .main-svg", "document.querySelectorAll('details.folded')"
    count = browser.evaluate(f"{folded}.length")
    assert 1 <= count <= 5
    drawn = browser.evaluate(
        f"new Set([...document.querySelectorAll('{shown}')].map(s => s.closest('[data-figure]'))).size"
    )
    assert drawn == 7 - count
    browser.evaluate(f"{folded}[0].open = true")
    browser.wait_for(f"{folded}[0].querySelector('.main-svg') !== null")
    widths = """[...document.querySelectorAll('.plot')].map(place => place.querySelector('.main-svg')).filter(drawn => drawn)
        .map(drawn => drawn.getBoundingClientRect().width)"""
    found = browser.evaluate(widths)
    assert len(found) == 8 - count
    assert max(found) - min(found) < 2
    assert browser.problems() == []


def _noise(seed, letters, length):
    return "".join(random.Random(seed).choices(letters, k=length))


@needs_chromium
@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a" * 100_000,
        "abcdefg" * 20_000 + "\N{INFINITY}",
        _noise(0, "ab", 50_000),
        _noise(1, "".join(map(chr, range(1, 3000))), 50_000),
        # Matches at distances of every size, and the distances before them again.
        "".join(_noise(k, "abcdefgh", 3 * k) + _noise(k % 7, "xyz", 40) for k in range(1, 400)),
        # Single bytes at the last distance: copies in which one character of many differs.
        "".join(f"{_noise(2, 'klmnop', 90)}{k}{_noise(3, 'klmnop', 9)}" for k in range(2000)),
        _noise(4, "stuvw", 1000) + _noise(5, "".join(map(chr, range(1, 127))), 3_000_000) + _noise(4, "stuvw", 1000),
    ],
    ids=["empty", "one", "run", "period", "two letters", "bytes", "distances", "single bytes", "far"],
)
def test_the_page_decodes_lzma_as_python_encoded_it(written, browser, text, tmp_path):
    page = re.sub(
        r'(<script type="text/plain" id="plotly">)[^<]*',
        lambda found: found[1] + packed(text, "lzma"),
        written[0].read_text(),
    )
    path = tmp_path / "packed.html"
    path.write_text(page, encoding="utf-8")
    browser.open(path, draws=False)
    digest = """unpack("plotly").then(async (text) => Array.from(new Uint8Array(
        await crypto.subtle.digest("SHA-256", new TextEncoder().encode(text)))).join(" "))"""
    assert browser.evaluate(digest) == " ".join(map(str, hashlib.sha256(text.encode()).digest()))


def test_a_page_with_a_figure_is_smaller_than_2_mb(written):
    assert written[0].stat().st_size < 1_550_000


def test_a_claim_that_is_made_several_times_names_the_place_of_each():
    base = {"claim": "It grows.", "source": "A", "outcome": "not tested", "model": "mlp", "condition": "batch=32"}
    page = Page("claims")
    made = [Claim(**base, matched_by="epochs"), Claim(**base, matched_by="train loss", method="kfac")]
    page.claims(
        table([*made, Claim(claim="It falls.", source="A", outcome="not tested", condition="batch=8")], "s", "")
    )
    places = re.findall(r'It \w+\.(?:<div class="small">(.*?)</div>)?</td>', page.html())
    assert places == ["at equal epochs", "K-FAC; at equal train loss", ""]
