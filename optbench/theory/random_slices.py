"""The curvature of a random two-dimensional slice of a loss, in terms of its Hessian.

F(x, y) = L(θ + x η₁ + y η₂) with independent η₁, η₂ ~ N(0, I) has the Hessian K = [[A, B], [B, D]] with A = η₁ᵀHη₁,
D = η₂ᵀHη₂, B = η₁ᵀHη₂. Their means are tr H, tr H and 0, their variances 2‖H‖², 2‖H‖² and ‖H‖² (Frobenius), and with many
eigenvalues of comparable size they are independent and Gaussian. So a slice shows the mean curvature, and hides saddles.

Source: Böttcher & Wheeler 2024, "Visualizing high-dimensional loss landscapes with Hessian directions" (arXiv 2208.13219),
for the expected curvatures; the docstrings derive the Gaussian limit of the other two.
"""

import math


def principal_curvatures(trace: float, frobenius: float) -> tuple[float, float]:
    """The expected smaller and larger eigenvalue of K: tr H ∓ √(π/2) ‖H‖, in the Gaussian limit.

    K's eigenvalues are m ∓ r with m = (A + D)/2 of mean tr H and r = √(((A - D)/2)² + B²), a Rayleigh variable of scale
    ‖H‖. Their mean is unbiased for tr H; neither of them is. For directions of unit length divide both by P.
    """
    spread = math.sqrt(math.pi / 2) * frobenius
    return trace - spread, trace + spread


def saddle_frequency(trace: float, frobenius: float) -> float:
    """The probability exp(-(tr H)²/(4 ‖H‖²))/√2 that the slice shows a saddle, det K < 0, in the Gaussian limit.

    P(|m| < r) = E exp(-m²/(2 ‖H‖²)) for m ~ N(tr H, ‖H‖²) and r as above. At most 0.707, and about 0 once |tr H| is much
    larger than 2 ‖H‖, however many eigenvalues are negative. Raises ValueError for a Frobenius norm that is not positive.
    """
    if not frobenius > 0:
        raise ValueError(f"frobenius={frobenius}: must be positive")
    return math.exp(-((trace / (2 * frobenius)) ** 2)) / math.sqrt(2)
