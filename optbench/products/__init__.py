"""Products with the derivatives of an objective: Hessian, Gauss-Newton and Fisher matrices, Jacobians, single examples."""

from optbench.products.examples import ExampleProducts
from optbench.products.matrices import MatrixProducts, Vector

__all__ = ["ExampleProducts", "MatrixProducts", "Vector"]
