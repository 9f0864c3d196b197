"""FLOPs of a step, counted by the formulas of torch's counter (`torch.utils.flop_counter`) on shapes, outside of the training.

Counted: products of matrices, convolutions, and factorizations of matrices (`flop_formulas`), each multiplication and each
addition as one operation, in the model and in the optimizer. Not counted: elementwise work, such as SGD's and Adam's own, norms,
activations and random draws. Padding and masks change nothing: attention counts all pairs of positions.

A counter intercepts every operation and costs several times a small step, so it never sees the training. When a run has
ended, the network is copied to torch's meta device, whose tensors have shapes and no values: no memory is allocated, no product
is computed, and no generator, running statistic or weight of the run is touched. An evaluation of a whole batch and an update
are counted there. A method that does some of its work periodically says so by a method ``kinds_of_steps``
(`optbench.optimizers.periods`): a whole step of each kind is counted, and the result is their mean over a whole period. K-FAC's
extra inversions in its first period are left out.

Without values, a test takes the branch of success (a matrix is finite and has a Cholesky factor). This suits a method that
evaluates its closure once (``evaluations: one`` in its file), or states its kinds of steps. torch's L-BFGS takes as many
evaluations as its line search asks for: those of the run are counted while it trains, times the FLOPs of one. For other
methods whose work depends on values (Hessian-free, Levenberg-Marquardt, SCoRe-GGN, saddle-free and damped Newton) the number is
not known, and is None; so it is for a model that cannot run without values.

A process keeps the count for each combination of what it depends on, so that of a sweep of tiny runs only the first of each
kind pays: some 10 ms for an MLP, half a second for WRN-28-10, seconds for it with K-FAC.

Work that several ranks repeat counts once. With micro-batches, K-FAC may collect its statistics in passes of their own, which
are not counted.
"""

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, shape_wrapper

from optbench.config.run_config import Choice, RunConfig
from optbench.models import checkpointing, layers
from optbench.models.model_size import without_values
from optbench.objective import Execution, Network, Objective
from optbench.training.flop_formulas import FORMULAS
from optbench.training.task import Task

_META = torch.device("meta")
_MOST_KEPT = 512
_kept: dict[str, "Flops | None"] = {}
_aten = torch.ops.aten
_FORMULAS = flop_registry | {operation: shape_wrapper(formula) for operation, formula in FORMULAS.items()}
_ELEMENTWISE = {
    getattr(_aten, name)
    for name in ("add", "sub", "mul", "div", "neg", "sqrt", "rsqrt", "exp", "tanh", "sigmoid", "relu", "abs", "triu", "clone",
                 "threshold_backward", "tanh_backward", "sigmoid_backward")
}  # fmt: skip
_QUESTIONS = (_aten._local_scalar_dense, _aten._to_copy)


@dataclass(frozen=True)
class Flops:
    """FLOPs of an evaluation of the loss and its gradient, and of a whole step; None where the step's depend on values."""

    model: Fraction
    step: Fraction | None


def count(config: RunConfig, task: Task, batch: int) -> Flops | None:
    """The FLOPs of a step of ``task``, which trains ``config``, with ``batch`` examples.

    None for a model that cannot run without values.
    """
    key = repr((
        batch, config.model.target, config.model.options, config.loss.target, config.loss.options, task.source.spec,
        task.source.reconstruct, config.dataset.target, config.dataset.options, *_what_matters(config.optimizer),
    ))  # fmt: skip
    if key not in _kept:
        if len(_kept) >= _MOST_KEPT:
            _kept.clear()
        try:
            with torch.random.fork_rng(devices=[]):
                _kept[key] = _counted(config, task, batch)
        except Exception:  # a model or a method of the user's own may raise anything on a device without values
            _kept[key] = None
    return _kept[key]


def _what_matters(optimizer: Choice) -> tuple[Any, ...]:
    # No floating-point option of these methods is a size or a number of products: trials of a search share one count.
    known = str(optimizer.target).startswith(("optbench.optimizers.", "torch.optim.")) and optimizer.name != "zoo"
    kept = {name: value for name, value in optimizer.options.items() if not (known and isinstance(value, float))}
    return optimizer.target, kept


def _counted(config: RunConfig, task: Task, batch: int) -> Flops:
    model = without_values(task.sharding.blueprint or task.model)
    network = Network(model, _META)
    layers.set_ghost_batch_size(model, None)
    model.train()
    examples = next(iter(task.source.evaluation("train", 1, 1)))
    inputs, targets = (torch.empty((batch, *part.shape[1:]), dtype=part.dtype, device=_META) for part in examples)
    optimizer = task.recipe.make_optimizer(model)

    def objective() -> Objective:
        return Objective(network, task.recipe.loss, inputs, targets, Execution(device=_META))

    def step() -> int:
        closure = objective()
        found = flops_of(lambda: optimizer.step(closure))  # type: ignore[arg-type]
        closure.finish()
        return found

    # The recomputations of a model in segments are no work of the method.
    with checkpointing.keeping(network.chains):
        of_model = Fraction(flops_of(objective()))
        if hasattr(optimizer, "kinds_of_steps"):
            step()  # makes the state that later steps find
            total = Fraction(0)
            for number, share in optimizer.kinds_of_steps():
                optimizer.steps = number  # type: ignore[attr-defined]
                total += share * step()
            return Flops(of_model, total)
        if not config.evaluates_once:
            return Flops(of_model, None)
        # The update alone, the second time with its state; the gradients are those of the last evaluation.
        loss: Any = torch.zeros((), device=_META)
        own = [flops_of(lambda: optimizer.step(lambda: loss)) for _ in range(2)][-1]
        return Flops(of_model, of_model + own)


def flops_of(work: Callable[[], object]) -> int:
    """The FLOPs of ``work``, on tensors of the meta device or with values, by the formulas of torch's counter and ours."""
    counter = _Counter()
    # Attention is counted as its products, whichever kernel computes it.
    with sdpa_kernel(SDPBackend.MATH), counter:
        work()
    return counter.flops


def _result_alike(func: Any, operation: Any, args: Any) -> Tensor | None:
    """The result of an operation in place, or of an elementwise one of tensors of one shape; None for any other.

    torch computes these shapes in Python, which takes most of the time of a count.
    """
    first = args[0] if args else None
    if not isinstance(first, Tensor) or not first.is_meta:
        return None
    if func._schema.name.endswith("_") and torch.Tag.inplace_view not in func.tags:
        return first
    if operation in _ELEMENTWISE and all(
        each.is_meta and each.shape == first.shape and each.dtype == first.dtype
        for each in args
        if isinstance(each, Tensor)
    ):
        return torch.empty(first.shape, dtype=first.dtype, device=_META) if first.is_floating_point() else None
    return None


class _Counter(TorchDispatchMode):
    """Counts operations, and answers questions about values on the meta device: true, or 1; factorizations succeed.

    torch's `FlopCounterMode` has the same formulas, but also follows modules and tries to take every operation apart, which
    nearly doubles the time.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs, operation = kwargs or {}, func.overloadpacket
        if operation in _QUESTIONS and isinstance(args[0], Tensor) and args[0].is_meta:
            dtype = kwargs.get("dtype") or args[0].dtype
            if operation is _aten._local_scalar_dense:
                return torch.ones((), dtype=dtype).item()
            if torch.device(kwargs.get("device") or _META).type == "cpu":
                return torch.ones(args[0].shape, dtype=dtype)
        result = _result_alike(func, operation, args)
        if result is None:
            result = func(*args, **kwargs)
        if operation in _FORMULAS:
            self.flops += int(_FORMULAS[operation](*args, **kwargs, out_val=result))
        if operation is _aten.linalg_cholesky_ex and result[1].is_meta:
            return result[0], torch.zeros(result[1].shape, dtype=result[1].dtype)
        return result
