"""The budget of a search, and the cost of a run of each condition."""

import math

import numpy as np

from optbench.sweep.search.adaptive.lattice import Outcomes
from optbench.sweep.search.budget import Budget, share_of
from optbench.sweep.search.method import Options, Problem


def cost_of(options: Options) -> str:
    """The unit that is spent: steps, runs or seconds."""
    cost = str(options["cost"])
    return cost if cost != "auto" else ("runs" if isinstance(options["budget"], int) else "steps")


def budget_of(problem: Problem, options: Options) -> Budget:
    """The budget; a share is one of the runs if these are the cost."""
    amount = options["budget"]
    if amount is None or isinstance(amount, int) or options["cost"] != "runs":
        return Budget.of(amount, problem)
    return Budget(
        problem, math.floor(share_of(amount) * problem.size), False, f"the budget of {amount} of the runs is spent"
    )


def costs_of(outcomes: Outcomes, cost: str) -> np.ndarray:
    """The cost (B,) of a run of each condition: its steps; 1; or its seconds, a + c steps, once three runs have told a and c."""
    planned = outcomes.search.planned
    if cost == "runs":
        return np.ones_like(planned)
    ended = np.isfinite(outcomes.seconds) & np.isfinite(outcomes.steps) & np.isfinite(outcomes.losses)
    steps, seconds = outcomes.steps[ended], outcomes.seconds[ended]
    if cost == "steps" or len(seconds) < 3 or len(np.unique(steps)) < 2:
        return planned
    slope, intercept = np.polyfit(steps, seconds, 1)
    return np.asarray(max(intercept, 0.0) + max(slope, 1e-12) * planned)
