"""Muon: orthogonalized momentum for hidden matrices, AdamW for all other parameters."""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.optimizer import ParamsT

from optbench.optimizers.base import FirstOrderOptimizer, require, require_betas, require_common
from optbench.optimizers.groups import decay_groups, hidden_matrices, trainable

# Jordan's coefficients, chosen for the steepest slope at 0: after five steps, all singular values that were above 0.3 % of
# the norm lie between 0.68 and 1.21, not exactly at 1.
_COEFFICIENTS = (3.4445, -4.7750, 2.0315)
_ONLY_MUON = ("momentum", "nesterov", "newton_schulz_steps", "lr_adjustment")
_ONLY_ADAMW = ("betas", "eps")


def orthogonalize(matrix: Tensor, steps: int = 5) -> Tensor:
    """Move the singular values of ``matrix`` (rows, columns) close to 1 and keep its singular vectors.

    Newton-Schulz: X₀ = M / ‖M‖, X ← aX + (bA + cA²)X with A = XXᵀ, so that each singular value s becomes as + bs³ +
    cs⁵. A zero matrix stays zero. The arithmetic is in the dtype of ``matrix``.
    """
    a, b, c = _COEFFICIENTS
    tall = matrix.shape[0] > matrix.shape[1]
    iterate = matrix.T if tall else matrix
    iterate = iterate / iterate.norm().clamp(min=1e-7)
    for _ in range(steps):
        gram = iterate @ iterate.T
        iterate = torch.addmm(iterate, torch.addmm(gram, gram, gram, beta=b, alpha=c), iterate, beta=a)
    return iterate.T if tall else iterate


class Muon(FirstOrderOptimizer):
    """Momentum SGD whose step for each matrix is the nearest matrix with equal singular values.

    For the gradient G of a matrix W (A, B) with momentum μ, learning rate α and weight decay λ

        M ← μM + (1 - μ)G,    U = orthogonalize((1 - μ)G + μM)    (of M without ``nesterov``),
        W ← (1 - αλ)W - α s U,

    where s = √max(1, A/B) (``lr_adjustment="original"``) or s = 0.2 √max(A, B) (``"match_rms_adamw"``: the step then
    has the size of AdamW's, so that both parts can share one learning rate). A convolution kernel (out, in, *window)
    is treated as the matrix (out, in · window). Parameter groups with ``orthogonalize=False`` take AdamW's step:
    W ← (1 - αλ)W - α m̂ / (√v̂ + ε).

    Source: Jordan et al. 2024, "Muon: an optimizer for hidden layers in neural networks"
    (https://kellerjordan.github.io/posts/muon/); Liu et al. 2025, "Muon is scalable for LLM training" (arXiv
    2502.16982) for the weight decay and ``match_rms_adamw``. Deviation: the iteration runs in the dtype of the gradient,
    not in bfloat16, so that the division of the batch changes results only by the rounding of that dtype. For kernels, s
    uses the flattened shape, while Jordan's code compares the window's height and width.
    """

    decay_is_decoupled = True

    def __init__(
        self,
        params: ParamsT,
        lr: float = 1e-3,
        momentum: float = 0.95,
        nesterov: bool = True,
        weight_decay: float = 0.1,
        newton_schulz_steps: int = 5,
        lr_adjustment: str = "match_rms_adamw",
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        require_common(lr, weight_decay)
        require(0 <= momentum < 1, "momentum", momentum, "in [0, 1)")
        require(newton_schulz_steps >= 1, "newton_schulz_steps", newton_schulz_steps, ">= 1")
        require(
            lr_adjustment in ("original", "match_rms_adamw"),
            "lr_adjustment",
            lr_adjustment,
            "one of original, match_rms_adamw",
        )
        require_betas(betas)
        defaults = {
            "lr": lr,
            "weight_decay": weight_decay,
            "orthogonalize": True,
            "momentum": momentum,
            "nesterov": nesterov,
            "newton_schulz_steps": newton_schulz_steps,
            "lr_adjustment": lr_adjustment,
            "betas": betas,
            "eps": eps,
        }
        super().__init__(params, defaults)

    @classmethod
    def from_model(
        cls,
        model: nn.Module,
        lr: float,
        weight_decay: float = 0.1,
        decay_norm_and_bias: bool = False,
        adamw_learning_rate_factor: float = 1.0,
        **options: Any,
    ) -> "Muon":
        """Muon for the hidden matrices of ``model``; AdamW at ``adamw_learning_rate_factor`` · lr for the rest.

        The rest: embeddings, the head, biases and norm scales (these two without decay unless ``decay_norm_and_bias``).
        """
        hidden = hidden_matrices(model)
        excluded = set(hidden)
        others = [parameter for parameter in trainable(model) if parameter not in excluded]
        groups: list[dict[str, Any]] = [{"params": hidden, "orthogonalize": True}] if hidden else []
        for group in decay_groups(others, weight_decay, decay_norm_and_bias):
            groups.append({**group, "orthogonalize": False, "lr": lr * adamw_learning_rate_factor})
        return cls(groups, lr=lr, weight_decay=weight_decay, **options)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group; it keeps only the settings that have an effect for its kind."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if group["orthogonalize"] and any(parameter.ndim < 2 for parameter in group["params"]):
            raise ValueError("Muon orthogonalizes matrices: put biases and scales in a group with orthogonalize=False")
        for name in _ONLY_ADAMW if group["orthogonalize"] else _ONLY_MUON:
            del group[name]

    def _update(self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]) -> None:
        lr = group["lr"]
        if group["orthogonalize"]:
            directions = self._orthogonal_directions(group, parameters, gradients)
        else:
            directions = self._adam_directions(parameters, gradients, group["betas"], group["eps"])
        if group["weight_decay"] > 0:
            torch._foreach_mul_(parameters, 1 - lr * group["weight_decay"])
        torch._foreach_add_(parameters, directions, alpha=-lr)

    def _orthogonal_directions(
        self, group: dict[str, Any], parameters: list[Tensor], gradients: list[Tensor]
    ) -> list[Tensor]:
        momentum = group["momentum"]
        momenta = self._buffers("momentum_buffer", parameters)
        torch._foreach_lerp_(momenta, gradients, 1 - momentum)
        directions = torch._foreach_lerp(gradients, momenta, momentum) if group["nesterov"] else momenta
        orthogonal = []
        for direction in directions:
            matrix = direction.flatten(1)
            rows, columns = matrix.shape
            if group["lr_adjustment"] == "original":
                scale = math.sqrt(max(1.0, rows / columns))
            else:
                scale = 0.2 * math.sqrt(max(rows, columns))
            orthogonal.append(orthogonalize(matrix, group["newton_schulz_steps"]).reshape(direction.shape).mul(scale))
        return orthogonal
