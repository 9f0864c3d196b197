"""Ask a search for its next round, under the lock of the plan: whoever finds no run to train does it."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from optbench.config import Config
from optbench.errors import UserError
from optbench.store import RunDirectory
from optbench.store.claims import Claim, take
from optbench.store.run_directory import FINISHED
from optbench.sweep.plan import Entry
from optbench.sweep.search.method import Choice, Pick, Seen
from optbench.sweep.search.reading import ENDED, Search
from optbench.sweep.search.record import Chosen, Record, note_answer

# A worker that waits for the runs of others looks this often.
_PATIENCE_SECONDS = 0.5


@dataclass(frozen=True)
class Asked:
    """The result of asking: a new round, nothing before other runs have ended, or the end of the search.

    record: what is chosen now. chosen, ended: the number of cells. line: the answer so far, and the cost. why: the reason for
    the end.
    """

    outcome: Literal["round", "waiting", "over"]
    record: Record
    picked: int = 0
    chosen: int = 0
    ended: int = 0
    line: str = ""
    why: str = ""


class Asker:
    """Asks the search of one plan; the results of runs that have ended are read once."""

    def __init__(self, search: Search) -> None:
        self.search = search
        self._plan = search.plan
        self._barren: int | None = None  # the number of rounds for which the last round's results are needed

    def ask(self) -> Asked:
        """Choose the next round and plan it, if the results that it needs are there.

        A round is chosen without the results of the last one, so that workers need not wait for its slowest run. If the
        search chooses nothing then, it is asked again once they are there.
        """
        with self._plan.locked():
            record = self.search.record()
            self._complete(record)
            seen = self.search.seen(record)
            latest = record.latest()
            if any(each.state not in ENDED for each in seen if each.pick.key not in latest):
                return Asked("waiting", record)
            choice = Choice()
            if self._barren != record.rounds:
                choice = self._choose(self.search.without_latest(record, seen))
            if not choice.picks:
                self._barren = record.rounds
                if any(each.state not in ENDED for each in seen):
                    return Asked("waiting", record)
                choice = self._choose(seen)
            line = self._line(record, seen)
            if not choice.picks:
                why = choice.why or "nothing is left to choose"
                self._note(record, len(seen), len(seen), line, why)
                return Asked("over", record, 0, len(seen), len(seen), line, why)
            chosen = [self._planned(record.rounds, pick) for pick in choice.picks]
            record = record.extended(chosen)
            record.write(self._plan.path)
            self._complete(record)
            ended = sum(each.state in ENDED for each in seen)
            self._note(record, len(seen), ended, line, "")
            # A run that goes on after a pause is chosen again, and is the same cell.
            cells = len({each.pick.key for each in record.chosen})
            return Asked("round", record, len(chosen), cells, ended, line)

    def _choose(self, seen: Sequence[Seen]) -> Choice:
        return self.search.method.choose(self.search.problem, seen, self.search.options)

    def _line(self, record: Record, seen: Sequence[Seen]) -> str:
        answer = self.search.method.answer(self.search.problem, seen, self.search.options)
        return f"{self.search.spent(record, seen)}: {answer.line}"

    def _note(self, record: Record, chosen: int, ended: int, line: str, why: str) -> None:
        note_answer(self._plan.path, round=record.rounds, chosen=chosen, ended=ended, line=line, why=why)

    def _planned(self, number: int, pick: Pick) -> Chosen:
        try:
            cell = self.search.problem.lattice.cell(pick)
            if cell is None:
                return Chosen(number, pick, "", 0, "a condition of the experiment excludes it")
            planned = self.search.problem.steps(pick)
        except UserError as error:
            return Chosen(number, pick, "", 0, str(error))
        self._freeze(self._plan.directory(cell.run_id), cell.config)
        return Chosen(number, pick, cell.run_id, planned)

    def _freeze(self, directory: RunDirectory, config: Config) -> None:
        if directory.status().state in (*FINISHED, "running") and (directory.path / "config.yaml").is_file():
            return
        directory.create(self._plan.in_group(config), replace=True)

    def _complete(self, record: Record) -> None:
        """Add the runs of all picks to the plan: a kill may have left some out."""
        self._plan.add(Entry(each.run_id, dict(each.pick.cell)) for each in record.chosen if each.run_id)


def take_searched(
    asker: Asker, first: int, max_retries: int, is_stopped: Callable[[], bool], tell: Callable[[Asked], None]
) -> Iterator[Claim]:
    """Claim one run after another of a search, and ask for more where none is left to take, until the search is over.

    The caller trains each run, and releases its lock before it asks for the next. While other workers train the runs whose
    results are needed, this waits, and takes a run that one of them gives back or loses. ``tell`` hears of every answer but
    those that only ask for patience.
    """
    record = asker.search.record()
    while not is_stopped():
        until = record.until()
        directories = [asker.search.plan.directory(run_id) for run_id in until if run_id]
        begin = first % max(len(directories), 1)
        taken = False
        for claim in take(directories, begin, max_retries, until):
            taken = True
            yield claim
        if taken:
            record = asker.search.record()  # others may have asked meanwhile
            continue
        asked = asker.ask()
        if asked.outcome != "waiting":
            tell(asked)
        if asked.outcome == "over":
            return
        if asked.outcome == "waiting":
            time.sleep(_PATIENCE_SECONDS)
        record = asked.record
