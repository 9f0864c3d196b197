"""Kronecker factors of the Fisher matrix, shared by K-FAC and its variants."""

from optbench.optimizers.kronecker.factors import KroneckerFactors
from optbench.optimizers.kronecker.inverses import Inverses, damped, positive_definite_inverses
from optbench.optimizers.kronecker.layers import Layer, find_layers
from optbench.optimizers.kronecker.statistics import Factors

__all__ = ["Factors", "Inverses", "KroneckerFactors", "Layer", "damped", "find_layers", "positive_definite_inverses"]
