"""Write the parts of a study's page beside its tables, and read them back, so that the page can be built without the runs.

    page/page.json          the title, the blocks of the page in order, and the charts (`optbench.analysis.charts.records`)
    page/curves.parquet     the thinned curves of the runs: run_id, step, and the losses and accuracies of `run_table.CURVES`
    page/commands.parquet   run_id and command, which runs the run again; null for a run of unknown choices. The table shows the
                            runs of this file: all or, of very many, a part

For a block with a table, page.json names the file (tables/NAME.csv), and the page reads tables/NAME.parquet; the table of runs is
made from tables/runs.parquet. `report` writes all files, and `python -m optbench pages` builds the pages from them.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pandas as pd

from optbench.analysis.charts.records import from_record, to_record
from optbench.analysis.report import run_table
from optbench.analysis.report.page import Page
from optbench.errors import UserError
from optbench.moved import current_column
from optbench.store.files import write_atomically

FOLDER, PAGE = "page", "page.json"
_FORMAT = 1


def write(page: Page, folder: Path, commands: Mapping[str, str | None], curves: Mapping[str, Any] | None) -> None:
    """Write the parts of ``page`` below ``folder``, which has its tables.

    commands: of each run that the page shows, by its id, in the order of the runs.
    curves: the result of `run_table.curves` for these runs.
    """
    place = folder / FOLDER
    place.mkdir(exist_ok=True)
    record = {
        "format": _FORMAT,
        "title": page.title,
        "blocks": [_short(block) for block in page.blocks],
        "charts": [to_record(chart) for chart in page.charts],
    }
    text = json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    # A line for each block and each chart, so that a change affects one line.
    for before in ('{"kind":', '{"name":'):
        text = text.replace(f"[{before}", f"[\n{before}").replace(f"}},{before}", f"}},\n{before}")
    write_atomically(place / PAGE, f"{text}\n".encode())
    _write_parquet(pd.DataFrame({"run_id": list(commands), "command": list(commands.values())}), place / "commands")
    _write_parquet(run_table.curves_as_table(list(commands), curves), place / "curves")


def read(folder: Path, results_dir: Path) -> Page:
    """The page from its parts below ``folder``; it links to the files of those runs that are in ``results_dir``.

    Raises UserError if a part is missing or cannot be read.
    """
    path = folder / FOLDER / PAGE
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["format"] != _FORMAT:
            raise UserError(f"{path}: is of format {record['format']}; accepted: {_FORMAT}, as `report` writes it now")
        page = Page(record["title"], charts=[from_record(chart) for chart in record["charts"]])
        for chart in page.charts:
            _check(chart.name.replace("_", "").replace("-", "").isalnum(), chart.name)
        for block in record["blocks"]:
            for address in (block.get("address"), block.get("file"), *block.get("files", ())):
                _check(not address or _is_beside(address), address)
            if block["kind"] == "table" and block["file"]:
                _check(".." not in Path(block["file"]).parts, block["file"])
                page.table(pd.read_parquet(_parquet(folder, block["file"])), block["file"], _title(page, block))
            elif block["kind"] == "claims":
                _check(".." not in Path(block["file"]).parts, block["file"])
                page.claims(pd.read_parquet(_parquet(folder, block["file"])), block["file"])
            elif block["kind"] == "runs":
                _add_runs(page, folder, results_dir)
            else:
                page.blocks.append(block)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path}: {error.args[-1] if error.args else error}; accepted: a folder as `report` writes it"
        ) from error
    return page


def _check(good: bool, value: object) -> None:
    if not good:
        raise ValueError(f"{value!r} is no name, or no place beside the page")


def _is_beside(address: str) -> bool:
    """True for the address of a file beside the page; a record of unknown origin may hold an address that runs a program."""
    parts = urlsplit(address)
    return not (parts.scheme or parts.netloc or parts.path.startswith("/"))


def _short(block: Mapping[str, Any]) -> dict[str, Any]:
    """A block without the content of its table's file, and without values that depend on the place of the runs."""
    if block["kind"] in ("table", "claims") and block["file"]:
        return {name: block[name] for name in ("kind", "file", "title") if block.get(name)}
    return {"kind": "runs"} if block["kind"] == "runs" else dict(block)


def _title(page: Page, block: Mapping[str, Any]) -> str:
    """The title of a table; in a record of an earlier version it is the heading before the table."""
    if "title" not in block and page.blocks and page.blocks[-1]["kind"] == "subheading":
        return str(page.blocks.pop()["text"])
    return str(block.get("title", ""))


def _parquet(folder: Path, file: str) -> Path:
    return (folder / file).with_suffix(".parquet")


def _add_runs(page: Page, folder: Path, results_dir: Path) -> None:
    runs = pd.read_parquet(folder / "tables" / "runs.parquet").rename(columns=current_column)
    by_run = pd.read_parquet(folder / FOLDER / "commands.parquet").set_index("run_id")["command"]
    if len(by_run) < len(runs):
        runs = runs[runs["run_id"].isin(by_run.index)].reset_index(drop=True)
    data = run_table.data(runs, results_dir, folder)
    commands = [by_run.get(run_id) for run_id in runs["run_id"]]
    data["commands"] = [command if isinstance(command, str) else None for command in commands]
    page.runs(data)
    curves = run_table.curves_of_table(list(runs["run_id"]), pd.read_parquet(folder / FOLDER / "curves.parquet"))
    if curves:
        page.data["curves"] = curves
        page.data["curveFigure"] = run_table.curve_figure()


def _write_parquet(table: pd.DataFrame, stem: Path) -> None:
    import io

    content = io.BytesIO()
    table.to_parquet(content, index=False, compression="zstd")
    write_atomically(stem.with_suffix(".parquet"), content.getvalue())
