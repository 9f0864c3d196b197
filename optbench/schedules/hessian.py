"""Ritz pairs of the Hessian of the training loss, on a fixed subset of the training set, for schedules.

The subset consists of the first examples of the training set, which is in random order, without augmentation. The model is
in eval mode: there is no dropout, and batch norm normalizes with statistics computed over the subset, since the running
statistics lag behind and are meaningless at step 0. So the loss is a mean over single examples, independently of ranks and
micro-batches.
"""

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from optbench.curvature.lanczos import lanczos, on_flat_vectors
from optbench.data.source import BatchSource
from optbench.errors import UserError
from optbench.models import layers
from optbench.objective import Objective
from optbench.objective.execution import Execution, Network
from optbench.schedules.base import SpectrumRequest


def check(optimizer: torch.optim.Optimizer, has_momentum_schedule: bool, is_half_precision: bool) -> None:
    """Raise UserError unless the learning rate and momentum of ``optimizer`` can be learned from the Hessian.

    They are learned for the heavy-ball method: torch's SGD without Nesterov's momentum, which is not stable with them.
    Preconditioned methods also have a momentum, but other eigenvalues.
    """
    if not isinstance(optimizer, torch.optim.SGD) or any(group["nesterov"] for group in optimizer.param_groups):
        raise UserError(
            "schedule=lanczos: learns the learning rate and momentum of the heavy-ball method, which "
            f"{type(optimizer).__name__} as configured is not; accepted: optimizer=sgd or momentum"
        )
    if has_momentum_schedule:
        raise UserError("schedule=lanczos: learns the momentum itself; accepted: momentum_schedule=none")
    if is_half_precision:
        raise UserError("schedule=lanczos: needs second derivatives; accepted: precision=fp64, fp32, tf32, bf16")


def measure(
    request: SpectrumRequest,
    network: Network,
    loss: Callable[[Tensor, Tensor], Tensor],
    source: BatchSource,
    execution: Execution,
    norm_batch: int | None,
    generator: torch.Generator,
) -> tuple[list[float], list[float]] | None:
    """The Ritz values in ascending order, and the weight of the start along each; None if they are not finite.

    generator: on the CPU, for the start, in the same state on every rank. The ranks divide the examples if that gives
    equal shares; otherwise each of them does the whole work. norm_batch: the number of examples that batch norm normalizes
    together in training, and for its statistics here.
    """
    inputs, targets = next(source.evaluation("train", request.examples, request.examples))
    shares = execution.world_size if len(inputs) % execution.world_size == 0 else 1
    share = len(inputs) // shares
    mine = slice(execution.rank % shares * share, (execution.rank % shares + 1) * share)
    alone = replace(execution, world_size=shares, rank=execution.rank % shares)
    with refreshed_statistics(network, inputs, norm_batch):
        objective = Objective(network, loss, inputs[mine], targets[mine], alone)
        parameters = network.parameters
        start = torch.randn(sum(map(torch.numel, parameters)), dtype=torch.float64, generator=generator)
        found = lanczos(on_flat_vectors(objective.hvp, parameters), start.to(parameters[0]), request.steps)
        objective.finish()
    if not torch.isfinite(found.matrix).all():
        return None
    values, vectors = torch.linalg.eigh(found.matrix)
    return values.tolist(), vectors[0].square().tolist()


@contextlib.contextmanager
def refreshed_statistics(network: Network, inputs: Tensor, norm_batch: int | None) -> Iterator[None]:
    """Within this context the model is in eval mode with batch norm statistics of ``inputs``; restored afterwards.

    The statistics are means over groups of ``norm_batch`` examples (None: of all), to which training moves the running
    statistics; a group that is not full does not count.
    """
    norms = network.norms
    modes = [(module, module.training) for module in network.model.modules()]
    kept = [(norm.running_mean.clone(), norm.running_var.clone(), norm.group, norm.ranks) for norm in norms]
    network.model.eval()
    try:
        if norms:
            size = min(norm_batch or len(inputs), len(inputs))
            for norm in norms:
                norm.group, norm.ranks = None, None

            def passes() -> None:
                for start in range(0, len(inputs) - size + 1, size):
                    network.model(inputs[start : start + size])

            layers.take_statistics(norms, passes)
        yield
    finally:
        for module, training in modes:
            module.training = training
        for norm, (mean, variance, group, ranks) in zip(norms, kept, strict=True):
            norm.running_mean.copy_(mean)
            norm.running_var.copy_(variance)
            norm.group, norm.ranks = group, ranks
