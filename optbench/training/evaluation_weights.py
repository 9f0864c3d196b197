"""The weights that count: those that an optimizer offers for evaluation in place of the ones that it trains."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from optbench.models import layers
from optbench.training.task import Task

# The first so many training examples give the statistics of batch norm at other weights than the trained ones.
EXAMPLES = 2048
_AT_ONCE = 1024


def offers(optimizer: torch.optim.Optimizer) -> bool:
    """True if ``optimizer`` has weights for evaluation: a method ``evaluation_parameters``, or both ``train`` and ``eval``.

    ``evaluation_parameters()`` returns a mapping from parameters to tensors. Optimizers of other packages may change the
    parameters themselves, in ``eval()`` and back in ``train()``, as Schedule-Free of Defazio et al. does.
    """
    return hasattr(optimizer, "evaluation_parameters") or _switches(optimizer)


def _switches(optimizer: torch.optim.Optimizer) -> bool:
    return all(callable(getattr(optimizer, name, None)) for name in ("train", "eval"))


@contextmanager
def evaluation_weights(task: Task) -> Iterator[None]:
    """Within this context the model of ``task`` holds the weights that its optimizer offers for evaluation, if it does.

    Batch norm then has the statistics of these weights over the first training examples, in groups as in training. Afterwards the
    model is as it was, bit for bit.
    """
    optimizer: Any = task.optimizer
    if not offers(optimizer):
        yield
        return
    model, norms = task.model, task.network.norms
    kept = [*model.parameters(), *(buffer for norm in norms for buffer in (norm.running_mean, norm.running_var))]
    own = [tensor.detach().clone() for tensor in kept]
    modes = [(module, module.training) for module in model.modules()]
    groups = [(norm.group, norm.ranks) for norm in norms]
    own_switch = not hasattr(optimizer, "evaluation_parameters")
    try:
        if own_switch:
            optimizer.eval()
        else:
            _place(optimizer.evaluation_parameters())
        if norms:
            _take_statistics(task)
        yield
    finally:
        if own_switch:
            optimizer.train()
        # Copied: the way back of such a method is rounded.
        _place(dict(zip(kept, own, strict=True)))
        for module, training in modes:
            module.training = training
        for norm, (group, ranks) in zip(norms, groups, strict=True):
            norm.group, norm.ranks = group, ranks


@torch.no_grad()
def _place(values: Mapping[Tensor, Tensor]) -> None:
    for tensor, value in values.items():
        tensor.copy_(value)


def _take_statistics(task: Task) -> None:
    batch = task.recipe.horizon.plan.batch(max(task.step - 1, 0))
    count = min(len(task.source.splits["train"].inputs), EXAMPLES)
    group = min(task.recipe.ghost_batch_size or batch, batch, count)
    task.model.eval()
    layers.set_ghost_batch_size(task.model, group)
    with task.execution.autocast():
        take_statistics(task, task.model, task.network.norms, group, count)


@torch.no_grad()
def take_statistics(
    task: Task,
    model: nn.Module,
    norms: list[layers.BatchNorm],
    group: int,
    count: int,
    prepare: Callable[[Tensor], Tensor] = lambda inputs: inputs,
) -> None:
    """Take the statistics of ``norms`` in ``model`` over the first ``count`` training examples of ``task``, in groups.

    Only whole groups count: the rest may be a single example, which has no variance. Every rank passes all groups, so that the
    result does not depend on the number of ranks. prepare: what becomes of the inputs.
    """
    size = group * max(_AT_ONCE // group, 1)

    def passes() -> None:
        for inputs, _ in task.source.evaluation("train", size, count - count % group):
            model(prepare(inputs))

    layers.take_statistics(norms, passes)
