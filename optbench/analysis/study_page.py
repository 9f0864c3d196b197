"""The report of a study: its page, its tables and its figures, as files of one folder."""

import os
import shlex
from collections.abc import Iterable, Sequence
from pathlib import Path

import pandas as pd

from optbench.analysis import run_table
from optbench.analysis.findings import Findings
from optbench.analysis.page import Page
from optbench.analysis.studies import experiments_dir
from optbench.analysis.study import Study
from optbench.config import MACHINE_KEYS
from optbench.sweep.survey import in_words

_VERSIONS = ("optbench", "torch", "python", "pytorch-lightning", "numpy")
# Of the keys of the machine, those that say which sweep it was.
_SHOWN_KEYS = ("scale", "sweep")


def write(study: Study, findings: Findings, folder: Path) -> Path:
    """Write index.html, tables/ (CSV and parquet) and figures/ (PNG and PDF) to ``folder``; returns the page's path.

    Raises `optbench.store.StoreError` when the file system refuses.
    """
    from optbench.analysis.figures.style import save
    from optbench.store.files import reporting, write_atomically

    with reporting("create", folder):
        (folder / "tables").mkdir(parents=True, exist_ok=True)
    for name, table in {**findings.tables, "runs": run_table.as_table(study.runs)}.items():
        write_table(table, folder / "tables" / name)
    with reporting("write figures to", folder):
        for chart in findings.charts:
            save(chart.matplotlib(), folder / "figures" / chart.name)
    path = folder / "index.html"
    write_atomically(path, page(study, findings, folder).html().encode())
    return path


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
    write_atomically(stem.with_name(f"{stem.name}.csv"), table.to_csv(index=False).encode())
    write_atomically(stem.with_name(f"{stem.name}.parquet"), content.getvalue())


def page(study: Study, findings: Findings, folder: Path) -> Page:
    """The page, as it is to lie in ``folder``."""
    made = Page(study.name.replace("_", " ").capitalize())
    made.paragraph(findings.question, "question")
    if banner := unfinished(study):
        made.paragraph(banner, "banner")
    made.paragraph(findings.answer, "answer")
    made.paragraph(stands_on(study), "small")
    if findings.notes:
        made.heading("Notes")
        made.items(findings.notes)
    if findings.charts:
        made.heading("Figures")
        for chart in findings.charts:
            made.figure(chart, [f"figures/{chart.name}.{ending}" for ending in ("png", "pdf")])
    if findings.tables:
        made.heading("Tables")
        for name, table in findings.tables.items():
            made.parts.append(f"<h3>{name.replace('_', ' ').capitalize()}</h3>")
            made.table(table, f"tables/{name}.csv")
    _unsuccessful(made, study)
    _runs(made, study, folder)
    _made_with(made, study, findings.scripts, folder)
    return made


def unfinished(study: Study) -> str:
    """A sentence about the runs that have not ended; empty when all have."""
    left, total = study.open_runs, len(study.cells)
    if not left:
        return ""
    counts = {state: count for state, count in study.counts.items() if state not in ("done", "diverged")}
    words = f"{left} of {total} runs {'is' if left == 1 else 'are'} not done ({in_words(counts).partition(': ')[2]})"
    if study.in_hand:
        return f"{words}: what follows will change."
    return f"{words}, and nobody works on them: what follows stands on the other {total - left}."


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
    made.heading("What diverged and failed")
    table = study.unsuccessful
    if table.empty:
        over = "No run" if study.is_over else "So far no run"
        made.paragraph(f"{over} diverged, failed or was lost.")
        return
    made.paragraph(
        f"{len(table)} of {len(study.cells)} runs. A run that diverged is a result, and counts as the worst in every choice."
    )
    table = table.rename(columns=lambda name: str(name).removeprefix("cell."))
    table["why"] = _without_place(table["why"], study)
    made.table(table.dropna(axis=1, how="all"))


def _without_place(messages: Iterable[str], study: Study) -> list[str]:
    """The messages without the folder of this machine."""
    places = (str(study.results_dir.resolve()), str(study.results_dir))
    return [str(why).replace(places[0], "results").replace(places[1], "results") for why in messages]


def _runs(made: Page, study: Study, folder: Path) -> None:
    made.heading("Runs")
    runs = study.runs.assign(why=_without_place(study.runs["why"], study))
    made.data["runs"] = run_table.data(runs, study.results_dir, folder)
    found = run_table.curves(runs, study.histories(["step", *run_table.CURVES]))
    if found:
        made.data["curves"] = found
        made.data["curveFigure"] = run_table.curve_figure()
    text = "A heading sorts; a run opens its settings and its curves."
    if made.data["runs"]["files"]:
        where = Path(os.path.relpath((study.results_dir / "runs").resolve(), folder.resolve())).as_posix()
        text += (
            f" The last column leads to the files of a run, which lie in {where}, seen from this page: "
            "where it was copied or published without that folder, these links lead nowhere."
        )
    made.paragraph(text, "small")
    made.parts.append('<div id="run-table"></div>')
    made.parts.append('<p class="small">All of it: <a href="tables/runs.csv">runs.csv</a></p>')


def _made_with(made: Page, study: Study, scripts: Sequence[str], folder: Path) -> None:
    made.heading("How it was made")
    commands = [f"python -m optbench {shlex.join(words)}" for words in [command(study)] if words]
    scale = f" --scale {study.scale}" if study.scale else ""
    commands += [f"python {shlex.quote(script)}{scale}" for script in scripts]
    made.code("\n".join([*commands, f"python -m optbench report {shlex.quote(study.name)}{scale}"]))
    readme = experiments_dir() / study.name / "README.md"
    if readme.is_file() and folder.resolve().is_relative_to(experiments_dir().parent):
        address = Path(os.path.relpath(readme, folder.resolve())).as_posix()
        made.parts.append(
            f'<p>Question, protocol and source: <a href="{address}">experiments/{study.name}/README.md</a></p>'
        )
    code = study.information.get("code") or {}
    changed = ", with changes that were not committed" if code.get("changed") else ""
    facts = {"Commit": f"{code['commit']}{changed}" if code.get("commit") else "", "Code": _fingerprint(code)}
    many = len(study.environments) > 1
    for environment in study.environments:
        versions = environment.get("versions") or {}
        suffix = f" ({environment['runs']} runs)" if many else ""
        shown = ", ".join(f"{name} {versions[name]}" for name in _VERSIONS if versions.get(name))
        devices = ", ".join(dict.fromkeys(map(str, environment.get("devices") or [])))
        ranks = f", {environment['ranks']} ranks" if (environment.get("ranks") or 1) > 1 else ""
        facts[f"Versions{suffix}"] = shown
        facts[f"Hardware{suffix}"] = (
            f"{devices}{ranks}; {environment.get('cores')} cores of {environment.get('processor')}"
        )
    made.facts(facts)
    made.paragraph(
        "Of several commands that grew the sweep, the last is shown, without the settings of the machine.", "small"
    )


def _fingerprint(code: dict[str, object]) -> str:
    return f"fingerprint {code['fingerprint']} of the package's files" if code.get("fingerprint") else ""


def command(study: Study) -> list[str]:
    """The words that started the sweep, without those that only say where things lie on the machine."""
    hidden = {*MACHINE_KEYS, "tracker"} - {*_SHOWN_KEYS}
    words = study.information.get("command")
    if not isinstance(words, list):
        return []
    return [str(word) for word in words if str(word).partition("=")[0].partition(".")[0] not in hidden]
