"""Lookahead: slow weights that go a part of the way of several steps of an optimizer."""

import torch
from torch import Tensor

from optbench.optimizers.base import require
from optbench.optimizers.transforms.base import Transform

EVALUATED = ("slow", "fast")


class Lookahead(Transform):
    """After every ``period``-th step of the optimizer, which moves the fast weights θ,

        φ ← φ + α (θ - φ),    θ ← φ,    from φ = θ₀

    The optimizer keeps its memory, as in the paper.

    evaluate: "slow": φ is what evaluations, probes and targets see, and the result of the run; its authors' code offers it for
    evaluation, as it typically generalizes better. Batch norm then has statistics of φ. "fast": θ, as where nobody switches.

    Source: Zhang, Lucas, Hinton & Ba 2019, "Lookahead optimizer: k steps forward, 1 step back" (arXiv 1907.08610), algorithm 1.
    """

    def __init__(self, period: int = 5, alpha: float = 0.5, evaluate: str = "slow") -> None:
        require(period >= 1, "period", period, ">= 1")
        require(0 <= alpha <= 1, "alpha", alpha, "in [0, 1]")
        require(evaluate in EVALUATED, "evaluate", evaluate, f"one of {', '.join(EVALUATED)}")
        super().__init__()
        self._period, self._alpha = period, alpha
        if evaluate == "slow":
            self.evaluation_parameters = self._slow

    def _slow(self) -> dict[Tensor, Tensor]:
        """φ of every parameter, once there was a step."""
        return {parameter: state["slow"] for parameter, state in self.state.items()}

    def begin(self, parameters: list[Tensor]) -> None:
        """Let φ of every tensor that is new be its weights; those without a gradient keep them."""
        for parameter in parameters:
            if parameter not in self.state:
                self.state[parameter] = {"slow": parameter.detach().clone(), "step": 0}

    def end(self, parameters: list[Tensor]) -> None:
        """Count the step; move φ, and θ to it, after every period."""
        due = []
        for parameter in parameters:
            state = self.state[parameter]
            state["step"] += 1
            if state["step"] % self._period == 0:
                due.append(parameter)
        if due:
            slow = [self.state[parameter]["slow"] for parameter in due]
            torch._foreach_lerp_(slow, due, self._alpha)
            torch._foreach_copy_(due, slow)
