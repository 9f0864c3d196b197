"""Online gradient regression (OGR): steps by curvature that a regression of gradients on weights has found along the way."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim.optimizer import ParamsT

from optbench import randomness
from optbench.objective.vectors import flatten, unflatten
from optbench.optimizers import gradient_regression as regression
from optbench.optimizers.base import require, require_common
from optbench.optimizers.gradient_regression import Moments
from optbench.optimizers.groups import parameters_given

VARIANTS = ("full", "subspace", "diagonal")
CURVATURES = ("regression", "correlation")
ROTATIONS = ("oja", "gram_schmidt")
STATISTICS = ("exact", "from_zero")
DIAGONALIZATIONS = ("eigh", "qr")
_START = 1e-3  # standard deviation of the first basis
_MOMENTS = ("moment_weights", "moment_cross", "moment_gradients")


class OGR(torch.optim.Optimizer):
    """Newton steps in d directions V, with the symmetric H that best explains g - m_g by H (θ - m_θ), and SGD in the others.

        m ← m + γ (g - m)                                           m_θ, m_g: running means with weights (1 - β)^k of the past
        V ← rotated towards g;    T, C: covariances of V (θ, θ) and V (g, θ)
        H T + T H = C + Cᵀ;       H = O diag(λ) Oᵀ
        θ ← θ - lr [Vᵀ O diag(1 / max(a |λ|, cut, k s)) Oᵀ V m + ``outside`` (m - Vᵀ V m)]

    |λ| repels from maxima along directions of negative curvature. s is the standard deviation that noise in the gradients leaves
    in λ (``gradient_regression.noise_deviations``): curvature below k s is not told from none.

    variant: V is the identity (full; for up to ``dense_limit`` weights), ``dimension`` rows (subspace), or every weight has its
    own λ = C / T (diagonal). block_size: every so many consecutive weights have statistics and a V of their own; None: all
    together. curvature: "correlation" takes |H| from G = H T H with the covariance G of gradients, as if gradients had no noise.
    rotation: "oja", V ← orth(V + r (V g) gᵀ / ‖g‖²), with the rate r = ``rotation_rate``; "gram_schmidt", all rows get + r g.
    transport: the moments follow the rotation; False leaves them, as the author does. diagonalization: "qr" turns V by one step
    of the QR algorithm and takes the diagonal of H for λ, in place of its eigenvalues.
    beta: β. gamma: γ. divisor: a. noise_multiple: k. ridge: added to T in units of its mean eigenvalue, and to no other moment.
    max_step: the largest norm of the bracket in a block, None: no bound.
    statistics: "exact" weighted ones, of the points alone; "from_zero", the author's: means start at 0 and T at I / (1 - β), with
    weights β from the first point on. It depends on where the origin is.

    The first V is a function of (``seed``, position of the weight). Statistics begin anew when the set of weights with a
    gradient changes. ``diagnostics`` holds curvature, the largest |λ|, noise_floor, the s of that λ, and significant, the share
    of all λ with |λ| > 2 s.

    Source: Duda 2019 (arXiv 1901.11457, 1907.07063) and the notebooks of its author; the step is that of the notebooks, and what
    they leave open for networks is reconstructed. Noise floor, transport, exact statistics and all defaults are ours, as is the
    geometric mean in "correlation", where the notebooks solve H T + T H = 2 sym(T^½ G^½), which needs H and T that commute.
    """

    def __init__(
        self,
        params: ParamsT,
        lr: float = 0.5,
        variant: str = "subspace",
        dimension: int = 10,
        block_size: int | None = None,
        curvature: str = "regression",
        beta: float = 0.1,
        gamma: float = 0.1,
        divisor: float = 1.5,
        cut: float = 1.0,
        outside: float = 1.0,
        noise_multiple: float = 2.0,
        rotation: str = "oja",
        rotation_rate: float = 0.1,
        transport: bool = True,
        diagonalization: str = "eigh",
        statistics: str = "exact",
        ridge: float = 1e-3,
        max_step: float | None = None,
        dense_limit: int = 500,
        seed: int = 0,
    ) -> None:
        require_common(lr, 0.0)
        for name, value, accepted in (
            ("variant", variant, VARIANTS), ("curvature", curvature, CURVATURES), ("rotation", rotation, ROTATIONS),
            ("diagonalization", diagonalization, DIAGONALIZATIONS), ("statistics", statistics, STATISTICS),
        ):  # fmt: skip
            require(value in accepted, name, value, f"one of {', '.join(accepted)}")
        require(dimension >= 1, "dimension", dimension, ">= 1")
        require(block_size is None or block_size >= 1, "block_size", block_size, ">= 1, or null")
        require(0 < beta < 1, "beta", beta, "in (0, 1)")
        require(0 < gamma <= 1, "gamma", gamma, "in (0, 1]")
        require(divisor > 0, "divisor", divisor, "> 0")
        require(cut > 0, "cut", cut, "> 0")
        for name, number in (
            ("outside", outside),
            ("noise_multiple", noise_multiple),
            ("rotation_rate", rotation_rate),
        ):
            require(number >= 0, name, number, ">= 0")
        require(ridge >= 0, "ridge", ridge, ">= 0")
        require(max_step is None or max_step > 0, "max_step", max_step, "> 0, or null")
        super().__init__(parameters_given(params), {"lr": lr, "step": 0, "moments": {}})
        self._variant, self._dimension, self._block_size, self._seed = variant, dimension, block_size, seed
        self._correlated, self._diagonalizes = curvature == "correlation", diagonalization == "qr"
        self._beta, self._gamma, self._divisor, self._cut, self._outside = beta, gamma, divisor, cut, outside
        self._noise_multiple, self._ridge, self._max_step = noise_multiple, ridge, max_step
        self._rotation, self._rotation_rate, self._transports = rotation, rotation_rate, transport
        self._from_zero = statistics == "from_zero"
        total = sum(each.numel() for group in self.param_groups for each in group["params"])
        size = block_size or total
        require(total % size == 0, "block_size", block_size, f"a divisor of the number of weights, {total}, or null")
        if variant == "full":
            most = f"at most dense_limit={dense_limit} weights in a block; there are {size}"
            require(size <= dense_limit, "variant", variant, most)
        self.diagnostics: dict[str, float] = {}

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Make one update; returns the result of ``closure``, which fills the gradients (None without one)."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        moved = [
            (each, group["lr"]) for group in self.param_groups for each in group["params"] if each.grad is not None
        ]
        if moved:
            parameters = [parameter for parameter, _ in moved]
            direction = self._direction(parameters)
            for (parameter, rate), part in zip(moved, unflatten(direction, parameters), strict=True):
                parameter.add_(part, alpha=-rate)
        return loss

    def _direction(self, parameters: list[Tensor]) -> Tensor:
        """Count in the point and its gradient; returns the bracket of the step, flat."""
        first = self.param_groups[0]
        if (
            first["step"] == 0
            or any("mean" not in self.state[each] for each in parameters)
            or (sum("mean" in state for state in self.state.values()) != len(parameters))
        ):
            self._begin(parameters)
        first["step"] += 1
        step = first["step"]
        weight = self._beta if self._from_zero else regression.newest_weight(self._beta, step)
        gradient = flatten([each.grad for each in parameters if each.grad is not None])
        deviations = []
        for name, value in (("mean", flatten(parameters)), ("mean_gradient", gradient)):
            mean = self._flat(parameters, name)
            deviations.append(value - mean)
            self._keep(parameters, name, mean.add_(deviations[-1], alpha=weight))
        momentum = self._flat(parameters, "momentum_buffer").lerp_(gradient, self._gamma)
        self._keep(parameters, "momentum_buffer", momentum)
        points = regression.effective_points(self._beta, step)
        if self._variant == "diagonal":
            return self._bounded(self._by_coordinate(parameters, weight, points, deviations, momentum))
        return self._bounded(self._in_subspace(parameters, weight, points, deviations, gradient, momentum))

    def _in_subspace(
        self, parameters: list[Tensor], weight: float, points: float, moved: list[Tensor], gradient: Tensor, momentum: Tensor
    ) -> Tensor:  # fmt: skip
        """The bracket, flat, from the deviations of weights and of gradients, the gradient and the momentum, all flat."""
        first = self.param_groups[0]
        moments = Moments(*(first["moments"][name] for name in _MOMENTS))
        size = self._size(len(gradient))
        count = len(gradient) // size
        flat = torch.cat([self.state[each]["basis"] for each in parameters], 1)
        basis = flat.view(len(flat), count, size).transpose(0, 1)
        if self._variant == "subspace" and self._rotation_rate > 0:
            old, basis = basis, self._rotated(basis, gradient.view(count, size))
            if self._transports and first["step"] > 1:  # the first basis has no moments, nor unit length
                moments.turn((basis @ old.mT).double().cpu())
        # Small matrices are solved on the CPU in float64, wherever the weights are.
        inside = [(basis @ each.view(count, size, 1))[..., 0].double().cpu() for each in (*moved, momentum)]
        moments.add(weight, *inside[:2])
        solve = regression.correlated_curvature if self._correlated else regression.symmetric_regression
        curvature = solve(moments, self._ridge)
        if self._diagonalizes:
            turn = regression.qr_rotation(curvature)
            moments.turn(turn)
            basis = turn.to(basis) @ basis
            curvature = turn @ curvature @ turn.mT
            inside[2] = (turn @ inside[2][..., None])[..., 0]
            values, axes = curvature.diagonal(dim1=-2, dim2=-1), torch.eye(curvature.shape[-1]).to(curvature)
        else:
            values, axes = regression.eigen(curvature)
        noise = regression.noise_deviations(moments, curvature, axes, points, self._ridge)
        self._tell(values, noise)
        factors = regression.inverse_sizes(values, self._divisor, self._floor(noise))
        newton = axes @ (factors[..., None] * (axes.mT @ inside[2][..., None]))
        # The subspace takes its part of the momentum, and puts the Newton step in its place.
        change = newton - self._outside * inside[2][..., None]
        self._keep_basis(parameters, basis.transpose(0, 1).flatten(1))
        bracket: Tensor = (basis.mT @ change.to(basis)).flatten().add_(momentum, alpha=self._outside)
        return bracket

    def _by_coordinate(
        self, parameters: list[Tensor], weight: float, points: float, moved: list[Tensor], momentum: Tensor
    ) -> Tensor:
        """The bracket, flat, of single weights."""
        moments = Moments(*(self._flat(parameters, name) for name in _MOMENTS))
        moments.add(weight, *moved)
        for name, total in zip(_MOMENTS, (moments.weights, moments.cross, moments.gradients), strict=True):
            self._keep(parameters, name, total)
        values = regression.coordinate_curvature(moments, self._correlated)
        noise = regression.coordinate_deviations(moments, values, points)
        self._tell(values, noise)
        return momentum * regression.inverse_sizes(values, self._divisor, self._floor(noise))

    def _rotated(self, basis: Tensor, gradient: Tensor) -> Tensor:
        """The basis (blocks, d, n) turned towards the gradients (blocks, n); as it is where they are 0."""
        square = gradient.square().sum(-1)[:, None, None]
        if self._rotation == "oja":
            along = (basis @ gradient[..., None]) * gradient[:, None, :]
            turned = basis + self._rotation_rate * along / square.clamp(min=torch.finfo(square.dtype).tiny)
        else:
            turned = basis + self._rotation_rate * gradient[:, None, :]
        return regression.orthonormal_rows(turned)

    def _floor(self, noise: Tensor) -> Tensor | float:
        # A correlation has no residuals; what noise there is, it takes for curvature.
        if self._noise_multiple == 0 or self._correlated:
            return self._cut
        # With too few points to tell the noise, curvature counts as it is.
        known = torch.where(noise.isfinite(), noise, 0.0)
        return (self._noise_multiple * known).clamp(min=self._cut)

    def _bounded(self, direction: Tensor) -> Tensor:
        if self._max_step is None:
            return direction
        blocks = direction.view(-1, self._size(len(direction)))
        lengths = blocks.norm(dim=1, keepdim=True).clamp(min=torch.finfo(blocks.dtype).tiny)
        bounded: Tensor = (blocks * (self._max_step / lengths).clamp(max=1)).flatten()
        return bounded

    def _tell(self, values: Tensor, noise: Tensor) -> None:
        sizes, deviations = values.abs().flatten(), noise.flatten()
        place = sizes.argmax()
        self.diagnostics = {
            "curvature": float(sizes[place]),
            "noise_floor": float(deviations[place]),
            "significant": float((sizes > 2 * deviations).double().mean()),
        }

    # ---- state --------------------------------------------------------------------------------------------------------------

    def _size(self, total: int) -> int:
        """The number of weights in a block of ``total`` ones."""
        return total if self._block_size is None or total % self._block_size else self._block_size

    def _begin(self, parameters: list[Tensor]) -> None:
        """Statistics without a point, and the first basis."""
        for state in self.state.values():
            state.clear()
        total = sum(map(torch.numel, parameters))
        size = self._size(total)
        names = ["mean", "mean_gradient", "momentum_buffer", *(_MOMENTS if self._variant == "diagonal" else ())]
        for parameter in parameters:
            self.state[parameter] = {name: torch.zeros_like(parameter).contiguous() for name in names}
        spread = 1 / (1 - self._beta) if self._from_zero else 0.0
        first = self.param_groups[0]
        first["step"], first["moments"] = 0, {}
        if self._variant == "diagonal":
            for parameter in parameters:
                self.state[parameter]["moment_weights"].fill_(spread)
            return
        dimension = size if self._variant == "full" else min(self._dimension, size)
        zeros = torch.zeros(total // size, dimension, dimension, dtype=torch.float64)
        first["moments"] = {name: zeros.clone() for name in _MOMENTS}
        first["moments"]["moment_weights"] += spread * torch.eye(dimension, dtype=torch.float64)
        if self._variant == "full":
            flat = torch.eye(size, dtype=torch.float64).repeat(1, total // size)
        else:
            key = randomness.key(self._seed, "gradient regression")
            flat = _START * randomness.normal(key, torch.arange(dimension * total)).view(dimension, total)
            if self._rotation_rate == 0:  # no rotation makes its rows orthonormal
                blocks = flat.view(dimension, -1, size).transpose(0, 1)
                flat = regression.orthonormal_rows(blocks).transpose(0, 1).flatten(1)
        self._keep_basis(parameters, flat)

    def _keep_basis(self, parameters: list[Tensor], flat: Tensor) -> None:
        """Keep V, (d, all weights), tensor by tensor."""
        for parameter, part in zip(parameters, flat.split([each.numel() for each in parameters], 1), strict=True):
            self.state[parameter]["basis"] = part.to(parameter.device, parameter.dtype, copy=True).contiguous()

    def _flat(self, parameters: list[Tensor], name: str) -> Tensor:
        """The state ``name`` of all parameters as one new vector."""
        return flatten([self.state[each][name] for each in parameters])

    def _keep(self, parameters: list[Tensor], name: str, vector: Tensor) -> None:
        for parameter, part in zip(parameters, unflatten(vector, parameters), strict=True):
            self.state[parameter][name].copy_(part)
