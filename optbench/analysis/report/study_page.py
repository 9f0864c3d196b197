"""The report of a study: its page, its tables and its figures, as files of one folder."""

import os
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pandas as pd

from optbench.analysis import claims
from optbench.analysis.charts.chart import in_one_style
from optbench.analysis.findings import Findings
from optbench.analysis.report import record, run_table
from optbench.analysis.report.code_of_runs import CodeOfRuns
from optbench.analysis.report.latex import latex
from optbench.analysis.report.page import Page
from optbench.analysis.report.protocol import protocol
from optbench.analysis.report.searched import TABLE, Searched
from optbench.analysis.studies import folder_of
from optbench.analysis.study import Study
from optbench.config import MACHINE_KEYS
from optbench.errors import UserError
from optbench.sweep.status.survey import AT_REST, in_words

# The keys of the machine that identify the sweep.
_SHOWN_KEYS = ("scale", "sweep")
_MOST_UNSUCCESSFUL = 1000
_LONG = 20_000  # rows of a table
_CLAIMS = "claims"


def write(study: Study, findings: Findings, folder: Path, as_latex: bool = False) -> Path:
    """Write index.html, tables/ (CSV and parquet), figures/ (PNG and PDF) and page/ to ``folder``; returns the page's path.

    page/ holds the other parts of the page (`optbench.analysis.report.record`). as_latex: tables of the findings as LaTeX, too.

    Raises `optbench.store.StoreError` if the file system refuses.
    """
    from optbench.store.files import refuse_links_in, reporting, write_atomically

    for place in (folder, *(folder / name for name in ("tables", "figures", record.FOLDER))):
        refuse_links_in(place.resolve() if place is folder else place)
    with reporting("create", folder):
        (folder / "tables").mkdir(parents=True, exist_ok=True)
    found = Searched.of(study)
    empty = [chart.title for chart in findings.charts if not chart.has_values]
    if empty:
        notes = [*findings.notes, f"Not drawn, because no run has come so far: {'; '.join(empty)}."]
        findings = replace(findings, charts=[chart for chart in findings.charts if chart.has_values], notes=notes)
    charts = in_one_style([*findings.charts, *(found.charts if found else ())])
    findings = replace(findings, charts=charts[: len(findings.charts)])
    found = replace(found, charts=charts[len(findings.charts) :]) if found else None
    runs = study.runs.assign(why=_without_place(study.runs["why"], study))
    tables = {**findings.tables, **({TABLE: found.table()} if found and found.rows else {})}
    if findings.claims:
        tables[_CLAIMS] = claims.table(findings.claims, study.name, study.scale or "")
    for name, table in {**tables, "runs": run_table.as_table(runs)}.items():
        write_table(table, folder / "tables" / name)
    for name, table in tables.items() if as_latex else ():
        write_atomically(folder / "tables" / f"{name}.tex", latex(table).encode())
    shown = run_table.shown(runs)
    run_ids = list(shown["run_id"])
    commands = run_table.commands([study.plan.directory(run_id) for run_id in run_ids])
    curves = run_table.curves(shown, study.histories(["step", *run_table.CURVES], run_ids))
    with reporting("create", folder):
        record.write(page(study, findings, folder, found), folder, dict(zip(run_ids, commands, strict=True)), curves)
    return build(folder, study.results_dir, figures=True)


def build(folder: Path, results_dir: Path, figures: bool = False) -> Path:
    """Write ``folder``/index.html, and with ``figures`` these, from the files of `write` in ``folder``; returns the page's path.

    The page links to the files of those runs that are in ``results_dir``. Raises UserError if a part is missing or damaged.
    """
    from jinja2 import TemplateError

    from optbench.store.files import refuse_links_in, reporting, write_atomically

    for name in ("tables", "figures", record.FOLDER):
        refuse_links_in(folder / name)
    made, path = record.read(folder, results_dir), folder / "index.html"
    if figures:
        from optbench.analysis.charts.paper import save

        with reporting("write figures to", folder):
            for chart in made.charts:
                save(chart.matplotlib(), folder / "figures" / chart.name)
    try:
        text = made.html()
    except (ArithmeticError, LookupError, TypeError, ValueError, TemplateError) as error:
        raise UserError(f"{folder / record.FOLDER / record.PAGE}: {error}; accepted: as `report` writes it") from error
    write_atomically(path, text.encode())
    return path


def write_missing_csv(table: Path) -> None:
    """Write the parquet table ``table`` also as CSV beside it, unless that exists."""
    from optbench.store.files import write_atomically

    path = table.with_suffix(".csv")
    if not path.exists():
        write_atomically(path, pd.read_parquet(table).to_csv(index=False).encode())


def write_table(table: pd.DataFrame, stem: Path) -> None:
    """Write ``stem``.csv and ``stem``.parquet, atomically. A column of values of different types is text in both."""
    import io

    from optbench.store.files import write_atomically

    table = table.copy()
    table.columns = [str(column) for column in table.columns]
    for name in table.columns:
        if table[name].dtype == object and len({type(value) for value in table[name].dropna()}) > 1:
            table[name] = [
                None if run_table.plain(value) is None else str(run_table.plain(value)) for value in table[name]
            ]
    content = io.BytesIO()
    table.to_parquet(content, index=False)
    write_atomically(stem.with_name(f"{stem.name}.csv"), _csv(table))
    write_atomically(stem.with_name(f"{stem.name}.parquet"), content.getvalue())


def _csv(table: pd.DataFrame) -> bytes:
    if len(table) <= _LONG:
        return table.to_csv(index=False).encode()
    # Ten times faster; it differs in how booleans and round numbers are spelled.
    import pyarrow as pa
    from pyarrow import csv

    sink = pa.BufferOutputStream()
    options = csv.WriteOptions(quoting_style="needed", quoting_header="needed")
    csv.write_csv(pa.Table.from_pandas(table, preserve_index=False), sink, options)
    return bytes(sink.getvalue())


def page(study: Study, findings: Findings, folder: Path, found: Searched | None = None) -> Page:
    """The page for ``folder``, without the data of the table of runs."""
    made = Page(study.name.replace("_", " ").capitalize())
    made.paragraph(findings.question, "question")
    if banner := unfinished(study):
        made.paragraph(banner.replace(study.plan.place or "\n", ""), "banner")
    code = CodeOfRuns(study)
    if mixture := code.mixture():
        made.paragraph(mixture, "banner")
    searched = f"{found.sentence} " if found is not None and findings.is_general else ""
    made.paragraph(searched + findings.answer, "answer")
    made.paragraph(stands_on(study), "small")
    if findings.claims:
        made.heading("Claims")
        made.claims(claims.table(findings.claims, study.name, study.scale or ""), f"tables/{_CLAIMS}.csv")
    made.heading("Protocol")
    made.protocol(protocol(study.runs, study.information, study.environments))
    if findings.charts:
        made.heading("Figures")
        for chart in findings.charts:
            made.figure(chart, [f"figures/{chart.name}.{ending}" for ending in ("png", "pdf")])
    if findings.notes:
        made.heading("Notes")
        made.items(findings.notes)
    if found is not None:
        found.add_to(made)
    if findings.tables:
        made.heading("Tables")
        for name, table in findings.tables.items():
            made.table(table, f"tables/{name}.csv", name.replace("_", " ").capitalize())
    _unsuccessful(made, study)
    made.heading("Runs")
    made.blocks.append({"kind": "runs"})
    words = "All of it:"
    if len(study.cells) > run_table.MOST_SHOWN:
        part = f"{run_table.SHOWN_OF_MORE:,} of {len(study.cells):,}"
        words = f"The table shows {part} runs, spaced evenly in the order of the sweep. All of them:"
    made.paragraph(words, "small", "tables/runs.csv", "runs.csv")
    _made_with(made, study, findings.scripts, folder)
    _vintages(made, code)
    return made


def unfinished(study: Study) -> str:
    """Sentences about the runs that have not ended, with the command that trains them; empty if all have."""
    left, total = study.open_runs, len(study.cells)
    if not left:
        return ""
    counts = {state: count for state, count in study.counts.items() if state not in AT_REST}
    words = f"{left} of {total} runs {'is' if left == 1 else 'are'} not done ({in_words(counts).partition(': ')[2]})"
    if study.in_hand:
        return f"{words}: what follows will change."
    needs = f"Needs {left} more run{'' if left == 1 else 's'}: {study.plan.command('retry')}"
    return f"{words}, and nobody works on them: what follows stands on the other {total - left}. {needs}"


def stands_on(study: Study) -> str:
    """Scale, runs, seeds and trials in a sentence."""
    seeds, trials = study.seeds, study.trials
    parts = [in_words(study.counts), _number(seeds, "seed"), _number(trials, "trial")]
    scale = f"Scale {study.scale}. " if study.scale else ""
    return f"{scale}This stands on {'; '.join(part for part in parts if part)}."


def _number(values: Sequence[int], what: str) -> str:
    if not values:
        return ""
    shown = ", ".join(map(str, values)) if len(values) <= 6 else f"{values[0]} to {values[-1]}"
    return f"{len(values)} {what}{'' if len(values) == 1 else 's'} ({shown})"


def _unsuccessful(made: Page, study: Study) -> None:
    made.heading("Diverged and failed runs")
    table = study.unsuccessful
    if table.empty:
        over = "No run" if study.is_over else "So far no run"
        made.paragraph(f"{over} diverged, failed or was lost.")
        return
    made.paragraph(
        f"{len(table)} of {len(study.cells)} runs. A run that diverged is a result, and counts as the worst in every choice."
    )
    table = table.rename(columns=lambda name: str(name).removeprefix("cell."))
    if len(table) > _MOST_UNSUCCESSFUL:
        made.paragraph(f"The first {_MOST_UNSUCCESSFUL:,} are shown; tables/runs.csv has all of them.")
        table = table.head(_MOST_UNSUCCESSFUL)
    table = table.assign(why=_without_place(table["why"], study))
    made.table(table.dropna(axis=1, how="all"), title="Which, and why")


def _without_place(messages: Iterable[str], study: Study) -> list[str]:
    """The messages without the folder of this machine."""
    places = (str(study.results_dir.resolve()), str(study.results_dir))
    return [str(why).replace(places[0], "results").replace(places[1], "results") for why in messages]


def _made_with(made: Page, study: Study, scripts: Sequence[str], folder: Path) -> None:
    made.heading("Provenance")
    commands = [f"python -m optbench {shlex.join(words)}" for words in [command(study)] if words]
    scale = f" --scale {study.scale}" if study.scale else ""
    commands += [f"python {shlex.quote(script)}{scale}" for script in scripts]
    made.code("\n".join([*commands, f"python -m optbench report {shlex.quote(study.name)}{scale}"]))
    of_study = folder_of(study.name)
    readme = of_study / "README.md" if of_study is not None else None
    if of_study is not None and readme and readme.is_file() and folder.resolve().is_relative_to(of_study.parents[1]):
        address = quote(Path(os.path.relpath(readme, folder.resolve())).as_posix())
        made.paragraph("Question, protocol and source:", "", address, f"experiments/{of_study.name}/README.md")
    made.paragraph(
        "Where several commands added to the sweep, this is the last one, without the settings of the machine.", "small"
    )


def _vintages(made: Page, code: CodeOfRuns) -> None:
    table = code.table()
    if table.empty:
        return
    made.subheading("Code")
    made.paragraph(
        "The code of the runs: a fingerprint of the modules on their way, so that other targets have another; and whether the "
        "code that is there now is the same.",
        "small",
    )
    made.table(table)


def command(study: Study) -> list[str]:
    """The words that started the sweep, without those that only name folders of the machine."""
    hidden = {*MACHINE_KEYS, "tracker"} - {*_SHOWN_KEYS}
    words = study.information.get("command")
    if not isinstance(words, list):
        return []
    return [str(word) for word in words if str(word).partition("=")[0].partition(".")[0] not in hidden]
