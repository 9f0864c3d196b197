"""Profiles of the loss along sharp, oscillating and random directions, on a logarithmic grid of distances."""

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from optbench.curvature.directions import cosine, random_direction
from optbench.curvature.extremes import extreme_eigenpairs
from optbench.curvature.normalization import normalize, transposed_groups
from optbench.curvature.operators import operator
from optbench.curvature.profiles import Profile, logarithmic_radii, profile
from optbench.curvature.surfaces import evaluation
from optbench.curvature.swapped_parameters import place
from optbench.errors import UserError
from optbench.objective import Objective
from optbench.objective.vectors import flatten, unflatten
from optbench.probes.base import Measurement, ProbeContext, SubsetProbe, numbers
from optbench.probes.measured import MeasuredModel
from optbench.training.task import Task

Direction = list[Tensor]


class ProfileProbe(SubsetProbe):
    """Growth exponents p(r) and effective curvatures k(r) of the loss; see `optbench.curvature.profiles`.

    Directions, each of length 1: the eigenvectors of the ``top`` largest eigenvalues of the Hessian, from at most ``steps``
    Lanczos products; the last step of the run, θ_t - θ_(t-1), along which training oscillates at the edge of stability;
    ``random`` normal ones; and ``normalized`` ones, random with the norms of the filters. Each profile is symmetrized. Distances
    are ``closest`` to ``farthest`` times ‖θ‖, ``per_decade`` in a factor of 10. centre: the "weights" θ_t, or the "midpoint" of
    θ_t and θ_(t-1), where a cycle of two steps cancels. The previous weights are remembered from the step before a scheduled
    measurement; without them, at the start and afterwards from a checkpoint, the centre is θ_t and there is no last step.

    Values, at the centre: loss, norm ‖θ‖, top (the largest eigenvalue); KIND_exponent, p at the distance of the grid nearest to
    ``reference`` ‖θ‖, the mean over the directions of KIND: top (the first alone), oscillation, random, normalized. With a last
    step d: step ‖d‖; cosine, |cos| of d and the first eigenvector; secant dᵀ(∇L(θ_t) - ∇L(θ_(t-1)))/‖d‖², which is 2/η on a cycle
    of two steps of gradient descent with the rate η.
    Arrays: radii (n,); directions, the names (k,); ahead, behind, exponents, curvatures (k, n); eigenvalues and residuals.
    """

    at = "training"

    window = 1

    def __init__(
        self,
        top: int = 1,
        random: int = 2,
        normalized: int = 2,
        centre: str = "weights",
        closest: float = 1e-5,
        farthest: float = 1.0,
        per_decade: int = 8,
        reference: float = 0.05,
        steps: int = 60,
        tolerance: float = 1e-3,
        float64: bool = True,
        **subset: Any,
    ) -> None:
        super().__init__(float64=float64, **subset)
        self.top, self.random, self.normalized, self.centre = top, random, normalized, centre
        self.closest, self.farthest, self.per_decade, self.reference = closest, farthest, per_decade, reference
        self.steps, self.tolerance = steps, tolerance
        self._before: tuple[int, list[Tensor]] | None = None

    def check(self, context: ProbeContext) -> None:
        """Raise UserError for distances that are not in order, and for fewer Lanczos steps than eigenvectors."""
        if not self.closest < self.farthest:
            raise UserError(
                f"probe.profile.closest={self.closest}, farthest={self.farthest}: accepted is a closest below the farthest"
            )
        if self.steps < self.top:
            raise UserError(f"probe.profile.steps={self.steps}: accepted is at least probe.profile.top={self.top}")

    @contextlib.contextmanager
    def watch(self, objective: Objective, task: Task) -> Iterator[None]:
        """Remember the weights before the step."""
        with self.aside(task):
            self._before = task.step, [parameter.detach().clone() for parameter in task.model.parameters()]
        yield

    def measure(self, context: ProbeContext) -> Measurement:
        """Measure all profiles."""
        measured = self.measured(context)
        parameters = list(measured.model.parameters())
        now = [parameter.detach().clone() for parameter in parameters]
        step: Direction | None = None
        values: dict[str, float] = {}
        if self._before is not None and self._before[0] == context.task.step - 1:
            before = [tensor.to(own) for tensor, own in zip(self._before[1], now, strict=True)]
            step = [new - old for new, old in zip(now, before, strict=True)]
            values |= _along_the_step(measured, before, now, step)
            if self.centre == "midpoint":
                now = [old + each / 2 for old, each in zip(before, step, strict=True)]
        place(parameters, now)
        measured.refresh()
        objective = measured.objective()
        norm = _length(now)
        values |= {"loss": objective.evaluate(measured.spec)[0], "norm": norm}

        matrix = operator(objective)
        generator = context.generator("profile")
        pairs = extreme_eigenpairs(matrix, generator, self.top, 0, min(self.steps, matrix.dimension), self.tolerance)
        eigenvectors = [
            measured.for_all_parameters(unflatten(each, measured.parameters)) for each in pairs.vectors.flip(0)
        ]
        values["top"] = float(pairs.values[-1])
        directions: list[tuple[str, Direction]] = [("top", each) for each in eigenvectors]
        if step is not None and values["step"] > 0:
            directions.append(("oscillation", step))
            values["cosine"] = abs(cosine(step, eigenvectors[0]))
        directions += self._random(measured, generator)

        radii = logarithmic_radii(self.closest * norm, self.farthest * norm, self.per_decade)
        evaluate = evaluation(measured.model, lambda: {"loss": objective.evaluate(measured.spec)[0]})
        found = [(kind, profile(evaluate, now, direction, radii)) for kind, direction in directions]
        nearest = int(np.abs(np.log(np.array(radii) / (self.reference * norm))).argmin())
        for kind in dict(found):
            exponents = [float(each.exponents[nearest]) for name, each in found if name == kind]
            values[f"{kind}_exponent"] = exponents[0] if kind == "top" else math.fsum(exponents) / len(exponents)
        return Measurement(values, _arrays(found, numbers(pairs.values.flip(0)), numbers(pairs.residuals.flip(0))))

    def _random(self, measured: MeasuredModel, generator: torch.Generator) -> list[tuple[str, Direction]]:
        """The random directions, with their kinds."""
        parameters: list[Tensor] = list(measured.model.parameters())
        plain = [
            measured.for_all_parameters(random_direction(measured.parameters, generator)) for _ in range(self.random)
        ]
        scaled = [
            normalize(random_direction(parameters, generator), parameters, transposed=transposed_groups(measured.model))
            for _ in range(self.normalized)
        ]
        # A model without weights of two axes has no filters.
        return [("random", each) for each in plain] + [("normalized", each) for each in scaled if _length(each) > 0]

    def state_dict(self) -> dict[str, Any]:
        """The weights before the last watched step."""
        if self._before is None:
            return {}
        return {"step": self._before[0], "weights": [tensor.cpu() for tensor in self._before[1]]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self._before = state["step"], state["weights"]


def _length(tensors: list[Tensor]) -> float:
    return math.hypot(*(float(torch.linalg.vector_norm(tensor, dtype=torch.float64)) for tensor in tensors))


def _along_the_step(
    measured: MeasuredModel, before: list[Tensor], now: list[Tensor], step: Direction
) -> dict[str, float]:
    """The length of the last step, and the secant of the gradient over it (NaN for a step of length 0)."""
    length = _length(step)
    gradients = []
    for point in (before, now):
        place(list(measured.model.parameters()), point)
        measured.refresh()
        gradients.append(flatten(measured.for_all_parameters(measured.objective().gradient())).double())
    rise = float((gradients[1] - gradients[0]) @ flatten(step).double())
    return {"step": length, "secant": rise / length**2 if length > 0 else math.nan}


def _arrays(found: list[tuple[str, Profile]], eigenvalues: np.ndarray, residuals: np.ndarray) -> dict[str, np.ndarray]:
    profiles = [each for _, each in found]
    return {
        "radii": numbers(profiles[0].radii),
        "directions": np.array([kind for kind, _ in found]),
        "ahead": np.stack([numbers(each.ahead) for each in profiles]),
        "behind": np.stack([numbers(each.behind) for each in profiles]),
        "exponents": np.stack([numbers(each.exponents) for each in profiles]),
        "curvatures": np.stack([numbers(each.curvatures) for each in profiles]),
        "eigenvalues": eigenvalues,
        "residuals": residuals,
    }
