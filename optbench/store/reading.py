"""Read many runs as one data frame."""

import os
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optbench.errors import UserError
from optbench.store import columns, index, measured, run_row
from optbench.store.files import StoreError
from optbench.store.run_directory import FINISHED, RunDirectory, State

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa

# The folders of so many runs are read in less time than the index of a hundred thousand.
_FEW = 256
_INTEGERS = ("batch", "seed", "trial", "classes", *measured.INTEGERS)


def run_directories(results_dir: str | Path = "results") -> Iterator[RunDirectory]:
    """All run directories under ``results_dir``, sorted by id; none if the folder does not exist."""
    for run_id in ids_of_runs(results_dir):
        yield RunDirectory.at(results_dir, run_id)


def ids_of_runs(results_dir: str | Path) -> list[str]:
    """The ids of all runs under ``results_dir``, sorted; warns of symbolic links among them, which are left out."""
    try:
        with os.scandir(Path(results_dir) / "runs") as entries:
            found = [(entry.name, entry.is_symlink()) for entry in entries if entry.name[0] != "." and entry.is_dir()]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StoreError(f"cannot read {Path(results_dir) / 'runs'}: {error.strerror or error}") from error
    links = [name for name, is_link in found if is_link]
    if links:
        warnings.warn(
            f"{Path(results_dir) / 'runs'}: {len(links)} symbolic links are left out, the first is {links[0]!r}",
            stacklevel=3,
        )
    return sorted(name for name, is_link in found if not is_link)


def find(results_dir: str | Path, name: str) -> RunDirectory:
    """The run whose id is ``name``, or the only one whose id begins or ends with it.

    Raises `UserError` with the most similar ids if there is no such run, or with the candidates if there are several, and
    StoreError if a file of the run is a symbolic link.
    """
    run = RunDirectory.at(results_dir, _match(name, ids_of_runs(results_dir), results_dir))
    run.check_links()
    return run


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
        + "; accepted is a run id, or a unique beginning or end of one"
    )


def _chosen(results_dir: str | Path, runs: Iterable[str] | None) -> list[str]:
    run_ids = ids_of_runs(results_dir)
    if runs is not None:
        known = dict.fromkeys(run_ids)
        run_ids = [name if name in known else _match(name, run_ids, results_dir) for name in runs]
    return run_ids


def load(
    results_dir: str | Path = "results", runs: Iterable[str] | None = None, search_spaces: bool = False
) -> "pd.DataFrame":
    """All runs under ``results_dir``, or those named in ``runs`` (as in `find`), one row for each, finished or not.

    Columns, each present if any run has it: run_id; status; why and since (from status.json); problem, the reason why a file
    of the run could not be read, otherwise empty; tags and note, the user's; then every number, text and boolean of
    summary.json, nested mappings flattened with dots; optimizer, model, dataset, batch, seed, trial, base_learning_rate,
    learning_rate and scaling_rule, for runs in every state, so that failures are counted in their groups; setting, a hash of
    all of the science except the seed (only runs with equal hashes may be averaged); classes, their number; with
    ``search_spaces``, search_space: that of the optimizer as JSON text; then the configuration as
    ``config.optimizer.learning_rate`` and so on, without the choices' ``info``; a list is its JSON text (which can be
    compared, grouped by and written to CSV).

    A run that is neither done nor diverged has no summary, and no results. batch, seed, trial, classes, bytes and FLOPs are
    integers: Int64 if a run lacks them. An empty or missing folder gives an empty frame. A damaged run gives a row with
    its ``problem``, never an exception.
    """
    return frame_of(index.Look(results_dir), _chosen(results_dir, runs), search_spaces)


def frame_of(look: index.Look, run_ids: Sequence[str], search_spaces: bool = False) -> "pd.DataFrame":
    """The frame of `load` for ``run_ids``, in that order: from the index where it knows them, and else from their folders."""
    return integers(columns.frame(_rows(look, run_ids), search_spaces))


def _rows(look: index.Look, run_ids: Sequence[str]) -> columns.Rows:
    import numpy as np

    known, places = look.find(run_ids)
    absent = np.flatnonzero(places < 0)
    read = index.read_rows(look.results_dir, [run_ids[place] for place in absent.tolist()])
    if known is None:
        return read
    places[absent] = len(known) + np.arange(len(absent))
    return columns.take(columns.join([known, read]) if len(absent) else known, places)


def read_results(
    results_dir: str | Path, run_ids: Sequence[str], names: Iterable[str]
) -> dict[str, tuple[State, dict[str, Any]]]:
    """The state of each run, and of a finished one those of the values ``names`` that its summary has.

    names: as columns of `load` that come from summary.json, nested mappings flattened with dots. A run that is not there, or
    is damaged, is pending. Of a few thousand runs that the index knows, only the times of two files are read; a few runs are
    read from their folders, which takes less time than reading the index.
    """
    names = list(dict.fromkeys(names))
    if len(run_ids) < _FEW:
        return {run_id: _result(results_dir, run_id, names) for run_id in run_ids}
    known, places = index.Look(results_dir).find(run_ids, ("status", *names), ("results",))
    absent = [run_id for run_id, place in zip(run_ids, places.tolist(), strict=True) if place < 0]
    found = {} if known is None else _results(known, names)
    if len(absent) >= index.MANY:
        found |= _results(index.read_rows(results_dir, absent), names)
    else:
        found |= {run_id: _result(results_dir, run_id, names) for run_id in absent}
    return {run_id: found[run_id] for run_id in run_ids}


def _results(rows: columns.Rows, names: Sequence[str]) -> dict[str, tuple[State, dict[str, Any]]]:
    read = {name: columns.values(rows, name) for name in names}
    # A value that a summary lacks may be in the column from the configuration.
    own = [[name for name in names if name in layout.summary] for layout in rows.layouts]
    run_ids, states = columns.values(rows, "run_id"), columns.values(rows, "status")
    layouts = rows.table.column("layout").to_pylist()
    return {
        run_id: (state, {name: read[name][row] for name in own[layout]} if state in FINISHED else {})
        for row, (run_id, state, layout) in enumerate(zip(run_ids, states, layouts, strict=True))
    }


def _result(results_dir: str | Path, run_id: str, names: Sequence[str]) -> tuple[State, dict[str, Any]]:
    try:
        run = RunDirectory.at(results_dir, run_id)
    except StoreError:
        return "pending", {}
    state = run.status().state
    summary = run_row.summary_columns(run.summary() or {}) if state in FINISHED else {}
    return state, {name: summary[name] for name in names if name in summary and not isinstance(summary[name], list)}


def integers(frame: "pd.DataFrame") -> "pd.DataFrame":
    """The frame of `load` with batch, seed, trial, classes, bytes and FLOPs as integers: int64, or Int64 if a run lacks them."""
    import pandas as pd

    found = {}
    for name in [name for name in _INTEGERS if name in frame]:
        values = pd.to_numeric(frame[name], errors="coerce")
        if values.notna().any() and (values.dropna() % 1 == 0).all():
            found[name] = values.astype("Int64" if values.isna().any() else "int64")
    return frame.assign(**found)


def load_history(
    results_dir: str | Path = "results", runs: Iterable[str] | None = None, columns: Iterable[str] | None = None
) -> "pd.DataFrame":
    """The histories of all runs, or of those named in ``runs``, concatenated, with the first column ``run_id``.

    A finished run is read from its history.parquet, any other from its history.jsonl so far. ``columns``: only these, in
    that order, empty if no run has them. A column whose values have no common type over the runs has dtype object. A
    history that cannot be read is left out with a warning.
    """
    from concurrent.futures import ThreadPoolExecutor

    import pandas as pd
    import pyarrow as pa

    wanted = None if columns is None else [name for name in dict.fromkeys(columns) if name != "run_id"]
    directories = [RunDirectory.at(results_dir, run_id) for run_id in _chosen(results_dir, runs)]

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

    found: pd.DataFrame
    try:
        found = pa.concat_tables(tables, promote_options="permissive").to_pandas()
    except pa.ArrowException:
        found = pd.concat([table.to_pandas() for table in tables], ignore_index=True)
    return found
