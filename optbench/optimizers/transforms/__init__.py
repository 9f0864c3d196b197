"""Transforms of any optimizer: what changes its gradients, its steps or its weights, one file each."""

from optbench.optimizers.transforms.base import Transform, Transformed

__all__ = ["Transform", "Transformed"]
