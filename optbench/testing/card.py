"""The card of a certified choice: what was checked and what was found, as JSON in results_dir/cards/NAME.json."""

import contextlib
import datetime
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from optbench.provenance import fingerprint
from optbench.store.files import StoreError, to_json, write_atomically

Outcome = Literal["passed", "failed", "not applicable"]
FOLDER = "cards"


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    group: the kind of promise, such as "weights". reason: one line: why it failed or does not apply, or what is to be known
    where it passed. values: what was measured, by name. seconds: how long it took.
    """

    name: str
    group: str
    outcome: Outcome
    reason: str = ""
    values: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def line(self) -> str:
        """The check in a line, as an assertion or a terminal shows it."""
        return f"{self.name}: {self.outcome}{f' ({self.reason})' if self.reason else ''}"


@dataclass(frozen=True)
class Card:
    """What was found of one choice.

    subject: the words that name it. group: "optimizer", "model", "dataset" or "probe". name: that of its file or class.
    code: the fingerprint of the code that was certified (`optbench.provenance`). complete: whether all checks were run.
    versions: of the packages that matter. date: ISO 8601, in UTC.
    """

    subject: str
    group: str
    name: str
    code: str
    versions: Mapping[str, str | None]
    checks: tuple[Check, ...]
    complete: bool = True
    date: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))

    @property
    def standing(self) -> str:
        """What the card comes to in a few words, with its date."""
        day = self.date.partition("T")[0]
        if self.failures:
            return f"certify failed {day}: {', '.join(check.name for check in self.failures)}"
        return f"certified {day}" if self.complete else f"certified in part {day}"

    @property
    def passed(self) -> bool:
        """Whether no check has failed."""
        return not self.failures

    @property
    def failures(self) -> list[Check]:
        """The checks that have failed."""
        return [check for check in self.checks if check.outcome == "failed"]

    def check(self) -> None:
        """Raise AssertionError with a line for every check that has failed."""
        if self.failures:
            lines = "\n".join(f"  {check.line}" for check in self.failures)
            raise AssertionError(f"{self.subject}: {len(self.failures)} of {len(self.checks)} checks failed:\n{lines}")

    def __getitem__(self, name: str) -> Check:
        """The check ``name``; raises KeyError where it was not run."""
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(name)

    def path_in(self, folder: str | Path) -> Path:
        """Where `write` puts it."""
        return Path(folder) / f"{file_name(self.group, self.name)}.json"

    def write(self, folder: str | Path) -> Path:
        """Write the card into ``folder``; returns its path. Raises StoreError where the file system refuses."""
        place = Path(folder)
        try:
            place.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreError(f"cannot make the folder {place}: {error.strerror or error}") from error
        path = self.path_in(place)
        write_atomically(path, to_json({**asdict(self), "passed": self.passed}))
        return path


def file_name(group: str, name: str) -> str:
    """The name of a card's file, without its ending: such as "optimizer-adam"."""
    return re.sub(r"[^\w.+-]", "_", f"{group}-{name}")


def code_of(group: str, choice: Mapping[str, Any]) -> str:
    """The fingerprint of the code that a composed choice calls, the bench's own included, and of no other choice."""
    return fingerprint({group: {choice["name"]: choice} if group == "probe" else choice})


def cards(folder: str | Path) -> dict[tuple[str, str], Card]:
    """The cards in ``folder`` by the group and the name of what they are of; files that are none are left out."""
    found = {}
    for path in sorted(Path(folder).glob("*.json")):
        with contextlib.suppress(StoreError):
            card = read(path)
            found[card.group, card.name] = card
    return found


def read(path: str | Path) -> Card:
    """The card in the file ``path``; raises StoreError for what is none."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        found.pop("passed", None)
        checks = tuple(Check(**check) for check in found.pop("checks"))
        return Card(**found, checks=checks)
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise StoreError(f"cannot read the card {path}: {error}") from error
