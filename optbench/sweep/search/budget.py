"""The budget of a search: a number of runs, or a share of the optimizer steps of the whole grid."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from optbench.errors import UserError
from optbench.sweep.search.method import Pick, Problem, Seen


def share_of(amount: str) -> float:
    """The share of an amount such as "10%"."""
    return float(amount.strip().removesuffix("%")) / 100


@dataclass(frozen=True)
class Budget:
    """``limit``: in runs, or in optimizer steps if ``in_steps``. ``why``: the words for a budget that is spent."""

    problem: Problem
    limit: float
    in_steps: bool
    why: str

    @classmethod
    def of(cls, amount: str | int | None, problem: Problem) -> "Budget":
        """The budget of an option of the type amount; None: no limit."""
        if amount is None:
            return cls(problem, math.inf, False, "")
        if isinstance(amount, int):
            return cls(problem, amount, False, f"the budget of {amount:,} runs is spent")
        return cls(
            problem, share_of(amount) * problem.total_steps, True, f"the budget of {amount} of the steps is spent"
        )

    def check(self) -> None:
        """Raise UserError if it does not pay for one cell of mean length."""
        mean = self.problem.total_steps / max(self.problem.size, 1)
        if self.in_steps and self.limit < mean:
            share = 100 * self.limit / max(self.problem.total_steps, 1)
            raise UserError(
                f"search.budget={share:.3g}%: of {self.problem.size:,} cells is not one run; accepted: at least "
                f"{math.ceil(100 / max(self.problem.size, 1))}%, or a number of runs"
            )

    def price(self, pick: Pick) -> float:
        """The price of a cell before it has run."""
        return float(self.problem.steps(pick)) if self.in_steps else 1.0

    def spent(self, seen: Sequence[Seen]) -> float:
        """The price of the cells so far: the steps taken by those that have ended, and all steps of those that wait."""
        if not self.in_steps:
            return float(len(seen))
        return float(sum(each.planned if each.state == "waiting" else each.steps for each in seen))
