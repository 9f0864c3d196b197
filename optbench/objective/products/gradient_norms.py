"""The norms of the gradients of single examples, without the gradients where the layers of a network allow it."""

from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, Node, get_gradient_edge
from torch.func import grad, vmap

from optbench.errors import UserError
from optbench.models.layers import BatchNorm
from optbench.objective.products.examples import CHUNK, ExampleProducts
from optbench.objective.products.graph import Part, full_precision
from optbench.objective.vectors import unflatten

_LAYERS = (nn.Linear, nn.Conv2d)


class GradientNorms(ExampleProducts):
    """The products of ``ExampleProducts``, and ‖∇l_n‖² of every example n."""

    evaluations: int

    @full_precision()
    def per_example_squared_gradient_norms(self) -> Tensor:
        """‖∇l_n‖² of every example of this rank, over all parameters that train, (n,). Counted as one gradient.

        A layer s_t = W a_t + b at the positions t = 1 .. T has the gradient Σ_t g_t a_tᵀ of an example, with g_t = ∂l_n/∂s_t, and

            ‖Σ_t g_t a_tᵀ‖² = Σ_tu (g_tᵀ g_u) (a_tᵀ a_u)

        (Goodfellow 2015, arXiv 1510.01799, for T = 1; Li et al. 2022, arXiv 2110.05679, section 4), so that one backward pass of
        the whole micro-batch suffices. It is used if every parameter belongs to an ``nn.Linear`` or ``nn.Conv2d`` and enters the
        computation once. Otherwise (a weight used twice or shared, embeddings, norms) the gradients are made by vmap, a few
        examples at a time, and in recurrent networks one example after the other.

        Raises UserError for batch norm in train mode: its examples share their statistics, and none has a gradient of its own.
        """
        self.known_loss()
        if any(isinstance(module, BatchNorm) and module.training for module in self.network.model.modules()):
            raise UserError(
                f"model: {type(self.network.model).__name__} has batch norm, which couples the examples of a batch, and none has "
                "a gradient of its own; accepted: a model without batch norm, or an evaluation within objective.evaluation_mode()"
            )
        self.evaluations += 1

        def of_part(_: int, part: Part) -> Tensor:
            found = self._by_layers(part)
            if found is None:
                found = self._by_examples(part) if self._has_forward_mode else self._one_by_one(part)
            return found.detach()

        return self._of_examples(of_part)

    def per_example_slopes(self, vector: Tensor) -> Tensor:
        """∇l_nᵀ v of every example of this rank, (n,), for a flat vector (P,); one product J v."""
        along, outputs = self.jvp(unflatten(vector, self.network.parameters)), self.outputs()
        targets = torch.cat([part.targets for part in self._parts])
        return (self.known_loss().output_gradient(outputs, targets) * along).flatten(1).sum(1)

    def _by_layers(self, part: Part) -> Tensor | None:
        """The norms from the inputs and output gradients of the layers, (n,); None if a parameter has another way to the loss."""
        network = self.network
        layers = [module for module in network.model.modules() if type(module) in _LAYERS]
        covered = {id(own) for layer in layers for own in layer._parameters.values()}
        if not covered.issuperset(map(id, network.parameters)):
            return None
        uses: list[tuple[nn.Module, Tensor, GradientEdge]] = []

        def note(layer: nn.Module, inputs: tuple[Tensor], outputs: Tensor) -> None:
            # The edge, not the outputs, which a later operation may overwrite.
            if outputs.requires_grad:
                uses.append((layer, inputs[0].detach(), get_gradient_edge(outputs)))

        handles = [layer.register_forward_hook(note) for layer in layers]
        try:
            with self._pass(part.start), torch.enable_grad():
                losses = self.known_loss().per_example(network.model(part.inputs), part.targets)
                total = losses.sum()
        finally:
            for handle in handles:
                handle.remove()
        count = len(part.inputs)
        if not losses.requires_grad:
            return losses.new_zeros(count)
        entries, nodes = _graph_of(losses)
        # Where the outputs are a view that was overwritten, their own node is not in the graph any more.
        uses = [use for use in uses if use[2].node in nodes]
        used = {id(own) for layer, _, _ in uses for own in layer._parameters.values()}
        if max(entries.values()) > 1 or not used.issuperset(entries):
            return None
        if not all(_has_examples_first(layer, inputs, count) for layer, inputs, _ in uses):
            return None
        gradients = torch.autograd.grad(total, [edge for _, _, edge in uses])
        found = [_of_layer(layer, inputs, each) for (layer, inputs, _), each in zip(uses, gradients, strict=True)]
        return torch.stack(found).sum(0)

    def _by_examples(self, part: Part) -> Tensor:
        """The norms of gradients made by vmap, (n,)."""
        loss, outputs = self.known_loss(), self._outputs_of_one()
        values = self._trained_values()

        def loss_of_one(parameters: dict[str, Tensor], inputs: Tensor, target: Tensor, position: Tensor) -> Tensor:
            return loss.per_example(outputs(parameters, inputs, position), target.unsqueeze(0))[0]

        def norm(inputs: Tensor, target: Tensor, position: Tensor) -> Tensor:
            gradient = grad(loss_of_one)(values, inputs, target, position)
            return torch.stack([each.square().sum() for each in gradient.values()]).sum()

        size = max(1, CHUNK // sum(map(torch.numel, values.values())))
        with self._pass(part.start):
            found: Tensor = vmap(norm, chunk_size=size)(part.inputs, part.targets, self._positions(part))
        return found

    def _one_by_one(self, part: Part) -> Tensor:
        """The norms of gradients each from a pass of its own, (n,)."""
        loss, parameters, found = self.known_loss(), self.network.parameters, []
        for number in range(len(part.inputs)):
            one = slice(number, number + 1)
            with self._pass(part.start + number), torch.enable_grad():
                value = loss.per_example(self.network.model(part.inputs[one]), part.targets[one])
                gradient = torch.autograd.grad(value.sum(), parameters, allow_unused=True)
            found.append(torch.stack([each.square().sum() for each in gradient if each is not None]).sum())
        return torch.stack(found)


def _graph_of(value: Tensor) -> tuple[Counter[int], set[Node]]:
    """Of the graph of ``value``: the id of every leaf -> the number of operations that use it; and all nodes."""
    counts: Counter[int] = Counter()
    assert value.grad_fn is not None
    seen: set[Node] = {value.grad_fn}
    waiting: list[Node] = [value.grad_fn]
    while waiting:
        for node, _ in waiting.pop().next_functions:
            if node is None:
                continue
            leaf = getattr(node, "variable", None)
            if leaf is not None:
                counts[id(leaf)] += 1
            elif node not in seen:
                seen.add(node)
                waiting.append(node)
    return counts, seen


def _has_examples_first(layer: nn.Module, inputs: Tensor, count: int) -> bool:
    """True if only the first dimension of ``inputs`` can be that of ``count`` examples."""
    if len(inputs) != count or (isinstance(layer, nn.Conv2d) and inputs.ndim != 4):
        return False
    return not (isinstance(layer, nn.Linear) and inputs.ndim > 2 and 1 < count == inputs.shape[1])


def _of_layer(layer: nn.Module, inputs: Tensor, gradient: Tensor) -> Tensor:
    """‖Σ_t g_t a_tᵀ‖² + ‖Σ_t g_t‖² of every example, (n,), of those of weight and bias that train."""
    groups = layer.groups if isinstance(layer, nn.Conv2d) else 1
    if isinstance(layer, nn.Conv2d):
        mode = "constant" if layer.padding_mode == "zeros" else layer.padding_mode
        padded = F.pad(inputs, layer._reversed_padding_repeated_twice, mode=mode)
        inputs = F.unfold(padded, layer.kernel_size, layer.dilation, 0, layer.stride).unflatten(1, (groups, -1))
        gradient = gradient.flatten(2).unflatten(1, (groups, -1))
    else:
        inputs, gradient = (each.flatten(1, -2) if each.ndim > 2 else each.unsqueeze(1) for each in (inputs, gradient))
        inputs, gradient = inputs.mT.unsqueeze(1), gradient.mT.unsqueeze(1)
    found = inputs.new_zeros(len(inputs))
    weight, bias = layer._parameters["weight"], layer._parameters["bias"]
    if weight is not None and weight.requires_grad:
        found = found + _of_products(inputs, gradient)
    if bias is not None and bias.requires_grad:
        found = found + gradient.sum(-1).square().sum((1, 2))
    return found


def _of_products(inputs: Tensor, gradients: Tensor) -> Tensor:
    """‖Σ_t g_t a_tᵀ‖² of every example, summed over groups, (n,); a (n, groups, inputs, T) and g (n, groups, outputs, T)."""
    positions, width, height = inputs.shape[-1], inputs.shape[-2], gradients.shape[-2]
    # The cheaper of the two in multiplications.
    gram = positions * (width + height) < width * height
    size = max(1, CHUNK // (inputs.shape[1] * (positions**2 if gram else width * height)))
    found = []
    for a, g in zip(inputs.split(size), gradients.split(size), strict=True):
        product = (a.mT @ a) * (g.mT @ g) if gram else (g @ a.mT).square()
        found.append(product.sum((1, 2, 3)))
    return torch.cat(found)
