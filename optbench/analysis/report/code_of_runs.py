"""The versions of the code that computed the runs of a study, and a warning if compared runs mix them."""

from collections import Counter
from collections.abc import Iterable, Mapping
from functools import cached_property
from itertools import combinations
from typing import Any

import pandas as pd

from optbench.analysis.study import Study
from optbench.provenance import UNKNOWN, Vintages
from optbench.provenance.records import modules
from optbench.store import StoreError

_FINISHED = ("done", "diverged")


class CodeOfRuns:
    """The codes of the finished runs of ``study``; codes that `verify` found to be equal are one.

    Runs of two optimizers use different modules, which alone is not a mixture: two codes differ if a module that both have
    differs or, if the modules are not recorded, if runs with equal targets have both. Unknown code differs from any other.
    """

    def __init__(self, study: Study) -> None:
        self._study = study
        self.vintages = Vintages(study.results_dir)
        runs = study.runs
        self._runs = runs[runs["status"].isin(_FINISHED)]
        recorded = self._runs["code"].tolist() if "code" in self._runs else [None] * len(self._runs)
        pairs = zip(self._runs["run_id"].tolist(), recorded, strict=True)
        self.codes = {run_id: self.vintages.codes(run_id, code) for run_id, code in pairs}

    @cached_property
    def _modules(self) -> dict[str, Mapping[str, str]]:
        found = {code for codes in self.codes.values() for code in codes}
        return {code: modules(self._study.results_dir, code) for code in found}

    @cached_property
    def _targets(self) -> dict[str, set[tuple[str, ...]]]:
        """The targets of the runs of every code."""
        columns = [name for name in self._runs.columns if str(name).endswith("._target_")]
        found: dict[str, set[tuple[str, ...]]] = {}
        for run_id, *named in self._runs[["run_id", *columns]].itertuples(index=False, name=None):
            for code in self.codes[run_id]:
                found.setdefault(code, set()).add(tuple(map(str, named)))
        return found

    def differ(self, one: str, other: str) -> bool:
        """Return True if two codes of the study's runs are known to differ, or cannot be considered equal."""
        if one == other:
            return False
        if UNKNOWN in (one, other):
            return True
        first, second = self._modules[one], self._modules[other]
        if first and second:
            return any(first[name] != second[name] for name in first.keys() & second.keys())
        return bool(self._targets[one] & self._targets[other])

    def mixture(self) -> str:
        """A warning if runs that are compared or averaged were computed by different code; otherwise empty."""
        counts = Counter(code for codes in self.codes.values() for code in codes)
        differing = {code for pair in combinations(sorted(counts), 2) if self.differ(*pair) for code in pair}
        if not differing:
            return ""
        shares = ", ".join(
            f"{counts[code]} of {_name(code)}" for code in sorted(differing, key=lambda code: -counts[code])
        )
        words = f"Runs of different code are compared here: {shares}."
        mixed, settings = self._mixed_settings()
        if mixed:
            words += f" In {mixed} of {settings} settings even seeds of the same setting are of different code."
        return (
            f"{words} {self._study.plan.command('verify')} says whether they agree bit for bit; "
            f"{self._study.plan.command('retry')} --stale makes those of other code anew."
        )

    def _mixed_settings(self) -> tuple[int, int]:
        """The number of settings (cells without the seed) in which codes differ, and the number of all settings."""
        settings: dict[tuple[tuple[str, str], ...], set[str]] = {}
        for run_id, codes in self.codes.items():
            cell = tuple(sorted((key, value) for key, value in self._study.cells[run_id].items() if key != "seed"))
            settings.setdefault(cell, set()).update(codes)
        mixed = sum(any(self.differ(*pair) for pair in combinations(codes, 2)) for codes in settings.values())
        return mixed, len(settings)

    def table(self) -> pd.DataFrame:
        """A row for every code: its fingerprint, number of runs, optimizers, commits, and if it is the current code."""
        rows: dict[tuple[str, ...], dict[str, Any]] = {}
        optimizers: dict[tuple[str, ...], set[str]] = {}
        commits: dict[tuple[str, ...], set[str]] = {}
        for run_id, optimizer in self._optimizers():
            codes = self.codes[run_id]
            if codes not in rows:
                rows[codes] = {"code": " then ".join(map(_name, codes)), "runs": 0, "now": self._now(run_id, codes)}
            rows[codes]["runs"] += 1
            optimizers.setdefault(codes, set()).add(optimizer)
            commits.setdefault(codes, set()).update(self._study.commits(run_id))
        for codes, row in rows.items():
            row["commits"] = ", ".join(sorted(commits[codes]))
            row["optimizers"] = ", ".join(sorted(optimizers[codes]))
        by_size = sorted(rows.values(), key=lambda row: int(row["runs"]), reverse=True)
        columns = ["code", "runs", "optimizers", "commits", "now"]
        return pd.DataFrame(by_size, columns=columns)

    def _optimizers(self) -> Iterable[tuple[str, str]]:
        # The column is missing if no configuration can be read.
        names = self._runs.get("optimizer", pd.Series("unknown", index=self._runs.index))
        return zip(self._runs["run_id"].tolist(), map(str, names.tolist()), strict=True)

    def _now(self, run_id: str, codes: tuple[str, ...]) -> str:
        try:
            standing = self.vintages.of_code(self._study.plan.directory, run_id, "+".join(codes))
        except (StoreError, KeyError):
            return ""
        return {"current": "the same", "other": "other", "unknown": "unknown"}[standing]


def _name(code: str) -> str:
    return "unknown code" if code == UNKNOWN else code
