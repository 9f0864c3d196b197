"""Steps to a target against the batch in the noisy quadratic model, each method with its best hyperparameters.

This is the comparison of Zhang et al. 2019, "Which algorithmic choices matter at which batch sizes?" (arXiv 1907.04164):
hᵢ = 1/i for i ≤ 10⁴, one example's gradient noise of variance cᵢ = hᵢ, E θᵢ² = 1 at the start, and the target risk 0.01. Momentum
helps at large batches, preconditioning at all, and an average most at small ones.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import product

import numpy as np

from optbench.theory.noisy_quadratic import Array, LinearMethod
from optbench.theory.steps_to_target import steps_to_target

# A method in one direction, from its learning rate α, its second hyperparameter (momentum μ or decay γ) and the curvature h.
Family = Callable[[float, float, float], LinearMethod]

# The methods of the comparison, and the smallest power of 2 that the grid has for 1 - μ or 1 - γ; None without one.
FAMILIES: Mapping[str, tuple[Family, int | None]] = {
    "sgd": (lambda rate, _, h: LinearMethod.sgd(rate, h), None),
    "preconditioned": (lambda rate, _, h: LinearMethod.sgd(rate, h, power=0.5), None),
    "momentum": (LinearMethod.momentum, -13),
    "averaged": (LinearMethod.averaged, -13),
}
# Powers of 2 of the learning rates on the first grid, the largest first: they are fast, or soon known not to be stable.
_RATES = range(2, -17, -1)
# The longest searches on the first grid, one after the other until one finds something.
_LIMITS = [2**10, 2**14, 2**18, 2**24]
# The spacing of the grid is halved so many times around its best point; 2^(1/64) is a step of 1.1 %.
_HALVINGS = 6


@dataclass(frozen=True)
class Spectrum:
    """Distinct curvatures hᵢ and the numbers nᵢ of directions that have them."""

    curvatures: Array
    multiplicities: Array


@dataclass(frozen=True)
class TunedSteps:
    """The fewest steps to a target, and the hyperparameters that need them; ``second`` is μ or γ, 0 without one."""

    steps: int
    learning_rate: float
    second: float


def harmonic_spectrum(dimension: int = 10_000, bins: int = 98) -> Spectrum:
    """hᵢ = 1/i for i ≤ ``dimension``, averaged over geometric bins of i; empty bins are left out.

    The mean curvature of each bin keeps tr H, and so the risk ½ tr H at E θᵢ² = 1: 4.893803 for 10⁴ directions, for which 98
    bins leave 83 curvatures.
    """
    index = np.arange(1, dimension + 1)
    places = np.digitize(index, np.geomspace(1, dimension + 1, bins + 1))
    counts = np.bincount(places).astype(np.float64)
    sums = np.bincount(places, weights=1 / index)
    return Spectrum(sums[counts > 0] / counts[counts > 0], counts[counts > 0])


def tuned_steps(
    family: Family, smallest: int | None, spectrum: Spectrum, variances: Array, target: float
) -> TunedSteps | None:
    """The fewest steps to ``target`` over α, and over μ or γ; None if no point of the first grid reaches it.

    smallest: the least power of 2 for 1 - μ (1 - γ); None for a method without it. variances: σᵢ² of a batch's gradient.
    Neighbours on the first grid differ by a factor of 2. The factor then becomes its square root, 6 times, and each time the
    search moves from the best point to a better neighbour until there is none.
    """
    tried: set[tuple[float, float]] = set()
    best: TunedSteps | None = None
    place = (0.0, 0.0)

    def visit(points: Iterable[tuple[float, float]], limit: int) -> bool:
        """Tries the ``points``, and takes over each that needs fewer steps than the best, or at most ``limit``."""
        nonlocal best, place
        before = best
        for point in points:
            rate, second = 2.0 ** point[0], 1 - 2.0 ** point[1]
            if point in tried or second < 0:
                continue
            tried.add(point)
            methods = [family(rate, second, float(h)) for h in spectrum.curvatures]
            least = best.steps - 1 if best else limit
            steps = steps_to_target(
                methods, spectrum.curvatures, variances, spectrum.multiplicities, target, limit=least
            )
            if steps is not None:
                best, place = TunedSteps(steps, rate, second), point
        return best is not before

    # Short searches first: a point that reaches the target soon limits those that reach it late or never.
    for limit in _LIMITS:
        tried.clear()
        # 1 - μ = 1 is the method without momentum or average.
        if visit(product(map(float, _RATES), map(float, range(0, (smallest or 0) - 1, -2))), limit):
            break
    for halving in range(1, _HALVINGS + 1):
        spacing = 0.5**halving
        beside = (-2 * spacing, 0.0, 2 * spacing) if smallest is not None else (0.0,)
        near = list(product((-spacing, 0.0, spacing), beside))
        while best and visit([(place[0] + x, place[1] + y) for x, y in near], best.steps):
            pass
    return best


def steps_by_batch(
    batches: Iterable[int], spectrum: Spectrum | None = None, target: float = 0.01
) -> dict[str, dict[int, TunedSteps | None]]:
    """The fewest steps to ``target`` of each method of ``FAMILIES`` at each batch B, with gradient noise σᵢ² = hᵢ/B.

    None where no setting reaches it. spectrum: ``harmonic_spectrum()`` if None.
    ``analysis.laws.critical_batch`` fits S_min and B_c to the result.
    """
    chosen = spectrum or harmonic_spectrum()
    sizes = list(batches)
    return {
        name: {size: tuned_steps(family, smallest, chosen, chosen.curvatures / size, target) for size in sizes}
        for name, (family, smallest) in FAMILIES.items()
    }
