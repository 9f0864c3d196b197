"""The matrices of an objective as operators: P x P symmetric matrices, given by their products with vectors.

    hessian             H = second derivatives of the mean loss
    gauss_newton        G = 1/N sum_n J_n^T H_n J_n
    fisher              F = the Fisher matrix of the model's own distribution, which is G for every loss of the bench
    empirical_fisher    E = 1/N sum_n g_n g_n^T, with the gradients g_n at the targets of the data

See ``optbench.objective.products.matrices`` for the symbols. The matrix is that of the model's present mode: take products
within ``objective.evaluation_mode()`` for the running statistics of batch norm and no dropout.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from optbench.curvature.lanczos import Product
from optbench.errors import UserError
from optbench.models.layers import BatchNorm
from optbench.objective import Objective
from optbench.objective.execution import Execution, Network
from optbench.objective.vectors import flatten, unflatten

MATRICES = ("hessian", "gauss_newton", "fisher", "empirical_fisher")
PARAMETERS = ("all", "weights")
DISTRIBUTIONS = ("rademacher", "gaussian")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Operator:
    """A symmetric matrix A, given by its products.

    product: takes v (P,) and returns A v (P,). dimension: P. name: of A, for tables and messages. batched: takes (k, P) and
    returns the k products as rows, if that is cheaper than one after the other. examples_are_coupled: True if batch norm in
    train mode makes the outputs of an example depend on others. Then A is not the mean of matrices of single examples, but a
    property of the groups that are normalized together, and the theory of batch Hessians does not apply to it.
    """

    product: Product
    dimension: int
    dtype: torch.dtype = torch.float64
    device: torch.device = CPU
    name: str = "matrix"
    batched: Product | None = None
    examples_are_coupled: bool = False

    def __call__(self, vector: Tensor) -> Tensor:
        """A v, (P,)."""
        return self.product(vector)

    def products(self, vectors: Tensor) -> Tensor:
        """A v for each row v of ``vectors`` (k, P), as rows."""
        if self.batched is not None:
            return self.batched(vectors)
        return torch.stack([self.product(vector) for vector in vectors])

    def random_vectors(self, count: int, generator: torch.Generator, distribution: str = "rademacher") -> Tensor:
        """``random_vectors`` of this operator's dimension, type and device."""
        return random_vectors(self.dimension, count, generator, distribution).to(self.device, self.dtype)


def random_vectors(dimension: int, count: int, generator: torch.Generator, distribution: str = "rademacher") -> Tensor:
    """``count`` random vectors z as rows, (count, dimension), with E[z z^T] = I: signs or normal draws, float32.

    The generator is a CPU generator, so that all ranks and devices draw the same. Raises UserError for other distributions.
    """
    if distribution == "rademacher":
        signs = torch.randint(0, 2, (count, dimension), generator=generator, dtype=torch.int8)
        return signs.to(torch.float32).mul_(2).sub_(1)
    if distribution == "gaussian":
        return torch.randn(count, dimension, generator=generator)
    raise UserError(f"distribution={distribution}: accepted are {', '.join(DISTRIBUTIONS)}")


def dense_operator(matrix: Tensor, name: str = "matrix") -> Operator:
    """A symmetric dense matrix (P, P) as an operator."""
    return Operator(matrix.mv, len(matrix), matrix.dtype, matrix.device, name, batched=lambda vectors: vectors @ matrix)


def operator(
    objective: Objective, matrix: str = "hessian", parameters: str = "all", weight_decay: float = 0.0
) -> Operator:
    """A matrix of ``objective`` as an operator, one of MATRICES; its products are means over the global batch and all ranks.

    parameters: "all" trainable ones, or "weights", those with more than one dimension (no biases, no norms): the matrix is
    then the block of these. weight_decay: lambda, which adds lambda I, the Hessian of lambda/2 |theta|^2. Every rank must
    take the same products in the same order. Products of several vectors build a graph that cannot be kept only once.
    Raises UserError for other names, for a negative lambda and if there is no trainable parameter.
    """
    if matrix not in MATRICES:
        raise UserError(f"matrix={matrix}: accepted are {', '.join(MATRICES)}")
    if not 0 <= weight_decay < float("inf"):
        raise UserError(f"weight_decay={weight_decay}: must be a finite number >= 0")
    whole: Callable[[Sequence[Sequence[Tensor]]], list[list[Tensor]]] = {
        "hessian": objective.hvps,
        "gauss_newton": objective.ggnvps,
        "fisher": objective.ggnvps,
        "empirical_fisher": objective.empirical_fisher_vps,
    }[matrix]
    everything = objective.network.parameters
    chosen = _chosen(everything, parameters)
    like = [everything[index] for index in chosen]

    def embedded(vector: Tensor) -> list[Tensor]:
        parts = dict(zip(chosen, unflatten(vector, like), strict=True))
        return [parts[index] if index in parts else torch.zeros_like(each) for index, each in enumerate(everything)]

    def products(vectors: Tensor) -> Tensor:
        found = whole([embedded(vector) for vector in vectors])
        images = torch.stack([flatten([image[index] for index in chosen]) for image in found])
        return images.add_(vectors, alpha=weight_decay) if weight_decay else images

    with_decay = f" + {weight_decay:g} I" if weight_decay else ""
    return Operator(
        lambda vector: products(vector.unsqueeze(0))[0],
        sum(each.numel() for each in like),
        like[0].dtype,
        like[0].device,
        f"{matrix}{with_decay}" + ("" if parameters == "all" else f" of the {parameters}"),
        products,
        examples_are_coupled(objective.network.model),
    )


def _chosen(everything: Sequence[Tensor], parameters: str) -> list[int]:
    if parameters not in PARAMETERS:
        raise UserError(f"parameters={parameters}: accepted are {', '.join(PARAMETERS)}")
    chosen = [index for index, each in enumerate(everything) if parameters == "all" or each.ndim > 1]
    if not chosen:
        raise UserError(f"parameters={parameters}: the model has none that train")
    return chosen


def examples_are_coupled(model: nn.Module) -> bool:
    """True if a batch norm of ``model`` is in train mode, so that the outputs of an example depend on the others."""
    kinds = BatchNorm | nn.modules.batchnorm._BatchNorm
    return any(isinstance(module, kinds) and module.training for module in model.modules())


def displaced_loss(objective: Objective) -> Callable[[Tensor], Tensor]:
    """d -> L(theta + d), a 0-d tensor, for displacements d (P,) of the trainable parameters; without gradients."""
    trained = objective.network.parameters
    numbers = {id(parameter): number for number, parameter in enumerate(trained)}

    def loss(displacement: Tensor) -> Tensor:
        parts = unflatten(displacement, trained)
        return objective.loss(
            [
                parameter.detach() + parts[numbers[id(parameter)]] if id(parameter) in numbers else parameter.detach()
                for parameter in objective.network.named_parameters.values()
            ]
        )

    return loss


def in_float64(objective: Objective) -> Objective:
    """A copy of ``objective`` that computes in float64, with a copy of its present model, on the same examples and ranks.

    It has the mode (train or eval), the buffers and the dropout masks of the original, shares only process groups with it,
    and needs about twice its memory. For products, ``gradient()`` and ``loss``: called as a closure, it does not average the
    gradients in ``parameter.grad`` over ranks, does not clip and runs without autocast.
    """
    groups = [norm.ranks for norm in objective.network.norms if norm.ranks is not None]
    # A process group cannot be copied, and the copy of the model must communicate with the same ranks.
    model = copy.deepcopy(objective.network.model, memo={id(group): group for group in groups}).double()
    for parameter in model.parameters():
        parameter.grad = None
    own = objective.execution
    execution = Execution(
        device=own.device, micro_batch=own.micro_batch, world_size=own.world_size, rank=own.rank, graphs=own.graphs
    )
    inputs, targets = (
        torch.cat(tensors) for tensors in zip(*((part.inputs, part.targets) for part in objective._parts), strict=True)
    )
    return Objective(
        Network(model, own.device),
        objective.loss_function,
        _doubled(inputs),
        _doubled(targets),
        execution,
        objective._key,
    )


def _doubled(values: Tensor) -> Tensor:
    return values.double() if values.is_floating_point() else values
