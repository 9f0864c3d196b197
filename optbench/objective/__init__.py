"""The loss of the current global batch as a function of the parameters: value, gradient and products with curvature."""

from optbench.objective.execution import Execution, LossScale, Network
from optbench.objective.objective import Exchange, Objective, Population, dropout_key

__all__ = ["Exchange", "Execution", "LossScale", "Network", "Objective", "Population", "dropout_key"]
