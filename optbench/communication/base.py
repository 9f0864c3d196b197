"""The contract of communication between the workers that share a batch, and compressed gradients with error feedback.

A worker is one of W equal consecutive shares of the global batch. Workers are a part of the science: W changes the numbers.
Ranks are hardware: each holds W / ranks whole workers, and their number changes the numbers only by rounding. A payload is
simulated: what a worker's message means is summed as dense tensors, and the bytes of the message are counted by formula.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from optbench.objective import Execution
from optbench.objective.vectors import flatten, unflatten

Shapes = Mapping[str, Sequence[int]]
# Bytes of one number, whatever the precision of the simulation: float32 is what is usually sent.
NUMBER = 4


def sizes(shapes: Shapes) -> list[int]:
    """The number of entries of every tensor."""
    return [torch.Size(shape).numel() for shape in shapes.values()]


def dense_bytes(shapes: Shapes) -> float:
    """The bytes of a whole gradient of d entries, 4 d."""
    return float(NUMBER * sum(sizes(shapes)))


class Communication:
    """The exchange by which W workers that share a batch agree on the next weights.

    shapes: of the trained parameters, by name. workers: W.
    """

    def __init__(self, shapes: Shapes, workers: int) -> None:
        self.shapes, self.workers = shapes, workers
        self.execution = Execution()

    def place(self, execution: Execution) -> None:
        """Hold the workers of the rank that ``execution`` says, from now on."""
        self.execution = execution

    @property
    def held(self) -> range:
        """The workers of this rank."""
        count = self.workers // self.execution.world_size
        return range(self.execution.rank * count, (self.execution.rank + 1) * count)

    def mean_over_workers(self, lists: Sequence[Sequence[Tensor]]) -> list[Tensor]:
        """The mean over all W workers of lists of tensors, of which ``lists`` has one for each worker of this rank."""
        sums = [tensor.clone() for tensor in lists[0]]
        if not sums:
            return sums
        for tensors in lists[1:]:
            torch._foreach_add_(sums, list(tensors))
        if self.execution.world_size > 1:
            sums = unflatten(self.execution.sum_over_ranks(flatten(sums)), sums)
        torch._foreach_div_(sums, self.workers)
        return sums

    def bytes_per_step(self, steps: int) -> float:
        """The bytes that a worker sends in a step, on the average over a run of ``steps``."""
        raise NotImplementedError

    # ---- state for checkpoints ------------------------------------------------------------------------------------------

    def memories(self) -> dict[int, Any]:
        """All state of each worker of this rank, by its number."""
        raise NotImplementedError

    def load_memory(self, worker: int, memory: Any) -> None:
        """Continue as ``worker`` of this rank from its entry in ``memories``."""
        raise NotImplementedError

    def shared_state(self) -> dict[str, Any]:
        """All state that is the same on every worker."""
        return {}

    def load_shared_state(self, state: Mapping[str, Any]) -> None:
        """Continue from ``shared_state``."""

    def state_dict(self) -> dict[str, Any]:
        """The state of all W workers on rank 0; of several ranks, each must call this at the same time."""
        memories = self.memories()
        if self.execution.world_size > 1:
            on_cpu = _on_cpu(memories)
            parts: list[Any] | None = [None] * self.execution.world_size if self.execution.rank == 0 else None
            dist.gather_object(on_cpu, parts)
            memories = {worker: memory for part in parts or [on_cpu] for worker, memory in part.items()}
        return {"workers": memories, "shared": self.shared_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from ``state_dict``, on as many ranks as there are now."""
        self.load_shared_state(state["shared"])
        for worker in self.held:
            if worker in state["workers"]:
                self.load_memory(worker, state["workers"][worker])


def _on_cpu(state: Any) -> Any:
    if isinstance(state, Tensor):
        return state.detach().cpu()
    if isinstance(state, Mapping):
        return {key: _on_cpu(value) for key, value in state.items()}
    return [_on_cpu(value) for value in state] if isinstance(state, list) else state


class Compressor(Communication):
    """Every worker sends a compressed gradient C(p) and receives the mean of what all have sent.

    With error feedback (Seide et al. 2014; Karimireddy et al. 2019, arXiv 1901.09847) p = g + e, where g is the gradient of
    the mean loss over the worker's share, and e ← p - C(p) is what was not sent so far: the sum of all that a worker sends and
    of its e is the sum of its gradients. Without it p = g.

    Clipping and weight decay apply to what is received, as with the communication hooks of DistributedDataParallel.
    """

    def __init__(self, shapes: Shapes, workers: int = 1, error_feedback: bool = True, seed: int = 0) -> None:
        super().__init__(shapes, workers)
        self.error_feedback, self.seed = error_feedback, seed
        # By worker and the name of a parameter: e, from the first exchange on.
        self.errors: dict[int, dict[str, Tensor]] = {}

    def sent(self, name: str, tensor: Tensor, worker: int, step: int) -> Tensor:
        """C(p) of one tensor of p, in its shape and type."""
        raise NotImplementedError

    def tensor_bytes(self, shape: Sequence[int]) -> float:
        """The bytes of the message for one tensor."""
        raise NotImplementedError

    def bytes_per_step(self, steps: int) -> float:
        """The bytes of the messages for all tensors."""
        return sum(self.tensor_bytes(shape) for shape in self.shapes.values())

    @torch.no_grad()
    def exchange(self, gradients: Sequence[Mapping[str, Tensor]], step: int) -> dict[str, Tensor]:
        """Send the gradients of the workers of this rank, and return what all workers receive.

        A parameter that no gradient reaches is in none of ``gradients``, and not in the result.
        """
        to_send = [self._with_error(worker, own) for worker, own in zip(self.held, gradients, strict=True)]
        sent = [
            {name: self.sent(name, tensor, worker, step) for name, tensor in own.items()}
            for worker, own in zip(self.held, to_send, strict=True)
        ]
        self._remember(to_send, sent)
        return dict(zip(sent[0], self.mean_over_workers([list(own.values()) for own in sent]), strict=True))

    def _with_error(self, worker: int, gradients: Mapping[str, Tensor]) -> dict[str, Tensor]:
        errors = self.errors.get(worker, {})
        return {name: own + errors[name] if name in errors else own for name, own in gradients.items()}

    def _remember(self, to_send: Sequence[Mapping[str, Tensor]], sent: Sequence[Mapping[str, Tensor]]) -> None:
        """Keep what is missing in ``sent``, which lacks the names of tensors that are sent whole."""
        if self.error_feedback:
            for worker, whole, part in zip(self.held, to_send, sent, strict=True):
                self.errors[worker] = {name: whole[name] - own for name, own in part.items()}

    def memories(self) -> dict[int, Any]:
        """The errors of each worker of this rank, by name."""
        return dict(self.errors)

    def load_memory(self, worker: int, memory: Mapping[str, Tensor]) -> None:
        """Continue with these errors of ``worker``."""
        self.errors[worker] = {name: error.to(self.execution.device, copy=True) for name, error in memory.items()}
