"""The multiplicative spiked model: the Hessian of a batch is a mean of positive semi-definite parts, one for each example.

H_b = (1/b) Σ x_n x_nᵀ with independent x_n of covariance H, whose eigenvalues are all τ except for some outliers. A
Gauss-Newton or Fisher matrix of one output has this form. With q = P/b̃, the bulk ends at τ (1 + √q)², which grows for small
batches as 1/b, while symmetric noise grows as 1/√b.

Sources: Marčenko & Pastur 1967 for the bulk; Baik & Silverstein 2006 (arXiv math/0408165) for the outliers.
"""

import numpy as np

from optbench.theory.effective_batch import Numbers


def bulk_edge(ratio: Numbers, bulk: float = 1.0) -> Numbers:
    """The upper end τ (1 + √q)² of the bulk, for q = P/b̃ = ``ratio`` and τ = ``bulk``."""
    return bulk * (1 + np.sqrt(ratio)) ** 2


def outlier(eigenvalue: float, ratio: Numbers, bulk: float = 1.0) -> Numbers:
    """The position of the largest eigenvalue λ ≥ τ of H in the spectrum of H_b, for q = P/b̃ = ``ratio`` and τ = ``bulk``.

        λ' = λ (1 + q τ/(λ - τ))  if λ > τ (1 + √q), otherwise the edge of the bulk, τ (1 + √q)²

    Raises ValueError for an eigenvalue below the bulk level.
    """
    if eigenvalue < bulk:
        raise ValueError(f"eigenvalue={eigenvalue}: the largest one must be at least the bulk level, {bulk}")
    ratios = np.asarray(ratio, dtype=np.float64)
    gap = eigenvalue - bulk
    above = gap > bulk * np.sqrt(ratios)
    pushed = eigenvalue * (1 + ratios * bulk / (gap or 1.0))
    found = np.where(above, pushed, bulk_edge(ratios, bulk))
    return float(found) if found.ndim == 0 else found
