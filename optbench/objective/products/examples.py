"""The quantities of single examples of an objective: losses, sampled targets, Jacobian rows, last-layer gradients.

All results are for this rank's examples, in their order, and are not averaged.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from optbench import randomness
from optbench.errors import UserError
from optbench.models.layers import BatchNorm
from optbench.objective.products.graph import Part, full_precision
from optbench.objective.products.matrices import MatrixProducts, Vector
from optbench.objective.vectors import flatten

# The largest number of elements of a Jacobian that are computed at a time.
CHUNK = 2**24


class Recorded(NamedTuple):
    """One micro-batch after a forward pass: its outputs with their graph, and the index of its first example on this rank.

    weights: of its examples in means (n,); None if they count alike.
    """

    outputs: Tensor
    targets: Tensor
    start: int
    weights: Tensor | None = None


class ExampleProducts(MatrixProducts):
    """The products of ``MatrixProducts``, and the quantities of every example."""

    @property
    def is_weighted(self) -> bool:
        """True if examples have weights."""
        return self._parts[0].example_weights is not None

    @property
    def examples(self) -> int:
        """The number of examples of the global batch that this rank holds."""
        return sum(len(part.inputs) for part in self._parts)

    def recorded_passes(self) -> Iterator[Recorded]:
        """One forward pass of each micro-batch of this rank, one after the other, so that hooks on modules can collect values.

        The passes are those of the products: the step's dropout masks, fixed running statistics, full precision. The graphs
        are new and are not kept, and nothing is averaged: each of this rank's examples is in exactly one pass.
        """
        for part in self._parts:
            with self._pass(part.start), torch.enable_grad():
                outputs = self.network.model(part.inputs)
            yield Recorded(outputs, part.targets, part.start, part.example_weights)

    def __call__(self) -> Tensor:
        """The loss, with its gradient left in the parameters."""
        raise NotImplementedError

    def observed(self, see: Callable[[Recorded], None]) -> Tensor:
        """Evaluate ``self()``, and call ``see`` for every micro-batch between its forward and its backward pass.

        The passes are those of training, and ``see`` may differentiate them if it retains their graphs. ``network.forward``
        must be the model itself: a compiled or wrapped model may not run the hooks of its modules.
        """
        assert self.network.forward is self.network.model
        parts = iter(self._parts)

        def hook(_: nn.Module, __: tuple[Tensor, ...], outputs: Tensor) -> None:
            part = next(parts)
            see(Recorded(outputs, part.targets, part.start, part.example_weights))

        handle = self.network.model.register_forward_hook(hook)
        try:
            return self()
        finally:
            handle.remove()

    @full_precision()
    @torch.no_grad()
    def per_example_losses(self) -> Tensor:
        """The loss of every example of this rank, (n,)."""
        loss = self.known_loss()
        return self._of_examples(lambda number, part: loss.per_example(self._part_outputs(number, part), part.targets))

    @full_precision()
    @torch.no_grad()
    def sample_targets(self, key: int) -> Tensor:
        """Targets of this rank's examples drawn from the model's own distribution; steps without a target get none.

        Each draw is a function of ``key`` (see ``randomness.key``), the outputs, and the example's position in the global
        batch: it depends on micro-batches and ranks only if rounding moves an output across a draw.
        """

        def sampled(number: int, part: Part) -> Tensor:
            return self.sample_targets_of(Recorded(self._part_outputs(number, part), part.targets, part.start), key)

        return self._of_examples(sampled)

    @full_precision()
    @torch.no_grad()
    def sample_targets_of(self, recorded: Recorded, key: int) -> Tensor:
        """``sample_targets`` of one micro-batch whose outputs are known."""
        loss, outputs = self.known_loss(), recorded.outputs.detach()
        shape = loss.sample_shape(outputs)
        first = (self._first + recorded.start) * shape[1:].numel()
        position = first + torch.arange(shape.numel(), device=outputs.device).view(shape)
        return loss.sample(outputs, recorded.targets, randomness.uniform(key, position))

    @full_precision()
    @torch.no_grad()
    def jacobian(self, memory_limit: int = 2**31) -> Tensor:
        """J of this rank's examples: (n, outputs of an example, P), the P parameters flattened one after the other.

        memory_limit: the largest size in bytes. Raises UserError if J would be larger, and if batch norm couples the
        examples of several ranks. Examples are processed in parallel by vmap. Those that batch norm couples in train mode,
        and recurrent networks, are processed row by row, at the cost of one backward pass for every output of every example.
        """
        network = self.network
        modules = list(network.model.modules())
        norms = [norm for norm in network.norms if norm.training]
        if any(norm.ranks is not None for norm in norms):
            raise UserError(
                "objective.jacobian: batch norm couples examples of several ranks; choose ghost_batch_size at most the batch "
                "of one rank, or evaluate within objective.evaluation_mode()"
            )
        together = self._has_forward_mode and not any(
            isinstance(module, BatchNorm | nn.modules.batchnorm._BatchNorm) and module.training for module in modules
        )
        size = sum(parameter.numel() for parameter in network.parameters)
        found: list[Tensor] = []
        for number, part in enumerate(self._parts):
            if not found:
                outputs = self._part_outputs(number, part)
                self._check_jacobian(outputs, size, memory_limit)
            found.append(self._side_by_side(part, size) if together else self._row_by_row(number, part))
        return torch.cat(found)

    def _check_jacobian(self, outputs: Tensor, size: int, memory_limit: int) -> None:
        examples, each = self.examples, outputs[0].numel()
        needed = examples * each * size * outputs.element_size()
        if needed > memory_limit:
            raise UserError(
                f"objective.jacobian: {examples} examples x {each} outputs x {size} parameters take {needed} bytes, more "
                f"than memory_limit={memory_limit}: choose a smaller batch or model, or a method that needs products only"
            )

    def _side_by_side(self, part: Part, size: int) -> Tensor:
        network = self.network
        mine = set(map(id, network.parameters))
        values = {name: tensor.detach() for name, tensor in network.named_parameters.items() if id(tensor) in mine}
        # Within vmap every example is the first of its batch, so that dropout must get the position of each.
        draws = [name for name, buffer in network.model.named_buffers(remove_duplicate=False) if buffer is network.draw]
        positions = self._first + part.start + torch.arange(len(part.inputs), device=part.inputs.device)

        def outputs(parameters: dict[str, Tensor], inputs: Tensor, position: Tensor) -> Tensor:
            swapped = dict(parameters)
            if network.draw is not None:
                draw = torch.stack([network.draw[0], position])
                swapped |= dict.fromkeys(draws, draw)
            found: Tensor = functional_call(network.model, swapped, (inputs.unsqueeze(0),)).flatten()
            return found

        with self._pass(part.start):
            count = max(1, CHUNK // size)
            rows = vmap(jacrev(outputs), in_dims=(None, 0, 0), chunk_size=count)(values, part.inputs, positions)
        return torch.cat([row.flatten(2) for row in rows.values()], dim=2)

    def _row_by_row(self, number: int, part: Part) -> Tensor:
        graph = self._graph(number, part)
        outputs = graph.outputs.detach()
        rows = []
        for index in range(outputs.numel()):
            unit = torch.zeros_like(outputs).flatten()
            unit[index] = 1
            rows.append(flatten(graph.vjp(unit.view_as(outputs))))
        return torch.stack(rows).view(len(outputs), outputs[0].numel(), -1)

    @full_precision()
    def last_layer_gradients(self) -> Vector:
        """The gradient of every example's loss in the last linear layer: [(n, outputs, inputs)] and, with a bias, (n, outputs).

        The last linear layer is the last ``nn.Linear`` among the model's modules; if its matrix is shared, as with an
        embedding, only its use in this layer counts. Inputs of several positions, (n, *positions, inputs), are summed over
        the positions. Raises UserError for a model without a linear layer, and if batch norm in train mode follows the
        layer, because it couples the examples.
        """
        self.known_loss()
        modules = list(self.network.model.modules())
        linear = [index for index, module in enumerate(modules) if isinstance(module, nn.Linear)]
        if not linear:
            raise UserError(
                f"model: {type(self.network.model).__name__} has no linear layer (nn.Linear), which per-example gradients "
                "of the last layer need"
            )
        layer = modules[linear[-1]]
        assert isinstance(layer, nn.Linear)
        if any(isinstance(module, BatchNorm) and module.training for module in modules[linear[-1] :]):
            raise UserError(
                "objective.last_layer_gradients: batch norm after the last linear layer couples the examples; evaluate "
                "within objective.evaluation_mode()"
            )
        found: list[Vector] = []
        for part in self._parts:
            uses = self._uses_of(layer, part)
            weight = torch.stack([torch.einsum("nto,nti->noi", after, before) for before, after in uses]).sum(0)
            bias = torch.cat([after for _, after in uses], dim=1).sum(1)
            found.append([weight] if layer.bias is None else [weight, bias])
        return [torch.cat(tensors) for tensors in zip(*found, strict=True)]

    def _uses_of(self, layer: nn.Linear, part: Part) -> list[tuple[Tensor, Tensor]]:
        """For every use of ``layer``: its inputs, and the gradients of the losses in its outputs, both (n, positions, .)."""
        before: list[Tensor] = []
        after: list[Tensor] = []

        def cut(_: nn.Module, inputs: tuple[Tensor], outputs: Tensor) -> Tensor:
            # The first outputs become a leaf: the graph is needed only after the layer, including its later uses.
            kept = outputs if after else outputs.detach().requires_grad_()
            before.append(inputs[0].detach())
            after.append(kept)
            return kept

        handle = layer.register_forward_hook(cut)
        try:
            with self._pass(part.start), torch.enable_grad():
                total = self.known_loss().per_example(self.network.model(part.inputs), part.targets).sum()
        finally:
            handle.remove()
        gradients = torch.autograd.grad(total, after)

        def by_position(values: Tensor) -> Tensor:
            return values.flatten(1, -2) if values.ndim > 2 else values.unsqueeze(1)

        return [(by_position(one), by_position(other)) for one, other in zip(before, gradients, strict=True)]
