"""Read and write the records of the code that computed a run, and compare the modules of two codes."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from optbench.provenance.environment import git_commit
from optbench.provenance.fingerprints import Code, Sources
from optbench.store import RunDirectory, StoreError
from optbench.store.files import read_object, reporting, to_json, write_if_absent
from optbench.store.run_row import vintages_in

UNKNOWN = "unknown"
# Separates, in one text, the fingerprints of the codes that have computed a run, oldest first.
_THEN = "+"

Vintage = dict[str, Any]


def vintages_of(directory: RunDirectory) -> list[Vintage]:
    """The recorded codes that have trained a run so far, oldest first, each with fingerprint, commit, changed and since."""
    try:
        return vintages_in(read_object(directory.path / "environment.json"))
    except (StoreError, FileNotFoundError):
        return []


def continued(directory: RunDirectory, code: Code) -> list[Vintage]:
    """The vintages of a run that ``code`` will train from its checkpoint, or from the start if it has none.

    Also records the modules of ``code``, once for the whole results folder. Raises StoreError if that cannot be written.
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
    """The fingerprints of ``known`` as one text for the column ``code`` of a summary: "3f9a...", or "unknown+3f9a..."."""
    return _THEN.join(each["fingerprint"] for each in known)


def fingerprints(code: object) -> tuple[str, ...]:
    """The fingerprints in the column ``code`` of a run; "unknown" if it holds no text."""
    return tuple(code.split(_THEN)) if isinstance(code, str) and code else (UNKNOWN,)


def record(directory: RunDirectory, config: Mapping[str, Any], root: Path | None = None) -> str:
    """Record in a finished run of unknown code that the code in ``root`` has computed it; returns the fingerprint.

    For runs older than the recording of fingerprints, if the caller knows their code. A run that has a fingerprint keeps it.
    Raises StoreError if its files cannot be read or written.
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
    """Write RESULTS/code/FINGERPRINT.json, the digests of the modules by name, unless it exists."""
    path = _folder(results_dir) / f"{code.fingerprint}.json"
    if not path.exists():
        with reporting("create", path.parent):
            path.parent.mkdir(parents=True, exist_ok=True)
        write_if_absent(path, to_json({"modules": dict(code.modules)}, indent=1))


def modules(results_dir: str | Path, fingerprint: str) -> dict[str, str]:
    """The modules of the code ``fingerprint``, each with its digest; empty if they are not recorded."""
    if not fingerprint.isalnum():
        return {}
    try:
        found = read_object(_folder(results_dir) / f"{fingerprint}.json").get("modules")
    except (StoreError, FileNotFoundError):
        return {}
    return {str(name): str(digest) for name, digest in found.items()} if isinstance(found, dict) else {}


def changed_modules(results_dir: str | Path, old: str, now: Code) -> list[str]:
    """The modules that differ between the code ``old`` and ``now``, or that only one of them has.

    Empty if the modules of ``old`` are not recorded.
    """
    then = modules(results_dir, old)
    return (
        sorted(name for name in then.keys() | now.modules.keys() if then.get(name) != now.modules.get(name))
        if then
        else []
    )
