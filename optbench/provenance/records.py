"""What a run's directory says of the code that computed it, and which of two codes differ."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optbench.provenance.environment import git_commit
from optbench.provenance.fingerprints import Code, Sources
from optbench.store import RunDirectory, StoreError
from optbench.store.files import read_object, reporting, to_json, write_if_absent

UNKNOWN = "unknown"
# The fingerprints of a run that several codes have computed, in the order in which they did, as one text.
_THEN = "+"

Vintage = dict[str, Any]


def vintages_of(directory: RunDirectory) -> list[Vintage]:
    """The codes that have trained a run so far, oldest first: fingerprint, commit, changed, since of each that is recorded."""
    try:
        found = read_object(directory.path / "environment.json").get("code")
    except (StoreError, FileNotFoundError):
        return []
    known = found if isinstance(found, list) else []
    return [each for each in known if isinstance(each, dict) and isinstance(each.get("fingerprint"), str)]


def continued(directory: RunDirectory, code: Code) -> list[Vintage]:
    """The vintages of a run that ``code`` is going to train from its checkpoint, or from the start where it has none.

    Also writes down, once for the whole results folder, which modules ``code`` is made of. Raises StoreError when that cannot
    be written.
    """
    keep_modules(directory.path.parents[1], code)
    before: list[Vintage] = []
    if directory.checkpoint.exists():
        before = vintages_of(directory) or [{"fingerprint": UNKNOWN, "commit": None, "changed": None, "since": None}]
    if before and before[-1]["fingerprint"] == code.fingerprint:
        return before
    git = git_commit() or {"commit": None, "changed": None}
    since = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return [*before, {"fingerprint": code.fingerprint, **git, "since": since}]


def as_text(known: Sequence[Vintage]) -> str:
    """The fingerprints of ``known`` as one text, which is the column ``code`` of a summary: "3f9a...", or "unknown+3f9a..."."""
    return _THEN.join(each["fingerprint"] for each in known)


def fingerprints(code: object) -> tuple[str, ...]:
    """The fingerprints in the column ``code`` of a run; that none is known where it holds no text."""
    return tuple(code.split(_THEN)) if isinstance(code, str) and code else (UNKNOWN,)


def record(directory: RunDirectory, config: Mapping[str, Any], root: Path | None = None) -> str:
    """Write into a finished run of unknown code that the code in ``root`` has computed it; returns its fingerprint.

    For runs from before fingerprints were recorded, by somebody who knows which code that was. A run that has a fingerprint keeps
    it. Raises StoreError when its files cannot be read or written.
    """
    from optbench.store.files import write_atomically

    known = vintages_of(directory)
    if not known:
        code = Sources(root).code(config)
        keep_modules(directory.path.parents[1], code)
        known = [{"fingerprint": code.fingerprint, "commit": None, "changed": None, "since": None}]
        path = directory.path / "environment.json"
        environment = read_object(path)
        git = environment.get("git")
        known[0] |= git if isinstance(git, dict) else {}
        directory.write_environment({**environment, "code": known})
    path = directory.path / "summary.json"
    summary = read_object(path)
    if not summary.get("code"):
        write_atomically(path, to_json({**summary, "code": as_text(known)}, indent=2))
    return as_text(known)


def _folder(results_dir: str | Path) -> Path:
    return Path(results_dir) / "code"


def keep_modules(results_dir: str | Path, code: Code) -> None:
    """Write RESULTS/code/FINGERPRINT.json, the digests of the modules by name, unless it is there."""
    path = _folder(results_dir) / f"{code.fingerprint}.json"
    if not path.exists():
        with reporting("create", path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_if_absent(path, to_json({"modules": dict(code.modules)}, indent=1))


def modules(results_dir: str | Path, fingerprint: str) -> dict[str, str]:
    """The modules that ``fingerprint`` stands for, each with its digest; none where that is not written down."""
    if not fingerprint.isalnum():
        return {}
    try:
        found = read_object(_folder(results_dir) / f"{fingerprint}.json").get("modules")
    except (StoreError, FileNotFoundError):
        return {}
    return {str(name): str(digest) for name, digest in found.items()} if isinstance(found, dict) else {}


def changed_modules(results_dir: str | Path, old: str, now: Code) -> list[str]:
    """The modules that differ between the code ``old`` and ``now``, or that one of them has not.

    Nothing where the modules of ``old`` are not written down.
    """
    then = modules(results_dir, old)
    return (
        sorted(name for name in then.keys() | now.modules.keys() if then.get(name) != now.modules.get(name))
        if then
        else []
    )
