"""The findings of a study: the answer to its question, and the figures and tables that it is based on.

A study is a folder experiments/NAME with a README.md and an analysis.py, which has one function:

    def analyse(study: Study) -> Findings

`python -m optbench report NAME` calls it, also while the sweep is running, and writes the result as a page.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from optbench.analysis.charts.chart import Chart
from optbench.analysis.claims import Claim

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class Findings:
    """The findings of a study.

    question: the question, in a sentence.
    answer: the answer, in one plain sentence with its interval: "The optimal learning rate grows as batch^0.93 [0.81, 1.06]".
    claims: the claims of the paper, each with what the runs say about it. They are the first table of the page, and are
        written as tables/claims.csv.
    charts: the figures, in the order of the page; each has its own name.
    tables: data frames by name; the name is also that of its files, and gives the words of its heading ("best_trials").
    notes: plain statements of one or more sentences, such as claims that the data do not support, or contradictions to the paper.
    is_general: they are those of any sweep, so that the answer of a search comes first on the page.
    scripts: the scripts that measured the runs after the sweep, in the order of their use: "experiments/landscape/between.py".
    """

    question: str
    answer: str
    charts: Sequence[Chart] = ()
    tables: "Mapping[str, pd.DataFrame]" = field(default_factory=dict)
    notes: Sequence[str] = ()
    scripts: Sequence[str] = ()
    claims: Sequence[Claim] = ()
    is_general: bool = False

    def __post_init__(self) -> None:
        names = [chart.name for chart in self.charts]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"two charts are called {', '.join(twice)}: each is written to files of its name")
        for name in [*names, *self.tables]:
            if not name.replace("_", "").replace("-", "").isalnum():
                raise ValueError(f"{name!r} names files: accepted are letters, digits, - and _")
        if "claims" in self.tables:
            raise ValueError("a table is called 'claims', which is the table of the claims")

    def _repr_html_(self) -> str:
        """The question, the answer, the claims, the notes and the tables, for a notebook; all text is escaped."""
        from optbench.analysis.claims import table
        from optbench.analysis.report.page import Page, heading

        page = Page("")
        page.paragraph(self.question)
        page.paragraph(self.answer)
        if self.claims:
            page.claims(table(self.claims, ""))
        if self.notes:
            page.items(self.notes)
        for name, frame in self.tables.items():
            page.paragraph(heading(name))
            page.table(frame)
        return page.body()
