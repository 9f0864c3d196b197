"""`pages`: build the pages of reports again from the files that `report` has written, without the runs."""

from collections.abc import Sequence
from pathlib import Path

from optbench.cli.parser import Parser
from optbench.errors import UserError

_DESCRIPTION = """\
Build index.html of reports again from their tables/ and page/, which `report` has written; the runs are not needed. Tables that
exist only as parquet are also written as CSV. With --figures the figures are drawn again as well.
"""


def pages(words: Sequence[str]) -> int:
    """`pages [FOLDER ...]`: build the pages of these reports, or of all reports in the results folder; print their paths."""
    parser = Parser(prog="optbench pages", description=_DESCRIPTION)
    parser.add_argument(
        "folders", nargs="*", metavar="FOLDER", help="of a report (default: all below the results folder)"
    )
    parser.add_argument("--figures", action="store_true", help="draw the figures again, too")
    parser.add_results_dir()
    given = parser.parse_args(list(words))
    # pandas and plotly take a second to import.
    from optbench.analysis.report import record
    from optbench.store.files import refuse_link

    results_dir = Path(given.results_dir)
    folders = [Path(folder) for folder in given.folders] or sorted(
        path.parents[1] for path in results_dir.glob(f"*/{record.FOLDER}/{record.PAGE}")
    )
    if not folders:
        raise UserError(
            f"--results-dir {results_dir}: has no report; accepted: a folder of which one has {record.FOLDER}/"
        )
    for folder in folders:
        refuse_link(folder)
        print(build(folder, results_dir, given.figures))
    return 0


def build(folder: Path, results_dir: Path, figures: bool = False) -> Path:
    """Build the page of the report in ``folder``, and the CSV tables that are missing; returns the page's path.

    figures: draw these again, too. Raises UserError if a part is missing or damaged, or the folder cannot be written.
    """
    from optbench.analysis.report import study_page
    from optbench.store import check_writable

    check_writable(folder)
    for table in sorted((folder / "tables").glob("*.parquet")):
        study_page.write_missing_csv(table)
    return study_page.build(folder, results_dir, figures)
