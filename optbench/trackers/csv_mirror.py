"""Plain CSV files in the run directory: history.csv (a line for each row) and summary.csv (a line for each value)."""

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from optbench.store import RunDirectory
from optbench.trackers.base import Tracker


class CSVMirror(Tracker):
    """Writes history.csv and summary.csv when the run ends.

    The columns of history.csv are those of all rows, in the order in which they first appear; missing values are empty.
    Lists and mappings are written as JSON.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._path = run.path
        self._rows: list[Mapping[str, Any]] = []

    def log(self, index: int, row: Mapping[str, Any]) -> None:
        """Keep the row: the columns are known only at the end."""
        self._rows.append(row)

    def finish(self, summary: Mapping[str, Any], state: str) -> str:
        """Write both files."""
        columns = list(dict.fromkeys(column for row in self._rows for column in row))
        lines = ([_cell(row.get(column)) for column in columns] for row in self._rows)
        _write(self._path / "history.csv", columns, lines)
        values = {"status": state, **summary}
        _write(self._path / "summary.csv", ["name", "value"], ([name, _cell(value)] for name, value in values.items()))
        return str(self._path / "history.csv")


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value


def _write(path: Path, header: Sequence[str], lines: Iterable[Sequence[Any]]) -> None:
    # Renamed when complete, so that nobody reads an incomplete file.
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(lines)
    temporary.replace(path)
