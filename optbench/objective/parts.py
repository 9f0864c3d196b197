"""The micro-batches of a global batch, and smaller ones where memory runs out."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor

from optbench.errors import UserError
from optbench.objective.execution import Execution, Network, is_out_of_memory
from optbench.objective.products.graph import KeptGraphs, Part

Result = TypeVar("Result")


class _Shortage(Exception):
    """Memory ran out on one of the ranks; raised on all of them."""


class Parts:
    """This rank's examples of one global batch, in the micro-batches in which they pass through the network.

    may_halve: True if `within_memory` may make the micro-batches smaller. _workers: the equal consecutive shares of the examples
    that belong to different workers; no micro-batch belongs to two.
    """

    network: Network
    execution: Execution
    _parts: list[Part]
    _graphs: KeptGraphs
    may_halve: bool
    _attempting: bool = False
    _workers: int = 1
    # The groups that each batch norm has recorded in this step for the objectives of other workers.
    _recorded_before: list[int]

    def _split(self, inputs: Tensor, targets: Tensor, weights: Tensor | None = None) -> None:
        size, share = len(inputs), len(inputs) // self._workers
        micro = min(self.execution.micro_batch or share, share)
        if micro == size:
            self._parts = [Part(inputs, targets, 1.0, 0, weights)]
        else:
            ends = [(start, end) for end in range(share, size + 1, share) for start in range(end - share, end, micro)]
            places = [slice(start, min(start + micro, end)) for start, end in ends]
            self._parts = [
                Part(
                    inputs[place],
                    targets[place],
                    (place.stop - place.start) / size,
                    place.start,
                    None if weights is None else weights[place],
                )
                for place in places
            ]
        self._graphs = KeptGraphs(self.network, self._parts, self.execution.cached_graphs)

    def _parts_of_workers(self) -> list[list[Part]]:
        """The micro-batches of each worker, in the order of the workers."""
        share = sum(len(part.inputs) for part in self._parts) // self._workers
        found: list[list[Part]] = [[] for _ in range(self._workers)]
        for part in self._parts:
            found[part.start // share].append(part)
        return found

    def within_memory(self, compute: Callable[[], Result]) -> Result:
        """``compute()``; where memory runs out, again in micro-batches of half the size, if the size is optbench's to choose.

        ``compute`` must leave nothing behind when it fails. It may call `within_memory`, and fails as a whole. Ranks must compute
        alike, and what they send to each other must follow such an inner call: after each call they agree that none has failed.
        Raises UserError where not even the smallest micro-batch fits.
        """
        if not self.may_halve:
            return compute()
        if self._attempting:
            return self._together(compute)
        self._attempting = True
        try:
            while True:
                try:
                    return self._together(compute)
                except _Shortage as shortage:
                    problem = str(shortage)
                # Not before the exception is gone, whose frames may hold tensors of the attempt.
                self._halve(problem)
        finally:
            self._attempting = False

    def _together(self, compute: Callable[[], Result]) -> Result:
        """``compute()``; raises _Shortage on every rank if memory runs out on one of them."""
        problem = None
        try:
            result = compute()
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            problem = str(error).splitlines()[0]
        # Not before the error is gone, whose frames hold the tensors that did not fit.
        if self.execution.on_any_rank(problem is not None):
            raise _Shortage(problem or "on another rank")
        return result

    def _halve(self, problem: str) -> None:
        size = max(len(part.inputs) for part in self._parts)
        unit = max((norm.group or size for norm in self.network.norms), default=1)
        if size < 2 * unit:
            raise UserError(
                f"micro_batch=auto: memory ran out at {size} examples at once, the fewest that can pass ({problem}); accepted: "
                f"{'a smaller ghost_batch_size, ' if unit > 1 else ''}precision=bf16, a smaller model, fewer workers"
            )
        self._graphs.drop()
        for norm, count in zip(self.network.norms, self._recorded_before, strict=True):
            if norm.recording == "record":
                del norm.recorded[count:]
        self.execution.micro_batch = size // 2 // unit * unit
        inputs = torch.cat([part.inputs for part in self._parts])
        weights = [part.example_weights for part in self._parts if part.example_weights is not None]
        self._split(inputs, torch.cat([part.targets for part in self._parts]), torch.cat(weights) if weights else None)
