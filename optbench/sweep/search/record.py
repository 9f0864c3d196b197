"""The record of a search in the folder of its sweep: the cells that it has chosen, round by round.

picks.jsonl     one line for each chosen cell; runs are in plan.jsonl as in any sweep
answers.jsonl   one line for each round: the answer at that time, for the display and the report; it may be missing
"""

import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from optbench.moved import current_key
from optbench.store import StoreError
from optbench.store.files import append_line, component, read_bytes, read_lines, reason, to_json, write_atomically
from optbench.sweep.plan import Plan
from optbench.sweep.search.method import Key, Pick

PICKS, ANSWERS = "picks.jsonl", "answers.jsonl"


@dataclass(frozen=True)
class Chosen:
    """A cell that was chosen: the round, the pick, its run, and the steps of the whole run.

    why: the reason for which the cell cannot run; it then has no run id.
    """

    round: int
    pick: Pick
    run_id: str
    planned: int
    why: str = ""

    def line(self) -> bytes:
        """The line of picks.jsonl."""
        pick = self.pick
        values = {"round": self.round, "grid": pick.grid, "cell": dict(pick.cell), "until": pick.until}
        return to_json({**values, "run_id": self.run_id, "planned": self.planned, "why": self.why}) + b"\n"

    @classmethod
    def read(cls, line: Mapping[str, Any]) -> "Chosen":
        """The content of a line; raises KeyError, TypeError or ValueError for one that is none."""
        cell = {current_key(str(key)): str(text) for key, text in dict(line["cell"]).items()}
        until = line.get("until")
        pick = Pick(cell, str(line.get("grid", "")), None if until is None else int(until))
        run_id = component(line["run_id"], "run id") if line["run_id"] else ""
        return cls(int(line["round"]), pick, run_id, int(line.get("planned", 0)), str(line.get("why", "")))


@dataclass(frozen=True)
class Record:
    """All that a search has chosen, in the order of choice."""

    chosen: tuple[Chosen, ...] = field(default_factory=tuple)

    @classmethod
    def of(cls, folder: Path) -> "Record":
        """Read the record of the sweep in ``folder``; empty if there is none. Raises StoreError for a damaged line."""
        path = folder / PICKS
        try:
            content = read_bytes(path)
        except FileNotFoundError:
            return cls()
        except OSError as error:
            raise StoreError(f"cannot read {path}: {reason(error)}") from error
        chosen = []
        for number, line in enumerate(content.splitlines(), start=1):
            try:
                chosen.append(Chosen.read(json.loads(line)))
            except (KeyError, TypeError, ValueError) as error:
                raise StoreError(f"{path} is damaged: line {number} is no pick ({error})") from error
        return cls(tuple(chosen))

    @property
    def rounds(self) -> int:
        """The number of rounds so far."""
        return self.chosen[-1].round + 1 if self.chosen else 0

    def latest(self) -> dict[Key, Chosen]:
        """The cells of the last round."""
        return {each.pick.key: each for each in self.chosen if each.round == self.rounds - 1}

    def until(self) -> dict[str, int | None]:
        """The step after which each run is paused, by its id; None: it runs to its end."""
        found: dict[str, int | None] = {}
        for each in self.chosen:
            earlier = found.get(each.run_id, 0)
            asked = each.pick.until
            found[each.run_id] = None if earlier is None or asked is None else max(earlier, asked)
        return found

    def paused_at(self) -> dict[Key, int]:
        """For each cell the step after which it was paused before it was chosen for the last time; 0 if it was not."""
        found: dict[Key, int] = {}
        latest: dict[Key, int] = {}
        for each in self.chosen:
            key = each.pick.key
            found[key] = latest.get(key, 0)
            latest[key] = max(latest.get(key, 0), each.pick.until or 0)
        return found

    def extended(self, more: Iterable[Chosen]) -> "Record":
        """The record with the cells of one more round."""
        return Record((*self.chosen, *more))

    def write(self, folder: Path) -> None:
        """Replace the file. All lines are written anew, so that a crash leaves the whole of a round or nothing of it."""
        write_atomically(folder / PICKS, b"".join(each.line() for each in self.chosen))


def release(plan: Plan, run_ids: Collection[str]) -> None:
    """Choose those of the runs that the search of ``plan`` pauses once more, to their end."""
    with plan.locked():
        record = Record.of(plan.path)
        until = record.until()
        latest = {each.run_id: each for each in record.chosen}
        released = [latest[run_id] for run_id in run_ids if until.get(run_id) is not None]
        if released:
            again = [replace(each, round=record.rounds, pick=replace(each.pick, until=None)) for each in released]
            record.extended(again).write(plan.path)


def note_answer(folder: Path, **values: Any) -> None:
    """Append a line to answers.jsonl."""
    append_line(folder / ANSWERS, values)


def answers(folder: Path) -> list[dict[str, Any]]:
    """The lines of answers.jsonl, oldest first; none if it cannot be read."""
    try:
        return read_lines(folder / ANSWERS)
    except StoreError:
        return []


def searched_by(information: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The entry about the search in the ``information`` of a plan; None if the whole grid is trained."""
    choice = information.get("search")
    return choice if isinstance(choice, Mapping) and choice.get("name", "grid") != "grid" else None
