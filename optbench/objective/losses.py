"""Losses: the sum over the outputs of an example, the mean over examples.

A loss is called with the outputs of a model and the targets, and returns the mean over the examples: a scalar that can
be differentiated twice. float16 and bfloat16 outputs are converted to float32 first.

    target            outputs                  targets
    class             (n, classes)             int64 (n,); for `OneHotSquaredError`, too
    class_per_step    (n, steps, classes)      int64 (n, steps); -100: no target at this step
    real              (n, outputs)             (n, outputs)
    a reconstruction  (n, *shape) or flat      the inputs, (n, *shape) or flat
    value             (n, 1)                   (n, 0), without numbers

Curvature in the outputs. H_n, the Hessian of the loss of example n in the outputs of example n, comes as a square root B_n,
B_n B_n^T = H_n. The training loss being the mean over the N examples, its Gauss-Newton matrix is 1/N sum_n J_n^T H_n J_n;
the factor 1/N is not in H_n. With targets at every step, H_n has one block for each of the T_n steps that have a target,
1/T_n times the Hessian of that step's loss, and zeros elsewhere. All losses but `Value` are negative log-likelihoods of
distributions of the exponential family with the outputs as natural parameters (up to constants and to the factor 1/T_n),
so that the Gauss-Newton matrix is the Fisher matrix of the model's own distribution (Martens 2020, arXiv 1412.1193, section 9).
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from optbench import randomness
from optbench.config.run_config import Choice
from optbench.config.targets import load_target
from optbench.data.spec import DataSpec
from optbench.errors import UserError

NO_TARGET = -100


def _working(values: Tensor) -> Tensor:
    """``values`` in at least float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _paired(outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Outputs and real targets as two tensors (n, outputs); raises ValueError if their sizes differ."""
    # Subtracting (n, 1) from (n,) would silently broadcast to (n, n).
    flat_outputs = outputs.flatten(1) if outputs.ndim > 1 else outputs.unsqueeze(1)
    flat_targets = targets.flatten(1) if targets.ndim > 1 else targets.unsqueeze(1)
    if flat_outputs.shape != flat_targets.shape:
        raise ValueError(f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} do not match")
    working = _working(flat_outputs)
    return working, flat_targets.to(working.dtype)


def _check_classes(outputs: Tensor, targets: Tensor) -> None:
    """Raises ValueError unless every class stands beside one vector of outputs."""
    if outputs.shape[:-1] != targets.shape:
        raise ValueError(f"outputs {tuple(outputs.shape)} and targets {tuple(targets.shape)} do not match")


class Loss:
    """A loss: its mean over examples, its value for every example, and the correctness of every example."""

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean of the loss over the examples: a scalar."""
        return self.per_example(outputs, targets).mean()

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of every example, (n,)."""
        raise NotImplementedError

    def correct(self, outputs: Tensor, targets: Tensor, spec: DataSpec) -> Tensor | None:
        """The correctness of every example, (n,) in [0, 1], float32; None if it is not defined for the data."""
        return None

    def squared_error(self, outputs: Tensor, targets: Tensor) -> Tensor | None:
        """The squared error of every reconstruction, (n,), where the loss itself is another; None where there is none."""
        return None

    # ---- derivatives in the outputs, and the model's own distribution -------------------------------------------------

    def output_gradient(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The gradient of every example's loss in that example's outputs, of the shape of ``outputs``."""
        leaf = _working(outputs.detach()).requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(self.per_example(leaf, targets).sum(), leaf)[0]

    def output_hessian_sqrt_product(
        self, outputs: Tensor, targets: Tensor, vectors: Tensor, transposed: bool = False
    ) -> Tensor:
        """B_n u_n, or B_n^T u_n if ``transposed``, of every example; ``vectors`` u has the shape of ``outputs``.

        B_n is square and B_n B_n^T = H_n. Raises UserError for a loss that does not define it.
        """
        raise self._unknown("the curvature of the loss in its outputs", "output_hessian_sqrt_product")

    def output_hessian_product(self, outputs: Tensor, targets: Tensor, vectors: Tensor) -> Tensor:
        """H_n u_n of every example; ``vectors`` u has the shape of ``outputs``. Raises UserError as the square root does."""
        inner = self.output_hessian_sqrt_product(outputs, targets, vectors, transposed=True)
        return self.output_hessian_sqrt_product(outputs, targets, inner)

    def output_hessian_sqrt_columns(self, outputs: Tensor, targets: Tensor) -> Iterator[Tensor]:
        """The columns of B_n of all examples at once, one tensor of the shape of ``outputs`` after the other.

        There are as many as outputs of an example: classes, or steps times classes. The outer products of the columns of
        an example sum to H_n.
        """
        for index in range(outputs[0].numel()):
            unit = torch.zeros_like(_working(outputs.detach())).contiguous()
            unit.view(len(outputs), -1)[:, index] = 1
            yield self.output_hessian_sqrt_product(outputs, targets, unit)

    def sample_shape(self, outputs: Tensor) -> torch.Size:
        """The shape of the result of ``sample``, examples first."""
        return outputs.shape

    def sample(self, outputs: Tensor, targets: Tensor, uniforms: Tensor) -> Tensor:
        """Targets drawn from the distribution that the outputs describe, from ``uniforms`` on [0, 1) of ``sample_shape``.

        Steps without a target have no sample either. Raises UserError for a loss that does not define it.
        """
        raise self._unknown("the distribution that its outputs describe", "sample")

    def sampled_output_gradient(self, outputs: Tensor, samples: Tensor) -> Tensor:
        """A random vector u_n of every example whose mean is 0 and whose second moment E[u_n u_n^T] is H_n exactly.

        ``samples`` are those of ``sample``. If the loss is a negative log-likelihood, the vector is its gradient at the
        sampled targets. Label smoothing and the mean over steps would change the second moment of that gradient by
        (1 - smoothing)^2 and 1/T_n; cross entropy corrects this.
        """
        return self.output_gradient(outputs, samples)

    def _unknown(self, what: str, method: str) -> UserError:
        return UserError(
            f"loss={type(self).__name__}: {what} is not known; accepted are cross_entropy, mse, bernoulli "
            f"and any optbench.objective.losses.Loss that defines {method}"
        )


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
        _check_classes(outputs, targets)
        return F.cross_entropy(_working(outputs), targets, label_smoothing=self.label_smoothing)

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of every example, (n,)."""
        _check_classes(outputs, targets)
        losses = F.cross_entropy(
            _working(outputs).flatten(0, -2),
            targets.flatten(),
            reduction="none",
            ignore_index=NO_TARGET,
            label_smoothing=self.label_smoothing,
        )
        if targets.ndim == 1:
            return losses
        # An ignored step has loss 0, so that only the valid steps contribute to the sum.
        return losses.view_as(targets).flatten(1).sum(1) / _valid_steps(targets)

    @torch.no_grad()
    def correct(self, outputs: Tensor, targets: Tensor, spec: DataSpec) -> Tensor | None:
        """1 if the largest output is the target's, else 0; the mean of that over the steps that have a target."""
        _check_classes(outputs, targets)
        right = (outputs.argmax(-1) == targets).float()
        return right if targets.ndim == 1 else right.flatten(1).sum(1) / _valid_steps(targets)

    def output_hessian_sqrt_product(
        self, outputs: Tensor, targets: Tensor, vectors: Tensor, transposed: bool = False
    ) -> Tensor:
        """B u with B = diag(p)^1/2 - p (p^1/2)^T and p = softmax(outputs), times T_n^-1/2 at each of T_n steps.

        B B^T = diag(p) - p p^T because p sums to 1; label smoothing changes the gradient, not the Hessian.
        """
        _check_classes(outputs, targets)
        probabilities = _working(outputs).softmax(-1)
        roots = probabilities.sqrt()
        if transposed:
            product = roots * (vectors - (probabilities * vectors).sum(-1, keepdim=True))
        else:
            product = roots * vectors - probabilities * (roots * vectors).sum(-1, keepdim=True)
        return product * _root_of_step_weights(targets, product.dtype)

    def sample_shape(self, outputs: Tensor) -> torch.Size:
        """One class for each example or step: the shape of ``outputs`` without its last dimension."""
        return outputs.shape[:-1]

    @torch.no_grad()
    def sample(self, outputs: Tensor, targets: Tensor, uniforms: Tensor) -> Tensor:
        """Classes drawn from softmax(outputs) by inverting its distribution function, int64; -100 where ``targets`` is -100."""
        _check_classes(outputs, targets)
        cumulated = _working(outputs).softmax(-1).cumsum(-1, dtype=torch.float64)
        # The last sum is 1 up to rounding; every draw is scaled by it, so that it falls below.
        below = cumulated <= uniforms.unsqueeze(-1).to(torch.float64) * cumulated[..., -1:]
        drawn = below.sum(-1).clamp(max=outputs.shape[-1] - 1)
        return torch.where(targets == NO_TARGET, NO_TARGET, drawn)

    @torch.no_grad()
    def sampled_output_gradient(self, outputs: Tensor, samples: Tensor) -> Tensor:
        """(softmax(outputs) - onehot(samples)) T_n^-1/2, and 0 at steps without a target."""
        _check_classes(outputs, samples)
        working = _working(outputs)
        difference = working.softmax(-1) - F.one_hot(samples.clamp(min=0), outputs.shape[-1]).to(working.dtype)
        return difference * _root_of_step_weights(samples, working.dtype)


def _root_of_step_weights(targets: Tensor, dtype: torch.dtype) -> Tensor:
    """The square root of each step's weight in its example's loss, (*targets, 1): T_n^-1/2, or 0 without a target."""
    valid = (targets != NO_TARGET).unsqueeze(-1).to(dtype)
    if targets.ndim == 1:
        return valid
    return valid / _valid_steps(targets).to(dtype).sqrt().view(-1, *[1] * targets.ndim)


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
        paired = self._pair(outputs, targets)
        return F.mse_loss(*paired, reduction="sum") * (self._scale / len(outputs))

    def _pair(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        """Outputs and targets, (n, outputs) both."""
        return _paired(outputs, targets)

    @property
    def _scale(self) -> float:
        return 0.5 if self.half else 1.0

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of every example, (n,)."""
        predicted, wanted = self._pair(outputs, targets)
        return self._scale * (predicted - wanted).square().sum(1)

    @torch.no_grad()
    def correct(self, outputs: Tensor, targets: Tensor, spec: DataSpec) -> Tensor | None:
        """1 if every output is within ``spec.tolerance`` of its target; None without a tolerance or real targets."""
        if spec.target != "real" or spec.tolerance is None:
            return None
        predicted, wanted = self._pair(outputs, targets)
        return ((predicted - wanted).abs() <= spec.tolerance).all(1).float()

    def output_hessian_sqrt_product(
        self, outputs: Tensor, targets: Tensor, vectors: Tensor, transposed: bool = False
    ) -> Tensor:
        """B u with B the identity if ``half``, else 2^1/2 times the identity."""
        self._pair(outputs, targets)
        return vectors * math.sqrt(2 * self._scale)

    @torch.no_grad()
    def sample(self, outputs: Tensor, targets: Tensor, uniforms: Tensor) -> Tensor:
        """Draws from the normal distribution around the outputs of variance 1 if ``half``, else 1/2."""
        normal = randomness.normal_of(uniforms)
        working = _working(outputs)
        found: Tensor = working + (normal / math.sqrt(2 * self._scale)).to(working.dtype)
        return found


@dataclass(frozen=True)
class OneHotSquaredError(SquaredError):
    """`SquaredError` for classes: the target of an output is 1 for the class of the example, and 0 for the others.

    The square loss for classification of Hui & Belkin 2021 (arXiv 2006.07322), without their factors for many classes.
    """

    def _pair(self, outputs: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
        if targets.is_floating_point():  # drawn by ``sample``
            return _paired(outputs, targets)
        _check_classes(outputs, targets)
        return _paired(outputs, F.one_hot(targets, outputs.shape[-1]))

    @torch.no_grad()
    def correct(self, outputs: Tensor, targets: Tensor, spec: DataSpec) -> Tensor | None:
        """1 if the largest output is that of the class."""
        return (outputs.argmax(-1) == targets).float()


@dataclass(frozen=True)
class Bernoulli(Loss):
    """Sum over pixels of -x log p - (1 - x) log(1 - p) with p = sigmoid(outputs), for targets x in [0, 1].

    The negative log-likelihood of binary pixels, the loss of the deep autoencoders of Martens 2010 and Sutskever et al.
    2013, who report the squared error of the reconstruction instead: `squared_error`.
    """

    def __call__(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The mean of the loss over the examples: a scalar."""
        return F.binary_cross_entropy_with_logits(*_paired(outputs, targets), reduction="sum") / len(outputs)

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of every example, (n,)."""
        return F.binary_cross_entropy_with_logits(*_paired(outputs, targets), reduction="none").sum(1)

    @torch.no_grad()
    def squared_error(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """|p - x|^2 of every example, (n,): 0 for a perfect reconstruction, where the loss is the entropy of x."""
        logits, wanted = _paired(outputs, targets)
        return (logits.sigmoid() - wanted).square().sum(1)

    def output_hessian_sqrt_product(
        self, outputs: Tensor, targets: Tensor, vectors: Tensor, transposed: bool = False
    ) -> Tensor:
        """B u with B = diag(p (1 - p))^1/2 and p = sigmoid(outputs)."""
        _paired(outputs, targets)
        working = _working(outputs)
        # sigmoid(-z) is 1 - p without cancellation.
        return vectors * (working.sigmoid() * (-working).sigmoid()).sqrt()

    @torch.no_grad()
    def sample(self, outputs: Tensor, targets: Tensor, uniforms: Tensor) -> Tensor:
        """Pixels, each 1 with probability sigmoid(outputs), else 0."""
        working = _working(outputs)
        return (uniforms < working.sigmoid()).to(working.dtype)


@dataclass(frozen=True)
class Value(Loss):
    """The output of an example is its loss, as of a function to be minimized.

    It is linear in the output. A Gauss-Newton matrix would be 0, and no distribution is described, so that both are refused.
    """

    def per_example(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of every example, (n,)."""
        if outputs.shape != (len(targets), 1):
            raise ValueError(f"outputs {tuple(outputs.shape)} and {len(targets)} examples do not match")
        return _working(outputs)[:, 0]

    def _unknown(self, what: str, method: str) -> UserError:
        return UserError(
            f"loss=value: {what} does not exist, because an output is itself a loss; accepted: an optimizer that takes losses, "
            "gradients or products with the Hessian, or another loss"
        )


def build(choice: Choice) -> Loss:
    """Build the loss of a choice of the group `loss`; `auto` must have been resolved before."""
    target: Callable[..., Loss] = load_target(choice, Loss)
    return target(**choice.options)
