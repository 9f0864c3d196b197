"""The calls of a run to its objective: how often a method has asked for a value, a gradient, or a product."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Protocol


class Counted(Protocol):
    """An objective that counts its calls within a step."""

    values: int
    evaluations: int
    products: int


@dataclass
class OracleCalls:
    """Calls since the start of a run; None after a checkpoint of an earlier version, which did not count them.

    values: of the loss alone. gradients: of the loss with its gradient. products: of a Hessian, Gauss-Newton, Fisher or Jacobian
    matrix with one vector.
    """

    values: int | None = 0
    gradients: int | None = 0
    products: int | None = 0

    def add(self, objective: Counted) -> None:
        """Add the calls of one step."""
        self.values = _sum(self.values, objective.values)
        self.gradients = _sum(self.gradients, objective.evaluations)
        self.products = _sum(self.products, objective.products)

    def state_dict(self) -> dict[str, int | None]:
        """All counts by name."""
        return asdict(self)

    @classmethod
    def of_checkpoint(cls, state: Mapping[str, object]) -> "OracleCalls":
        """The counts in the state of a task; earlier versions have counted only ``evaluations``, or nothing."""
        counted = state.get("oracle_calls")
        if isinstance(counted, Mapping):
            return cls(**counted)
        gradients = state.get("evaluations")
        return cls(None, gradients if isinstance(gradients, int) else None, None)


def _sum(before: int | None, more: int) -> int | None:
    return None if before is None else before + more
