"""The search of a sweep for its page: what it cost, what it found, and where it looked."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from optbench.analysis.charts.chart import Chart
from optbench.analysis.charts.search_answers import optima, pairs, rungs, surrogate
from optbench.analysis.charts.searched import Looked, where
from optbench.analysis.report.page import Page
from optbench.analysis.study import Study
from optbench.config import read_choice
from optbench.errors import UserError
from optbench.store import StoreError
from optbench.sweep.search.reading import Search
from optbench.sweep.search.record import answers

if TYPE_CHECKING:
    import pandas as pd

TABLE = "search_answer"


@dataclass(frozen=True)
class Searched:
    """A search on a page.

    sentence: its cost and its answer, such as "142 of 2,655 runs (5 %), 3 % of the steps: ...". facts: its name, options and end.
    rows: the table of its answer.
    """

    sentence: str
    facts: Mapping[str, str] = field(default_factory=dict)
    charts: Sequence[Chart] = ()
    rows: Sequence[Mapping[str, Any]] = ()

    @classmethod
    def of(cls, study: Study) -> "Searched | None":
        """The search of a sweep; None if its whole grid is trained.

        If its grids cannot be composed again, such as by another installation, the sentence says so.
        """
        try:
            search = Search.of(study.plan)
            return None if search is None else cls._read(study, search)
        except (UserError, StoreError) as error:
            return cls(f"The search of this sweep cannot be read again: {error}")

    @classmethod
    def _read(cls, study: Study, search: Search) -> "Searched":
        problem, options = search.problem, search.options
        record = search.record()
        seen = search.seen(record)
        answer = search.method.answer(problem, seen, options)
        metric = problem.goal.metric if problem.goal.target is None else "steps to the target"
        space = problem.search_space(seen[0].pick) if seen else {}
        looked = Looked.of(metric, problem.grids, seen, options.values, space)
        margin = options.values.get("margin")
        drawn = [
            *where(looked, lambda panels: optima(looked, answer, panels)),
            *surrogate(looked, answer),
            *pairs(answer, metric, margin if isinstance(margin, int | float) else None),
            *rungs(answer, metric),
        ]
        known = read_choice("search", search.name)
        changed = {name: value for name, value in options.values.items() if value != known.get(name)}
        notes = answers(study.plan.path)
        why = str(notes[-1].get("why") or "") if notes else ""
        facts = {
            "Search": f"{search.name}: {known['info']['about']}",
            "Options": ", ".join(f"{name}={value}" for name, value in changed.items()),
            "Goal": metric.replace("_", " "),
            "Rounds": str(record.rounds),
            "End": why or "it goes on",
        }
        return cls(f"{search.spent(record, seen)}: {answer.line}.", facts, drawn, answer.rows)

    def table(self) -> "pd.DataFrame":
        """The answer, a row for each condition, pair or setting, without columns that are empty."""
        import pandas as pd

        frame = pd.DataFrame([dict(row) for row in self.rows])
        return frame[[name for name in frame if not frame[name].isin(["", None]).all()]]

    def add_to(self, page: Page) -> None:
        """Add the section to a page."""
        page.heading("Search")
        page.paragraph(self.sentence)
        page.facts(self.facts)
        for chart in self.charts:
            page.figure(chart, [f"figures/{chart.name}.{ending}" for ending in ("png", "pdf")])
        if self.rows:
            page.subheading("Answer of the search")
            page.table(self.table(), f"tables/{TABLE}.csv")
