"""The additive spiked model: the Hessian of a batch is that of all data plus symmetric noise with independent elements.

H_b = H + E with E symmetric, its elements of mean zero and variance σ²/b̃: the eigenvalues of E alone fill a semicircle of
radius 2s, where s = √(P σ²/b̃). An eigenvalue of H beyond ±s becomes an outlier of H_b, shifted outwards; the others vanish
in the bulk.

Sources: Baik, Ben Arous, Péché 2005 for the transition and Benaych-Georges & Nadakuditi 2011 (arXiv 0910.2120) for the
additive model; taken as a model of batch Hessians by Granziol, Zohren, Roberts 2022 (arXiv 2006.09092).
"""

import numpy as np

from optbench.theory.effective_batch import Numbers


def noise_radius(noise: float, batch: Numbers) -> Numbers:
    """s = √(P σ²/b̃), half the radius of the semicircle, for ``noise`` = P σ² and the effective ``batch`` b̃."""
    return np.sqrt(noise / batch)


def outlier(eigenvalue: float, radius: Numbers) -> Numbers:
    """The position of an extreme eigenvalue λ of H in the spectrum of H_b, for noise of s = ``radius``.

        λ' = λ + s²/λ  if |λ| > s, otherwise the edge ±2s of the semicircle on the side of λ

    Holds in the limit of many dimensions, for the largest eigenvalue of H if positive and the smallest if negative.
    """
    size, radii = abs(eigenvalue), np.asarray(radius, dtype=np.float64)
    above = size > radii
    # numpy.where evaluates the formula everywhere, so that the eigenvalue may be 0 here.
    pushed = size + radii**2 / (size or 1.0)
    found = np.copysign(np.where(above, pushed, 2 * radii), eigenvalue)
    return float(found) if found.ndim == 0 else found


def squared_overlap(eigenvalue: float, radius: Numbers) -> Numbers:
    """The squared cosine between the eigenvectors of ``eigenvalue`` in H and of its outlier in H_b.

    1 - s²/λ² if |λ| > s = ``radius``, otherwise 0: the direction is lost.
    """
    radii = np.asarray(radius, dtype=np.float64)
    found = np.maximum(1 - radii**2 / (eigenvalue**2 or 1.0), 0.0) if eigenvalue else np.zeros_like(radii)
    return float(found) if found.ndim == 0 else found
