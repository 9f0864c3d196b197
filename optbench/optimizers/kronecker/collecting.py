"""Forward and backward passes that collect the inputs of factored layers, and the derivatives in their outputs."""

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge

from optbench.models.checkpointing import recomputing
from optbench.objective import Objective
from optbench.objective.products.examples import Recorded
from optbench.objective.products.graph import full_precision, times_weights
from optbench.optimizers.kronecker.layers import Layer
from optbench.optimizers.kronecker.recurrent import unrolled
from optbench.optimizers.kronecker.statistics import Collector

# The origin of the targets: one draw for each example from the model's own distribution; all columns of the square root of
# the loss's Hessian in the outputs, without noise; the batch's own targets, which do not give the Fisher matrix.
TARGETS = ("sampled", "exact", "empirical")


@dataclass
class Call:
    """One call of a layer: its inputs, the edge of the graph at its outputs, and the derivative there."""

    layer: int
    inputs: Tensor
    edge: GradientEdge | Tensor | None = None
    gradient: Tensor | None = None


def collect(
    objective: Objective, layers: Sequence[Layer], collectors: Sequence[Collector], targets: str, key: int
) -> None:
    """Pass all micro-batches of this rank to every collector, at targets of the kind ``targets``.

    Takes one forward pass, and one backward pass without the gradients of the parameters; for ``targets="exact"`` one for
    each output of an example. key: identifies the draws of sampled targets.
    """
    calls: list[Call] = []
    with _hooks(layers, calls, training=False), full_precision():
        for recorded in objective.recorded_passes():
            _take(objective, recorded, calls, collectors, targets, key, retain=False)


def evaluate_and_collect(
    objective: Objective,
    layers: Sequence[Layer],
    collectors: Sequence[Collector],
    targets: str = "empirical",
    key: int = 0,
) -> Tensor:
    """Evaluate ``objective()``, and ``collect`` within it; returns the loss.

    The forward pass of training is reused, and for empirical targets also its backward pass. Requires
    ``can_collect_in_training``.
    """
    if targets == "empirical":
        return _evaluate_and_collect_empirical(objective, layers, collectors)
    calls: list[Call] = []
    with _hooks(layers, calls, training=False):
        return objective.observed(
            lambda recorded: _take(objective, recorded, calls, collectors, targets, key, retain=True)
        )


def _take(
    objective: Objective,
    recorded: Recorded,
    calls: list[Call],
    collectors: Sequence[Collector],
    targets: str,
    key: int,
    retain: bool,
) -> None:
    """Pass one micro-batch, with the ``calls`` of its layers, to the collectors; ``retain``: keep the graph."""
    examples = len(recorded.targets)
    edges = [call.edge for call in calls if call.edge is not None]
    _give_inputs(calls, collectors, examples)
    for directions in _output_directions(objective, recorded, targets, key):
        found = torch.autograd.grad(
            recorded.outputs,
            edges,  # type: ignore[arg-type]  # torch's annotation allows only tensors
            directions.to(recorded.outputs.dtype),
            retain_graph=retain or targets == "exact",
            allow_unused=True,
        )
        for call, gradient in zip(calls, found, strict=True):
            call.gradient = gradient
        _give_gradients(calls, collectors, examples)
    calls.clear()


def _evaluate_and_collect_empirical(
    objective: Objective, layers: Sequence[Layer], collectors: Sequence[Collector]
) -> Tensor:
    calls: list[Call] = []
    size = objective.examples
    micro = [0]

    def flush() -> None:
        if calls:
            examples = micro[0]
            for call in calls:
                if call.gradient is not None:
                    # Undo the mean over this rank's examples in the training loss; ranks are averaged later.
                    call.gradient = call.gradient.to(torch.promote_types(call.gradient.dtype, torch.float32)) * size
                    call.inputs = call.inputs.to(call.gradient.dtype)
            _give_inputs(calls, collectors, examples)
            _give_gradients(calls, collectors, examples)
            calls.clear()

    def begin(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        flush()
        micro[0] = len(inputs[0])

    handle = objective.network.model.register_forward_pre_hook(begin)
    try:
        with _hooks(layers, calls, training=True):
            loss = objective()
        flush()
    finally:
        handle.remove()
    return loss


def can_collect_in_training(objective: Objective, layers: Sequence[Layer], targets: str) -> bool:
    """True if ``evaluate_and_collect`` can observe the layers: hooks do not run within compiled models and recurrent modules.

    Sampled and exact targets also need a pass in full precision, as for the Fisher matrix; the backward pass of training
    multiplies the derivatives at empirical targets by the weights of examples, whose roots the factors need.
    """
    if targets == "empirical" and objective.is_weighted:
        return False
    if objective.network.forward is not objective.network.model:
        return False
    if targets != "empirical" and objective.execution.dtype is not None:
        return False
    return not any(isinstance(layer.module, nn.RNNBase) for layer in layers)


def _output_directions(objective: Objective, recorded: Recorded, targets: str, key: int) -> Iterator[Tensor]:
    loss, outputs = objective.known_loss(), recorded.outputs.detach()
    found: Iterable[Tensor]
    if targets == "exact":
        found = loss.output_hessian_sqrt_columns(outputs, recorded.targets)
    elif targets == "empirical":
        found = [loss.output_gradient(outputs, recorded.targets)]
    else:
        found = [loss.sampled_output_gradient(outputs, objective.sample_targets_of(recorded, key))]
    # Their outer products enter the factors, so that an example of weight w counts as w of them.
    for directions in found:
        yield times_weights(directions, recorded.weights, 0.5)


@torch.no_grad()
def _give_inputs(calls: Sequence[Call], collectors: Sequence[Collector], examples: int) -> None:
    for number, found in _by_layer(calls).items():
        for collector in collectors:
            collector.add_inputs(number, [call.inputs for call in found], examples)


@torch.no_grad()
def _give_gradients(calls: Sequence[Call], collectors: Sequence[Collector], examples: int) -> None:
    for number, found in _by_layer(calls).items():
        # A call on which the outputs do not depend has no derivatives: they are zero.
        reached = [(call.inputs, call.gradient) for call in found if call.gradient is not None]
        if reached:
            inputs, gradients = map(list, zip(*reached, strict=True))
            for collector in collectors:
                collector.add_gradients(number, inputs, gradients, examples)


def _by_layer(calls: Sequence[Call]) -> dict[int, list[Call]]:
    found: dict[int, list[Call]] = {}
    for call in sorted(calls, key=lambda call: call.layer):
        found.setdefault(call.layer, []).append(call)
    return found


@contextlib.contextmanager
def _hooks(layers: Sequence[Layer], calls: list[Call], training: bool) -> Iterator[None]:
    """Within this context, every call of a layer is appended to ``calls``; in training its gradient is set once known."""
    handles = []
    recurrent: dict[nn.RNNBase, dict[str, int]] = {}
    for number, layer in enumerate(layers):
        if isinstance(layer.module, nn.RNNBase):
            recurrent.setdefault(layer.module, {})[layer.name.rpartition(".")[2]] = number
        else:
            handles.append(layer.module.register_forward_hook(_hook(number, calls, training)))
    for module, numbers in recurrent.items():
        module.forward = unrolled(module, _see(numbers, calls))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        for module in recurrent:
            del module.__dict__["forward"]


def _hook(number: int, calls: list[Call], training: bool) -> Callable[..., None]:
    def hook(_: nn.Module, inputs: tuple[Any, ...], outputs: Tensor) -> None:
        if not outputs.requires_grad or recomputing():
            return
        call = Call(number, inputs[0].detach())
        # Unlike the tensor, an edge and a hook keep their place if an activation overwrites the outputs.
        if training:
            outputs.register_hook(lambda gradient: setattr(call, "gradient", gradient))
        else:
            call.edge = get_gradient_edge(outputs)
        calls.append(call)

    return hook


def _see(numbers: dict[str, int], calls: list[Call]) -> Callable[[str, Tensor, Tensor], None]:
    def see(part: str, inputs: Tensor, zeros: Tensor) -> None:
        if part in numbers:
            calls.append(Call(numbers[part], inputs.detach(), zeros))

    return see
