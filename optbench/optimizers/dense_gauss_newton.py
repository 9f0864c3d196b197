"""The Gauss-Newton matrix of a batch from the full Jacobian, direct solutions of systems with it, and steps made of them.

For small batches and models: a row of length P for each output of each example is held in memory.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from optbench.errors import UserError
from optbench.objective import Objective
from optbench.objective.losses import Loss
from optbench.objective.products.graph import times_weights
from optbench.objective.vectors import flatten, unflatten
from optbench.optimizers.base import require
from optbench.optimizers.groups import parameters_given

CURVATURES = ("gauss_newton", "empirical_fisher")
SOLVERS = ("auto", "parameters", "outputs")
# The largest number of elements that are converted to float64 at a time.
CHUNK = 2**22


def flattened(tensors: Sequence[Tensor]) -> Tensor:
    """One float64 vector of all ``tensors``, one after the other."""
    return flatten([tensor.detach().to(torch.float64) for tensor in tensors])


def shaped(vector: Tensor, like: Sequence[Tensor]) -> list[Tensor]:
    """The inverse of ``flattened``: tensors of the shapes and types of ``like``."""
    return [part.to(tensor.dtype) for part, tensor in zip(unflatten(vector, like), like, strict=True)]


def clipped(gradient: Tensor, norm: float | None) -> Tensor:
    """``gradient``, scaled down to ``norm`` if it is longer; None for no limit."""
    return gradient if norm is None else gradient * (norm / (gradient.norm() + 1e-6)).clamp(max=1)


class SquareRoot:
    """K with KᵀK = G, a row for each output of this rank's examples; G is the mean over the global batch.

    With J_n the Jacobian of the outputs of example n, B_n B_nᵀ the Hessian of its loss in them, r_n the gradient:

        gauss_newton       rows of B_nᵀ J_n,       G = 1/N Σ J_nᵀ B_n B_nᵀ J_n       (for the losses here the Fisher matrix)
        empirical_fisher   one row r_nᵀ J_n,       G = 1/N Σ J_nᵀ r_n r_nᵀ J_n

    With weights of examples every term of a sum is multiplied by its weight.

    ``gradient``: 1/N Σ J_nᵀ r_n, of the global mean loss, (P,). The Jacobian has the type of the parameters; all results
    made of it are float64, because KᵀK squares the condition number. Every rank must make it and call its methods in the
    same order. Raises UserError for a loss without known curvature, and if ``memory_limit`` (bytes on a rank) is too small.
    """

    gradient: Tensor

    def __init__(self, objective: Objective, curvature: str = "gauss_newton", memory_limit: int = 2**31) -> None:
        outputs, targets, weights = _recorded(objective)
        check_memory(objective, outputs, curvature, memory_limit)
        self._execution = objective.execution
        jacobian = objective.jacobian(memory_limit).to(outputs.dtype)  # (n, outputs of an example, P)
        count, each, self.size = jacobian.shape
        loss = objective.known_loss()
        residuals = loss.output_gradient(outputs, targets).reshape(count, each)
        chunk = max(1, CHUNK // (each * self.size))
        own = torch.zeros(self.size, dtype=torch.float64, device=outputs.device)
        self._rows = jacobian if curvature == "gauss_newton" else jacobian.new_empty(count, 1, self.size)
        for first in range(0, count, chunk):
            part = slice(first, first + chunk)
            rows, residual = jacobian[part], residuals[part].to(jacobian.dtype)
            if weights is not None:
                # G is quadratic in these, and the gradient is their product.
                rows, residual = (times_weights(each, weights[part], 0.5) for each in (rows, residual))
            own += rows.flatten(0, 1).to(torch.float64).T @ residual.flatten().to(torch.float64)
            if curvature == "gauss_newton":
                self._rows[part] = _weighted(loss, outputs[part], targets[part], rows)
            else:
                self._rows[part] = residual.unsqueeze(1) @ jacobian[part]
        self.gradient = self._mean(own / count)
        self._rows = self._rows.flatten(0, 1)
        # Scaled so that the mean of KᵀK over ranks is G.
        self._scale = count**-0.5

    def _mean(self, value: Tensor) -> Tensor:
        return self._execution.mean_over_ranks(value)

    def _chunks(self) -> Iterator[Tensor]:
        for rows in self._rows.split(max(1, CHUNK // self.size)):
            yield rows.to(torch.float64) * self._scale

    def diagonal(self) -> Tensor:
        """The diagonal of G, (P,)."""
        total = torch.zeros_like(self.gradient)
        for rows in self._chunks():
            total += rows.square().sum(0)
        return self._mean(total)

    def quadratic(self, vector: Tensor) -> Tensor:
        """vᵀ G v."""
        return self._mean(torch.stack([(rows @ vector).square().sum() for rows in self._chunks()]).sum())

    def solve(self, vector: Tensor, damping: float, diagonal: Tensor, solver: str = "auto") -> Tensor:
        """(G + ``damping`` D)⁻¹ v for a diagonal matrix D > 0; ``damping`` > 0.

        solver: "parameters" factors the P x P matrix; "outputs" factors a matrix with as many rows as K has on all ranks, by

            (G + αD)⁻¹ = 1/α D^(-1/2) [I - K̃ᵀ (αI + K̃ K̃ᵀ)⁻¹ K̃] D^(-1/2),    K̃ = K D^(-1/2)    (Woodbury);

        "auto" factors the smaller of the two. The result is NaN if the matrix is not numerically positive definite.
        """
        ranks = self._execution.world_size
        scale = diagonal.rsqrt()
        if solver == "parameters" or (solver == "auto" and self.size <= len(self._rows) * ranks):
            return scale * _positive_solve(self._scaled_matrix(scale), damping, scale * vector)
        inner = scale * vector
        own = slice(self._execution.rank * len(self._rows), (self._execution.rank + 1) * len(self._rows))
        images = inner.new_zeros(len(self._rows) * ranks)
        images[own] = torch.cat([rows @ inner for rows in self._scaled_chunks(scale)])
        solution = _positive_solve(self._gram(scale, own), damping, self._sum(images) / ranks**0.5)[own]
        back, done = torch.zeros_like(inner), 0
        for rows in self._scaled_chunks(scale):
            back += rows.T @ solution[done : done + len(rows)]
            done += len(rows)
        found: Tensor = scale * (inner - self._sum(back) / ranks**0.5) / damping
        return found

    def _scaled_chunks(self, scale: Tensor) -> Iterator[Tensor]:
        return (rows * scale for rows in self._chunks())

    def _sum(self, value: Tensor) -> Tensor:
        return self._mean(value) * self._execution.world_size

    def _scaled_matrix(self, scale: Tensor) -> Tensor:
        """D^(-1/2) G D^(-1/2)."""
        total = torch.zeros(self.size, self.size, dtype=torch.float64, device=scale.device)
        for rows in self._scaled_chunks(scale):
            _add_upper_product(total, rows.T)
        return self._mean(_mirrored(total))

    def _gram(self, scale: Tensor, own: slice) -> Tensor:
        """K̃ K̃ᵀ for the K̃ of all ranks: each rank fills its own rows, from the diagonal on, rank by rank."""
        ranks, rank, count = self._execution.world_size, self._execution.rank, len(self._rows)
        gram = torch.zeros(count * ranks, count * ranks, dtype=torch.float64, device=scale.device)
        for other in range(ranks):
            theirs = self._rows if other == rank else torch.empty_like(self._rows)
            if ranks > 1:
                dist.broadcast(theirs, other)
            block = gram[own, other * count : (other + 1) * count]
            for first in range(0, self.size, max(1, CHUNK // count)):
                columns = slice(first, first + max(1, CHUNK // count))
                mine = self._rows[:, columns].to(torch.float64) * scale[columns]
                if other == rank:
                    _add_upper_product(block, mine)
                elif other > rank:
                    block += mine @ (theirs[:, columns].to(torch.float64) * scale[columns]).T
        found: Tensor = _mirrored(self._sum(gram)) * (self._scale**2 / ranks)
        return found


def check_memory(objective: Objective, outputs: Tensor, curvature: str, memory_limit: int) -> None:
    """Raise UserError if the Jacobian and the matrix to factor would need more than ``memory_limit`` bytes on a rank."""
    count, each = len(outputs), outputs[0].numel()
    size = sum(parameter.numel() for parameter in objective.network.parameters)
    rows = count * objective.execution.world_size * (each if curvature == "gauss_newton" else 1)
    # torch.float64 has 8 bytes; the matrix and its factor are both in memory.
    needed = count * each * size * outputs.element_size() + 2 * 8 * min(rows, size) ** 2
    if needed > memory_limit:
        raise UserError(
            f"optimizer.memory_limit={memory_limit}: the Jacobian of {count} examples x {each} outputs x {size} parameters "
            f"and the matrix of {min(rows, size)} rows made of it take {needed} bytes; accepted: a limit of at least that, "
            "a smaller batch or model, or an optimizer that needs products only, such as hessian_free or kfac"
        )


def check_objective(objective: Objective, curvature: str, memory_limit: int, evaluation: bool) -> None:
    """Raise UserError if ``SquareRoot`` would: for a loss without known curvature, or a Jacobian that is too large."""
    with _mode(objective, evaluation):
        outputs, targets, _ = _recorded(objective)
        loss = objective.known_loss()
        loss.output_hessian_product(outputs[:1], targets[:1], torch.zeros_like(outputs[:1]))
        check_memory(objective, outputs, curvature, memory_limit)


class DenseGaussNewton(torch.optim.Optimizer):
    """An optimizer whose steps use a ``SquareRoot`` of the batch. Subclasses define the step in ``_iterate``.

    ``defaults``, the options of the single parameter group, hold at least curvature, solver and memory_limit, which are those
    of ``SquareRoot``, and evaluation_mode: True if steps minimize the loss of the model in eval mode, otherwise in its present
    mode. ``diagnostics`` describes the last step.

    Raises: ValueError for a value that is not accepted, and for several parameter groups.
    """

    def __init__(self, params: Any, defaults: dict[str, Any]) -> None:
        curvature, solver, memory_limit = (defaults[name] for name in ("curvature", "solver", "memory_limit"))
        require(curvature in CURVATURES, "curvature", curvature, f"one of {', '.join(CURVATURES)}")
        require(solver in SOLVERS, "solver", solver, f"one of {', '.join(SOLVERS)}")
        require(memory_limit >= 1, "memory_limit", memory_limit, ">= 1")
        self.diagnostics: dict[str, Any] = {}
        super().__init__(parameters_given(params), defaults)
        require(len(self.param_groups) == 1, "params", f"{len(self.param_groups)} groups", "one group")

    def check(self, objective: Objective) -> None:
        """Raise UserError if no step can be taken on ``objective``: its loss, its batch or its model does not allow it."""
        group = self.param_groups[0]
        check_objective(objective, group["curvature"], group["memory_limit"], group["evaluation_mode"])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update from ``closure``, an Objective; returns its loss at the start of the step."""
        if not isinstance(closure, Objective):
            raise UserError(
                f"{type(self).__name__}.step: {type(closure).__name__} as closure; accepted: an "
                "optbench.objective.Objective"
            )
        group = self.param_groups[0]
        with torch.enable_grad():
            value = closure()
        with _mode(closure, group["evaluation_mode"]):
            self._iterate(closure, group, float(closure.loss() if group["evaluation_mode"] else value))
        return value

    def _iterate(self, objective: Objective, group: dict[str, Any], start: float) -> None:
        """Move the parameters of ``objective``, whose loss is ``start``, and fill ``diagnostics``."""
        raise NotImplementedError


def _mode(objective: Objective, evaluation: bool) -> contextlib.AbstractContextManager[None]:
    """A context with the model in eval mode, or in its present mode."""
    return objective.evaluation_mode() if evaluation else contextlib.nullcontext()


def _recorded(objective: Objective) -> tuple[Tensor, Tensor, Tensor | None]:
    """The outputs, the targets and the weights of this rank's examples; None for no weights."""
    passes = objective.within_memory(
        lambda: [(each.outputs.detach(), each.targets, each.weights) for each in objective.recorded_passes()]
    )
    outputs, targets = torch.cat([each for each, _, _ in passes]), torch.cat([each for _, each, _ in passes])
    weights = [each for _, _, each in passes if each is not None]
    return outputs, targets, torch.cat(weights) if weights else None


def _weighted(loss: Loss, outputs: Tensor, targets: Tensor, rows: Tensor) -> Tensor:
    """B_nᵀ J_n of every example, for the rows J_n (n, outputs of an example, P)."""

    def column(vectors: Tensor) -> Tensor:
        return loss.output_hessian_sqrt_product(outputs, targets, vectors, transposed=True)

    columns = rows.reshape(*outputs.shape, rows.shape[-1])
    return torch.vmap(column, in_dims=-1, out_dims=-1)(columns).reshape(rows.shape).to(rows.dtype)


def _add_upper_product(total: Tensor, rows: Tensor) -> None:
    """Add ``rows`` ``rows``ᵀ to ``total`` without the blocks below the diagonal, which takes 9/16 of the work."""
    block = -(-len(rows) // 8)
    for first in range(0, len(rows), block):
        total[first : first + block, first:].addmm_(rows[first : first + block], rows[first:].T)


def _mirrored(upper: Tensor) -> Tensor:
    """The symmetric matrix with this upper triangle."""
    return upper.triu() + upper.triu(1).T


def _positive_solve(matrix: Tensor, damping: float, vector: Tensor) -> Tensor:
    """(``matrix`` + ``damping`` I)⁻¹ v by Cholesky; ``matrix`` is overwritten."""
    matrix.diagonal().add_(damping)
    factor, info = torch.linalg.cholesky_ex(matrix)
    solution = torch.cholesky_solve(vector.unsqueeze(1), factor).squeeze(1)
    return torch.where(info == 0, solution, torch.nan)
