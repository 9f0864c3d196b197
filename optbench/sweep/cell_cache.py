"""The run ids of a sweep, kept with all that they depend on: the same command, once all is done, composes nothing.

    RESULTS/sweeps/NAME/composed.json    a line with a key and a digest of the next line, and a line with what was composed

The key is a hash of all that decides what a command composes: its words, the code and the choices of optbench, the user's own
choices, the installed packages, the working folder, and the environment variables that choices read. The data are not in it:
one cell for each dataset is resolved again, which takes the fingerprint of the data as they are now. The file is used only if
every run has ended, so that nothing is trained with a configuration from it. Where anything is missing, damaged, changed or
of a kind that is not foreseen here, the cells are composed, as they are without the file.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from optbench import config as configuration
from optbench.config import search_path
from optbench.config.places import folder
from optbench.data import fingerprints
from optbench.errors import UserError
from optbench.provenance import Standing, Vintages, checkout
from optbench.store import StoreError
from optbench.store.columns import values
from optbench.store.files import read_bytes, refuse_link, write_atomically
from optbench.store.index import Look
from optbench.store.run_directory import FINISHED
from optbench.sweep.grid.expand import Cell, Expansion
from optbench.sweep.plan import Plan
from optbench.sweep.planned_runs import States
from optbench.system.file_cache import looking_once

_FILE = "composed.json"
_PLUGIN = checkout.PACKAGE.parent / "hydra_plugins" / "optbench_sweeper" / "__init__.py"
_VARIABLES = ("HOME", "OPTBENCH_DATA", search_path.VARIABLE)
# Interpolations whose values the key knows: of another key, and of an environment variable with a literal default.
_PLAIN = re.compile(r"\$\{[\w.]+\}|\$\{oc\.env:(\w+)(?:,[^${}]*)?\}")
# A folder of the user's own choices with more files than this is not read for a key.
_MOST_FILES = 5000
_MOST_SAMPLES = 64
_ENDED = (*FINISHED, "failed")
# The errors that a file can cause that is damaged, or was written by hand.
_UNUSABLE = (UserError, StoreError, OSError, ValueError, LookupError, TypeError, AttributeError)


class _NotForeseen(Exception):
    """Raised if the cells may depend on what the key does not hold."""


@dataclass(frozen=True)
class EndedSweep:
    """A sweep of which every run has ended. information: of its plan, as `Plan.extend` takes it, without the code."""

    plan: Plan
    runs: States
    launcher: Mapping[str, Any]
    information: Mapping[str, Any]


class CellCache:
    """The grids that ``words``, all those after `python -m optbench`, have composed."""

    def __init__(self, words: Sequence[str]) -> None:
        self._words = list(words)
        self._key = _key(self._words)

    @looking_once()
    @fingerprints.kept()
    def find(self) -> EndedSweep | None:
        """The sweep that the words plan, if it is known without composing it and all its runs have ended."""
        if self._key is None:
            return None
        results = _results_dir(self._words)
        try:
            with os.scandir(Path(results) / "sweeps") as entries:
                names = sorted(entry.name for entry in entries if entry.name[0] != ".")
        except OSError:
            return None
        for name in names:
            with suppress(*_UNUSABLE):
                plan = Plan(results, name)
                if (said := _read(plan.path / _FILE, self._key)) is not None:
                    return _ended(plan, said)
        return None

    def keep(
        self, plan: Plan, expansion: Expansion, launcher: Mapping[str, Any], information: Mapping[str, Any]
    ) -> None:
        """Write what the words have composed into the folder of ``plan``; nothing if that is not possible, or not safe."""
        # With the second key, choices that changed while they were composed are not taken for those of the first.
        if self._key is None or _key(self._words) != self._key:
            return
        samples = _samples(expansion.cells)
        said = {
            "results_dir": str(plan.results_dir),
            "runs": [cell.run_id for cell in expansion.cells],
            "launcher": dict(launcher),
            "information": {name: value for name, value in information.items() if name != "code"},
            "samples": [[cell.run_id, cell.asked] for cell in samples],
        }
        with suppress(TypeError, ValueError, OSError, StoreError):
            text = json.dumps(said)
            if len(samples) > _MOST_SAMPLES or repr(json.loads(text)) != repr(said):
                return
            line = text.encode()
            path = plan.path / _FILE
            refuse_link(path)
            write_atomically(path, f"{self._key} {_digest(line)}\n".encode() + line, sync=False)


def _results_dir(words: Sequence[str]) -> str:
    typed = [word.partition("=")[2] for word in words if word.startswith("results_dir=")]
    return folder([str(configuration.front_page()["results_dir"]), *typed][-1], "results_dir=")


def _read(path: Path, key: str) -> dict[str, Any] | None:
    try:
        first, _, line = read_bytes(path).partition(b"\n")
    except OSError:
        return None
    if first != f"{key} {_digest(line)}".encode():
        return None
    said = json.loads(line)
    return said if isinstance(said, dict) else None


def _ended(plan: Plan, said: Mapping[str, Any]) -> EndedSweep | None:
    run_ids: list[str] = said["runs"]
    if said["results_dir"] != str(plan.results_dir) or not {*run_ids} <= {entry.run_id for entry in plan.entries()}:
        return None
    # The runs are named by their data, too, which may have changed.
    if any(configuration.run_id(configuration.resolve(asked)) != run_id for run_id, asked in said["samples"]):
        return None
    states: dict[str, str] = {}
    stale: dict[str, Standing] = {}
    vintages = Vintages(plan.results_dir)
    for run_id, (state, code) in _outcomes(plan, run_ids).items():
        if state not in _ENDED:
            return None
        states[run_id] = state
        if state in FINISHED:
            standing = vintages.of_code(plan.directory, run_id, code)
        else:
            directory = plan.directory(run_id)
            standing = vintages.of_begun(directory, directory.config())
        if standing != "current":
            stale[run_id] = standing
    return EndedSweep(plan, States(plan, states, stale), said["launcher"], said["information"])


def _outcomes(plan: Plan, run_ids: Sequence[str]) -> dict[str, tuple[str, object]]:
    """The state and the recorded code of each run; a run that has finished without a summary is pending."""
    rows, places = Look(plan.results_dir).find(run_ids, ("status", "code"), ("results",))
    known = [] if rows is None else list(zip(values(rows, "status"), values(rows, "code"), strict=True))
    found = {}
    for run_id, place in zip(run_ids, places.tolist(), strict=True):
        if place >= 0:
            found[run_id] = known[place]
            continue
        directory = plan.directory(run_id)
        state, summary = directory.status().state, directory.summary()
        code = None if summary is None else summary.get("code")
        found[run_id] = ("pending" if state in FINISHED and summary is None else state, code)
    return found


def _samples(cells: Sequence[Cell]) -> list[Cell]:
    """One cell for each choice of data and of files that runs begin with."""
    found: dict[str, Cell] = {}
    for cell in cells:
        found.setdefault(repr([cell.asked[name] for name in ("dataset", "init", "data_dir")]), cell)
    return list(found.values())


# ---- the key ---------------------------------------------------------------------------------------------------------------


def _key(words: Sequence[str]) -> str | None:
    """A hash of all that decides what ``words`` compose, but for data; None if that cannot be said."""
    try:
        variables = {*_VARIABLES}
        found = hashlib.blake2b(digest_size=16)
        for part in (checkout.fingerprint(), sys.version, str(Path.cwd()), *_packages(), *words):
            found.update(f"{part}\0".encode("utf-8", "surrogateescape"))
        for word in words:
            variables |= _variables_in(word)
        found.update(_PLUGIN.read_bytes())
        for path in _choice_files():
            content = path.read_bytes()
            variables |= _variables_in(content.decode("utf-8", "surrogateescape"))
            found.update(f"{path}\0{len(content)}\0".encode("utf-8", "surrogateescape") + content)
        environment = sorted((name, os.environ.get(name)) for name in variables)
        found.update(repr(environment).encode("utf-8", "surrogateescape"))
    except (_NotForeseen, OSError, UserError):
        return None
    return found.hexdigest()


def _variables_in(text: str) -> set[str]:
    """The environment variables that interpolations in ``text`` read; raises _NotForeseen for other resolvers."""
    places = [match.start() for match in re.finditer(r"\$\{", text)]
    matches = [_PLAIN.match(text, place) for place in places]
    if None in matches:
        raise _NotForeseen
    return {match[1] for match in matches if match is not None and match[1]}


def _choice_files() -> Iterator[Path]:
    seen = 0
    for place in search_path.places():
        for below, folders, names in os.walk(place.folder):
            folders.sort()
            seen += len(folders) + len(names)
            if seen > _MOST_FILES:
                raise _NotForeseen
            yield from (Path(below) / name for name in sorted(names) if name.endswith((".yaml", ".yml")))


def _packages() -> list[str]:
    """The installed packages with their versions, by the names of the folders that describe them."""
    found = set()
    for place in sys.path:
        with suppress(OSError), os.scandir(place or ".") as entries:
            found |= {entry.name for entry in entries if entry.name.endswith((".dist-info", ".egg-info", ".egg-link"))}
    return sorted(found)


def _digest(line: bytes) -> str:
    return hashlib.blake2b(line, digest_size=16).hexdigest()
