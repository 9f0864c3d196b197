"""The user's notes on a run: tags for selecting runs, and a text. They change nothing else."""

import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from optbench.errors import UserError
from optbench.store.files import StoreError, read_object, reporting, to_json, write_atomically
from optbench.store.lock import RunLock
from optbench.store.run_directory import RunDirectory

LONGEST_NOTE = 10_000
_TAG = re.compile(r"\w[\w.+:-]{0,49}")


@dataclass(frozen=True)
class Notes:
    """The content of a run's notes.json. tags: each once, in alphabetical order."""

    tags: tuple[str, ...] = ()
    note: str = ""


def check_tag(word: str) -> str:
    """``word``, if it can be a tag; raises UserError."""
    if not _TAG.fullmatch(word):
        raise UserError(f"{word!r}: is no tag; accepted: a letter or digit, and up to 49 more or _ . + : - after it")
    return word


def notes_of(run: RunDirectory) -> Notes:
    """The notes on ``run``; entries of a wrong type or form are ignored. Raises StoreError for a damaged file."""
    try:
        content = read_object(_path(run))
    except FileNotFoundError:
        return Notes()
    tags, note = content.get("tags"), content.get("note")
    words = tags if isinstance(tags, list) else []
    valid = sorted({word for word in words if isinstance(word, str) and _TAG.fullmatch(word)})
    return Notes(tuple(valid), note if isinstance(note, str) else "")


def annotate(run: RunDirectory, add: Iterable[str] = (), remove: Iterable[str] = (), note: str | None = None) -> Notes:
    """Change the notes on ``run``, and return them. ``note``: the new text, empty to remove it; None keeps the old one.

    Raises UserError for an invalid tag and for a note that is too long, `RunLocked` if a process works on the run, and
    StoreError if the file system refuses.
    """
    added, removed = {check_tag(word) for word in add}, set(remove)
    if note is not None and len(note) > LONGEST_NOTE:
        raise UserError(f"a note of {len(note)} characters: is too long; accepted: at most {LONGEST_NOTE}")
    with RunLock(run.lock):
        known = notes_of(run)
        changed = Notes(tuple(sorted(({*known.tags} | added) - removed)), known.note if note is None else note)
        if changed == Notes():
            with reporting("remove", _path(run)):
                _path(run).unlink(missing_ok=True)
        elif changed != known:
            write_atomically(_path(run), to_json(asdict(changed), indent=2))
    return changed


def columns_of(run: RunDirectory) -> dict[str, str]:
    """The notes on a run as columns: its tags, separated by commas, and its note; both empty if the file is damaged."""
    try:
        found = notes_of(run)
    except StoreError:
        found = Notes()
    return {"tags": ",".join(found.tags), "note": found.note}


def _path(run: RunDirectory) -> Path:
    return run.path / "notes.json"
