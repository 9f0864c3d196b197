"""A result depends neither on the micro-batch, nor on the number of ranks, nor on what the process did before."""

import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from optbench import config as configuration
from optbench.config import Config
from optbench.config.children import environment
from optbench.store.files import to_json
from optbench.testing import problem
from optbench.testing.outcomes import Broken, Found, nudge, require_close, require_equal
from optbench.testing.session import Session
from optbench.testing.subject import Subject
from optbench.testing.trained import numbers, trained

_RANKS = 2
_PATIENCE = 600.0
_PROGRAM = "import optbench.testing.invariance as ranks, sys\nranks.train_as_rank(sys.argv[1])"
_TWO_RANKS = ("trainer=ddp", f"trainer.devices={_RANKS}", "trainer.accelerator=cpu")


class Undisturbed:
    """The end of a run on one rank with whole batches in float64, computed at the first request.

    It is what the micro-batched run and the ranks are compared with, and that from a nudged start, too. config: with
    precision=fp64, in whose batch there are four groups of batch norm.
    """

    def __init__(self, config: Config) -> None:
        self.config = config
        self._kept: dict[bool, dict[str, Tensor]] = {}

    def reached(self, nudged: bool = False) -> dict[str, Tensor]:
        """The numbers at the end; of ``nudged``, from weights that are one unit in the last place larger."""
        if nudged not in self._kept:
            start: dict[str, Tensor] = {}

            def prepare(task: Any) -> None:
                if nudged:
                    nudge(list(task.model.parameters()))
                start.update({name: tensor.clone() for name, tensor in task.model.state_dict().items()})

            end = numbers(trained(self.config, prepare))
            # A comparison of two equal things is only one if they moved.
            if all(torch.equal(end[name], tensor) for name, tensor in start.items() if tensor.is_floating_point()):
                raise Broken("no weight has moved")
            self._kept[nudged] = end
        return self._kept[nudged]


def micro_batch(undisturbed: Undisturbed) -> Found:
    """Micro-batches of one group of batch norm and of three, which leaves a smaller last one, give what whole batches give.

    The images of the latter lie in memory with their channels last, which makes no difference either.
    """
    group = undisturbed.config["ghost_batch_size"]
    found = Found()
    for size, channels_last in ((group, False), (3 * group, True)):
        parts = numbers(trained(undisturbed.config, micro_batch=size, channels_last=channels_last))
        what = f"micro-batches of {size} of {undisturbed.config['batch']} examples"
        found = compared(parts, undisturbed, what + (" with channels_last=true" if channels_last else ""))
    return found


def compared(found: Mapping[str, Tensor], undisturbed: Undisturbed, what: str) -> Found:
    """Compare with the undisturbed run, and only where that differs look at a nudged one, which costs another run."""
    whole = undisturbed.reached()
    return require_close(found, whole, what, lambda: (undisturbed.reached(nudged=True), whole))


def repeat(subject: Subject) -> Found:
    """The same steps again, in the same process and with torch's generator seeded alike, end bit for bit where they ended."""
    ends = [Session(subject).step(6).weights() for _ in range(2)]
    require_equal(ends[1], ends[0], "the same steps again in the same process")
    return Found()


# ---- ranks -------------------------------------------------------------------------------------------------------------------


class TwoRanks:
    """Two processes over gloo that train configurations, one after the other, beside whatever the caller does meanwhile."""

    def __init__(self, configs: Mapping[str, Config]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="optbench-ranks-")
        folder = Path(self._folder.name)
        trainer = configuration.compose([*problem.COMMON, *_TWO_RANKS])["trainer"]
        given = {
            name: {**config, "trainer": {**trainer, "sharding": config["trainer"]["sharding"]}}
            for name, config in configs.items()
        }
        (folder / "configs.json").write_bytes(to_json(given))
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            port = found.getsockname()[1]
        self._processes = []
        for rank in range(_RANKS):
            place = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": _RANKS,
                "LOCAL_WORLD_SIZE": _RANKS,
                "GROUP_RANK": 0,
            }
            address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "TORCHELASTIC_RUN_ID": "certify"}
            variables = {key: str(value) for key, value in (place | address).items()}
            log = (folder / f"rank{rank}.log").open("wb")
            command = [sys.executable, "-P", "-c", _PROGRAM, str(folder)]
            self._processes.append(
                subprocess.Popen(command, env=environment() | variables, stdout=log, stderr=subprocess.STDOUT)
            )
            log.close()

    def reached(self, name: str) -> dict[str, Tensor]:
        """Wait for the ranks, and return their end with the configuration ``name``. Raises `Broken` if they failed."""
        folder = Path(self._folder.name)
        try:
            codes = [process.wait(_PATIENCE) for process in self._processes]
        except subprocess.TimeoutExpired:
            self.stop()
            raise Broken(f"two ranks have not ended within {_PATIENCE:.0f} s") from None
        path = folder / f"{name}.pt"
        if path.is_file():
            found: dict[str, Tensor] = torch.load(path, weights_only=True)
            return found
        why = folder / f"{name}.txt"
        said = why.read_text() if why.is_file() else _last_line(folder / f"rank{codes.index(max(codes, key=abs))}.log")
        raise Broken(f"two ranks failed: {said}")

    def stop(self) -> None:
        """End the processes, wherever they are, and remove what they have written."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.wait()
        self._folder.cleanup()


def _last_line(log: Path) -> str:
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1].strip() if lines else "without a word"


def train_as_rank(folder: str) -> None:
    """Train the configurations in ``folder`` as one of two ranks, which its environment says; rank 0 writes what was reached."""
    torch.set_num_threads(1)
    for name, config in json.loads((Path(folder) / "configs.json").read_text()).items():
        try:
            task = trained(config)
        except Exception as error:
            first = str(error).splitlines()[0] if str(error) else ""
            (Path(folder) / f"{name}.txt").write_text(f"{type(error).__name__}: {first}")
            raise
        reached = numbers(task)
        if task.global_rank == 0:
            temporary = Path(folder) / f"{name}.{os.getpid()}"
            torch.save(reached, temporary)
            temporary.replace(Path(folder) / f"{name}.pt")


def ranks(undisturbed: Undisturbed, two: TwoRanks, name: str) -> Found:
    """Two ranks, each with half of every batch, give what one rank gives."""
    return compared(two.reached(name), undisturbed, "two ranks")
