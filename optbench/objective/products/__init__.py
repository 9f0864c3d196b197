"""Products with the derivatives of an objective: Hessian, Gauss-Newton and Fisher matrices, Jacobians, single examples."""

from optbench.objective.products.examples import ExampleProducts
from optbench.objective.products.gradient_norms import GradientNorms
from optbench.objective.products.matrices import MatrixProducts, Vector

__all__ = ["ExampleProducts", "GradientNorms", "MatrixProducts", "Vector"]
