"""Hessian-free optimization: a truncated Newton method on the Gauss-Newton matrix."""

import math
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from optbench import randomness
from optbench.curvature.lanczos import on_flat_vectors
from optbench.objective import Objective
from optbench.objective.products.graph import times_weights
from optbench.objective.vectors import flatten, unflatten
from optbench.optimizers import krylov
from optbench.optimizers.base import require, require_common
from optbench.optimizers.groups import parameters_given, trainable

Value: TypeAlias = Callable[[Tensor], float]

_SUFFICIENT_DECREASE = 0.01  # of the line search, like the next two
_SHORTER = 0.8
_ATTEMPTS = 60


class HessianFree(torch.optim.Optimizer):
    """Minimizes a damped quadratic model of the loss by conjugate gradients, and checks each step with the loss itself.

    With the loss h of the batch, which includes η/2 ‖θ‖² (``weight_decay`` η), its gradient g, the Gauss-Newton matrix G of
    the batch and the damping λ, the model of the change of h is

        φ(δ) = gᵀδ + ½ δᵀBδ,    B = G + (λ + η) I.

    A step
    1. minimizes φ by CG (see ``krylov.conjugate_gradient``) from ``warm_start`` times the last CG iterate of the step before;
    2. goes back through the stored iterates while h(θ + δ) falls, which gives δ;
    3. sets λ by the reduction ratio ρ = (h(θ + δ) - h(θ)) / φ(δ): times ``damping_factor`` if ρ < 1/4 or if h did not fall,
       divided by it if ρ > 3/4 (Levenberg-Marquardt);
    4. tries lr · δ, 0.8 lr · δ, ... (60 times) until h(θ + αδ) <= h(θ) + 0.01 α gᵀδ; if none is accepted, θ stays.

    preconditioner: empirical_fisher is M = (mean over the examples of ∇ℓ ∘ ∇ℓ + λ + η)^``preconditioner_exponent``. The mean is
    estimated from ``preconditioner_probes`` sums of gradients with random signs: it is the expectation of their squares. none
    is no preconditioner. reduction_model: ρ by the damped model, φ, or as in the author's code by the undamped one, φ(δ) -
    ½ λ ‖δ‖². decay_norm_and_bias: True if tensors of fewer than two dimensions decay, too. ``damping`` in the parameter group
    is the present λ. With clipped gradients, φ is the model with the clipped gradient. After every step, ``diagnostics`` holds
    damping (of that step), reduction_ratio, cg_iterations, chosen_iteration, rate (α, 0 for no step) and step_norm.

    Source: Martens 2010, "Deep learning via Hessian-free optimization" (ICML); constants and the decay of the warm start from
    the author's code. Deviations: gradient, curvature and line search all use the batch of the step (the paper: the gradient
    of all data, curvature of a part); no structural damping (Martens & Sutskever 2011).
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1.0,
        damping: float = 1.0,
        damping_factor: float = 1.5,
        cg_iterations: int = 50,
        cg_tolerance: float = 5e-4,
        warm_start: float = 0.95,
        preconditioner: str = "empirical_fisher",
        preconditioner_exponent: float = 0.75,
        preconditioner_probes: int = 3,
        reduction_model: str = "damped",
        weight_decay: float = 0.0,
        decay_norm_and_bias: bool = False,
        seed: int = 0,
    ) -> None:
        require_common(lr, weight_decay)
        require(damping >= 0, "damping", damping, ">= 0")
        require(damping_factor > 1, "damping_factor", damping_factor, "> 1")
        require(cg_iterations >= 1, "cg_iterations", cg_iterations, ">= 1")
        require(cg_tolerance >= 0, "cg_tolerance", cg_tolerance, ">= 0")
        require(0 <= warm_start <= 1, "warm_start", warm_start, "in [0, 1]")
        require(
            preconditioner in ("empirical_fisher", "none"),
            "preconditioner",
            preconditioner,
            "one of empirical_fisher, none",
        )
        require(0 <= preconditioner_exponent <= 1, "preconditioner_exponent", preconditioner_exponent, "in [0, 1]")
        require(preconditioner_probes >= 1, "preconditioner_probes", preconditioner_probes, ">= 1")
        require(
            reduction_model in ("damped", "undamped"), "reduction_model", reduction_model, "one of damped, undamped"
        )
        defaults = {
            "lr": lr,
            "damping": float(damping),
            "damping_factor": damping_factor,
            "cg_iterations": cg_iterations,
            "cg_tolerance": cg_tolerance,
            "warm_start": warm_start,
            "preconditioner": preconditioner,
            "preconditioner_exponent": preconditioner_exponent,
            "preconditioner_probes": preconditioner_probes,
            "reduction_model": reduction_model,
            "weight_decay": weight_decay,
            "decay_norm_and_bias": decay_norm_and_bias,
            "updates": 0,
        }
        super().__init__(parameters_given(params), defaults)
        krylov.only_group(self, type(self).__name__)
        self._seed = seed
        self.diagnostics: dict[str, float] = {}

    @classmethod
    def from_model(cls, model: nn.Module, lr: float, **options: Any) -> "HessianFree":
        """Hessian-free optimization of all parameters of ``model`` that require a gradient."""
        return cls(trainable(model), lr=lr, **options)

    def check(self, objective: Objective) -> None:
        """Raise UserError if no step can be taken on ``objective``: the curvature of its loss must be known."""
        objective.ggnvp([torch.zeros_like(parameter) for parameter in objective.network.parameters])

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update on the batch of ``closure``, an ``Objective``; returns the loss at the start of the step.

        Raises UserError for another closure, and for a loss whose curvature in the outputs is not known.
        """
        objective = krylov.require_objective(closure, type(self).__name__)
        with torch.enable_grad():
            loss = objective()
        group = self.param_groups[0]
        parameters = [parameter for parameter in group["params"] if parameter.requires_grad]
        point, decays = flatten(parameters), self._decays(group, parameters)
        gradient = krylov.flat_gradient(parameters) + decays * point
        before = float(loss) + _penalty(decays, point)
        if not (math.isfinite(before) and bool(gradient.isfinite().all())):
            return loss

        def value(change: Tensor) -> float:
            after = krylov.loss_after(objective, parameters, change) + _penalty(decays, point + change)
            return math.inf if math.isnan(after) else after

        iterates = self._minimize_model(objective, group, parameters, gradient, decays)
        chosen, after = _backtrack(iterates, value)
        ratio = self._adapt_damping(group, chosen, after - before)
        rate = _line_search(chosen, before, after, float(gradient @ chosen.solution), group["lr"], value)
        change = rate * chosen.solution
        if rate > 0:
            krylov.move(parameters, change)
        self.diagnostics |= {
            "reduction_ratio": ratio,
            "cg_iterations": iterates[-1].iteration,
            "chosen_iteration": chosen.iteration,
            "rate": rate,
            "step_norm": float(change.norm()),
        }
        return loss

    def _decays(self, group: dict[str, Any], parameters: list[Tensor]) -> Tensor:
        """η of every weight, or a single zero for all of them."""
        decay, everything = group["weight_decay"], group["decay_norm_and_bias"]
        if decay == 0:
            return parameters[0].new_zeros(())
        return flatten([torch.full_like(each, decay * (everything or each.ndim > 1)) for each in parameters])

    def _minimize_model(
        self,
        objective: Objective,
        group: dict[str, Any],
        parameters: list[Tensor],
        gradient: Tensor,
        decays: Tensor,
    ) -> list[krylov.Iterate]:
        """The CG iterates for φ; the last one is kept as the start of the next step."""
        damping = group["damping"]
        self.diagnostics = {"damping": damping}
        gauss_newton = on_flat_vectors(objective.ggnvp, parameters)
        scales = None
        if group["preconditioner"] == "empirical_fisher":
            squares = _mean_squared_gradients(objective, group["preconditioner_probes"], self._seed, group["updates"])
            scales = (squares + damping + decays) ** group["preconditioner_exponent"]
            if not bool((scales > 0).all()):
                scales = None  # without damping, the diagonal is 0 for weights that no example reaches
        group["updates"] += 1
        starts = [self.state[each].get("cg_solution", torch.zeros_like(each)) for each in parameters]
        iterates = krylov.conjugate_gradient(
            lambda vector: gauss_newton(vector) + (damping + decays) * vector,
            gradient,
            group["warm_start"] * flatten(starts),
            group["cg_iterations"],
            group["cg_tolerance"],
            scales,
        )
        for parameter, solution in zip(parameters, unflatten(iterates[-1].solution, parameters), strict=True):
            self.state[parameter]["cg_solution"] = solution.clone()
        return iterates

    def _adapt_damping(self, group: dict[str, Any], chosen: krylov.Iterate, change: float) -> float:
        """Set λ by the reduction ratio, and return the ratio: minus infinity if the loss or the model did not fall."""
        predicted = chosen.value
        if group["reduction_model"] == "undamped":
            predicted -= 0.5 * group["damping"] * float(chosen.solution.square().sum())
        ratio = change / predicted if change < 0 and predicted < 0 else -math.inf
        if ratio < 0.25:
            group["damping"] *= group["damping_factor"]
        elif ratio > 0.75:
            group["damping"] /= group["damping_factor"]
        return ratio


def _penalty(decays: Tensor, point: Tensor) -> float:
    return 0.5 * float((decays * point.square()).sum()) if decays.ndim else 0.0


def _backtrack(iterates: list[krylov.Iterate], value: Value) -> tuple[krylov.Iterate, float]:
    """The iterate found by going back from the last one while ``value`` of the solution falls; and its value."""
    chosen, lowest = iterates[-1], value(iterates[-1].solution)
    for earlier in reversed(iterates[:-1]):
        found = value(earlier.solution)
        if found >= lowest and lowest < math.inf:
            break
        chosen, lowest = earlier, found
    return chosen, lowest


def _line_search(chosen: krylov.Iterate, before: float, after: float, slope: float, rate: float, value: Value) -> float:
    """The first of α, 0.8 α, ... at which the loss falls enough, or 0. ``after`` is the loss at α = 1."""
    if not slope < 0:
        return 0.0
    for _ in range(_ATTEMPTS):
        reached = after if rate == 1.0 else value(rate * chosen.solution)
        if reached <= before + _SUFFICIENT_DECREASE * rate * slope:
            return rate
        rate *= _SHORTER
    return 0.0


def _mean_squared_gradients(objective: Objective, probes: int, seed: int, update: int) -> Tensor:
    """An estimate of the weighted mean over the examples of ∇ℓ ∘ ∇ℓ, (P,), the diagonal of the empirical Fisher matrix.

    With independent random signs s_n the square of N⁻¹ Σ s_n ∇ℓ_n has the expectation N⁻² Σ ∇ℓ_n ∘ ∇ℓ_n. The signs are a
    function of ``seed``, ``update``, the probe and the example's position in the global batch.
    """
    loss = objective.known_loss()
    gradients = objective.within_memory(
        lambda: torch.cat(
            [
                times_weights(loss.output_gradient(each.outputs, each.targets).flatten(1), each.weights, 0.5)
                for each in objective.recorded_passes()
            ]
        )
    )
    execution, mine = objective.execution, len(gradients)
    position = execution.rank * mine + torch.arange(mine, device=gradients.device)
    shape = objective.outputs().shape
    total: Tensor | float = 0.0
    for probe in range(probes):
        bits = randomness.bits(randomness.key(seed, f"signs of squared gradients {probe}", update), position)
        signs = (1 - 2 * (bits & 1)).to(gradients.dtype).unsqueeze(1)
        total = total + flatten(objective.vjp((signs * gradients).view(shape))).square()
    assert isinstance(total, Tensor)
    return total * (mine * execution.world_size / probes)
