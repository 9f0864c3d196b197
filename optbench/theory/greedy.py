"""The best single step of SGD in the noisy quadratic model, and the bound that no method can beat there.

L(θ) = ½ Σ nᵢ hᵢ θᵢ², gradients with noise of variance cᵢ/B, and sᵢ = E θᵢ².

Sources: McCandlish et al. 2018 (arXiv 1812.06162), section 2, for the step; Zhang et al. 2019 (arXiv 1907.04164) for
the model. The bound is that of linear estimation.
"""

from dataclasses import dataclass

import numpy as np

from optbench.theory.effective_batch import Numbers
from optbench.theory.noisy_quadratic import Array


@dataclass(frozen=True)
class GreedyStep:
    """The learning rate with the smallest risk after one step, that risk, and the noise scale 𝓑, a number of examples."""

    learning_rate: float
    risk: float
    noise_scale: float


def greedy_step(
    curvatures: Array, moments: Array, variances: Array, batch: float, multiplicities: Numbers = 1.0
) -> GreedyStep:
    """The step θ ← θ - α g that minimizes the risk R = ½ Σ nᵢ hᵢ sᵢ.

        α* = Σ nᵢ hᵢ² sᵢ/Σ nᵢ hᵢ (hᵢ² sᵢ + cᵢ/B) = α_max/(1 + 𝓑/B)    𝓑 = tr(H Σ)/(Gᵀ H G) = Σ nᵢ hᵢ cᵢ/Σ nᵢ hᵢ³ sᵢ
        R' = R - ½ α* Σ nᵢ hᵢ² sᵢ

    curvatures: hᵢ. moments: sᵢ. variances: cᵢ, of one example's gradient. In one direction, α* = h s/(h² s + c/B) and
    1/s' = 1/s + B h²/c.
    """
    slope = float(np.sum(multiplicities * curvatures**2 * moments))
    bend = float(np.sum(multiplicities * curvatures**3 * moments))
    noise = float(np.sum(multiplicities * curvatures * variances))
    rate = slope / (bend + noise / batch)
    risk = 0.5 * float(np.sum(multiplicities * curvatures * moments))
    return GreedyStep(rate, risk - 0.5 * rate * slope, noise / bend)


def information_bound(curvature: Numbers, variance: Numbers, steps: Numbers, start: Numbers = 1.0) -> Numbers:
    """1/(1/s₀ + t h²/σ²): the least E θ² in one direction after ``steps`` gradients, for every method and schedule.

    variance: σ², of a batch's gradient, not 0. start: s₀. Each gradient h θ + ξ measures the distance of the start from the
    minimum with the precision h²/σ², because the method knows its own moves; the best linear estimate then has this error,
    and with Gaussian noise and a Gaussian start no other estimate has a smaller one. A greedy schedule reaches it.
    """
    return 1 / (1 / start + steps * curvature**2 / variance)
