"""The loss on lines and on a plane through the weights: random normalized directions, or eigenvectors of the Hessian."""

from typing import Any

import numpy as np
from torch import Tensor

from optbench.curvature.directions import cosine, hessian_directions, random_direction
from optbench.curvature.lanczos import on_flat_vectors
from optbench.curvature.normalization import normalize, transposed_groups
from optbench.curvature.surfaces import evaluation, grid, line
from optbench.probes.base import Measurement, ProbeContext, SubsetProbe, numbers
from optbench.probes.measured import MeasuredModel, SubsetObjective


class Landscape(SubsetProbe):
    """Loss and accuracy over the subset at θ + x d, or at θ + x d₁ + y d₂.

    directions: "random", with ``normalization`` (see `optbench.curvature.normalize`), or "hessian", the unit eigenvectors
    of the largest and the smallest eigenvalue by ``steps`` Lanczos steps. plane: both directions at once; else
    ``lines`` lines (two with "hessian"). points: on [-reach, reach], in each direction.

    Arrays of lines: positions (n,), loss and accuracy (lines, n); of a plane: x, y, loss_surface and accuracy_surface
    (ny, nx). With "hessian": eigenvalues and residuals (2,). Values: loss; the cosine of two random directions; the
    eigenvalues as top and bottom.
    """

    def __init__(
        self,
        directions: str = "random",
        normalization: str = "filter",
        plane: bool = False,
        lines: int = 1,
        points: int = 25,
        reach: float = 1.0,
        steps: int = 40,
        **subset: Any,
    ) -> None:
        super().__init__(**subset)
        self.directions, self.normalization, self.plane, self.lines = directions, normalization, plane, lines
        self.points, self.reach, self.steps = points, reach, steps

    def measure(self, context: ProbeContext) -> Measurement:
        """Measure the lines or the plane."""
        measured = self.measured(context)
        objective = measured.objective()
        values: dict[str, float] = {"loss": objective.evaluate(measured.spec)[0]}
        arrays: dict[str, np.ndarray] = {"normalization": np.array(self._normalization)}
        directions = self._directions(context, measured, objective, values, arrays)
        origin = [parameter.detach() for parameter in measured.model.parameters()]

        def look() -> dict[str, float]:
            return dict(zip(("loss", "accuracy"), objective.evaluate(measured.spec), strict=True))

        evaluate = evaluation(measured.model, look)
        positions = np.linspace(-self.reach, self.reach, self.points).tolist()
        if self.plane:
            first, second = directions
            surface = grid(evaluate, origin, first, second, positions, positions)
            arrays |= {"x": numbers(surface.x), "y": numbers(surface.y)}
            arrays |= {f"{name}_surface": numbers(found) for name, found in surface.values.items()}
            return Measurement(values, arrays)
        found = [line(evaluate, origin, direction, positions).values for direction in directions]
        arrays["positions"] = np.array(positions)
        arrays |= {name: np.stack([numbers(each[name]) for each in found]) for name in ("loss", "accuracy")}
        return Measurement(values, arrays)

    @property
    def _normalization(self) -> str:
        return self.normalization if self.directions == "random" else "eigenvectors"

    def _directions(
        self,
        context: ProbeContext,
        measured: MeasuredModel,
        objective: SubsetObjective,
        values: dict[str, float],
        arrays: dict[str, np.ndarray],
    ) -> list[list[Tensor]]:
        """The directions, each with one tensor for each parameter; adds their facts to ``values`` and ``arrays``."""
        generator = context.generator("landscape")
        parameters: list[Tensor] = list(measured.model.parameters())
        if self.directions == "random":
            found = [
                normalize(
                    random_direction(parameters, generator),
                    parameters,
                    self.normalization,  # type: ignore[arg-type]
                    transposed=transposed_groups(measured.model),
                )
                for _ in range(2 if self.plane else self.lines)
            ]
            if len(found) == 2:
                values["cosine"] = cosine(*found)
            return found
        product = on_flat_vectors(objective.hvp, measured.parameters)
        pairs = hessian_directions(product, measured.parameters, self.steps, generator)
        values |= {"top": pairs[0].value, "bottom": pairs[1].value}
        arrays["eigenvalues"] = np.array([pair.value for pair in pairs])
        arrays["residuals"] = np.array([pair.residual for pair in pairs])
        return [measured.for_all_parameters(pair.direction) for pair in pairs]
