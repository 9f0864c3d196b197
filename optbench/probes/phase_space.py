"""Positions and velocities of the weights along the top eigenvectors of the Hessian, step by step, and their lengths.

Near a minimum SGD with momentum moves as a stationary process in this phase space (Kunin et al. 2021, arXiv 2107.09133);
`optbench.theory.limiting_dynamics` has its moments, its frequencies and the displacement that it predicts.
"""

import contextlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from optbench.curvature.extremes import extreme_eigenpairs
from optbench.curvature.operators import operator
from optbench.errors import UserError
from optbench.objective import Objective
from optbench.probes.base import Measurement, ProbeContext, SubsetProbe, numbers
from optbench.training.task import Task

VELOCITIES = ("difference", "buffer")


@dataclass(frozen=True)
class _Frame:
    """The frame of a path: the step, θ₀ (P,), and U (P, directions) with eigenvalues and residuals (directions,)."""

    step: int
    start: Tensor
    vectors: Tensor
    eigenvalues: Tensor
    residuals: Tensor


class PhaseSpace(SubsetProbe):
    """The path of the last ``window`` steps before each measurement, of which every ``stride``-th is recorded.

    The first measurement, at the weights θ₀, computes the ``directions`` eigenvectors U with the largest eigenvalues of the
    Hessian over the subset, by at most ``steps`` Lanczos products to a relative residual of ``tolerance``. θ₀ and U are then
    kept, and nothing is recorded before. The largest entry of each eigenvector is positive. Sums are in float64.

    velocity: "difference", v = (θ_(k-1) - θ_k)/η with the learning rate η of the step, is the momentum buffer of heavy ball
    to rounding, and exists for every optimizer; "buffer" is that of the optimizer itself (with Nesterov's method another
    vector), 0 before the first step.

    Values: top, the largest eigenvalue; displacement_squared, |θ - θ₀|²; velocity_squared, |v|² after the last recorded step.
    Arrays: step (n,), the number of updates; x (n, directions), Uᵀ (θ - θ₀); v (n, directions), Uᵀ v;
    displacement_squared and velocity_squared (n,), over all weights; eigenvalues, residuals (directions,), the largest first.
    """

    at = "training"

    def __init__(
        self,
        window: int = 1000,
        stride: int = 1,
        directions: int = 10,
        velocity: str = "difference",
        steps: int = 80,
        tolerance: float = 1e-4,
        **subset: Any,
    ) -> None:
        super().__init__(**subset)
        assert velocity in VELOCITIES
        self.window, self.stride, self.directions, self.velocity = window, stride, directions, velocity
        self.steps, self.tolerance = steps, tolerance
        self._frame: _Frame | None = None
        self._rows: list[Tensor] = []  # each: step, |θ - θ₀|², |v|², x, v

    def check(self, context: ProbeContext) -> None:
        """Raise UserError for more directions than can be found, and if the steps have no velocity that can be read."""
        task, words = context.task, "probe.phase_space"
        trained = {name: each for name, each in task.model.named_parameters() if each.requires_grad}
        most = min(self.steps, sum(each.numel() for each in trained.values()))
        if self.directions > most:
            raise UserError(
                f"{words}.directions={self.directions}: more than its Lanczos products or the weights; accepted: 1 to {most}"
            )
        if task.recipe.make_communication({name: each.shape for name, each in trained.items()}) is not None:
            raise UserError("probe=phase_space: records the steps of whole batches; accepted: communication=dense")
        if self.velocity == "buffer":
            optimizer = task.recipe.make_optimizer(task.model)
            if not (isinstance(optimizer, torch.optim.SGD) and optimizer.param_groups[0]["momentum"] > 0):
                raise UserError(
                    f"{words}.velocity=buffer: this optimizer has no momentum buffer; accepted: optimizer=momentum or nesterov "
                    f"with a momentum above 0, or {words}.velocity=difference"
                )

    @contextlib.contextmanager
    def watch(self, objective: Objective, task: Task) -> Iterator[None]:
        """Record the weights and the velocity after the step."""
        step, frame = task.step + 1, self._frame
        if frame is None or (step - frame.step) % self.stride:
            yield
            return
        before = None
        if self.velocity == "difference":
            with self.aside(task):
                before = _weights(task)
        yield
        with self.aside(task):
            now = _weights(task)
            velocity = _buffer(task) if before is None else _per_rate(before - now, task)
            displacement, vectors = now - frame.start.to(now.device), frame.vectors.to(now.device)
            lengths = torch.stack([displacement.square().sum(), velocity.square().sum()])
            row = torch.cat([lengths, displacement @ vectors, velocity @ vectors]).cpu()
            self._rows.append(torch.cat([row.new_tensor([step]), row]))

    def measure(self, context: ProbeContext) -> Measurement:
        """Fix θ₀ and the directions the first time; then give what was recorded in the window."""
        task = context.task
        if self._frame is None:
            self._frame = self._fixed(context)
        frame = self._frame
        self._rows = [row for row in self._rows if row[0] > task.step - self.window]
        count = len(frame.eigenvalues)
        table = torch.stack(self._rows) if self._rows else torch.empty(0, 3 + 2 * count, dtype=torch.float64)
        step, displacement, velocity, x, v = table.split([1, 1, 1, count, count], dim=1)
        now = _weights(task)
        values = {
            "top": float(frame.eigenvalues[0]),
            "displacement_squared": float((now - frame.start.to(now.device)).square().sum()),
            "velocity_squared": float(velocity[-1]) if len(table) else math.nan,
        }
        arrays = {
            "step": step[:, 0].long(),
            "x": x,
            "v": v,
            "displacement_squared": displacement[:, 0],
            "velocity_squared": velocity[:, 0],
            "eigenvalues": frame.eigenvalues,
            "residuals": frame.residuals,
        }
        return Measurement(values, {name: numbers(tensor.contiguous()) for name, tensor in arrays.items()})

    def _fixed(self, context: ProbeContext) -> _Frame:
        matrix = operator(self.measured(context).objective())
        generator = context.generator("phase_space")
        most = min(self.steps, matrix.dimension)
        pairs = extreme_eigenpairs(matrix, generator, self.directions, 0, most, self.tolerance)
        vectors = pairs.vectors.double().flip(0)  # the largest eigenvalue first
        largest = vectors.abs().argmax(dim=1, keepdim=True)
        vectors = (vectors * vectors.gather(1, largest).sign()).T.contiguous()
        values, residuals = pairs.values.double().flip(0), pairs.residuals.double().flip(0)
        return _Frame(context.task.step, _weights(context.task), vectors, values, residuals)

    def state_dict(self) -> dict[str, Any]:
        """θ₀, the directions, and what was recorded so far; empty before the first measurement."""
        if self._frame is None:
            return {}
        kept = {name: value.cpu() if isinstance(value, Tensor) else value for name, value in vars(self._frame).items()}
        return {"frame": kept, "rows": torch.stack(self._rows) if self._rows else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self._frame = _Frame(**state["frame"])
        self._rows = [] if state["rows"] is None else list(state["rows"])


def _weights(task: Task) -> Tensor:
    """A copy of the trained weights in float64, (P,)."""
    return _flat([parameter.detach() for parameter in task.network.parameters])


def _buffer(task: Task) -> Tensor:
    """The momentum buffer, zero where there is none yet."""
    states = [(parameter, task.optimizer.state.get(parameter, {})) for parameter in task.network.parameters]
    buffers = [state.get("momentum_buffer") for _, state in states]
    return _flat([
        torch.zeros_like(parameter) if buffer is None else buffer
        for (parameter, _), buffer in zip(states, buffers, strict=True)
    ])  # fmt: skip


def _per_rate(difference: Tensor, task: Task) -> Tensor:
    """``difference`` over the learning rate of the step; 0 for a learning rate of 0."""
    rate = float(task.optimizer.param_groups[0]["lr"])
    return difference / rate if rate else torch.zeros_like(difference)


def _flat(tensors: list[Tensor]) -> Tensor:
    return torch.cat([tensor.double().flatten() for tensor in tensors])
