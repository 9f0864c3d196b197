"""`compare`: show runs side by side."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

from optbench.cli.parser import Parser
from optbench.config import check_own
from optbench.errors import UserError
from optbench.store import check_writable, find
from optbench.store.files import refuse_link
from optbench.system.terminal import console

_DESCRIPTION = """\
Show runs side by side: the settings in which they differ, their results, and, on an HTML page that needs no network, their
curves. A run is named by its id, or by a beginning or end of its id that no other run shares.
"""


def compare(words: Sequence[str]) -> int:
    """`compare RUN RUN ...`: print differences and results, and write a page with the curves."""
    parser = Parser(prog="optbench compare", description=_DESCRIPTION)
    parser.add_argument("runs", nargs="+", metavar="RUN", help="a run id, or a unique beginning or end of one")
    parser.add_argument("--output", metavar="FILE", help="the page (default: RESULTS/comparisons/DIGEST.html)")
    parser.add_results_dir()
    given = parser.parse_args(list(words))
    chosen = list({run.run_id: run for run in (find(given.results_dir, name) for name in given.runs)}.values())
    if len(chosen) < 2:
        raise UserError(f"compare {' '.join(given.runs)}: is one run; accepted: two or more")
    path = Path(given.results_dir) / "comparisons" / f"{_digest([run.run_id for run in chosen])}.html"
    if given.output is None:
        refuse_link(path.parent)
    else:
        path = Path(given.output)
        if path.suffix != ".html":
            raise UserError(f"--output {path}: accepted: the name of a file that ends in .html")
        check_own(path, given.results_dir, "--output ")
    check_writable(path.parent)
    # pandas, matplotlib and plotly take a second to import.
    from rich.table import Table

    from optbench.analysis.comparison import Comparison
    from optbench.analysis.report.page import cell, heading
    from optbench.store.files import reporting, write_atomically

    comparison = Comparison(given.results_dir, chosen)
    screen = console()
    for title, frame in (("settings in which they differ", comparison.differences), ("results", comparison.results)):
        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for column in frame.columns:
            table.add_column(str(column), overflow="fold")
        for row in frame.itertuples(index=False):
            table.add_row(heading(str(row[0])) if title == "results" else str(row[0]), *map(cell, row[1:]))
        screen.print(table)
        screen.print()
    if comparison.warning:
        screen.print(comparison.warning)
    with reporting("create", path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, comparison.page(path.parent).html().encode())
    screen.print(str(path), soft_wrap=True)
    return 0


def _digest(run_ids: Sequence[str]) -> str:
    return hashlib.sha256("\n".join(run_ids).encode()).hexdigest()[:10]
