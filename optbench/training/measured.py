"""Measurements of a run itself while it trains: peak memory, and seconds of evaluation, over all parts of a resumed run.

The peak of the host is that of this run alone: a worker trains one run after another in one process, and the kernel's mark of
the largest resident size is set back when a run begins. Where that is refused, the peak is unknown.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from time import perf_counter
from typing import Any

import torch

from optbench.system import memory


class Measured:
    """Peaks in bytes, None if unknown, and seconds of evaluation; ``state`` and ``load_state`` carry them to the next part.

    It begins to measure the memory of the host when it is constructed. device: the GPU that trains, None if none does; Lightning
    moves the model away from it before the run is summarized.
    """

    def __init__(self) -> None:
        self._host_is_known = memory.reset_peak()
        self.device: torch.device | None = None
        self._earlier: dict[str, Any] = {}

    def begin(self, device: torch.device) -> None:
        """Begin to measure the memory of ``device``, which holds the model by now."""
        if device.type == "cuda":
            self.device = device
            torch.cuda.reset_peak_memory_stats(device)

    @contextmanager
    def evaluation(self) -> Iterator[None]:
        """Count the time within this context as evaluation."""
        begun = perf_counter()
        yield
        self._seconds += perf_counter() - begun

    _seconds = 0.0

    def state(self) -> dict[str, Any]:
        """The values so far, of all parts: peak_host_bytes, peak_device_bytes, seconds_evaluation; None if unknown."""
        host = memory.peak() if self._host_is_known else None
        device = torch.cuda.max_memory_allocated(self.device) if self.device is not None else None
        if not self._earlier:
            return {"peak_host_bytes": host, "peak_device_bytes": device, "seconds_evaluation": self._seconds}
        seconds = self._earlier["seconds_evaluation"]
        return {
            "peak_host_bytes": _larger(self._earlier["peak_host_bytes"], host),
            "peak_device_bytes": _larger(self._earlier["peak_device_bytes"], device),
            "seconds_evaluation": None if seconds is None else seconds + self._seconds,
        }

    def load_state(self, state: dict[str, Any] | None) -> None:
        """Continue after the parts that ended with ``state``; None: of an earlier version, which did not measure."""
        names = ("peak_host_bytes", "peak_device_bytes", "seconds_evaluation")
        self._earlier = dict(state) if state is not None else dict.fromkeys(names)


def _larger(one: int | None, other: int | None) -> int | None:
    """The peak of two parts, unknown if one of them is."""
    return None if one is None or other is None else max(one, other)
