"""The recorded forward pass of one micro-batch, from which every product at the same parameters is taken.

Recording a gradient so that it can be differentiated again costs as much as one or two gradients. A graph does it once,
at the first product that needs it, and keeps the record for the products that follow.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from optbench.objective.execution import Network

Loss = Callable[[Tensor, Tensor], Tensor]


class Part(NamedTuple):
    """One micro-batch: ``weight`` is its share of this rank's examples, and ``start`` the index of its first one.

    example_weights: of its examples in all means (n,); None if they count alike.
    """

    inputs: Tensor
    targets: Tensor
    weight: float
    start: int
    example_weights: Tensor | None = None

    def weighted(self, values: Tensor, power: float = 1.0) -> Tensor:
        """``values`` (n, ...) of its examples, each times the ``power`` of its weight."""
        return times_weights(values, self.example_weights, power)


def times_weights(values: Tensor, weights: Tensor | None, power: float = 1.0) -> Tensor:
    """``values`` (n, ...) of examples, each times the ``power`` of its weight (n,); as they are for ``weights`` None."""
    if weights is None:
        return values
    return values * weights.to(values.dtype).pow(power).view(-1, *[1] * (values.ndim - 1))


def has_recurrent_layers(model: nn.Module) -> bool:
    """True if ``model`` contains an LSTM, GRU or RNN of torch, whose kernels do not support torch's transforms."""
    return any(isinstance(module, nn.RNNBase) for module in model.modules())


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Within this context, or in a function that it decorates, autocast is off, for forward passes and derivatives."""
    with contextlib.ExitStack() as stack:
        for device in ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",):
            stack.enter_context(torch.autocast(device, enabled=False))
        yield


@contextlib.contextmanager
def _switched_off(backend: Any) -> Iterator[None]:
    # The backends' own contexts would also change their other flags.
    before = backend.enabled
    backend.enabled = False
    try:
        yield
    finally:
        backend.enabled = before


@contextlib.contextmanager
def differentiable_twice(model: nn.Module) -> Iterator[None]:
    """Within this context, forward passes of ``model`` use kernels that can be differentiated twice, in full precision.

    Fused attention kernels, and those of cuDNN and oneDNN for recurrent layers, cannot. The latter two are switched off only
    for models with such layers, because they also serve convolutions. Autocast is off: products are computed in the
    parameters' own type, even if training runs in bfloat16.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if has_recurrent_layers(model):
            for backend in (torch.backends.cudnn, torch.backends.mkldnn):
                stack.enter_context(_switched_off(backend))
        stack.enter_context(full_precision())
        yield


def _grad(
    of: Sequence[Tensor], parameters: Sequence[Tensor], along: Sequence[Tensor] | None = None, record: bool = False
) -> list[Tensor]:
    """``torch.autograd.grad`` that keeps the graph, and returns zeros for a parameter on which nothing depends."""
    chosen = [number for number, tensor in enumerate(of) if tensor.requires_grad]
    if not chosen:
        return [torch.zeros_like(parameter) for parameter in parameters]
    return list(
        torch.autograd.grad(
            [of[number] for number in chosen],
            parameters,
            None if along is None else [along[number] for number in chosen],
            retain_graph=True,
            create_graph=record,
            allow_unused=True,
            materialize_grads=True,
        )
    )


class Graph:
    """The outputs z of one micro-batch as a function of the parameters, with the derivatives recorded so far.

    The loss is the mean over the examples of the micro-batch; J is the Jacobian of all its outputs.
    """

    def __init__(self, outputs: Tensor, targets: Tensor, loss: Loss, parameters: Sequence[Tensor]) -> None:
        self.outputs, self._targets, self._loss, self._parameters = outputs, targets, loss, parameters
        self._gradient: list[Tensor] | None = None
        self._pulled_back: tuple[Tensor, list[Tensor]] | None = None

    def gradient(self) -> list[Tensor]:
        """The gradient of the loss."""
        if self._gradient is not None:
            return [part.detach() for part in self._gradient]
        with torch.enable_grad():
            loss = self._loss(self.outputs, self._targets)
        return _grad([loss], self._parameters)

    def hvp(self, vector: Sequence[Tensor]) -> list[Tensor]:
        """H v, the derivative of <gradient, v> (Pearlmutter 1994, "Fast exact multiplication by the Hessian")."""
        if self._gradient is None:
            with torch.enable_grad():
                loss = self._loss(self.outputs, self._targets)
                self._gradient = _grad([loss], self._parameters, record=True)
        return _grad(self._gradient, self._parameters, vector)

    def vjp(self, vector: Tensor) -> list[Tensor]:
        """J^T u, for u of the shape of the outputs."""
        return _grad([self.outputs], self._parameters, [vector.to(self.outputs.dtype)])

    @property
    def pulls_back(self) -> bool:
        """True if ``jvp`` has already recorded J^T u."""
        return self._pulled_back is not None

    def jvp(self, vector: Sequence[Tensor]) -> Tensor:
        """J v, of the shape of the outputs, as the derivative of <J^T u, v> in u, which is linear in u.

        See Townsend 2017, "A new trick for calculating Jacobian vector products".
        """
        if self._pulled_back is None:
            with torch.enable_grad():
                direction = torch.zeros_like(self.outputs, requires_grad=True)
                pulled = torch.autograd.grad(
                    self.outputs,
                    self._parameters,
                    direction,
                    create_graph=True,
                    allow_unused=True,
                    materialize_grads=True,
                )
                self._pulled_back = direction, list(pulled)
        direction, pulled_back = self._pulled_back
        return _grad(pulled_back, [direction], vector)[0]


class KeptGraphs:
    """The graphs of the micro-batches of one batch, up to a limit, kept while the model does not change.

    limit: the largest number of graphs at a time, None for all. The first ``limit - 1`` micro-batches keep their graphs; the
    others take turns in the last place, so that a single micro-batch always keeps its own.

    A change is detected by the storage and the version counter of parameters and buffers, and by the modules' training
    flags. A write through ``parameter.data`` changes neither storage nor counter, and must be followed by ``drop``.
    """

    def __init__(self, network: Network, parts: Sequence[Part], limit: int | None) -> None:
        self._network, self._count = network, len(parts)
        self._limit = len(parts) if limit is None else max(limit, 1)
        self._graphs: dict[int, Graph] = {}
        self._state: tuple[Any, ...] = ()
        self._alive: list[Tensor] = []

    def drop(self) -> None:
        """Drop all graphs."""
        self._graphs.clear()
        self._alive.clear()

    def drop_stale(self) -> None:
        """Drop the graphs if parameters, buffers or modes have changed since they were built."""
        if self._graphs and self._read_state()[0] != self._state:
            self.drop()

    def _read_state(self) -> tuple[tuple[Any, ...], list[Tensor]]:
        modules = list(self._network.model.modules())
        tensors = [
            tensor
            for module in modules
            for tensor in (*module._parameters.values(), *module._buffers.values())
            if tensor is not None and tensor.is_floating_point()  # excludes the draws of dropout, which every pass sets
        ]
        flags = tuple(module.training for module in modules)
        return (flags, *((tensor.data_ptr(), tensor._version) for tensor in tensors)), tensors

    def kept(self, number: int) -> Graph | None:
        """The graph of micro-batch ``number``, if there is one."""
        return self._graphs.get(number)

    def keeps(self, number: int) -> bool:
        """True if the graph of micro-batch ``number`` stays until the model changes."""
        return number < self._limit - 1 or self._count <= self._limit

    def of(self, number: int, build: Callable[[], Graph]) -> Graph:
        """The graph of micro-batch ``number``, built if there is none."""
        graph = self._graphs.get(number)
        if graph is None:
            if not self._graphs:
                self._state, tensors = self._read_state()
                # Aliases prevent the storage from being freed, so that no other tensor can get its address.
                self._alive = [tensor.detach() for tensor in tensors]
            for other in [other for other in self._graphs if not self.keeps(other)]:
                del self._graphs[other]
            graph = self._graphs[number] = build()
        return graph
