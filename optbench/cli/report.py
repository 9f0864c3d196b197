"""`report`: write the findings of a sweep as a page, tables and figures."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from optbench import config as configuration
from optbench.cli.parser import Parser
from optbench.errors import UserError

if TYPE_CHECKING:
    from optbench.analysis.findings import Findings
    from optbench.analysis.study import Study

_DESCRIPTION = """\
Analyse a sweep and write its report: RESULTS/SWEEP/index.html (one file that needs no network), tables/ (CSV and parquet),
figures/ (PNG and PDF), and page/, from which `pages` builds the page again. A sweep of an experiment with a folder
experiments/NAME is analysed by its analysis.py; the report of any other shows the best setting of every cell. For a sweep that
is still running, the report covers the runs so far, and the page says so.
"""


def report(words: Sequence[str]) -> int:
    """`report NAME`: write the page, the tables and the figures of a sweep, and print its answer."""
    parser = Parser(prog="optbench report", description=_DESCRIPTION)
    parser.add_argument("name", metavar="NAME", help="of the experiment (its latest sweep) or of the sweep")
    parser.add_argument("--scale", metavar="SCALE", help="of the experiment: smoke, laptop, full, ...")
    parser.add_argument("--output", metavar="DIR", help="where to write (default: RESULTS/SWEEP)")
    parser.add_argument(
        "--latex", action="store_true", help="write the tables of the findings as LaTeX, too (booktabs)"
    )
    parser.add_results_dir()
    given = parser.parse_args(list(words))
    # pandas, matplotlib and plotly take a second to import.
    from optbench.analysis.report import study_page
    from optbench.analysis.report.code_of_runs import CodeOfRuns
    from optbench.analysis.study import Study
    from optbench.store import check_writable
    from optbench.store.files import refuse_link

    study = Study.read(given.results_dir, given.name, given.scale)
    if given.output is None:
        folder = study.results_dir / study.plan.name
        refuse_link(folder)
    else:
        folder = Path(configuration.folder(given.output, "--output "))
        configuration.check_own(folder, study.results_dir, "--output ")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder}: is not a folder; accepted: a folder, or one to be made")
    check_writable(folder)
    findings = _findings(study)
    path = study_page.write(study, findings, folder, given.latex)
    for line in (
        study_page.unfinished(study),
        CodeOfRuns(study).mixture(),
        findings.answer,
        *findings.notes,
        study_page.stands_on(study),
        str(path),
    ):
        if line:
            print(line)
    return 0


def _findings(study: "Study") -> "Findings":
    """The findings of the study's own analysis, or the overview that every sweep has."""
    from dataclasses import replace

    from optbench.analysis.report.overview import overview
    from optbench.analysis.statistics.settings import MixedSettings
    from optbench.analysis.studies import analysis_of

    analyse = analysis_of(study.name)
    if analyse is None or not study.counts["done"]:
        return overview(study)
    try:
        return analyse(study)
    except MixedSettings as error:
        findings = overview(study)
        note = f"The study's own analysis is left out, since it would average over more than seeds: {error}."
        return replace(findings, notes=[note, *findings.notes])
    except Exception as error:
        # An analysis may fail while runs are missing; with all runs a failure is a mistake in it, and is raised.
        if not study.open_runs:
            raise
        findings = overview(study)
        note = f"The study's own analysis needs more runs than have ended: {error or type(error).__name__}"
        return replace(findings, notes=[*findings.notes, note])
