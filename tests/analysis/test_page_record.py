"""Pages are built again from what lies beside their tables, and no text on them is taken for HTML."""

import json
import re
import shutil

import pandas as pd
import pytest
from planned import sweep

from optbench.__main__ import main
from optbench.analysis.charts.chart import Chart, Series
from optbench.analysis.claims import Claim, table
from optbench.analysis.findings import Findings
from optbench.analysis.report import run_table, study_page
from optbench.analysis.report.page import Page
from optbench.analysis.study import Study
from optbench.config import title
from tests.analysis.packed_text import unpacked

HOSTILE = "</script><img src=x onerror='alert(1)'> & \"quoted\" {{ 7 * 7 }}"


def data_of(text):
    return json.loads(unpacked(text, "data"))


@pytest.fixture
def written(tmp_path):
    best = pd.DataFrame({"optimizer": ["sgd", "mine"], "loss": [0.25, float("nan")], "tried": [3, 4]})
    series = [Series(label=name, x=[32, 128], y=[0.1, 0.4], low=[0.05, 0.3], high=[0.2, 0.5]) for name in ("a", "b")]
    charts = [Chart(name="rates", title="Rates", caption="Bars.", log_x=True, series=series)]
    claims = [Claim(claim="All is well.", source="A 2020", outcome="agrees")]
    found = Findings("Why?", "Because.", charts, {"best": best}, ["A note."], claims=claims)
    plan = sweep(tmp_path, states={3: "diverged", 5: "failed", 7: "pending"}, information={"scale": "smoke"})
    return study_page.write(Study(plan), found, tmp_path / "things")


def test_a_page_is_built_again_bit_for_bit(written, capsys):
    before = written.read_bytes()
    written.unlink()
    shutil.rmtree(written.parent / "figures")
    (written.parent / "tables" / "runs.csv").unlink()
    assert main(["pages", "--results-dir", str(written.parents[1]), "--figures"]) == 0
    assert capsys.readouterr().out.strip() == str(written)
    assert written.read_bytes() == before
    assert sorted(path.name for path in (written.parent / "figures").iterdir()) == ["rates.pdf", "rates.png"]
    runs = pd.read_csv(written.parent / "tables" / "runs.csv")
    assert list(runs["run_id"]) == list(pd.read_parquet(written.parent / "tables" / "runs.parquet")["run_id"])


def test_without_the_runs_only_the_links_to_their_files_are_missing(written, tmp_path):
    whole = data_of(written.read_text())
    alone = tmp_path / "elsewhere" / "things"
    shutil.copytree(written.parent, alone)
    (alone / "index.html").unlink()
    assert main(["pages", str(alone), "--results-dir", str(alone.parent)]) == 0
    text = (alone / "index.html").read_text()
    again = data_of(text)
    assert whole["runs"].pop("files")
    assert again["runs"].pop("files") is None
    assert again == whole
    assert len(again["curves"]["lengths"]) == 24
    assert "which lie in" in written.read_text()
    assert "which lie in" not in text


def test_a_table_that_is_corrected_is_on_the_page_that_is_built_again(written):
    path = written.parent / "tables" / "best.parquet"
    pd.read_parquet(path).assign(loss=[0.5, 0.75]).to_parquet(path)
    study_page.build(written.parent, written.parents[1])
    assert '<td class="number">0.75</td>' in written.read_text()


def test_a_heading_before_a_table_of_an_earlier_version_is_its_title(written):
    path = written.parent / "page" / "page.json"
    block = '{"kind":"table","file":"tables/best.csv","title":"Best"}'
    assert block in path.read_text()
    earlier = '{"kind":"subheading","text":"The old title"},\n{"kind":"table","file":"tables/best.csv"}'
    path.write_text(path.read_text().replace(block, earlier))
    study_page.build(written.parent, written.parents[1])
    assert "<summary>The old title" in written.read_text()
    assert "<h3>The old title" not in written.read_text()


def test_a_table_of_an_earlier_version_is_shown_with_the_keys_of_now(written):
    path = written.parent / "tables" / "runs.parquet"
    runs = pd.read_parquet(path)
    runs.assign(**{"config.norm_batch": [None, 32.0] * (len(runs) // 2), "extremes_top": 1.0}).to_parquet(path)
    study_page.build(written.parent, written.parents[1])
    settings = data_of(written.read_text())["runs"]["settings"]
    assert settings["ghost_batch_size"][:2] == [None, 32]
    assert "norm_batch" not in settings


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / "tables" / "best.parquet").unlink(), r"page.json: .*best.parquet"),
        (lambda folder: (folder / "page" / "curves.parquet").write_text("x"), r"page.json: "),
        (lambda folder: (folder / "page" / "page.json").write_text("{"), r"page.json: "),
        (lambda folder: (folder / "page" / "page.json").write_text('{"format": 9}'), "is of format 9; accepted: 1"),
        (lambda folder: shutil.rmtree(folder / "page"), "has no report; accepted: "),
    ],
)
def test_what_cannot_be_built_is_one_message(damage, message, written, capsys):
    damage(written.parent)
    assert main(["pages", "--results-dir", str(written.parents[1])]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert re.search(message, line), line


@pytest.mark.parametrize(
    "change",
    [
        ('"address":"tables/runs.csv"', '"address":"javascript:alert(1)"'),
        ('"address":"tables/runs.csv"', '"address":"//elsewhere/x"'),
        ('"name":"rates"', '"name":"../../outside"'),
        ('"kind":"items"', '"kind":"nothing"'),
        ('"texts":["A note."]', '"words":["A note."]'),
        ('"number":0', '"number":7'),
    ],
    ids=lambda change: change[1],
)
def test_a_record_from_elsewhere_runs_no_program_and_writes_nothing_outside(change, written, capsys):
    path = written.parent / "page" / "page.json"
    text = path.read_text()
    assert change[0] in text
    path.write_text(text.replace(*change))
    before = written.read_bytes()
    assert main(["pages", "--results-dir", str(written.parents[1]), "--figures"]) == 2
    [line] = capsys.readouterr().err.splitlines()
    assert "page.json: " in line
    assert written.read_bytes() == before
    assert not list(written.parents[1].glob("outside*"))


def test_a_record_from_elsewhere_reads_nothing_outside(written, capsys):
    shutil.copytree(written.parent / "tables", written.parents[1] / "other" / "tables")
    path = written.parent / "page" / "page.json"
    path.write_text(path.read_text().replace('"file":"tables/', '"file":"../other/tables/'))
    assert main(["pages", "--results-dir", str(written.parents[1])]) == 2
    assert "'../other/tables/" in capsys.readouterr().err


def test_the_folder_of_a_report_is_no_link(written, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    shutil.move(written.parent, tmp_path / "elsewhere" / "there")
    (tmp_path / "linked").symlink_to(tmp_path / "elsewhere" / "there")
    assert main(["pages", "--results-dir", str(tmp_path)]) != 0
    assert "linked" in capsys.readouterr().err


def test_no_text_is_taken_for_html():
    page = Page(HOSTILE)
    page.heading(HOSTILE)
    page.subheading(HOSTILE)
    page.paragraph(HOSTILE, "small", HOSTILE, HOSTILE)
    page.items([HOSTILE])
    page.facts({HOSTILE: HOSTILE})
    page.protocol({HOSTILE: HOSTILE})
    page.claims(table([Claim(claim=HOSTILE, source=HOSTILE, outcome="agrees")], HOSTILE, HOSTILE))
    page.code(HOSTILE)
    page.table(pd.DataFrame({HOSTILE: [HOSTILE]}), HOSTILE)
    series = Series(label=HOSTILE, x=[HOSTILE], y=[1])
    page.figure(Chart(name=HOSTILE, title=HOSTILE, caption=HOSTILE, series=[series]), [HOSTILE])
    page.runs({"columns": [], "values": [[HOSTILE]], "settings": {}, "files": {"folder": HOSTILE}})
    text = page.html()
    assert "onerror='" not in text
    assert 'onerror="' not in text
    assert "<img" not in text
    assert text.count("onerror=&#39;") > 20
    # Nor is it taken for a template.
    assert text.count("{{ 7 * 7 }}") > 20
    assert "49" not in re.sub(r'<script type="text/plain".*?</script>|<style>.*?</style>', "", text, flags=re.DOTALL)


def test_methods_have_their_titles_on_pages_and_their_names_in_files(written):
    text = written.read_text()
    assert "<td>SGD</td>" in text
    assert "<td>mine</td>" in text
    runs = data_of(text)["runs"]
    column = [column["key"] for column in runs["columns"]].index("optimizer")
    assert set(runs["values"][column]) == {"SGD", "Adam"}
    assert set(runs["settings"]["optimizer.name"]) == {"sgd", "adam"}
    assert set(pd.read_csv(written.parent / "tables" / "best.csv")["optimizer"]) == {"sgd", "mine"}


def test_a_title_is_not_inherited_and_changes_no_run(tmp_path, monkeypatch):
    from optbench.config import compose, run_id

    assert title("optimizer", "kfac") == "K-FAC"
    assert title("optimizer", "nowhere") == "nowhere"
    own = tmp_path / "optimizer"
    own.mkdir()
    (own / "my_adam.yaml").write_text("defaults: [adam]\nlearning_rate: 0.5\n")
    monkeypatch.setenv("OPTBENCH_CONF", str(tmp_path))
    assert title("optimizer", "my_adam") == "my_adam"
    config = compose(["optimizer=adam", "dataset=digits"])
    assert config["optimizer"]["info"].pop("title") == "Adam"
    assert run_id(config) == run_id(compose(["optimizer=adam", "dataset=digits"]))


def test_curves_are_the_same_after_their_table():
    """Those of a run with a gap, of one without any point, and in an order of runs that is not that of the table."""
    values = {"step": [1, 2, 5], "train_loss": [0.5, None, 2], "test_accuracy": [None, 0.25, 1]}
    curves = {"lengths": [2, 0, 1], "values": values}
    table = run_table.curves_as_table(["a", "b", "c"], curves)
    assert list(table["run_id"]) == ["a", "a", "c"]
    assert run_table.curves_of_table(["a", "b", "c"], table) == curves
    turned = {name: [values[name][place] for place in (2, 0, 1)] for name in values}
    assert run_table.curves_of_table(["c", "b", "a"], table) == {"lengths": [1, 0, 2], "values": turned}
    assert run_table.curves_of_table(["a"], run_table.curves_as_table(["a"], None)) is None
