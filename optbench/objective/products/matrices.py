"""Products of vectors with the matrices of an objective's second derivatives, as means over the global batch.

With N examples in the global batch, outputs z_n of example n, their Jacobian J_n in the parameters, and the loss l_n of
example n with gradient r_n and Hessian H_n in z_n:

    gradient              g = 1/N sum_n J_n^T r_n
    Hessian               H = 1/N sum_n of the second derivative of l_n in the parameters
    Gauss-Newton          G = 1/N sum_n J_n^T H_n J_n       (Schraudolph 2002, "Fast curvature matrix-vector products")
    empirical Fisher      E = 1/N sum_n J_n^T r_n r_n^T J_n

Where examples have weights (see ``Objective``), each term n of these sums is multiplied by w_n; ``jvp`` and ``vjp`` are not.

For the losses of the bench G is the Fisher matrix of the model's own distribution (see ``optbench.objective.losses``).

A vector is a list of tensors, one for each of ``network.parameters``, in their order. Micro-batches are summed and ranks
are averaged explicitly: DistributedDataParallel's reducer reduces first derivatives only.

J v is computed in one of two ways: as a derivative of a recorded J^T u, or by forward mode with dual numbers. Measured in
gradients on a busy CPU (benchmarks/second_order.py; small conv net / ResNet-18 of width 8, whose batch norm is expensive to
differentiate twice): H v 1.4 / 2.4 with the graph kept and 2.6 / 3.6 rebuilt; G v 1.3 / 2.2 with J^T u recorded and 1.8 / 1.5
by forward mode. Therefore a network with batch norm uses forward mode, and others use the record as long as its graph is kept.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import TypeAlias

import torch
import torch.autograd.forward_ad as forward_ad
from torch import Tensor
from torch.func import functional_call

from optbench.errors import UserError
from optbench.models import checkpointing
from optbench.objective.losses import Loss
from optbench.objective.parts import Parts
from optbench.objective.products.graph import (
    Graph,
    Part,
    differentiable_twice,
    full_precision,
    has_recurrent_layers,
)

Vector: TypeAlias = list[Tensor]


class MatrixProducts(Parts):
    """The products that an objective inherits. They leave parameters, gradients, buffers, modes and generators alone.

    No product is clipped, scaled, or computed under autocast or in segments (``model.checkpointing``). Every rank must call
    the same methods in the same order. Raises UserError for vectors that do not fit the parameters, for fp16, and for a loss
    whose curvature is unknown.
    """

    loss_function: Callable[[Tensor, Tensor], Tensor]
    products: int  # vectors multiplied so far
    _first: int  # the position of this rank's first example in the global batch

    def _place(self, start: int) -> None:
        raise NotImplementedError

    # ---- the matrices -------------------------------------------------------------------------------------------------

    def gradient(self) -> Vector:
        """The gradient of the mean loss; ``parameter.grad`` does not change."""
        return self._mean(1, lambda number, part: [_scaled(self._graph(number, part).gradient(), part.weight)])[0]

    def hvp(self, vector: Sequence[Tensor]) -> Vector:
        """H v: the product of the Hessian of the mean loss with a vector."""
        return self.hvps([vector])[0]

    def hvps(self, vectors: Sequence[Sequence[Tensor]]) -> list[Vector]:
        """H v for each of ``vectors``: a graph that cannot be kept is built once for all of them."""
        self._check(vectors, "hvp")
        self.products += len(vectors)

        def products(number: int, part: Part) -> list[Vector]:
            graph = self._graph(number, part)
            return [_scaled(graph.hvp(vector), part.weight) for vector in vectors]

        return self._mean(len(vectors), products)

    def ggnvp(self, vector: Sequence[Tensor]) -> Vector:
        """G v: the product of the generalized Gauss-Newton matrix with a vector."""
        return self.ggnvps([vector])[0]

    def ggnvps(self, vectors: Sequence[Sequence[Tensor]]) -> list[Vector]:
        """G v for each of ``vectors``: a graph that cannot be kept is built once for all of them."""
        return self._outer_products(vectors, "ggnvp", self.known_loss().output_hessian_product)

    def empirical_fisher_vp(self, vector: Sequence[Tensor]) -> Vector:
        """E v: the product of the second moment of the per-example gradients, at the targets, with a vector."""
        return self.empirical_fisher_vps([vector])[0]

    def empirical_fisher_vps(self, vectors: Sequence[Sequence[Tensor]]) -> list[Vector]:
        """E v for each of ``vectors``: a graph that cannot be kept is built once for all of them."""
        loss = self.known_loss()

        def product(outputs: Tensor, targets: Tensor, directions: Tensor) -> Tensor:
            gradients = loss.output_gradient(outputs, targets)
            along = (gradients * directions).flatten(1).sum(1)
            return gradients * along.view(-1, *[1] * (gradients.ndim - 1))

        return self._outer_products(vectors, "empirical_fisher_vp", product)

    def _outer_products(
        self, vectors: Sequence[Sequence[Tensor]], name: str, middle: Callable[[Tensor, Tensor, Tensor], Tensor]
    ) -> list[Vector]:
        """1/N sum_n J_n^T M_n J_n v, where ``middle`` multiplies by M_n."""
        self._check(vectors, name)
        self.products += len(vectors)

        def products(number: int, part: Part) -> list[Vector]:
            graph = self._graph(number, part)
            outputs = graph.outputs.detach()
            found = []
            reverse = self._records(number, len(vectors))
            for vector in vectors:
                directions = graph.jvp(vector) if reverse else self._directions(number, part, vector)[1]
                inner = part.weighted(middle(outputs, part.targets, directions))
                found.append(_scaled(graph.vjp(inner), part.weight / len(part.inputs)))
            return found

        return self._mean(len(vectors), products)

    @full_precision()
    @torch.no_grad()
    def quadratic(self, vectors: Sequence[Sequence[Tensor]]) -> Tensor:
        """The Gram matrix v_i^T G v_j of the Gauss-Newton matrix, (vectors, vectors), from one product J v of each.

        v_i^T G v_j = 1/N sum_n (B_n^T J_n v_i)^T (B_n^T J_n v_j), with B_n B_n^T = H_n: symmetric and positive
        semi-definite by construction. The exact quadratic model of Martens & Grosse 2015, section 6.4 and appendix C.
        """
        self._check(vectors, "quadratic")
        self.products += len(vectors)
        loss = self.known_loss()
        gram: Tensor | float = 0.0
        for number, part in enumerate(self._parts):
            rows = []
            for vector in vectors:
                outputs, directions = self._directions(number, part, vector)
                roots = loss.output_hessian_sqrt_product(outputs, part.targets, directions, transposed=True)
                rows.append(part.weighted(roots, 0.5).flatten())
            stacked = torch.stack(rows)
            gram = gram + stacked @ stacked.T * (part.weight / len(part.inputs))
        assert isinstance(gram, Tensor)
        return self.execution.mean_over_ranks(gram)

    # ---- Jacobian products and outputs --------------------------------------------------------------------------------

    @full_precision()
    def jvp(self, vector: Sequence[Tensor]) -> Tensor:
        """J v: the derivative of the outputs of this rank's examples along a vector, of the shape of ``outputs()``."""
        self._check([vector], "jvp")
        self.products += 1
        return torch.cat([self._directions(number, part, vector)[1] for number, part in enumerate(self._parts)])

    def vjp(self, vector: Tensor) -> Vector:
        """1/N sum_n J_n^T u_n over the global batch, of which this rank holds ``vector``, of the shape of ``outputs()``.

        So defined, the Gauss-Newton product is ``vjp`` of the loss's Hessian in the outputs applied to ``jvp``, and the
        gradient is ``vjp`` of the gradients of the losses in the outputs.
        """

        self.products += 1

        def product(number: int, part: Part) -> list[Vector]:
            graph = self._graph(number, part)
            mine = vector[part.start : part.start + len(part.inputs)]
            if mine.shape != graph.outputs.shape:
                shape = (sum(len(part.inputs) for part in self._parts), *graph.outputs.shape[1:])
                raise UserError(f"objective.vjp: a tensor of shape {tuple(vector.shape)}; the outputs have {shape}")
            return [_scaled(graph.vjp(mine), part.weight / len(part.inputs))]

        return self._mean(1, product)[0]

    @full_precision()
    @torch.no_grad()
    def outputs(self) -> Tensor:
        """The outputs of this rank's examples."""
        return self._of_examples(self._part_outputs)

    # ---- computation --------------------------------------------------------------------------------------------------

    @cached_property
    def _has_forward_mode(self) -> bool:
        # The recurrent kernels lack forward-mode derivatives on GPUs, and keep the tensors of functional_call.
        return not has_recurrent_layers(self.network.model)

    def known_loss(self) -> Loss:
        """The loss, with its derivatives in the outputs; raises UserError if they are not known."""
        if not isinstance(self.loss_function, Loss):
            name = getattr(self.loss_function, "__name__", type(self.loss_function).__name__)
            raise UserError(
                f"loss={name}: its derivatives in the outputs are not known; accepted are cross_entropy, mse, bernoulli "
                "and any other optbench.objective.losses.Loss"
            )
        return self.loss_function

    def _mean_loss(self, part: Part, outputs: Tensor) -> Tensor:
        """The mean over a micro-batch of the weighted losses of its examples."""
        if part.example_weights is None:
            return self.loss_function(outputs, part.targets)
        return part.weighted(self.known_loss().per_example(outputs, part.targets)).mean()

    def _refuse_half_precision(self) -> None:
        if self.execution.loss_scale is not None or self.execution.dtype == torch.float16:
            raise UserError("precision=fp16: products with second derivatives need fp32, tf32, bf16 or fp64")

    def _check(self, vectors: Sequence[Sequence[Tensor]], name: str) -> None:
        expected = [tuple(parameter.shape) for parameter in self.network.parameters]
        if not len(vectors):
            raise UserError(f"objective.{name}: no vectors; at least one is needed")
        for vector in vectors:
            shapes = [tuple(tensor.shape) for tensor in vector]
            if shapes != expected:
                raise UserError(
                    f"objective.{name}: a vector of shapes {shapes}; needed is one tensor for each trainable parameter, "
                    f"of shapes {expected}"
                )

    @contextlib.contextmanager
    def _pass(self, start: int) -> Iterator[None]:
        """The context of a forward pass: the dropout masks of the step, fixed running statistics, and no segments.

        A graph that is differentiated several times, perhaps in forward mode or under torch's transforms, keeps all of its
        activations, whatever ``model.checkpointing`` is: torch's checkpoints do not support all of that.
        """
        self._refuse_half_precision()
        norms = self.network.norms
        before = [norm.recording for norm in norms]
        self._place(start)
        self.network.record_norms("hold")
        try:
            with checkpointing.keeping(self.network.chains), differentiable_twice(self.network.model):
                yield
        finally:
            for norm, recording in zip(norms, before, strict=True):
                norm.recording = recording

    def _records(self, number: int, count: int) -> bool:
        """True if ``count`` products J v with a micro-batch should use a record of J^T u (for costs see the module)."""
        if not self._has_forward_mode:
            return True
        # A record pays from the third product on, but not if batch norm must be differentiated twice.
        return not self.network.norms and (self._graphs.keeps(number) or count > 2)

    def _graph(self, number: int, part: Part) -> Graph:
        # Not network.forward, because a model compiled by torch.compile cannot be differentiated twice.
        def build() -> Graph:
            with self._pass(part.start), torch.enable_grad():
                outputs = self.network.model(part.inputs)
            loss = self.loss_function if part.example_weights is None else lambda of, _: self._mean_loss(part, of)
            return Graph(outputs, part.targets, loss, self.network.parameters)

        self._graphs.drop_stale()
        return self._graphs.of(number, build)

    def _part_outputs(self, number: int, part: Part) -> Tensor:
        self._graphs.drop_stale()
        graph = self._graphs.kept(number)
        if graph is not None:
            return graph.outputs.detach()
        with self._pass(part.start), torch.no_grad():
            found: Tensor = self.network.model(part.inputs)
            return found

    def _directions(self, number: int, part: Part, vector: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """The outputs of a micro-batch and J v, from a kept graph with a record of J^T u, or else by forward mode."""
        self._graphs.drop_stale()
        graph = self._graphs.kept(number)
        if not self._has_forward_mode or (graph is not None and graph.pulls_back):
            graph = self._graph(number, part)
            return graph.outputs.detach(), graph.jvp(vector)
        with self._pass(part.start), torch.no_grad(), forward_ad.dual_level():
            tangents = dict(zip(map(id, self.network.parameters), vector, strict=True))
            duals = {
                name: forward_ad.make_dual(parameter.detach(), tangents[id(parameter)].to(parameter.dtype))
                for name, parameter in self.network.named_parameters.items()
                if id(parameter) in tangents
            }
            outputs, directions = forward_ad.unpack_dual(functional_call(self.network.model, duals, (part.inputs,)))
            return outputs, torch.zeros_like(outputs) if directions is None else directions

    def _of_examples(self, found: Callable[[int, Part], Tensor]) -> Tensor:
        """``found`` for every micro-batch, one after the other."""
        return self.within_memory(lambda: torch.cat([found(number, part) for number, part in enumerate(self._parts)]))

    @full_precision()
    def _mean(self, count: int, contribution: Callable[[int, Part], list[Vector]]) -> list[Vector]:
        """The sum over micro-batches of ``count`` vectors, each weighted already, as a mean over ranks."""

        def total() -> list[Vector]:
            totals: list[Vector] = []
            for number, part in enumerate(self._parts):
                found = contribution(number, part)
                if not totals:
                    totals = found
                else:
                    totals = [list(torch._foreach_add(*pair)) for pair in zip(totals, found, strict=True)]
            return totals

        totals = self.within_memory(total)
        assert len(totals) == count
        return self.execution.means_over_ranks(totals)


def _scaled(vector: Sequence[Tensor], factor: float) -> Vector:
    # Always new tensors: autograd may return the same tensor for two parameters, or one that the graph keeps.
    return list(torch._foreach_mul(list(vector), factor))
