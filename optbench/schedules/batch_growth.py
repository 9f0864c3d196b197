"""A batch that grows at the milestones at which the learning rate would drop."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from optbench.schedules.base import Schedule


@dataclass(frozen=True)
class BatchGrowth(Schedule):
    """Multiplies the batch by ``growth`` at every milestone, in place of dividing the learning rate by it.

    Either change lowers the noise scale of SGD, about N learning_rate / batch, by the same factor (Smith et al. 2018,
    "Don't decay the learning rate, increase the batch size", arXiv 1711.00489). Once the next batch would exceed
    ``maximum`` examples, the learning rate is divided by ``growth`` at the remaining milestones.

    milestones: in steps of the run. batch: the run's batch at step 0, in examples; needed if there is a maximum. A grown
    batch is rounded down to whole examples.

    Raises ValueError for a maximum without a batch.
    """

    horizon: int
    milestones: Sequence[int]
    growth: float = 5.0
    maximum: int | None = None
    batch: int | None = None

    def __post_init__(self) -> None:
        if self.maximum is not None and self.batch is None:
            raise ValueError("a maximum batch needs the batch that the run starts from")

    def _growths(self, step: int) -> tuple[int, float]:
        """The number of milestones up to ``step`` that grew the batch, and the total factor."""
        passed = sum(milestone <= step for milestone in self.milestones)
        if self.batch is None:
            return passed, self.growth**passed
        batch = self.batch
        for growths in range(passed):
            larger = int(batch * self.growth)
            if self.maximum is not None and larger > self.maximum:
                return growths, batch / self.batch
            batch = larger
        return passed, batch / self.batch

    def _factor(self, step: int) -> float:
        passed = sum(milestone <= step for milestone in self.milestones)
        return self.growth ** -(passed - self._growths(step)[0])

    def batch_factor(self, step: int) -> float:
        """The batch of ``step`` as a multiple of the run's batch."""
        return self._growths(min(step, self.horizon))[1]

    def after_warmup(self, steps: int) -> "BatchGrowth":
        """The same schedule, with milestones counted from the start of the run."""
        return replace(self, milestones=tuple(milestone - steps for milestone in self.milestones))
