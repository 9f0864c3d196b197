"""The gradient noise scale: the batch size at which the noise of the gradient equals the gradient."""

import math
from typing import Any

from torch import Tensor

from optbench.curvature.operators import Operator
from optbench.errors import UserError


class NoiseScale:
    """Estimates |G|^2 and tr Sigma from squared norms of mean gradients over b and over B > b examples, and their quotient.

    With the gradient G of the whole loss and the covariance Sigma of the gradients of single examples, the mean gradient G_b
    over b random examples has E|G_b|^2 = |G|^2 + tr Sigma / b. So

        |G|^2      is estimated by  (B |G_B|^2 - b |G_b|^2) / (B - b),
        tr Sigma   is estimated by  (|G_b|^2 - |G_B|^2) / (1/b - 1/B),

    both without bias, even if the b examples are among the B. Numerator and denominator of B_simple = tr Sigma / |G|^2 are
    averaged separately, over all updates or, with ``decay``, exponentially: the quotient of two single estimates is useless.

    decay: the factor of the past at an update, in [0, 1); None for the plain mean. examples: N, the number of examples from
    which batches are drawn without replacement, needed if batches are not a small part of them. Then (1/b)(N - b)/(N - 1)
    replaces 1/b above, and Sigma is the covariance over the N examples (divided by N). None for N = infinity, or draws with
    replacement.

    Source: McCandlish, Kaplan, Amodei 2018, "An empirical model of large-batch training" (arXiv 1812.06162), section 2.2 and
    appendix A.1. With g^T H g in place of the squared norms, for the Hessian H, it estimates G^T H G and tr H Sigma. Their
    quotient is B_noise of the source: the best step at batch B is that of the whole loss divided by 1 + B_noise / B.
    """

    def __init__(self, decay: float | None = None, examples: int | None = None) -> None:
        if decay is not None and not 0 <= decay < 1:
            raise UserError(f"decay={decay}: accepted are null, for the plain mean, and numbers in [0, 1)")
        if examples is not None and examples < 2:
            raise UserError(f"examples={examples}: must be at least 2")
        self.decay, self.examples = decay, examples
        self.updates = 0
        self._weight = self._gradient = self._trace = 0.0

    def update(self, small_norms_squared: float, big_norm_squared: float, small: int, big: int) -> None:
        """Add one measurement.

        small_norms_squared: the mean of |G_b|^2 over the parts (micro-batches, ranks) of b = ``small`` examples.
        big_norm_squared: |G_B|^2 of the mean gradient over B = ``big`` examples. Raises UserError unless 1 <= b < B <= N.
        """
        limit = math.inf if self.examples is None else self.examples
        if not 1 <= small < big <= limit:
            raise UserError(
                f"small={small}, big={big}: a noise scale needs gradients at two batch sizes, 1 <= small < big"
                + ("" if self.examples is None else f" <= {self.examples}, the number of examples")
            )
        inverse_small, inverse_big = self._inverse(small), self._inverse(big)
        difference = inverse_small - inverse_big
        gradient = (big_norm_squared * inverse_small - small_norms_squared * inverse_big) / difference
        trace = (small_norms_squared - big_norm_squared) / difference
        # Division by the sum of the weights removes the bias of the start at 0.
        kept = 1.0 if self.decay is None else self.decay
        self._weight = kept * self._weight + 1
        self._gradient = kept * self._gradient + gradient
        self._trace = kept * self._trace + trace
        self.updates += 1

    def _inverse(self, batch: int) -> float:
        if self.examples is None:
            return 1 / batch
        return (self.examples - batch) / (batch * (self.examples - 1))

    @property
    def gradient_norm_squared(self) -> float:
        """The estimate of |G|^2, which may be negative; NaN before the first update."""
        return self._gradient / self._weight if self._weight else math.nan

    @property
    def trace(self) -> float:
        """The estimate of tr Sigma; NaN before the first update."""
        return self._trace / self._weight if self._weight else math.nan

    @property
    def value(self) -> float:
        """tr Sigma / |G|^2, in examples; NaN if the estimate of |G|^2 is not positive."""
        gradient = self.gradient_norm_squared
        return self.trace / gradient if gradient > 0 else math.nan

    def state_dict(self) -> dict[str, Any]:
        """The sums and the number of updates."""
        return {"updates": self.updates, "weight": self._weight, "gradient": self._gradient, "trace": self._trace}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.updates = state["updates"]
        self._weight, self._gradient, self._trace = state["weight"], state["gradient"], state["trace"]


def squared_norms(gradients: Tensor, operator: Operator | None = None) -> tuple[float, float]:
    """The small and big squared norms for ``NoiseScale.update``, from the mean gradients (k, P) of k parts of equal size.

    The mean over the parts of |g|^2, and |g|^2 of their mean. With ``operator``, that of H, they are values of g^T H g, at the
    cost of k + 1 products. Raises UserError for fewer than two parts.
    """
    if len(gradients) < 2:
        raise UserError(f"gradients: {len(gradients)} part; a noise scale needs at least two parts of a batch")
    mean = gradients.mean(0)
    if operator is None:
        return float(gradients.double().square().sum(1).mean()), float(mean.double().square().sum())
    small = (operator.products(gradients).double() * gradients).sum(1).mean()
    return float(small), float((operator.product(mean).double() * mean).sum())
