"""Averages of a model along its training path, evaluated in addition to the model.

An average covers the parameters and the floating-point buffers that a checkpoint holds, so that running statistics of batch
norm are averaged as well; counters, and buffers that no checkpoint holds, stay the model's own.
"""

from collections.abc import Callable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from optbench.config.run_config import Choice
from optbench.config.targets import load_target
from optbench.training.sharding.layout import as_part, local, part_of

# The place of a tensor in a module: the table of parameters or of buffers, and the key in it.
_Place = tuple[MutableMapping[str, Any], str]


def _places(model: nn.Module) -> dict[str, _Place]:
    places: dict[str, _Place] = {}
    seen: set[Tensor] = set()
    for prefix, module in model.named_modules():
        for table in (module._parameters, module._buffers):
            for key, tensor in table.items():
                if tensor is None or tensor in seen or not tensor.is_floating_point():
                    continue
                if key not in module._non_persistent_buffers_set:
                    seen.add(tensor)
                    places[f"{prefix}.{key}" if prefix else key] = (table, key)
    return places


class Average:
    """The average of a model over some of its steps; a subclass defines the steps and the weights.

    model: the model to average, whose tensors may still move to another device. start: the number of steps before the
    first model that may enter.

    The average is kept in at least float32, so that small changes to a bfloat16 model are not rounded away. Of tensors that
    ranks divide each has its own rows, of the average as of the model.
    """

    def __init__(self, model: nn.Module, start: int = 0) -> None:
        self._model, self._places = model, _places(model)
        self.start = start
        self.updates = 0
        self._average: list[Tensor] = []

    def _tensors(self, model: nn.Module) -> list[Tensor]:
        # The modules are traversed only once: for a deep model that takes as long as the average itself.
        if model is not self._model:
            self._model, self._places = model, _places(model)
        return [local(table[key]) for table, key in self._places.values()]

    def _takes(self, made: int) -> bool:
        """True if the model enters the average after ``made`` steps."""
        return made >= self.start

    def _weight(self) -> float:
        """The weight w of the model in average + w (model - average), with ``updates`` models already in the average."""
        raise NotImplementedError

    @property
    def active(self) -> bool:
        """True if the average contains at least one model."""
        return self.updates > 0

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        """Add ``model`` after step ``step``, counted from 0; must be called after every step."""
        if not self._takes(step + 1):
            return
        live = self._tensors(model)
        if self.updates == 0:
            # Copied even if no conversion is needed, because the model changes in place.
            self._average = [tensor.to(_kept_as(tensor), copy=True) for tensor in live]
        else:
            self._follow(live)
            live = [tensor.to(average.dtype) for tensor, average in zip(live, self._average, strict=True)]
            torch._foreach_lerp_(self._average, live, self._weight())
        self.updates += 1

    def _follow(self, live: list[Tensor]) -> None:
        # After a resume, the state may be on another device than the model.
        if self._average[0].device != live[0].device:
            self._average = [average.to(tensor.device) for average, tensor in zip(self._average, live, strict=True)]

    @contextmanager
    def applied_to(self, model: nn.Module) -> Iterator[None]:
        """Within this context ``model`` holds the average; afterwards its own tensors are restored, bit for bit.

        If the average is empty, the model stays as it is.
        """
        if not self.active:
            yield
            return
        live = [tensor.detach() for tensor in self._tensors(model)]
        self._follow(live)
        own = [tensor.clone() for tensor in live]
        torch._foreach_copy_(live, self._average)
        try:
            yield
        finally:
            torch._foreach_copy_(live, own)

    def state_dict(self) -> dict[str, Any]:
        """The number of models in the average, and the average by name (empty before the first)."""
        average = {}
        if self.active:
            for (name, (table, key)), rows in zip(self._places.items(), self._average, strict=True):
                average[name] = as_part(rows, table[key])
        return {"updates": self.updates, "average": average}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore a state from ``state_dict``; raises ValueError if it comes from a model with other tensors."""
        average: Mapping[str, Tensor] = state["average"]
        if state["updates"] and set(average) != set(self._places):
            raise ValueError(f"the average is of another model: {sorted(set(average) ^ set(self._places))}")
        self.updates = int(state["updates"])
        self._average = []
        if self.updates:
            places = self._places.items()
            self._average = [local(part_of(average[name], table[key])).clone() for name, (table, key) in places]


def _kept_as(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


class ExponentialMovingAverage(Average):
    """average <- d average + (1 - d) model after every step, starting from a copy of the model.

    With ``warmup`` the decay of the t-th update after the copy is d_t = min(decay, (1 + t) / (10 + t)), the rule of
    TensorFlow's ExponentialMovingAverage with num_updates: an early average forgets the untrained model quickly.
    Half of a model's weight is gone after log(2) / (1 - decay) steps. Polyak & Juditsky 1992 average uniformly; with
    exponential weights the average follows a moving target.
    """

    def __init__(self, model: nn.Module, decay: float = 0.999, warmup: bool = True, start: int = 0) -> None:
        super().__init__(model, start)
        self.decay, self.warmup = decay, warmup

    def _weight(self) -> float:
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates)) if self.warmup else self.decay
        return 1 - decay


class StochasticWeightAveraging(Average):
    """The plain mean of the models after start, start + every, start + 2 every, ... steps.

    Izmailov et al. 2018 (arXiv 1803.05407). They recompute the statistics of batch norm for the averaged weights; here
    the running statistics are averaged like the weights, which needs no further pass over the data.
    """

    def __init__(self, model: nn.Module, start: int = 0, every: int = 1) -> None:
        super().__init__(model, start)
        self.every = max(every, 1)

    def _takes(self, made: int) -> bool:
        return made >= self.start and (made - self.start) % self.every == 0

    def _weight(self) -> float:
        return 1 / (self.updates + 1)


def build(choice: Choice, model: nn.Module) -> Average | None:
    """Build the average of a choice of the group `averaging`, with durations in steps; None for averaging=none."""
    if choice.target is None:
        return None
    target: Callable[..., Average] = load_target(choice, Average)
    return target(model, **choice.options)
