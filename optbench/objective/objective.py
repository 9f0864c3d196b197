"""The loss of the current global batch as a function of the parameters: the closure that every optimizer is given.

PyTorch's closure evaluates the loss and its gradient. An ``Objective`` is that closure with more methods: the value alone,
also at other parameters, products with its curvature matrices (``optbench.objective.products``), and its value in eval mode.
All results are means over the global batch, which may pass through the model at once, in micro-batches, or divided over ranks.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from optbench import randomness
from optbench.errors import UserError
from optbench.models import layers
from optbench.objective.execution import Execution, Network
from optbench.objective.products import ExampleProducts
from optbench.objective.products.graph import Part


@dataclass(frozen=True)
class Exchange:
    """The exchange of the gradients of the workers that share a batch, where they are not simply averaged.

    workers: the number of them on this rank, of equal consecutive shares. receive: their gradients by name, each of the mean
    loss over a worker's share -> the gradient that every worker receives.
    """

    workers: int
    receive: Callable[[Sequence[Mapping[str, Tensor]]], Mapping[str, Tensor]]


class Objective(ExampleProducts):
    """The mean loss over one global batch, of which this rank holds ``inputs`` and ``targets``.

    weights: of this rank's examples (n,), positive; None for a plain mean. With weights w_n the value is 1/N sum_n w_n l_n over
    the N examples of the batch, not divided by the sum of its weights, so that the gradient of a batch drawn at random is
    unbiased where weights have mean 1 over all examples. Gradients and products with matrices are weighted alike; what is
    defined for single examples is not weighted.

    network: the model, in train mode. loss: (outputs, targets) -> mean over the given examples. dropout_key: identifies
    this step's dropout masks. A call zeroes the gradients, evaluates the loss and its gradient into ``parameter.grad`` and
    returns the loss, a 0-d tensor. Every evaluation within a step uses the same dropout masks, and only the first call is
    recorded in the running statistics of batch norm, which move when ``finish`` is called. ``value`` is the loss of the first
    evaluation, a call or `loss`. ``evaluations``, ``values`` and ``products`` count calls, losses alone, and vectors multiplied.

    trains: True for the objective of a training step, of which a first `loss` is recorded like a call, as a method may use no
    gradients. The objective of a probe must leave the running statistics alone.

    exchange: with it the gradient is what workers receive from each other, and may be evaluated only once a step, because what
    they send is remembered. Clipping applies to what they receive. All other results are of the whole batch as ever.
    """

    def __init__(
        self,
        network: Network,
        loss: Callable[[Tensor, Tensor], Tensor],
        inputs: Tensor,
        targets: Tensor,
        execution: Execution | None = None,
        dropout_key: int = 0,
        exchange: Exchange | None = None,
        trains: bool = False,
        weights: Tensor | None = None,
    ) -> None:
        self.network, self.trains = network, trains
        self.loss_function = loss
        self.execution = execution or Execution(device=inputs.device)
        self.evaluations = 0  # calls
        self.values = 0  # of the loss alone
        self.products = 0
        self.value: Tensor | None = None
        self.gradient_norm: Tensor | None = None
        self._key = dropout_key
        # Where in the global batch this rank's examples begin: the ranks hold equal shares, in order.
        self._first = len(inputs) * self.execution.rank
        self._norms_are_recorded = False
        self._recorded_before = [len(norm.recorded) for norm in network.norms]
        self.may_halve = self.execution.adjustable and self._may_fail_alone
        self._exchange = exchange
        self._workers = exchange.workers if exchange is not None else 1
        self._split(inputs, targets, weights)

    def __call__(self) -> Tensor:
        """Zero the gradients, fill them with the gradient of the global mean loss, and return that loss."""
        network, execution = self.network, self.execution
        self._graphs.drop_stale()
        self._begin_evaluation()
        scale = execution.loss_scale

        def evaluate() -> Tensor:
            value = self.within_memory(lambda: self._accumulate(scale.factor if scale else 1.0))
            if self._averages_afterwards:
                assert execution.average is not None
                execution.average(network.parameters)
            return value

        value = self._receive(self._exchange) if self._exchange is not None else evaluate()
        while scale is not None and scale.grew_too_large(network.parameters):
            if network.norms:
                network.record_norms("hold")
            value = evaluate()
        if execution.clip_norm is not None:
            norm = nn.utils.clip_grad_norm_(network.parameters, execution.clip_norm)
            self.gradient_norm = norm.full_tensor() if isinstance(norm, DTensor) else norm
        value = execution.mean_over_ranks(value)
        if self.value is None:
            self.value = value
        self.evaluations += 1
        return value

    @property
    def _may_fail_alone(self) -> bool:
        """True if a pass sends nothing to other ranks, so that one of them can repeat it."""
        execution = self.execution
        return execution.world_size == 1 or (
            execution.average is not None and all(norm.ranks is None for norm in self.network.norms)
        )

    @property
    def _averages_afterwards(self) -> bool:
        """True if ranks average their gradients once all know that memory has sufficed, and not in the last backward pass."""
        return self.may_halve and self.execution.world_size > 1

    def _begin_evaluation(self, may_record: bool = True) -> None:
        """Let batch norm record the first evaluation of the step, and no other."""
        network = self.network
        if network.norms:
            record = may_record and network.model.training and not self._norms_are_recorded
            network.record_norms("record" if record else "hold")
            self._norms_are_recorded |= record

    def _accumulate(self, scale: float) -> Tensor:
        for parameter in self.network.parameters:
            parameter.grad = None
        total: Tensor | None = None
        last = -1 if self._averages_afterwards else len(self._parts) - 1
        for number, part in enumerate(self._parts):
            loss = self._forward(part)
            if part.weight != 1.0:
                loss = loss * part.weight
            self.execution.backward(loss * scale if scale != 1.0 else loss, number == last)
            total = loss.detach() if total is None else total + loss.detach()
        assert total is not None
        return total

    def _receive(self, exchange: Exchange) -> Tensor:
        """Fill the gradients with what the workers receive; returns the mean loss over this rank's examples."""
        if self.evaluations:
            raise UserError(
                "communication: the optimizer evaluates the gradient more than once a step, and workers send it once; accepted: "
                "communication=dense"
            )
        # Outside of the attempts to fit into memory, as what is sent is remembered.
        value, gradients = self.within_memory(self._gradients_of_workers)
        received = exchange.receive(gradients)
        for name, parameter in self.network.named_parameters.items():
            parameter.grad = received.get(name)
        return value

    def _gradients_of_workers(self) -> tuple[Tensor, list[dict[str, Tensor]]]:
        """The mean loss over this rank's examples, and for every worker the gradient of the mean loss over its share, by name."""
        values, gradients = [], []
        for parts in self._parts_of_workers():
            for parameter in self.network.parameters:
                parameter.grad = None
            share = sum(len(part.inputs) for part in parts)
            for part in parts:
                loss = self._forward(part) * (len(part.inputs) / share)
                self.execution.backward(loss, False)  # never averaged over ranks
                values.append(loss.detach())
            named = self.network.named_parameters.items()
            gradients.append({name: parameter.grad for name, parameter in named if parameter.grad is not None})
        return torch.stack(values).sum() / self._workers, gradients

    def _forward(self, part: Part) -> Tensor:
        return self._mean_loss(part, self._outputs(part))

    def _place(self, start: int) -> None:
        if self.network.draw is not None:
            self.network.draw[0] = self._key
            self.network.draw[1] = self._first + start

    def _outputs(self, part: Part) -> Tensor:
        self._place(part.start)
        if self.execution.dtype is None:
            return self.network.forward(part.inputs)
        # Autocast keeps low-precision copies of the parameters until the outermost context ends. One context for each pass,
        # not for a whole step, ensures that it uses the parameters that the step has changed.
        with self.execution.autocast():
            return self.network.forward(part.inputs)

    @torch.no_grad()
    def loss(self, at: Sequence[Tensor] | None = None) -> Tensor:
        """The global mean loss without its gradient, at the present parameters or at ``at``.

        ``at``: one tensor for each of ``model.parameters()``, in their order. Gradients do not change.
        """
        network = self.network
        self._graphs.drop_stale()
        self._begin_evaluation(may_record=self.trains)
        swapped = None
        if at is not None:
            if len(at) != len(network.named_parameters):
                raise UserError(
                    f"objective.loss(at=...): {len(at)} tensors for {len(network.named_parameters)} parameters"
                )
            swapped = [parameter.data for parameter in network.named_parameters.values()]
            for parameter, trial in zip(network.named_parameters.values(), at, strict=True):
                parameter.data = trial
        try:
            total = self.within_memory(
                lambda: torch.stack([self._forward(part) * part.weight for part in self._parts]).sum()
            )
        finally:
            if swapped is not None:
                for parameter, own in zip(network.named_parameters.values(), swapped, strict=True):
                    parameter.data = own
        value = self.execution.mean_over_ranks(total)
        if self.value is None:
            self.value = value
        self.values += 1
        return value

    def loss_with(self, parameters: Sequence[Tensor], values: Sequence[Tensor]) -> Tensor:
        """The global mean loss where ``parameters`` of the model have other ``values``, and the others their own."""
        given = dict(zip(map(id, parameters), values, strict=True))
        return self.loss([given.get(id(own), own.detach()) for own in self.network.named_parameters.values()])

    @contextlib.contextmanager
    def evaluation_mode(self) -> Iterator[None]:
        """Within this context, the loss and all products are those of the model in eval mode: running statistics, no dropout."""
        modes = [(module, module.training) for module in self.network.model.modules()]
        self.network.model.eval()
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training

    def finish(self) -> None:
        """End the step: drop the graphs of products, and update the running statistics of batch norm, once."""
        self._graphs.drop()
        if self.network.norms:
            layers.commit_batch_norms(self.network.norms, self.execution.means_over_ranks)
            self.network.record_norms("follow")


def dropout_key(seed: int, step: int) -> int:
    """The key of the dropout masks of ``step``."""
    return randomness.key(seed, "dropout", step)
