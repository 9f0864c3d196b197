"""The eigenvalues of largest magnitude by power iteration: slower than Lanczos, but the method of some published results."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from optbench.curvature.operators import Operator
from optbench.errors import UserError


@dataclass(frozen=True)
class PowerIteration:
    """Approximate eigenpairs in the order in which they were found, by falling magnitude.

    values: (k,), the Rayleigh quotients, signed, and residuals: (k,), |A x - value x|, float64 on the CPU. vectors: (k, P), unit
    vectors as rows. converged: (k,), True if the iteration ended by its tolerance. products: the number of products taken.
    """

    values: Tensor
    residuals: Tensor
    vectors: Tensor
    converged: Tensor
    products: int


@torch.no_grad()
def power_iteration(
    operator: Operator,
    generator: torch.Generator,
    count: int = 1,
    iterations: int = 100,
    tolerance: float = 1e-3,
) -> PowerIteration:
    """The ``count`` eigenvalues of largest magnitude, each in the space orthogonal to the eigenvectors found before.

    x <- A x / |A x| from a normal draw, until |value - last value| / (|value| + 1e-6) < tolerance for the Rayleigh quotient
    x^T A x, or for ``iterations`` products. The error of x falls by |l2 / l1| with each product, for the two largest
    magnitudes. A quotient that changes little need not be near an eigenvalue: if l and -l are the largest, it is a mixture of
    both, which only the residual shows. Raises UserError for a count or iterations below 1, and for more pairs than dimensions.

    Source: the public code of PyHessian (Yao et al. 2020, arXiv 1912.07145), including the rule, 1e-6, 100 and 1e-3.
    """
    if not 1 <= count <= operator.dimension or iterations < 1:
        raise UserError(
            f"count={count}, iterations={iterations}: accepted are counts from 1 to the dimension, {operator.dimension}, and "
            "iterations >= 1"
        )
    found: list[Tensor] = []
    values, residuals, converged, products = [], [], [], 0

    def deflated(vector: Tensor) -> Tensor:
        if not found:
            return vector
        basis = torch.stack(found)
        for _ in range(2):
            vector = vector - basis.T @ (basis @ vector)
        return vector

    for _ in range(count):
        vector = deflated(operator.random_vectors(1, generator, "gaussian")[0])
        following, length = vector, float(vector.norm())
        value, done = math.nan, False
        for _ in range(iterations):
            vector = following / length
            image = operator.product(vector)
            products += 1
            last, value = value, float(image @ vector)
            following = deflated(image)
            length = float(following.norm())
            # If A x is 0, x is an eigenvector of the deflated matrix with the eigenvalue 0.
            done = abs(value - last) / (abs(value) + 1e-6) < tolerance or length == 0
            if done:
                break
        values.append(value)
        residuals.append(float((image - value * vector).norm()))
        converged.append(done)
        found.append(vector)
    return PowerIteration(
        torch.tensor(values, dtype=torch.float64),
        torch.tensor(residuals, dtype=torch.float64),
        torch.stack(found),
        torch.tensor(converged),
        products,
    )
