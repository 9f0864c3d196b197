"""A function on each of two ranks that meet through gloo."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing


def on_two_ranks(function: Callable[[int], Any], folder: Path) -> list[Any]:
    """The results of ``function(rank)``, by rank: each is saved below ``folder`` and loaded, so they are tensors and the like.

    function: of a module, because each rank is a new process, which imports it.
    """
    multiprocessing.spawn(_of_a_rank, (function, str(folder)), nprocs=2)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def _of_a_rank(rank: int, function: Callable[[int], Any], folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    torch.save(function(rank), f"{folder}/{rank}.pt")
    dist.destroy_process_group()
