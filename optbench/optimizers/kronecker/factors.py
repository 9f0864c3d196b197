"""Running averages of the Kronecker factors of a model, and the inverses made from them."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from optbench import randomness
from optbench.errors import UserError
from optbench.objective import Objective
from optbench.objective.execution import Execution
from optbench.optimizers.groups import trainable
from optbench.optimizers.kronecker.collecting import TARGETS, can_collect_in_training, collect, evaluate_and_collect
from optbench.optimizers.kronecker.inverses import METHODS, Inverses
from optbench.optimizers.kronecker.layers import find_layers
from optbench.optimizers.kronecker.placement import Placement
from optbench.optimizers.kronecker.statistics import APPROXIMATIONS, Collector, Factors, FactorSums

Further = TypeVar("Further", bound=Collector)


def placed_beside(weight: Tensor, saved: Sequence[Tensor], copy: bool = False) -> list[Tensor]:
    """The ``saved`` statistics on the device of ``weight``, in the dtype of its statistics: its own, but at least float32."""
    dtype = torch.promote_types(weight.dtype, torch.float32)
    return [tensor.to(weight.device, dtype, copy=copy) for tensor in saved]


class KroneckerFactors:
    """The factors A and G of every layer of a model that supports them, as running averages over batches.

    targets, approximation: see ``statistics`` and ``collecting``. decay: the largest weight epsilon of the past in
    X <- epsilon X + (1 - epsilon) X_batch, with epsilon = min(1 - 1/k, decay) at the k-th update, so that the first one
    replaces the initial value. max_size: layers with a larger factor have none. neighbours: also keep the factors between
    consecutive layers. fraction: of the ranks that keep an inverse (``Placement``). seed: of the draws of targets.

    ``layers``: the factored layers. ``plain``: for each other trainable parameter, by name, the reason why it has no factors.
    Raises UserError for unknown options.
    """

    def __init__(
        self,
        model: nn.Module,
        targets: str = "sampled",
        approximation: str = "expand",
        decay: float = 0.95,
        max_size: int | None = None,
        neighbours: bool = False,
        fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        for name, value, accepted in (
            ("targets", targets, TARGETS),
            ("approximation", approximation, APPROXIMATIONS),
        ):
            if value not in accepted:
                raise UserError(f"optimizer.{name}={value}: must be one of {', '.join(accepted)}")
        self.targets, self.approximation, self.decay = targets, approximation, decay
        self.neighbours, self.fraction, self.seed = neighbours, fraction, seed
        self.layers, self.plain = find_layers(model, max_size)
        places = {id(parameter): place for place, parameter in enumerate(trainable(model))}
        self.places = [[places[id(parameter)] for parameter in layer.parameters] for layer in self.layers]
        self.updates = 0
        self.current: Factors | None = None
        self._placement: Placement | None = None

    def require_layers(self, optimizer: str) -> None:
        """Raise UserError, in the name of ``optimizer``, if no layer of the model has factors."""
        if not self.layers:
            raise UserError(
                f"optimizer={optimizer}: no layer has Kronecker factors: {'; '.join(self.describe())}; accepted: a model with "
                "linear, convolutional or recurrent layers, or another optimizer"
            )

    def describe(self) -> list[str]:
        """A line for each factored layer with the sizes of its factors, then one for each other parameter with the reason."""
        lines = []
        for layer in self.layers:
            groups = f", {layer.groups} groups" if layer.groups > 1 else ""
            lines.append(f"{layer.name}: factors of {layer.input_size} and {layer.output_size}{groups}")
        return lines + [f"{name}: plain gradient, {reason}" for name, reason in self.plain.items()]

    def working_bytes(self) -> int:
        """The bytes of the factors and of three copies: the sums of a batch, the inverses, and what inverting takes."""
        return sum(
            4 * layer.groups * (layer.input_size**2 + layer.output_size**2) * layer.weight.element_size()
            for layer in self.layers
        )

    @property
    def element_bytes(self) -> int:
        """The bytes of a number in the statistics, which are at least in float32."""
        return torch.promote_types(self.layers[0].weight.dtype, torch.float32).itemsize

    def inverse_bytes(self, method: str = "cholesky") -> int:
        """The bytes of the inverses (or of eigenvectors and eigenvalues) of all layers, on however many ranks they are."""
        sizes = [(layer.groups, size) for layer in self.layers for size in (layer.input_size, layer.output_size)]
        return self.element_bytes * sum(groups * (n * n + n * (method == "eigen")) for groups, n in sizes)

    # ---- statistics ---------------------------------------------------------------------------------------------------

    def of_batch(self, objective: Objective, more: Callable[[], list[Further]] = list) -> tuple[Factors, list[Further]]:
        """The factors of the global batch; and ``more()``, collectors that use the same passes, made anew where these fail."""

        def collected() -> tuple[FactorSums, list[Further]]:
            sums, further = FactorSums(self.layers, self.approximation, self.neighbours), more()
            collect(objective, self.layers, [sums, *further], self.targets, self.key())
            return sums, further

        sums, further = objective.within_memory(collected)
        return sums.means(objective.execution, objective.examples), further

    def key(self) -> int:
        """The key of the draws of targets of the next update."""
        return randomness.key(self.seed, "targets of Kronecker factors", self.updates)

    def update(self, objective: Objective, more: Callable[[], list[Further]] = list) -> list[Further]:
        """Add the factors of the current batch to the running averages; returns the collectors of ``more``."""
        batch, further = self.of_batch(objective, more)
        self.average(batch)
        return further

    def evaluate_and_update(
        self, objective: Objective, more: Callable[[], list[Further]] = list
    ) -> tuple[Tensor, list[Further]]:
        """``objective()`` and ``update``, from one forward pass if possible; the loss, and the collectors of ``more``."""
        if not can_collect_in_training(objective, self.layers, self.targets):
            loss = objective()
            return loss, self.update(objective, more)

        def collected() -> tuple[Tensor, FactorSums, list[Further]]:
            sums, further = FactorSums(self.layers, self.approximation, self.neighbours), more()
            loss = evaluate_and_collect(objective, self.layers, [sums, *further], self.targets, self.key())
            return loss, sums, further

        loss, sums, further = objective.within_memory(collected)
        self.average(sums.means(objective.execution, objective.examples))
        return loss, further

    def average(self, batch: Factors) -> None:
        """Move the running averages towards the factors of a batch."""
        self.updates += 1
        weight = self.newest_weight(self.updates)
        self.current = batch if self.current is None else self.current.moved(batch, weight)

    def newest_weight(self, update: int) -> float:
        """1 - epsilon of the ``update``-th average, counted from 1."""
        return 1 - min(1 - 1 / update, self.decay)

    # ---- inverses -----------------------------------------------------------------------------------------------------

    def placement(self, execution: Execution) -> Placement:
        """The assignment of layers to ranks; made at the first call, which all ranks must make together."""
        if self._placement is None or self._placement.world_size != execution.world_size:
            costs = [layer.groups * (layer.input_size**3 + layer.output_size**3) for layer in self.layers]
            self._placement = Placement(execution.world_size, execution.rank, self.fraction, costs)
        return self._placement

    @torch.no_grad()
    def invert(self, execution: Execution, strength: float, method: str = "cholesky") -> Inverses:
        """The inverses of the running averages, damped with strength gamma; all ranks must call this together."""
        assert self.current is not None, "no factors yet"
        return self._inverses(execution, self.current, strength, method)

    def _inverses(self, execution: Execution, factors: Factors, strength: float, method: str) -> Inverses:
        if method not in METHODS:
            raise UserError(f"optimizer.inverse={method}: must be one of {', '.join(METHODS)}")
        return Inverses(self.layers, self.places, factors, strength, method, self.placement(execution))

    @torch.no_grad()
    def restore(self, execution: Execution, state: dict[str, Any]) -> Inverses:
        """The inverses computed again from ``state``, their ``state_dict``."""
        return self._inverses(execution, self.placed(state["factors"]), state["strength"], state["method"])

    # ---- state --------------------------------------------------------------------------------------------------------

    def state_dict(self) -> dict[str, Any]:
        """The running averages and the number of updates in them, as tensors and plain numbers."""
        return {"updates": self.updates, "factors": None if self.current is None else self.current.lists()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from ``state_dict``."""
        self.updates = state["updates"]
        self.current = None if state["factors"] is None else self.placed(state["factors"])

    def placed(self, lists: Sequence[Sequence[Tensor]]) -> Factors:
        """The ``lists`` of saved factors (`Factors.lists`) in the device and the dtype of those that the model gives now."""
        return Factors(*(placed_beside(self.layers[0].weight, each) if self.layers else list(each) for each in lists))
