"""Losses: the sum over the outputs of an example, the mean over examples.

A loss is called with the outputs of a model and the targets, and returns the mean over the examples: a scalar that can
be differentiated twice. float16 and bfloat16 outputs are taken to float32 first.

    target            outputs                  targets
    class             (n, classes)             int64 (n,)
    class_per_step    (n, steps, classes)      int64 (n, steps); -100: no target at this step
    real              (n, outputs)             (n, outputs)
    a reconstruction  (n, *shape) or flat      the inputs, (n, *shape) or flat
"""

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from optbench.data.spec import DataSpec

NO_TARGET = -100


def _working(values: Tensor) -> Tensor:
    """``values`` in at least float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _paired(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and real targets as two tensors (n, outputs); raises ValueError where their sizes differ."""
    # Subtracting (n, 1) from (n,) would broadcast to (n, n) without a word.
    flat_outputs = outputs.flatten(1) if outputs.ndim > 1 else outputs.unsqueeze(1)
    flat_targets = targets.flatten(1) if targets.ndim > 1 else targets.unsqueeze(1)
    if flat_outputs.shape != flat_targets.shape:
        raise ValueError(f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} do not match")
    working = _working(flat_outputs)
    return working, flat_targets.to(working.dtype)


class Loss:
    """A loss: its mean over examples, its value for every example, and which examples count as right."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean of the loss over the examples: a scalar."""
        return self.per_example(outputs, targets).mean()

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of every example, (n,)."""
        raise NotImplementedError

    def correct(self, outputs: Tensor, targets: Tensor, spec: DataSpec) -> Tensor | None:
        """How far every example is right, (n,) in [0, 1], float32; None where the data has no notion of it."""
        return None


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """-sum_k q_k log softmax(outputs)_k with q = (1 - label_smoothing) onehot(target) + label_smoothing / classes.

    Label smoothing: Szegedy et al. 2016 (arXiv 1512.00567), section 7. With targets at every step, the loss of an
    example is the mean over its steps that have one, and 0 if none has.
    """

    label_smoothing: float = 0.0

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean of the loss over the examples: a scalar."""
        if targets.ndim > 1:
            return super().__call__(outputs, targets)
        self._check(outputs, targets)
        return F.cross_entropy(_working(outputs), targets, label_smoothing=self.label_smoothing)

    @staticmethod
    def _check(outputs: Tensor, targets: Tensor) -> None:
        if outputs.shape[:-1] != targets.shape:
            raise ValueError(f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} do not match")

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of every example, (n,)."""
        self._check(outputs, targets)
        losses = F.cross_entropy(
            _working(outputs).flatten(0, -2),
            targets.flatten(),
            reduction="none",
            ignore_index=NO_TARGET,
            label_smoothing=self.label_smoothing,
        )
        if targets.ndim == 1:
            return losses
        # An ignored step has loss 0, so the sum is that over the valid steps.
        return losses.view_as(targets).flatten(1).sum(1) / _valid_steps(targets)

    @torch.no_grad()
    def correct(self, outputs: Tensor, targets: Tensor, spec: DataSpec) -> Tensor | None:
        """1 where the largest output is the target's, else 0; the mean of that over the steps that have a target."""
        self._check(outputs, targets)
        right = (outputs.argmax(-1) == targets).float()
        return right if targets.ndim == 1 else right.flatten(1).sum(1) / _valid_steps(targets)


def _valid_steps(targets: Tensor) -> Tensor:
    """The number of steps of every example that have a target, at least 1, (n,)."""
    return (targets != NO_TARGET).flatten(1).sum(1).clamp(min=1)


@dataclass(frozen=True)
class SquaredError(Loss):
    """sum over outputs of (outputs - targets)^2, times 1/2 if ``half``.

    With the half it is the negative log-likelihood of a normal distribution of variance 1, up to a constant: its
    Hessian in the outputs is the identity, and the Gauss-Newton matrix is the Fisher matrix.
    """

    half: bool = True

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean of the loss over the examples: a scalar."""
        paired = _paired(outputs, targets)
        return F.mse_loss(*paired, reduction="sum") * (self._scale / len(outputs))

    @property
    def _scale(self) -> float:
        return 0.5 if self.half else 1.0

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of every example, (n,)."""
        predicted, wanted = _paired(outputs, targets)
        return self._scale * (predicted - wanted).square().sum(1)

    @torch.no_grad()
    def correct(self, outputs: Tensor, targets: Tensor, spec: DataSpec) -> Tensor | None:
        """1 where every output is within ``spec.tolerance`` of its target; None without a tolerance or real targets."""
        if spec.target != "real" or spec.tolerance is None:
            return None
        predicted, wanted = _paired(outputs, targets)
        return ((predicted - wanted).abs() <= spec.tolerance).all(1).float()


@dataclass(frozen=True)
class Bernoulli(Loss):
    """Sum over pixels of -x log p - (1 - x) log(1 - p) with p = sigmoid(outputs), for targets x in [0, 1].

    The negative log-likelihood of binary pixels, the loss of the deep autoencoders of Martens 2010 and Sutskever et al.
    2013, who report `squared_error`.
    """

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean of the loss over the examples: a scalar."""
        return F.binary_cross_entropy_with_logits(*_paired(outputs, targets), reduction="sum") / len(outputs)

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of every example, (n,)."""
        return F.binary_cross_entropy_with_logits(*_paired(outputs, targets), reduction="none").sum(1)


@torch.no_grad()
def squared_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """The reconstruction error of every example, (n,): sum over pixels of (sigmoid(outputs) - targets)^2."""
    logits, pixels = _paired(outputs, targets)
    return (logits.sigmoid() - pixels).square().sum(1)


def build(options: Mapping[str, Any]) -> Loss:
    """The loss that a composed choice of the group `loss` asks for; `auto` must have been decided before."""
    of_its_own = {name: value for name, value in options.items() if name not in ("_target_", "name", "info")}
    target: Callable[..., Loss] = pkgutil.resolve_name(options["_target_"])
    return target(**of_its_own)
