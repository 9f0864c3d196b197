"""The steady state of SGD, and the terms by which curvature raises the test loss there.

SGD with the learning rate η and batches of b, whose per-example gradients have the covariance d(θ), is modelled in the time η k
by the Ito equation

    dθ = -∇L dt + √(2 T d(θ)) dW,    T = η/(2b)

In one dimension the flux -L' p - (T d p)' of its stationary density is 0, so that

    p ∝ exp(-v/T)/d,    v(θ) = ∫ L'/d

The effective potential v has the minima of L with other depths. Near a minimum i (Laplace) the mass is ∝ exp(-vᵢ/T)/√(dᵢ L''ᵢ): a
low temperature T favours depth in v, and a higher one low curvature. On a quadratic with a constant d the second moments of SGD
itself, with its finite steps, are known exactly (`sgd_covariance`).

With train minimum a, test minimum a*, shift s = a* - a, and θ of mean a + β and covariance S, a quadratic test loss of Hessian Hₜ
has

    E Lₜ(θ) - Lₜ(a*) = ½ sᵀHₜs + ½ βᵀHₜβ - βᵀHₜs + ½ tr(Hₜ S)

because θ - a* = -s + β + e with E e = 0. Every term is invariant under linear changes of the parameters.

Source: Bradley, Gomez-Uribe & Vuyyuru 2022, "Shift-curvature, SGD, and generalization" (arXiv 2108.09507). The derivations here,
their constants and the cross term are our own.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from optbench.theory.noisy_quadratic import Array


@dataclass(frozen=True)
class CurvatureTerms:
    """The terms of the expected rise of a quadratic test loss above its minimum.

    shift: ½ sᵀHs. bias: ½ βᵀHβ. cross: -βᵀHs. covariance: ½ tr(H S).
    """

    shift: float
    bias: float
    cross: float
    covariance: float

    @property
    def sum(self) -> float:
        """The rise of the test loss."""
        return self.shift + self.bias + self.cross + self.covariance


def curvature_terms(product: Callable[[Array], Array], shift: Array, bias: Array, deviations: Array) -> CurvatureTerms:
    """The terms for the Hessian of the test loss, given by ``product``: v ↦ H v.

    shift: s = a* - a, (P,). bias: β, (P,), the mean of θ minus a. deviations: (J, P), equally likely values of θ minus its
    mean, so that S = 1/J Σ e eᵀ: the covariance of these J values themselves, whose mean is known.
    """
    along = product(shift)
    spread = [float(deviation @ product(deviation)) for deviation in deviations]
    return CurvatureTerms(
        shift=0.5 * float(shift @ along),
        bias=0.5 * float(bias @ product(bias)),
        cross=-float(bias @ along),
        covariance=0.5 * math.fsum(spread) / len(spread),
    )


def sgd_covariance(hessian: Array, noise: Array, learning_rate: float, batch: float) -> Array:
    """The stationary covariance S of θ ← θ - η (H θ + ξ), where ξ has the covariance d/b and is independent of the past; (P, P).

    hessian: H, (P, P), symmetric. noise: d, (P, P), of single examples. S solves S = (I - ηH) S (I - ηH) + (η²/b) d, and is
    in the eigenbasis of H

        S_ij = (η/b) d_ij/(h_i + h_j - η h_i h_j)

    Without its last term the denominator is that of the continuous equation H S + S H = (η/b) d. Batches drawn without
    replacement are not independent, and have a smaller S.

    Raises ValueError unless 0 < η h < 2 for every eigenvalue h.
    """
    eigenvalues, vectors = np.linalg.eigh(hessian)
    least, most = float(eigenvalues[0]), float(eigenvalues[-1])
    if not (learning_rate > 0 and least > 0 and learning_rate * most < 2):
        raise ValueError(
            f"learning_rate={learning_rate}: must be positive and below {2 / most:.6g}, and eigenvalues positive; the least is "
            f"{least:.6g}"
        )
    pairs = eigenvalues[:, None] + eigenvalues - learning_rate * np.multiply.outer(eigenvalues, eigenvalues)
    inner = (learning_rate / batch) * (vectors.T @ noise @ vectors) / pairs
    return np.asarray(vectors @ inner @ vectors.T, dtype=np.float64)


def least_squares_shift(dimension: int, train: int, test: int, deviation: float) -> float:
    """E ½ sᵀHₜs of ordinary least squares in P dimensions with n training and m test examples: ½σ²(P/m + P/(n - P - 1)).

    The rows of both are standard normal and the targets have noise of the standard deviation σ. The minima err by (XᵀX)⁻¹Xᵀε
    each; the test part gives σ²P/m, and the train part σ² E tr (XᵀX)⁻¹, the mean of an inverse Wishart matrix. For many
    examples it tends to ½σ²P(1/n + 1/m). The test loss is quadratic, so that it equals the mean of Lₜ(a) - Lₜ(a*).

    Raises ValueError unless n > P + 1 and m ≥ P.
    """
    if not (train > dimension + 1 and test >= dimension):
        raise ValueError(
            f"train={train}, test={test}: must be above {dimension + 1} and at least {dimension}, for {dimension} dimensions"
        )
    return 0.5 * deviation**2 * (dimension / test + dimension / (train - dimension - 1))


# ---- one dimension ------------------------------------------------------------------------------------------------------


def effective_potential(positions: Array, gradient: Array, noise: Array) -> Array:
    """v = ∫ L'/d from the first of the ``positions`` (n,), by the trapezoidal rule; gradient L' and noise d there, (n,)."""
    return _integrals(positions, gradient / noise)


def steady_density(positions: Array, gradient: Array, noise: Array, temperature: float) -> Array:
    """p ∝ exp(-v/T)/d at the ``positions`` (n,), which must hold nearly all of its mass; its integral over them is 1."""
    potential = effective_potential(positions, gradient, noise)
    density = np.exp(-(potential - potential.min()) / temperature) / noise
    return np.asarray(density / _integrals(positions, density)[-1], dtype=np.float64)


def mass_below(positions: Array, density: Array, border: float) -> float:
    """The integral of ``density`` up to ``border``."""
    return float(np.interp(border, positions, _integrals(positions, density)))


def well_weights(potentials: Array, noises: Array, curvatures: Array, temperature: float) -> Array:
    """The masses of wells by Laplace's method, ∝ exp(-vᵢ/T)/√(dᵢ L''ᵢ), with the sum 1.

    potentials: vᵢ. noises: dᵢ. curvatures: L''ᵢ, all at the minima, (wells,).
    """
    logarithms = -np.asarray(potentials) / temperature - 0.5 * np.log(np.asarray(noises) * np.asarray(curvatures))
    weights = np.exp(logarithms - logarithms.max())
    return np.asarray(weights / weights.sum(), dtype=np.float64)


def balancing_temperature(
    potentials: tuple[float, float], curvatures: tuple[float, float], noises: tuple[float, float] = (1.0, 1.0)
) -> float:
    """The T at which two wells have equal masses by Laplace's method: (v₂ - v₁)/(½ ln(d₁ L''₁/(d₂ L''₂))).

    Below it the deeper well has more mass, and above it the other one. Raises ValueError if there is none, because the deeper
    well has no larger product d L'' than the other one.
    """
    (first, second), (one, other) = potentials, (noise * k for noise, k in zip(noises, curvatures, strict=True))
    if not (second - first) * (one - other) > 0:
        raise ValueError(
            f"potentials={potentials}, curvatures={curvatures}: the deeper well must have the larger product of curvature and "
            "noise"
        )
    return (second - first) / (0.5 * math.log(one / other))


def _integrals(positions: Array, values: Array) -> Array:
    parts = 0.5 * (values[1:] + values[:-1]) * np.diff(positions)
    return np.concatenate([[0.0], np.cumsum(parts)])
