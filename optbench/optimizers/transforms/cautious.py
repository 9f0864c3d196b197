"""Cautious steps: only the coordinates that go down the present gradient."""

from torch import Tensor

from optbench.optimizers.base import require
from optbench.optimizers.transforms.base import Transform, without_decay


class Cautious(Transform):
    """With a step d of an optimizer, without its decoupled weight decay, and the gradient g of that step

        θ ← θ - lr λ θ + d ∘ m / max(mean(m), ``least``),    m = 1 where d g < 0, else 0

    The mean is that of one tensor.

    Source: Liang, Chen, Liu & Liu 2024, "Cautious optimizers: improving training with one line of code" (arXiv 2411.16085),
    algorithm 1; the scale is that of its authors' present AdamW, whose first release has n / (sum(m) + 1).
    """

    def __init__(self, least: float = 1e-3) -> None:
        require(0 < least <= 1, "least", least, "in (0, 1]")
        super().__init__()
        self._least = least

    def update(self, parameter: Tensor, before: Tensor, gradient: Tensor, lr: float, decay: float) -> None:
        """Mask and scale the step."""
        step, start = without_decay(parameter, before, lr, decay)
        kept = (step * gradient < 0).to(step.dtype)
        parameter.copy_(start + step * (kept / kept.mean().clamp(min=self._least)))
