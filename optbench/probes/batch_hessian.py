"""Extremes of the mini-batch Hessian against the batch size, with their three predictions."""

from dataclasses import asdict
from typing import Any

import numpy as np
from torch import Tensor

from optbench.curvature.batch_hessian import batch_hessian
from optbench.curvature.lanczos import Product, on_flat_vectors
from optbench.probes.base import Measurement, ProbeContext, SubsetProbe


class BatchHessianProbe(SubsetProbe):
    """The measurement of `optbench.curvature.batch_hessian` on the subset, which is its population of N examples.

    batch_sizes: null for the powers of 2 up to half the subset; sizes above N are left out. draws: batches of each size.
    steps: Lanczos steps for each batch. vectors: directions for the isotropic prediction. Batch norm must be in eval mode: in
    train mode H_b is not a mean over examples. Values: full_top, full_bottom, b_star_isotropic, b_star_directional,
    b_star_fitted. Arrays: all of them and the measured and predicted curves.
    """

    def __init__(
        self, batch_sizes: list[int] | None = None, draws: int = 10, steps: int = 20, vectors: int = 8, **subset: Any
    ) -> None:
        super().__init__(**subset)
        self.batch_sizes, self.draws, self.steps, self.vectors = batch_sizes, draws, steps, vectors

    def measure(self, context: ProbeContext) -> Measurement:
        """Measure the extremes at every batch size."""
        measured = self.measured(context)
        inputs, targets = measured.examples()
        count = len(inputs)
        sizes = self.batch_sizes or [2**power for power in range(20) if 2 ** (power + 1) <= count]

        def make_product(indices: Tensor) -> Product:
            chosen = indices.to(inputs.device)
            objective = measured.objective_of(inputs[chosen], targets[chosen])
            return on_flat_vectors(objective.hvp, measured.parameters)

        found = batch_hessian(
            make_product,
            count,
            measured.dimension,
            [size for size in sizes if size <= count],
            self.draws,
            context.generator("batch_hessian"),
            steps=self.steps,
            vectors=self.vectors,
            dtype=measured.parameters[0].dtype,
            device=context.task.device,
        )
        arrays = {name: np.asarray(value) for name, value in asdict(found).items()}
        values = {name: float(value) for name, value in arrays.items() if value.ndim == 0}
        return Measurement(values, arrays | {"examples": np.asarray(count)})
