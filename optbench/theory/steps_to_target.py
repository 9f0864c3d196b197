"""The first step at which the risk of a linear method on the noisy quadratic model reaches a target, exactly.

The second moments S of one direction follow S ← A S Aᵀ + σ² b bᵀ, so that m = (vec S, 1) is multiplied in each step by

    M = [[A ⊗ A, σ² vec b bᵀ], [0, 1]]

and the risk R(t) = ½ Σ nᵢ hᵢ E θᵢ² is a sum of wᵀ Mᵗ m over the directions. R is not monotone in general: momentum
oscillates, and a direction that starts below its stationary moment grows. No bisection over t finds the first crossing then,
and R is evaluated at every step, a segment of P Q steps at once: the rows wᵀ Mʳ for r < P and the columns M^(P q) m for
q < Q come from repeated squaring, and the risks are the product of these two matrices.

Source: the recursion is that of Zhang et al. 2019 (arXiv 1907.04164); the evaluation in segments is our own.
"""

from collections.abc import Sequence

import numpy as np

from optbench.theory.effective_batch import Numbers
from optbench.theory.noisy_quadratic import Array, LinearMethod

# A segment has at most 2^18 steps: 512 rows and 512 columns for each direction.
_LONGEST = 18
# Rounding may add this to a lower bound of the risk, relative to the target.
_MARGIN = 1e-6


def steps_to_target(
    methods: Sequence[LinearMethod],
    curvatures: Array,
    variances: Array,
    multiplicities: Array,
    target: float,
    start: Numbers = 1.0,
    limit: int = 2**24,
) -> int | None:
    """The smallest t with ½ Σ nᵢ hᵢ E θᵢ² ≤ ``target`` after t steps; None if there is none up to ``limit``.

    methods: one for each direction, all with states of one length. curvatures: hᵢ. variances: σᵢ², of the gradient of a batch
    in one direction. multiplicities: nᵢ, the number of directions of the problem that each stands for. start: E θᵢ² at t = 0.

    The search ends before ``limit`` where no later step can reach the target (``RiskFloor``), and where the moments
    of a method that is not stable overflow. Raises ValueError for arguments of different lengths.
    """
    lengths = [len(methods), len(curvatures), len(variances), len(multiplicities)]
    if len(set(lengths)) > 1:
        raise ValueError(f"methods, curvatures, variances and multiplicities: must be of one length, not {lengths}")
    powers = [moment_maps(methods, variances)]
    rows = np.zeros((len(methods), 1, powers[0].shape[-1]))
    rows[:, 0, methods[0].evaluated * (len(methods[0].start) + 1)] = 0.5 * multiplicities * curvatures
    floor = RiskFloor(powers[0], rows[:, 0])
    state = _initial_moments(methods, start)
    done = 0
    with np.errstate(over="ignore", invalid="ignore"):
        while done <= limit:
            # Step 0, step 1, steps 2 and 3, steps 4 to 7, ...: 2^exponent steps, with 2^half rows.
            exponent = min(max(done.bit_length() - 1, 0), _LONGEST)
            half = (exponent + 1) // 2
            while len(powers) <= exponent:
                powers.append(powers[-1] @ powers[-1])
            if rows.shape[1] < 2**half:
                rows = np.concatenate([rows, rows @ powers[half - 1]], axis=1)
            columns = state
            for power in powers[half:exponent]:
                columns = np.concatenate([columns, power @ columns], axis=2)
            risks = np.tensordot(columns, rows, axes=([0, 1], [0, 2])).reshape(-1)
            reached = np.flatnonzero(risks <= target)
            if len(reached):
                first = done + int(reached[0])
                return first if first <= limit else None
            state = powers[exponent] @ state
            done += 2**exponent
            if not np.isfinite(risks[-1]):
                return None
            if floor.exceeds(target * (1 + _MARGIN), state[:, :, 0]):
                return None
    return None


def moment_maps(methods: Sequence[LinearMethod], variances: Array) -> Array:
    """M of each direction, (directions, k² + 1, k² + 1), for states of k components."""
    matrices = np.array([method.matrix for method in methods])
    count, length, _ = matrices.shape
    maps = np.zeros((count, length**2 + 1, length**2 + 1))
    maps[:, :-1, :-1] = np.einsum("dij,dkl->dikjl", matrices, matrices).reshape(count, length**2, length**2)
    maps[:, :-1, -1] = variances[:, None] * _squares([method.noise for method in methods])
    maps[:, -1, -1] = 1
    return maps


class RiskFloor:
    """Lower bounds of the risk of all later steps, for methods that are stable in every direction.

    maps: M, (directions, k² + 1, k² + 1). weights: w, (directions, k² + 1).

    With the stationary moments S_∞ and the negative part D⁻ of S - S_∞, the risk of no later step is below that of S_∞ by
    more than Σ tr(P D⁻), where P = Σₜ (Aᵀ)ᵗ w Aᵗ, for the matrix w of the weights, is at least each of its terms.
    """

    def __init__(self, maps: Array, weights: Array) -> None:
        size = maps.shape[-1] - 1
        kept = maps[:, :size, :size]
        # The largest eigenvalue of A ⊗ A is the square of A's.
        self.stable = bool((np.abs(np.linalg.eigvals(kept)) < 1).all())
        self.stationary_risk = -np.inf
        if self.stable:
            identity = np.eye(size)
            self._stationary = np.linalg.solve(identity - kept, maps[:, :size, size:])[..., 0]
            self._costs = np.linalg.solve(identity - kept.swapaxes(1, 2), weights[:, :size, None])[..., 0]
            self.stationary_risk = float((weights[:, :size] * self._stationary).sum())

    def exceeds(self, level: float, moments: Array) -> bool:
        """True only if the risk stays above ``level`` from ``moments`` m on, (directions, k² + 1)."""
        if not self.stationary_risk > level:
            return False
        size = self._costs.shape[1]
        shape = (len(moments), round(size**0.5), -1)
        values, vectors = np.linalg.eigh((moments[:, :size] - self._stationary).reshape(shape))
        along = np.einsum("dij,dik,dkj->dj", vectors, self._costs.reshape(shape), vectors)
        return self.stationary_risk - float((np.maximum(-values, 0) * along).sum()) > level


def _squares(vectors: Sequence[Array]) -> Array:
    """vec x xᵀ of each vector, (vectors, k²)."""
    stacked = np.array(vectors)
    return (stacked[:, :, None] * stacked[:, None, :]).reshape(len(stacked), -1)


def _initial_moments(methods: Sequence[LinearMethod], start: Numbers) -> Array:
    """m at t = 0, (directions, k² + 1, 1)."""
    squares = _squares([method.start for method in methods])
    moments = np.ones((len(methods), squares.shape[1] + 1, 1))
    moments[:, :-1, 0] = squares * np.broadcast_to(start, len(methods))[:, None]
    return moments
