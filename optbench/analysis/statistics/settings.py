"""Ensure that averages and intervals are taken only over the seeds of one setting.

The column ``setting`` of `optbench.store.load` is a hash of all of a run's science except its seed. A frame without it, or with a
run that has none, is compared by the columns of its configuration (`setting_columns`) instead; a frame without these is not
checked.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from optbench.analysis.frames import require
from optbench.config import ASIDE_GROUPS, MACHINE_KEYS
from optbench.errors import UserError

# Devices, trackers, launchers and probes do not change the results of a run.
_NOT_SCIENCE = {*MACHINE_KEYS, *ASIDE_GROUPS, "trainer", "probe"}
_ENDS = {"done": 0, "diverged": 1}
_MOST_SHOWN = 4


class MixedSettings(UserError):
    """Raised if runs that would be averaged differ in more than the seed."""


def setting_columns(runs: pd.DataFrame, probes: bool = False) -> list[str]:
    """The columns of the configuration that are settings: not the machine's, nor targets; those of probes with ``probes``."""
    left_out = _NOT_SCIENCE - {"probe"} if probes else _NOT_SCIENCE
    found = []
    for column in map(str, runs.columns):
        keys = column.split(".")
        if keys[0] == "config" and len(keys) > 1 and keys[1] not in left_out and not {*keys} & {"_target_", "info"}:
            found.append(column)
    return found


def varied(runs: pd.DataFrame, columns: Sequence[str]) -> list[str]:
    """Those of the columns in which the runs differ."""
    return [column for column in columns if _differs(runs[column])]


def _differs(values: pd.Series) -> bool:
    if values.dtype.kind in "iufb":
        return values.nunique(dropna=False) > 1
    if values.dtype != object:  # text, which pandas compares a hundred times faster than it hands out the values
        values = pd.Series(values.unique())
    first, *others = map(repr, values) if len(values) else [""]
    return any(other != first for other in others)


def settings_of(runs: pd.DataFrame) -> pd.Series:
    """The setting of every run, missing if its configuration is unknown."""
    columns = [column for column in setting_columns(runs) if column != "config.seed"]
    known = runs[columns].notna().any(axis=1)
    if "setting" in runs and not runs.loc[known, "setting"].isna().any():
        return runs["setting"]
    if not columns:
        return pd.Series(np.nan, index=runs.index, dtype=object)
    return runs.groupby(columns, dropna=False, sort=False).ngroup().astype(object).where(known)


def seeds_only(runs: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """The runs, reduced so that each group of equal columns ``by`` has one setting, with every seed once, and can be averaged.

    Several runs of one setting and seed (from other hardware, or from two folders) are one seed: the first done run is kept,
    or else the first diverged one, or the first. Raises `MixedSettings`, with the columns and the values in which they
    differ, if a group holds more than one setting.
    """
    by = [name for name in dict.fromkeys(by) if name != "seed"]
    require(runs, by)
    numbered = runs.reset_index(drop=True)  # labels may occur twice, as in concatenated frames
    settings = settings_of(numbered)
    groups = _groups(numbered, by)
    counts = settings.groupby(groups).nunique()
    if (counts > 1).any():
        raise MixedSettings(_difference(numbered[groups == counts.index[counts > 1][0]], by))
    if "seed" not in runs:
        return runs
    table = pd.DataFrame({"group": groups, "setting": settings, "seed": numbered["seed"]}).dropna()
    if "status" in runs:
        ends = numbered["status"].loc[table.index].map(_ENDS).fillna(len(_ENDS))
        table = table.loc[ends.sort_values(kind="stable").index]
    again = table.index[table.duplicated()]
    return runs[~numbered.index.isin(again)] if len(again) else runs


def _groups(runs: pd.DataFrame, by: Sequence[str]) -> pd.Series:
    return runs.groupby(list(by), dropna=False).ngroup() if by else pd.Series(0, index=runs.index)


def _difference(group: pd.DataFrame, by: Sequence[str]) -> str:
    where = ", ".join(f"{name.removeprefix('cell.').removeprefix('config.')}={group[name].iloc[0]}" for name in by)
    said = [f"{column.removeprefix('config.')} is {_values(group[column])}" for column in _differing(group)]
    more = f"; and in {len(said) - _MOST_SHOWN} other settings" if len(said) > _MOST_SHOWN else ""
    return (
        f"the runs{' of ' + where if where else ''} differ in more than the seed: {'; '.join(said[:_MOST_SHOWN])}{more}. "
        "Averages and intervals are over seeds only"
    )


def _differing(group: pd.DataFrame) -> list[str]:
    columns = [column for column in varied(group, setting_columns(group)) if column != "config.seed"]
    # The only difference may be a target, or the compression between ranks.
    rest = [column for column in map(str, group.columns) if column.endswith("._target_") or ".compression" in column]
    return columns or varied(group, rest) or ["setting"]


def _values(column: pd.Series) -> str:
    return " and ".join(dict.fromkeys("not set" if pd.isna(value) else str(value) for value in column))


def distinguishing(runs: pd.DataFrame, by: Sequence[str]) -> list[str]:
    """A few columns that, in addition to ``by``, distinguish the settings of every group; none if each group is one setting.

    They are chosen one at a time, to minimize the number of settings that share a group. The axes of the sweep are preferred
    to the columns of the configuration, and ``setting`` itself is the last resort.
    """
    settings = settings_of(runs)
    axes = [column for column in map(str, runs.columns) if column.startswith("cell.") and column != "cell.seed"]
    found: list[str] = []
    while unresolved := _unresolved(settings, [groups := _groups(runs, [*by, *found])]):
        several = settings.groupby(groups).transform("nunique") > 1
        mixed, parts = runs[several], groups[several]
        left = {
            column: _unresolved(settings[several], [parts, mixed[column]])
            for column in varied(mixed, [*axes, *_differing(mixed)])
        }
        best = min(left, key=lambda column: left[column], default="setting")
        found.append(best if left.get(best, unresolved) < unresolved else "setting")
    return found


def _unresolved(settings: pd.Series, keys: list[pd.Series]) -> int:
    """Count the settings that would have to be removed from the groups of equal ``keys`` until each has one setting."""
    return int((settings.groupby(keys, dropna=False).nunique() - 1).clip(lower=0).sum())
