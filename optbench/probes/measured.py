"""The object of curvature measurements: a copy of the model, and its mean loss over fixed examples.

The copy has its own parameters, buffers and modes, so that changes to it cannot affect the run.
"""

import copy
import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from optbench.data.spec import DataSpec
from optbench.models import layers
from optbench.objective import Execution, Objective
from optbench.objective.execution import Network, _backward
from optbench.objective.losses import Loss
from optbench.training.evaluation_weights import take_statistics
from optbench.training.task import Task

STATISTICS = ("refreshed", "running", "batch")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def copied(model: nn.Module) -> nn.Module:
    """A copy of ``model`` on its device, without gradients, hooks and process groups."""
    left_out: dict[int, Any] = {id(norm.ranks): None for norm in layers.batch_norms(model) if norm.ranks is not None}
    for module in model.modules():
        left_out |= {id(getattr(module, name)): OrderedDict() for name in _HOOKS}
    return copy.deepcopy(model, left_out)


class SubsetObjective(Objective):
    """The mean loss over fixed examples; every rank is given all of them and uses its share.

    The shares are consecutive and need not be equal; if there are fewer examples than ranks, every rank uses all of them.
    It supports products, `loss`, `gradient` and `evaluate`, and must not be called as a closure.
    """

    def __init__(
        self,
        network: Network,
        loss: Loss,
        inputs: Tensor,
        targets: Tensor,
        execution: Execution,
        weights: Tensor | None = None,
    ) -> None:
        count = len(inputs)
        if count < execution.world_size:
            execution = replace(execution, world_size=1, rank=0)
        rank, ranks = execution.rank, execution.world_size
        first, last = rank * count // ranks, (rank + 1) * count // ranks
        mine = None if weights is None else weights[first:last]
        super().__init__(network, loss, inputs[first:last], targets[first:last], execution, weights=mine)
        self.targets, self.count = targets[first:last], count
        # Corrects the mean over ranks, which has equal weights even if the shares differ.
        factor = (last - first) * ranks / count
        self._parts[:] = [part._replace(weight=part.weight * factor) for part in self._parts]
        self._first = first

    @torch.no_grad()
    def evaluate(self, spec: DataSpec) -> tuple[float, float]:
        """The mean loss and the accuracy (NaN if the targets define none) at the model's present parameters."""
        outputs = self.outputs()
        loss = self.loss_function
        assert isinstance(loss, Loss)
        correct = loss.correct(outputs, self.targets, spec)
        sums = torch.zeros(2, dtype=torch.float64, device=outputs.device)
        sums[0] = loss.per_example(outputs, self.targets).double().sum()
        if correct is not None:
            sums[1] = correct.double().sum()
        total, right = self.execution.sum_over_ranks(sums).tolist()
        return total / self.count, right / self.count if correct is not None else math.nan


class MeasuredModel:
    """A copy of a task's model for measurements at a fixed point; it shares nothing with the run.

    examples: the number of examples in the subset, the first of a split in the order of evaluations; None for all.
    statistics: those with which batch norm normalizes. "refreshed": running statistics computed as the mean over the subset,
    in groups of ``ghost_batch_size`` examples, each normalized by its own; "running": those of the run; "batch": each group's
    own, which couples the examples of a group. Dropout is off. float64: compute in double precision, otherwise in the parameters'
    own type, without autocast. state: a ``state_dict`` of the model to measure in place of the task's own. held_out: True for a
    probe that is a diagnosis (`Probe.diagnostic`), which alone may read examples of the validation and test splits.
    """

    def __init__(
        self,
        task: Task,
        examples: int | None,
        statistics: str = "refreshed",
        float64: bool = False,
        state: Mapping[str, Tensor] | None = None,
        held_out: bool = False,
    ) -> None:
        self.task, self._held_out = task, held_out
        self.model = copied(task.model)
        if state is not None:
            self.model.load_state_dict(state)
        if float64:
            self.model.double()
        self.network = Network(self.model, task.device)
        self.loss = task.recipe.loss
        self.spec = task.source.spec
        self.execution = replace(
            task.execution,
            device=task.device,
            backward=_backward,
            average=None,  # on several ranks micro-batches then stay: shares that are not equal would lose their weights
            dtype=None,
            loss_scale=None,
            clip_norm=None,
        )
        self._limit, self._statistics = examples, statistics
        self.model.eval()
        self._set_statistics()

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trainable parameters of the copy, in which it is differentiated."""
        return self.network.parameters

    @property
    def dimension(self) -> int:
        """The number of trainable parameters."""
        return sum(parameter.numel() for parameter in self.parameters)

    def for_all_parameters(self, vector: Sequence[Tensor]) -> list[Tensor]:
        """Extend ``vector``, one tensor for each trainable parameter, by zeros to one for each parameter."""
        parts = iter(vector)
        return [
            next(parts) if parameter.requires_grad else torch.zeros_like(parameter)
            for parameter in self.model.parameters()
        ]

    def count(self, split: str = "train") -> int:
        """The number of examples of ``split`` that are measured."""
        size = len(self.task.source.splits[split].inputs)
        return size if self._limit is None else min(self._limit, size)

    def examples(self, split: str = "train") -> tuple[Tensor, Tensor]:
        """The inputs and targets of the subset of ``split``, not augmented, on every rank.

        Raises ValueError for the validation and test splits, if the probe is not marked as a diagnosis.
        """
        if split != "train" and not self._held_out:
            raise ValueError(f"the {split} split may be read only by probes that are marked: diagnostic = True")
        count = self.count(split)
        inputs, targets = next(self.task.source.evaluation(split, count, count))
        return self._typed(inputs), self._typed(targets)

    def objective(self, split: str = "train") -> SubsetObjective:
        """The mean loss over the subset of ``split`` as a function of the copy's parameters."""
        return self.objective_of(*self.examples(split))

    def objective_of(self, inputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> SubsetObjective:
        """The mean loss over the given examples, the same on every rank, with ``weights`` as in `Objective`."""
        return SubsetObjective(self.network, self.loss, inputs, targets, self.execution, weights)

    def _typed(self, values: Tensor) -> Tensor:
        return values.to(self.parameters[0].dtype) if values.is_floating_point() else values

    def _set_statistics(self) -> None:
        if not self.network.norms:
            return
        layers.set_ghost_batch_size(self.model, self._group)
        if self._statistics == "batch":
            for norm in self.network.norms:
                norm.train()
        self.refresh()

    @property
    def _group(self) -> int:
        """The number of examples that batch norm normalizes together."""
        batch = self.task.recipe.horizon.plan.batch(self.task.step)
        return min(self.task.recipe.ghost_batch_size or batch, batch)

    @torch.no_grad()
    def refresh(self) -> None:
        """Compute "refreshed" statistics for the present weights of the copy; others do not change."""
        if not self.network.norms or self._statistics != "refreshed":
            return
        count = self.count()
        take_statistics(self.task, self.model, self.network.norms, min(self._group, count), count, self._typed)
