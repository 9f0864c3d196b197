"""PSGD with Kronecker factors: a preconditioner that is fitted to whiten the gradient, one factor for each side of a matrix."""

import math
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from optbench import randomness
from optbench.optimizers.base import FirstOrderOptimizer, KeepsTypes, require, require_common
from optbench.optimizers.groups import decay_groups, trainable

_LONGEST = 1.1  # root mean square of a step
_TINY = 1e-6
# Up to this size a spectral norm is exact; beyond, a lower bound of it takes one product.
_EXACT = 64
_BALANCE = 100  # updates of the factors between two balancings
_FLAT, _DECAY, _LEAST = 500, 1e-3, 0.03


class PSGDKron(KeepsTypes, FirstOrderOptimizer):
    """θ ← θ - lr [clip(Q_LᵀQ_L M̂ Q_RᵀQ_R) + λ θ] for the average M̂ of matrices of gradients (m, n), with bias correction.

    Q_L and Q_R are upper triangular, from the identity, and fitted so that the preconditioned gradient is white. In an update of
    them, with V standard normal and A = Q_L M̂ Q_Rᵀ, B = Q_L^{-T} V Q_R^{-1},

        Q_L ← Q_L - μ triu(A Aᵀ - B Bᵀ) Q_L / ‖A Aᵀ + B Bᵀ‖,    Q_R likewise with Aᵀ A and Bᵀ B, before the step that they are for

    An update is due once the steps since the last are 1/p, with p = max(min(exp(-(n - 500)/1000), 1), 0.03) at step n from 0:
    at every step at first, at one of 34 in the end. Every 100-th update gives both factors equal largest entries. clip: to a root
    mean square of 1.1. Kernels are matrices of their outputs and the rest. The factor of a vector, and that of a side above
    ``max_size``, is diagonal.

    momentum: decay of M. precondition_lr: μ. V is a function of (``seed``, tensor, update, position).

    Source: Li 2018, "Preconditioned stochastic gradient descent" (arXiv 1512.04202), and Li 2024 (arXiv 2402.11858); times of
    updates, clipping and defaults are those of kron_torch (https://github.com/evanatyourservice/kron_torch), which draws the
    times of balancing. The norm is the spectral one up to 64 rows, where kron_torch has a lower bound of it at all sizes.
    """

    decay_is_decoupled = True

    def __init__(
        self,
        params: ParamsT,
        lr: float = 3e-4,
        momentum: float = 0.9,
        precondition_lr: float = 0.1,
        max_size: int = 8192,
        weight_decay: float = 0.0,
        seed: int = 0,
    ) -> None:
        require_common(lr, weight_decay)
        require(0 <= momentum < 1, "momentum", momentum, "in [0, 1)")
        require(precondition_lr >= 0, "precondition_lr", precondition_lr, ">= 0")
        require(max_size >= 0, "max_size", max_size, ">= 0")
        # Numbers of all tensors of a group, which move together.
        counts = {"step": 0, "waited": 0, "updates": 0}
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, **counts})
        self._rate, self._max_size, self._seed = precondition_lr, max_size, seed
        self._names: dict[int, str] = {}

    @classmethod
    def from_model(
        cls, model: nn.Module, weight_decay: float = 0.0, decay_norm_and_bias: bool = False, **options: Any
    ) -> Self:
        """The method for ``model``; biases and norm scales are not decayed unless ``decay_norm_and_bias``.

        The draws are then named by the names of the tensors, not by their places in the groups.
        """
        found = cls(decay_groups(trainable(model), weight_decay, decay_norm_and_bias), **options)
        found._names = {id(parameter): name for name, parameter in model.named_parameters()}
        return found

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Make one update; returns the result of ``closure``, which fills the gradients (None without one)."""
        for group in self.param_groups:
            share = min(max(math.exp(-_DECAY * (group["step"] - _FLAT)), _LEAST), 1.0)
            group["step"] += 1
            group["waited"] += 1
            if group["waited"] >= 1 / share:
                group["waited"] = 0
                group["updates"] += 1
        return super().step(closure)

    def _update(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        for parameter, gradient in zip(parameters, gradients, strict=True):
            direction = self._direction(group, parameter, gradient)
            parameter.mul_(1 - group["lr"] * group["weight_decay"])
            parameter.add_(direction, alpha=-group["lr"])

    def _direction(self, group: dict[str, Any], parameter: Tensor, gradient: Tensor) -> Tensor:
        """The preconditioned and clipped average, after the update of the factors, if it is due."""
        state, beta = self.state[parameter], group["momentum"]
        if not state:
            wide = _wide(gradient)
            state["exp_avg"] = torch.zeros_like(gradient)
            state["step"] = 0
            rows, columns = self._matrix(gradient).shape
            state["left"] = self._identity(rows, gradient.ndim, gradient.device, wide)
            state["right"] = self._identity(columns, gradient.ndim, gradient.device, wide)
        state["step"] += 1
        state["exp_avg"].lerp_(gradient, 1 - beta)
        matrix = self._matrix(state["exp_avg"]).to(state["left"].dtype) / (1 - beta ** state["step"])
        if group["waited"] == 0:
            if group["updates"] % _BALANCE == 0 and gradient.ndim > 1:
                _balance(state)
            noise = self._drawn(parameter, group["updates"]).view(matrix.shape).to(matrix.dtype)
            # A vector is a matrix of one column, and has one factor.
            self._fit(state, matrix, noise, ("left", "right")[: gradient.ndim])
        left, right = state["left"], state["right"]
        found = _left(left, _left(left, matrix), transposed=True)
        found = _right(right, _right(right, found, transposed=True))
        found = found / ((found.square().mean().sqrt() + _TINY) / _LONGEST).clamp(min=1.0)
        return found.to(parameter.dtype).view(parameter.shape)

    def _state_type(self, name: str, saved: Tensor, parameter: Tensor) -> torch.dtype:
        return _wide(parameter) if name in ("left", "right") else parameter.dtype

    @staticmethod
    def _matrix(tensor: Tensor) -> Tensor:
        return tensor.flatten(1) if tensor.ndim > 1 else tensor.view(-1, 1)

    def _identity(self, size: int, dimensions: int, device: torch.device, dtype: torch.dtype) -> Tensor:
        """The first factor of a side: (size, size), or its diagonal (size,) where it has no other entries."""
        if dimensions < 2 or size > self._max_size:
            return torch.ones(size, device=device, dtype=dtype)
        return torch.eye(size, device=device, dtype=dtype)

    def _drawn(self, parameter: Tensor, update: int) -> Tensor:
        """V of one tensor, as a vector."""
        if id(parameter) not in self._names:
            given = [each for group in self.param_groups for each in group["params"]]
            self._names |= {id(each): str(number) for number, each in enumerate(given) if id(each) not in self._names}
        key = randomness.key(self._seed, f"psgd of {self._names[id(parameter)]}", update)
        return randomness.normal(key, torch.arange(parameter.numel(), device=parameter.device))

    def _fit(self, state: dict[str, Any], matrix: Tensor, noise: Tensor, sides: tuple[str, ...]) -> None:
        """Move the factors of ``sides``, all from their present values."""
        left, right = state["left"], state["right"]
        a = _right(right, _left(left, matrix), transposed=True)
        b = _solve_right(right, _solve_left(left, noise))
        for name in sides:
            factor, (one, other) = state[name], ((a, b) if name == "left" else (a.T, b.T))
            if factor.ndim == 1:
                first, second = one.square().sum(1), other.square().sum(1)
                change = (first - second) * factor / _at_least_tiny((first + second).max())
            else:
                first, second = one @ one.T, other @ other.T
                change = torch.triu(first - second) @ factor / _at_least_tiny(_norm(first + second))
            state[name] = factor - self._rate * change


def _wide(tensor: Tensor) -> torch.dtype:
    """The type of the factors: there is no triangular solver of half precision."""
    return torch.promote_types(tensor.dtype, torch.float32)


def _left(factor: Tensor, matrix: Tensor, transposed: bool = False) -> Tensor:
    """Q X, or Qᵀ X."""
    if factor.ndim == 1:
        return factor[:, None] * matrix
    return (factor.T if transposed else factor) @ matrix


def _right(factor: Tensor, matrix: Tensor, transposed: bool = False) -> Tensor:
    """X Q, or X Qᵀ."""
    if factor.ndim == 1:
        return matrix * factor
    return matrix @ (factor.T if transposed else factor)


def _solve_left(factor: Tensor, matrix: Tensor) -> Tensor:
    """Q^{-T} X."""
    if factor.ndim == 1:
        return matrix / factor[:, None]
    found: Tensor = torch.linalg.solve_triangular(factor.T, matrix, upper=False)
    return found


def _solve_right(factor: Tensor, matrix: Tensor) -> Tensor:
    """X Q^{-1}."""
    if factor.ndim == 1:
        return matrix / factor
    found: Tensor = torch.linalg.solve_triangular(factor, matrix, upper=True, left=False)
    return found


def _norm(matrix: Tensor) -> Tensor:
    """The largest eigenvalue of a symmetric matrix that has no negative one; beyond `_EXACT` rows a lower bound of it.

    The bound is ‖M x‖ for the unit vector x along M times its longest row.
    """
    if len(matrix) <= _EXACT:
        found: Tensor = torch.linalg.eigvalsh(matrix)[-1]
        return found
    largest = _at_least_tiny(matrix.abs().max())
    scaled = matrix / largest
    row = scaled.index_select(0, scaled.square().sum(1).argmax().view(1))[0] @ scaled
    bound: Tensor = largest * (scaled @ (row / _at_least_tiny(row.norm()))).norm()
    return bound


def _at_least_tiny(value: Tensor) -> Tensor:
    return value.clamp(min=torch.finfo(value.dtype).tiny)


def _balance(state: dict[str, Any]) -> None:
    """Give both factors equal largest entries, with the same product."""
    sizes = [state[name].abs().max() for name in ("left", "right")]
    mean = (sizes[0] * sizes[1]).sqrt()
    for name, size in zip(("left", "right"), sizes, strict=True):
        state[name] = state[name] * (mean / size)
