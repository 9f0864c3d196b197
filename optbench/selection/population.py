"""The training set as a selection sees it: labels, gradients of single examples, and the diagonal of the Hessian."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from optbench import randomness
from optbench.data.source import BatchSource
from optbench.objective import Execution, Network, Objective
from optbench.objective.losses import Loss
from optbench.objective.products.graph import full_precision
from optbench.optimizers.hutchinson import hessian_diagonal
from optbench.schedules.hessian import refreshed_statistics

# Examples of a forward pass, whatever the micro-batch of training, and the shares of the ranks: the numbers are then the same.
_BLOCK = 256


@dataclass
class Population:
    """All training examples, not augmented and in their own order, at the present weights of the model.

    The model is in eval mode, and batch norm has statistics of the first ``statistics`` examples, as its running ones lag
    behind and mean nothing before the first step. Ranks divide the blocks of examples; results are the same on all of them.
    passes and products count forward passes of one example, and products of the Hessian of one example's loss with one vector.
    """

    network: Network
    loss: Loss
    source: BatchSource
    execution: Execution
    ghost_batch_size: int | None = None
    seed: int = 0
    statistics: int = 2048
    passes: int = 0
    products: int = 0

    @property
    def size(self) -> int:
        """The number of training examples."""
        return self.source.examples

    @property
    def labels(self) -> Tensor:
        """The class of every example (N,), on the CPU."""
        targets: Tensor = self.source.splits["train"].targets
        return targets.cpu()

    @torch.no_grad()
    def output_gradients(self) -> Tensor:
        """The gradient of every example's loss in its outputs, (N, outputs), float64 on the CPU.

        For cross entropy it is softmax(outputs) - onehot(class). If the last layer is linear with a bias, it is the gradient in
        that bias.
        """
        execution, evaluation = self.execution, self.source.evaluation
        ranks, place = execution.world_size, execution.rank * _BLOCK

        def gradients(inputs: Tensor, targets: Tensor) -> Tensor:
            return self.loss.output_gradient(self.network.model(inputs), targets).flatten(1).double()

        with self._evaluated(), full_precision():
            # Of one example, as a rank may have none.
            first = gradients(*next(evaluation("train", 1, 1)))
            found = first.new_zeros(self.size, first.shape[1])
            for inputs, targets in evaluation("train", _BLOCK, None, execution.rank, ranks):
                found[place : place + len(inputs)] = gradients(inputs, targets)
                place += ranks * _BLOCK
        self.passes += self.size
        # Adding zeros changes no bit, so that this gathers.
        return execution.sum_over_ranks(found).cpu()

    def hessian_diagonal(self, parameter: nn.Parameter, draws: int, examples: int | None, number: int) -> Tensor:
        """The mean of ``draws`` unbiased estimates z ∘ H z of the diagonal of the Hessian in ``parameter``, float64 on the CPU.

        H is the Hessian in all parameters of the mean loss over the first ``examples`` examples (None: all), z are random signs,
        and ``number`` is that of the selection.
        """
        count = self.size if examples is None else min(examples, self.size)
        execution, key = self.execution, randomness.key(self.seed, "curvature of selection", number)
        # Shares must be equal, and otherwise every rank does the whole work.
        shares = execution.world_size if count % execution.world_size == 0 else 1
        share, rank = count // shares, execution.rank % shares
        alone = replace(execution, world_size=shares, rank=rank, adjustable=False, micro_batch=min(share, _BLOCK))
        inputs, targets = next(self.source.evaluation("train", count, count))
        mine = slice(rank * share, (rank + 1) * share)
        total: Tensor | float = 0.0
        with self._evaluated():
            objective = Objective(self.network, self.loss, inputs[mine], targets[mine], alone)
            for draw in range(draws):
                total = total + hessian_diagonal(objective, key, draw)[id(parameter)].double()
            objective.finish()
        self.products += draws * count
        assert isinstance(total, Tensor)
        return (total / draws).flatten().cpu()

    @contextlib.contextmanager
    def _evaluated(self) -> Iterator[None]:
        inputs, _ = next(self.source.evaluation("train", self.statistics, self.statistics))
        with refreshed_statistics(self.network, inputs, self.ghost_batch_size):
            yield
