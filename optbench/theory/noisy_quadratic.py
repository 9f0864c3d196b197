"""The noisy quadratic model, in which the second moments of every linear method can be computed exactly.

L(θ) = ½ Σ hᵢ θᵢ², gradients hᵢ θᵢ + ξᵢ with independent ξᵢ of variance σᵢ² = cᵢ/B. Directions do not interact. In each
direction a method with the state z (θ first) takes the steps z ← A z + b ξ, and the second moments of its state follow
S ← A S Aᵀ + σ² b bᵀ.

Source: Zhang et al. 2019, "Which algorithmic choices matter at which batch sizes?" (arXiv 1907.04164). The momentum
buffer is torch's: v ← μ v + g.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True)
class LinearMethod:
    """One direction of a method: z ← A z + b ξ, where z[0] is θ at the end of a step.

    matrix: A, (k, k). noise: b, (k,). start: 1 for the components of z that are θ at the start, else 0, (k,).
    evaluated: the index of the component whose second moment is the result.
    """

    matrix: Array
    noise: Array
    start: Array
    evaluated: int = 0

    @classmethod
    def sgd(cls, learning_rate: float, curvature: float, power: float = 0.0) -> "LinearMethod":
        """θ ← θ - α h^(-p) g: gradient descent, preconditioned by h to the power -p."""
        rate = learning_rate * curvature**-power
        return cls(np.array([[1 - rate * curvature]]), np.array([-rate]), np.ones(1))

    @classmethod
    def momentum(cls, learning_rate: float, momentum: float, curvature: float) -> "LinearMethod":
        """v ← μ v + g, θ ← θ - α v, with z = (θ, v)."""
        matrix = np.array([[1 - learning_rate * curvature, -learning_rate * momentum], [curvature, momentum]])
        return cls(matrix, np.array([-learning_rate, 1.0]), np.array([1.0, 0.0]))

    @classmethod
    def nesterov(cls, learning_rate: float, momentum: float, curvature: float) -> "LinearMethod":
        """v ← μ v + g, θ ← θ - α (g + μ v), with z = (θ, v)."""
        first = [1 - learning_rate * (1 + momentum) * curvature, -learning_rate * momentum**2]
        noise = np.array([-learning_rate * (1 + momentum), 1.0])
        return cls(np.array([first, [curvature, momentum]]), noise, np.array([1.0, 0.0]))

    @classmethod
    def averaged(cls, learning_rate: float, decay: float, curvature: float) -> "LinearMethod":
        """Gradient descent evaluated at the average θ̄ ← γ θ̄ + (1 - γ) θ, which starts at θ; z = (θ, θ̄)."""
        kept = 1 - learning_rate * curvature
        matrix = np.array([[kept, 0.0], [(1 - decay) * kept, decay]])
        return cls(matrix, np.array([-learning_rate, -(1 - decay) * learning_rate]), np.ones(2), evaluated=1)


def second_moment(method: LinearMethod, variance: float, steps: int, start: float = 1.0) -> float:
    """E θ² of one direction after ``steps`` steps from E θ² = ``start``, with gradient noise of ``variance`` σ²."""
    state = start * np.outer(method.start, method.start)
    added = variance * np.outer(method.noise, method.noise)
    for _ in range(steps):
        state = method.matrix @ state @ method.matrix.T + added
    return float(state[method.evaluated, method.evaluated])


def stationary_covariance(method: LinearMethod, variance: float) -> Array:
    """The stationary second moments of the state, (k, k): the S that solves S = A S Aᵀ + σ² b bᵀ.

    For heavy ball, z = (θ, v), it holds cov(θ, v) = -(α/2) Var v, because the variance of θ' = θ - α v' is that of θ.

    Raises ValueError if the method is not stable: A has an eigenvalue of modulus 1 or more.
    """
    matrix = method.matrix
    modulus = float(np.abs(np.linalg.eigvals(matrix)).max())
    if modulus >= 1:
        raise ValueError(f"the method is not stable here: its matrix has an eigenvalue of modulus {modulus:.6g}")
    added = variance * np.outer(method.noise, method.noise)
    # (I - A ⊗ A) vec S = σ² vec b bᵀ; the states have at most two components.
    system = np.eye(matrix.size) - np.kron(matrix, matrix)
    return np.asarray(np.linalg.solve(system, added.reshape(-1)), dtype=np.float64).reshape(matrix.shape)


def stationary_second_moment(method: LinearMethod, variance: float) -> float:
    """The stationary E θ² of the component that is evaluated; raises ValueError as ``stationary_covariance`` does."""
    return float(stationary_covariance(method, variance)[method.evaluated, method.evaluated])


def risk(moments: Sequence[float], curvatures: Sequence[float]) -> float:
    """The expected loss ½ Σ hᵢ E θᵢ², from the second moments and curvatures of all directions."""
    return 0.5 * float(np.dot(curvatures, moments))
