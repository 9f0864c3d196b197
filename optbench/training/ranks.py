"""The ranks of one run, for Lightning: start them, let them meet, join them in a process group, and separate them."""

import atexit
import contextlib
import gc
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytorch_lightning as pl
import torch
import torch.distributed as dist
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment

from optbench.config.run_config import Devices
from optbench.sweep.launchers.local import worker_environment
from optbench.training import meeting
from optbench.training.launch_environment import check_ranks, launched
from optbench.training.task import Task

# Ranks started here have this time to end by themselves once rank 0 has ended.
_GRACE_SECONDS = 30.0
_GRACE_AFTER_FAILURE = 5.0


class Cluster(ClusterEnvironment):
    """The launch read by `launch_environment`, in Lightning's interface; all processes exist before the trainer."""

    def __init__(self, devices: Devices) -> None:
        super().__init__()
        self._ranks, self._devices = devices.ranks, devices.devices

    @property
    def creates_processes_externally(self) -> bool:
        """True, because Lightning must not start processes."""
        return True

    @property
    def main_address(self) -> str:
        """The host of rank 0."""
        return launched().host or "127.0.0.1"

    @property
    def main_port(self) -> int:
        """The port of rank 0."""
        return launched().port

    @staticmethod
    def detect() -> bool:
        """False, so that Lightning does not choose this class by itself."""
        return False

    def world_size(self) -> int:
        """The number of ranks that train the run."""
        return self._ranks

    def set_world_size(self, size: int) -> None:
        """Do nothing: the configuration sets the number of ranks."""

    def global_rank(self) -> int:
        """The rank of this process."""
        return launched().rank if self._ranks > 1 else 0

    def set_global_rank(self, rank: int) -> None:
        """Do nothing: the launch sets the rank."""

    def local_rank(self) -> int:
        """The rank of this process among those of its machine, which is the number of its device."""
        return launched().local_rank if self._ranks > 1 else 0

    def node_rank(self) -> int:
        """The number of this machine."""
        return self.global_rank() // self._devices


class Ranks(pl.strategies.DDPStrategy):
    """DistributedDataParallel, or the sharding of a `Task`, between ranks that meet within ``seconds``."""

    def __init__(self, seconds: float, met: meeting.Meeting | None = None) -> None:
        # Running statistics are updated once a step by the mean over ranks, so that no buffers need a broadcast.
        super().__init__(broadcast_buffers=False, gradient_as_bucket_view=True)
        self.seconds = seconds
        self.meeting = met

    def meet(self, lost: Callable[[], str | None] = lambda: None) -> meeting.Meeting:
        """Wait for the other ranks; only the first call waits."""
        if self.meeting is None:
            self.meeting = meeting.meet(launched(), self.seconds, lost)
        return self.meeting

    def model_to_device(self) -> None:
        """Move the model to the device of this rank; of weights that ranks divide only this rank's rows, block by block."""
        self._task.divide(self.root_device)
        super().model_to_device()

    def configure_ddp(self) -> None:
        """Wrap the model, unless its sharding averages the gradients."""
        if self._task.sharding.wraps:
            super().configure_ddp()

    @property
    def _task(self) -> Task:
        assert isinstance(self.lightning_module, Task)
        return self.lightning_module

    def setup_distributed(self) -> None:
        """Make the process group on the meeting's store; Lightning then uses it."""
        if not dist.is_initialized():
            met = self.meet()
            met.get_ready()
            backend = self._get_process_group_backend()
            device = self.root_device if self.root_device.type != "cpu" else None
            dist.init_process_group(
                backend,
                store=dist.PrefixStore("group", met.store),  # type: ignore[attr-defined]
                rank=met.launch.rank,
                world_size=met.launch.world_size,
                timeout=self._timeout,
                device_id=device,
            )
            atexit.register(_leave_group)  # for training without a run
        super().setup_distributed()

    def part(self, in_order: bool) -> None:
        """Leave the process group; ``in_order``: wait first until every rank has called this. A second call does nothing."""
        if not dist.is_initialized():
            return
        if self.meeting is not None and in_order:
            self.meeting.part()
        _leave_group()


def _leave_group() -> None:
    """Destroy the process group: the threads of gloo abort a process that ends while they live."""
    if dist.is_initialized():
        gc.collect()  # frees modules that hold the group
        with contextlib.suppress(RuntimeError):
            dist.destroy_process_group()


def meet(devices: Devices) -> meeting.Meeting:
    """Meet the other ranks of a run that a launcher has started; raises UserError if their number is not the configured one."""
    check_ranks(devices, launched())
    return meeting.meet(launched(), devices.rendezvous_seconds)


@contextlib.contextmanager
def started_here(count: int, run_directory: Path) -> Iterator[Callable[[], str | None]]:
    """Start the other ranks of a run of ``count`` ranks on this machine, of which this process is rank 0.

    Yields a function that returns how one of them has ended by itself, or None. At the end the ranks get some time to end,
    and are then killed.
    """
    kept = dict(os.environ)
    kept_threads = torch.get_num_threads()
    threads = int(kept["OMP_NUM_THREADS"]) if kept.get("OMP_NUM_THREADS", "").isdigit() else _threads(count)
    os.environ |= _place(0, count, meeting.listen())
    children: list[subprocess.Popen[bytes]] = []
    grace = _GRACE_AFTER_FAILURE
    try:
        torch.set_num_threads(threads)
        for rank in range(1, count):
            environment = worker_environment(threads) | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
            command = [sys.executable, "-P", "-m", "optbench.training.follower", str(run_directory)]
            children.append(subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL))

        def lost() -> str | None:
            ended = [(rank, child.poll()) for rank, child in enumerate(children, start=1)]
            return next(
                (f"rank {rank} has ended with exit status {code}" for rank, code in ended if code is not None), None
            )

        yield lost
        grace = _GRACE_SECONDS
    finally:
        _see_off(children, grace)
        torch.set_num_threads(kept_threads)
        for name in set(os.environ) - set(kept):
            del os.environ[name]
        os.environ.update(kept)


def _threads(processes: int) -> int:
    return max(1, len(os.sched_getaffinity(0)) // processes)


def _place(rank: int, count: int, port: int) -> dict[str, str]:
    return {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": str(count),
        "LOCAL_WORLD_SIZE": str(count),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }


def _see_off(children: list["subprocess.Popen[bytes]"], seconds: float) -> None:
    until = time.monotonic() + seconds
    for child in children:
        try:
            child.wait(max(until - time.monotonic(), 0.1))
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
