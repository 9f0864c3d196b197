"""Non-convex functions whose minima, saddle points and constants are known: what a method does on them can be checked."""

from optbench.data.problems.problem import Problem

__all__ = ["Problem"]
