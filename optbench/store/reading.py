"""Many runs as one data frame."""

import json
import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optbench.errors import UserError
from optbench.store.files import StoreError, flatten, read_object
from optbench.store.run_directory import FINISHED, RunDirectory

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

_BASE = ("run_id", "status", "why", "since", "problem")


def run_directories(results_dir: str | Path = "results") -> Iterator[RunDirectory]:
    """All run directories under ``results_dir`` in the order of their ids; none when the folder does not exist."""
    for run_id in _run_ids(results_dir):
        yield RunDirectory.at(results_dir, run_id)


def _run_ids(results_dir: str | Path) -> list[str]:
    try:
        with os.scandir(Path(results_dir) / "runs") as entries:
            return sorted(entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir())
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"cannot read {Path(results_dir) / 'runs'}: {error.strerror or error}") from error


def find(results_dir: str | Path, name: str) -> RunDirectory:
    """The run whose id is ``name``, or the only one whose id begins or ends with it.

    Raises `UserError` with the ids that come nearest when there is no such run, or with the candidates when there are
    several.
    """
    return RunDirectory.at(results_dir, _match(name, _run_ids(results_dir), results_dir))


def _match(name: str, run_ids: Sequence[str], results_dir: str | Path) -> str:
    if name in run_ids:
        return name
    matches = [run_id for run_id in run_ids if run_id.startswith(name) or run_id.endswith(name)]
    if len(matches) == 1:
        return matches[0]
    where = Path(results_dir) / "runs"
    if matches:
        shown = ", ".join(matches[:5]) + (", ..." if len(matches) > 5 else "")
        raise UserError(f"run {name!r} is not unique in {where}: {len(matches)} ids begin or end with it ({shown})")
    import difflib

    near = difflib.get_close_matches(name, run_ids, n=5, cutoff=0.3)
    raise UserError(
        f"no run {name!r} in {where}"
        + (f"; the nearest are {', '.join(near)}" if near else f" ({len(run_ids)} runs there, none with a similar id)")
        + "; accepted is a run id, or the beginning or end of only one"
    )


def _chosen(results_dir: str | Path, runs: Iterable[str] | None) -> list[RunDirectory]:
    run_ids = _run_ids(results_dir)
    if runs is not None:
        known = dict.fromkeys(run_ids)
        run_ids = [name if name in known else _match(name, run_ids, results_dir) for name in runs]
    return [RunDirectory.at(results_dir, run_id) for run_id in run_ids]


def load(results_dir: str | Path = "results", runs: Iterable[str] | None = None) -> "pd.DataFrame":
    """All runs under ``results_dir``, or those named in ``runs`` (as in `find`), one row a run, finished or not.

    Columns: run_id; status; why and since (from status.json); problem, the reason why a file of the run could not be
    read, empty when all is well; then every number, text and boolean of summary.json, nested mappings flattened with
    dots; then the configuration as ``config.optimizer.learning_rate`` and so on, where a list is its JSON text (which
    can be compared, grouped by and written to CSV). A run that is neither done nor diverged has no summary. An empty
    or missing folder gives an empty frame. A damaged run gives a row with its ``problem``, never an exception.
    """
    import pandas as pd

    read = [_read_run(run) for run in _chosen(results_dir, runs)]
    # One key of the summary and the same of the status: the status knows of a run that was started over.
    summary_keys = dict.fromkeys(key for _, summary, _ in read for key in summary if key not in _BASE)
    config_keys = dict.fromkeys(key for _, _, config in read for key in config)
    records = [summary | config | base for base, summary, config in read]
    return pd.DataFrame(records, columns=[*_BASE, *summary_keys, *config_keys])


def _read_run(run: RunDirectory) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
    status = run.status()
    problems = []
    if not status.since:
        problems.append(status.why)
    summary: dict[str, Any] = {}
    if status.state in FINISHED:
        try:
            summary = flatten(read_object(run.path / "summary.json"))
        except FileNotFoundError:
            problems.append(f"{run.path / 'summary.json'} is absent")
        except StoreError as error:
            problems.append(str(error))
    config: dict[str, Any] = {}
    try:
        config = flatten(run.config(), "config.")
    except StoreError as error:
        problems.append(str(error))
    # A run that diverged says why in its summary.
    why = status.why or str(summary.get("why") or "")
    base = dict(zip(_BASE, (run.run_id, status.state, why, status.since, "; ".join(problems)), strict=True))
    for key in [key for key, value in summary.items() if isinstance(value, list)]:
        del summary[key]
    for key, value in config.items():
        if isinstance(value, list):
            # default=str: YAML knows dates, JSON does not.
            config[key] = json.dumps(value, ensure_ascii=False, default=str)
    return base, summary, config


def load_history(
    results_dir: str | Path = "results", runs: Iterable[str] | None = None, columns: Iterable[str] | None = None
) -> "pd.DataFrame":
    """The histories of all runs, or of those named in ``runs``, one under the other, with ``run_id`` in front.

    A finished run is read from its history.parquet, any other from its history.jsonl so far. ``columns`` keeps only
    the named columns, in that order, empty where no run has them. A column whose values have no common type over the
    runs has dtype object. A history that cannot be read is left out with a warning.
    """
    from concurrent.futures import ThreadPoolExecutor

    import pandas as pd
    import pyarrow as pa

    wanted = None if columns is None else [name for name in dict.fromkeys(columns) if name != "run_id"]
    directories = _chosen(results_dir, runs)

    def read(run: RunDirectory) -> "pa.Table | None":
        try:
            # The step is in every row; without any column a table would not know its number of rows.
            table = run.history_table(None if wanted is None else [*dict.fromkeys([*wanted, "step"])])
        except StoreError as error:
            warnings.warn(f"the history of run {run.run_id} is left out: {error}", stacklevel=2)
            return None
        if "run_id" in table.column_names:
            table = table.drop_columns("run_id")
        return table.add_column(0, "run_id", pa.repeat(run.run_id, table.num_rows))

    # Threads hide the latency of a network file system; on a local one they cost nothing.
    with ThreadPoolExecutor(8) as pool:
        tables = [table for table in pool.map(read, directories) if table is not None and table.num_rows]
    frame = _concatenate(tables) if tables else pd.DataFrame(columns=["run_id", "step"])
    return frame if wanted is None else frame.reindex(columns=["run_id", *wanted])


def _concatenate(tables: "list[pa.Table]") -> "pd.DataFrame":
    import pandas as pd
    import pyarrow as pa

    try:
        return pa.concat_tables(tables, promote_options="permissive").to_pandas()
    except pa.ArrowException:
        return pd.concat([table.to_pandas() for table in tables], ignore_index=True)
