"""Compare the codes of finished runs with the current code, and record codes that compute the same results."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from optbench.provenance.fingerprints import Sources
from optbench.provenance.records import UNKNOWN, fingerprints, vintages_of
from optbench.store import RunDirectory, RunLock, StoreError
from optbench.store.files import read_object, reporting, to_json, write_atomically

# The current code, or code verified to be equal to it; other code; no recorded code.
Standing = Literal["current", "other", "unknown"]
_PATIENCE_SECONDS = 30.0


class Vintages:
    """The codes of the runs below one results folder.

    RESULTS/vintages.json holds the findings of `verify`:
        "equal": pairs of fingerprints, "old" and "new", whose runs agreed bit for bit, each with the "sweep", the "runs" that
            were computed again, the number of all runs ("of"), their ids and the "date";
        "runs": runs without a recorded code, by id, with the "code" that computes them bit for bit.
    A damaged file counts as an empty one: it only saves work.
    """

    def __init__(self, results_dir: str | Path, sources: Sources | None = None) -> None:
        self.results_dir = Path(results_dir)
        self.sources = sources or Sources()
        self._read = _load(self._path)
        self._first = _classes(self._read["equal"])
        self._known_by_code: dict[str, Standing] = {}

    @property
    def _path(self) -> Path:
        return self.results_dir / "vintages.json"

    def now(self, config: Mapping[str, Any]) -> str:
        """The fingerprint of the current code that computes ``config``."""
        return self.sources.code(config).fingerprint

    def same(self, one: str, other: str) -> bool:
        """True if two fingerprints are equal, or belong to codes that were found to compute the same."""
        return self.representative(one) == self.representative(other)

    def representative(self, fingerprint: str) -> str:
        """One fingerprint that represents all that are the same as ``fingerprint``."""
        return self._first.get(fingerprint, fingerprint)

    def codes(self, run_id: str, code: object) -> tuple[str, ...]:
        """The representatives of the codes that have computed a run, whose column ``code`` is given; "unknown" among them."""
        found = fingerprints(code)
        if found == (UNKNOWN,) and run_id in self._read["runs"]:
            found = (str(self._read["runs"][run_id].get("code")),)
        return tuple(dict.fromkeys(map(self.representative, found)))

    def standing(self, run_id: str, code: object, config: Mapping[str, Any]) -> Standing:
        """The standing of a run's code, its column ``code``, relative to the current code."""
        now = self.now(config)
        found = self.codes(run_id, code)
        if found == (self.representative(now),):
            return "current"
        return "unknown" if found == (UNKNOWN,) else "other"

    def of_finished(self, directory: RunDirectory) -> Standing:
        """The standing of the code of a finished run, by its own files. Raises StoreError if they cannot be read."""
        return self.of_code(lambda run_id: directory, directory.run_id, (directory.summary() or {}).get("code"))

    def of_code(self, directory: Callable[[str], RunDirectory], run_id: str, code: object) -> Standing:
        """The standing of the code of a finished run whose column ``code`` is given; ``directory`` of it is seldom asked for.

        Raises StoreError if its configuration is needed and cannot be read.
        """
        # One configuration is enough for all runs with the same code, since the code fixes the modules.
        key = "+".join(self.codes(run_id, code))
        if key == UNKNOWN:
            return "unknown"
        if key not in self._known_by_code:
            self._known_by_code[key] = self.standing(run_id, code, directory(run_id).config())
        return self._known_by_code[key]

    def of_begun(self, directory: RunDirectory, config: Mapping[str, Any]) -> Standing:
        """The standing of the code that has started a run; "current" for a run without a checkpoint, as it starts anew."""
        if not directory.checkpoint.exists():
            return "current"
        code = "+".join(each["fingerprint"] for each in vintages_of(directory))
        return self.standing(directory.run_id, code, config)

    # ---- what verify finds ---------------------------------------------------------------------------------------------------

    def record_equal(self, old: str, new: str, sweep: str, run_ids: Sequence[str], of: int) -> None:
        """Record that ``run_ids``, of ``of`` runs of the code ``old``, were the same with the code ``new``."""
        entry = {"old": old, "new": new, "sweep": sweep, "runs": len(run_ids), "of": of, "ids": list(run_ids)}
        with self._changing() as content:
            content["equal"].append({**entry, "date": _today()})

    def record_run(self, run_id: str, code: str, sweep: str) -> None:
        """Record that a run without a recorded code was the same with ``code``."""
        with self._changing() as content:
            content["runs"][run_id] = {"code": code, "sweep": sweep, "date": _today()}

    def withdraw(self, old: str, new: str) -> bool:
        """Remove all records that ``old`` equals another code, if it equals ``new``; returns True if it did."""
        if old == new or not self.same(old, new):
            return False
        with self._changing() as content:
            content["equal"] = [pair for pair in content["equal"] if old not in (pair["old"], pair["new"])]
        return True

    def withdraw_run(self, run_id: str) -> bool:
        """Remove the record that a run without a recorded code was the same with some code; True if there was one."""
        with self._changing() as content:
            return content["runs"].pop(run_id, None) is not None

    @contextmanager
    def _changing(self) -> Iterator[dict[str, Any]]:
        with reporting("create", self.results_dir):
            self.results_dir.mkdir(parents=True, exist_ok=True)
        with RunLock(self.results_dir / "vintages.lock").waited_for(_PATIENCE_SECONDS):
            content = _load(self._path)
            yield content
            write_atomically(self._path, to_json(content, indent=1))
        self._read = content
        self._first = _classes(content["equal"])
        self._known_by_code.clear()


def in_words(standings: Iterable[Standing]) -> str:
    """A summary such as "12 of other code, 3 of unknown code"; empty if all are current."""
    found = list(standings)
    counts = [(found.count(standing), standing) for standing in ("other", "unknown")]
    return ", ".join(f"{count} of {standing} code" for count, standing in counts if count)


def _today() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%d")


def _load(path: Path) -> dict[str, Any]:
    try:
        content = read_object(path)
    except (StoreError, FileNotFoundError):
        content = {}
    pairs, runs = content.get("equal"), content.get("runs")
    return {
        "equal": [
            pair
            for pair in (pairs if isinstance(pairs, list) else [])
            if isinstance(pair, dict) and isinstance(pair.get("old"), str) and isinstance(pair.get("new"), str)
        ],
        "runs": {name: run for name, run in (runs if isinstance(runs, dict) else {}).items() if isinstance(run, dict)},
    }


def _classes(pairs: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    """For every fingerprint in ``pairs``, the smallest one to which it is equal, directly or through others."""
    members: dict[str, set[str]] = {}
    for pair in pairs:
        joined = members.get(pair["old"], {pair["old"]}) | members.get(pair["new"], {pair["new"]})
        members |= dict.fromkeys(joined, joined)
    return {name: min(joined) for name, joined in members.items()}
