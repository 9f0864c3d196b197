"""The launch to which this process belongs, read from the variables that launchers set (no torch).

Launchers export their variables to every process inside them, interactive shells included. A launch counts as live only if
its variables describe it completely; other variables are ignored, and named in one line on stderr.

| variables                                                      | read as                                                     |
| -------------------------------------------------------------- | ----------------------------------------------------------- |
| none                                                           | alone: the process starts further ranks itself              |
| RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT (torchrun)          | one rank of WORLD_SIZE                                      |
| RANK, WORLD_SIZE or LOCAL_RANK without the others              | left over: ignored                                          |
| rank and size of Open MPI, MVAPICH, jsrun, Flux, PMI           | one rank; it also needs MASTER_ADDR and MASTER_PORT         |
| only one of rank and size, a rank outside of the size, no int  | left over: ignored                                          |
| SLURM_PROCID, SLURM_STEP_NUM_TASKS (srun)                      | one rank of the step                                        |
| SLURM_PROCID > 0, SLURM_NTASKS (srun, step variables removed)  | one rank of SLURM_NTASKS                                    |
| SLURM_NTASKS, SLURM_PROCID=0 or unset (sbatch script, salloc)  | alone: srun did not start it; the size is ignored           |
| those of srun with SLURM_PTY_PORT, in another process than the | left over: a command typed in the shell of                  |
|   task itself (SLURM_TASK_PID)                                 | `srun --pty bash`, which runs in one task only              |
| several of these, all complete                                 | the innermost of more than one rank: torchrun inside        |
|                                                                | mpirun inside srun                                          |
"""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass

from optbench.config.run_config import Devices
from optbench.errors import UserError


@dataclass(frozen=True)
class Launch:
    """The rank of this process, and the number of processes (``world_size``).

    by: the program that started them, empty if there is none. local_size: the number of them on this machine, if known.
    host, port: the address of rank 0, if known. variables: the variables from which this was read. ignored: variables left
    over from another launch.
    """

    by: str = ""
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_size: int | None = None
    host: str | None = None
    port: int = 0
    variables: tuple[str, ...] = ()
    ignored: tuple[str, ...] = ()

    @property
    def warning(self) -> str | None:
        """One line that names the ignored variables; None if there are none."""
        if not self.ignored:
            return None
        return f"ignored {', '.join(self.ignored)}: left over from a launch that this process is not part of"


@dataclass(frozen=True)
class _Launcher:
    """The variables in which a launcher states the rank of a process and the number of processes."""

    by: str
    rank: str
    size: str
    local_rank: str
    local_size: str


# The innermost comes first: a launcher started by another one inherits its variables.
_LAUNCHERS = (
    _Launcher("torchrun", "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
    _Launcher(
        "mpirun",
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    _Launcher(
        "mpirun", "MV2_COMM_WORLD_RANK", "MV2_COMM_WORLD_SIZE", "MV2_COMM_WORLD_LOCAL_RANK", "MV2_COMM_WORLD_LOCAL_SIZE"
    ),
    _Launcher(
        "jsrun", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_LOCAL_RANK", "JSM_NAMESPACE_LOCAL_SIZE"
    ),
    _Launcher("flux run", "FLUX_TASK_RANK", "FLUX_JOB_SIZE", "FLUX_TASK_LOCAL_ID", "FLUX_TASK_LOCAL_SIZE"),
    _Launcher("mpiexec", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    _Launcher("srun", "SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", ""),
)
_ADDRESS = ("MASTER_ADDR", "MASTER_PORT")


def launched(environment: Mapping[str, str] | None = None) -> Launch:
    """The launch that ``environment`` (by default that of this process) describes, read by the table above."""
    given = os.environ if environment is None else environment
    found: list[Launch] = []
    ignored: list[str] = []
    for launcher in _LAUNCHERS:
        launch = _read(launcher, given)
        if isinstance(launch, Launch):
            found.append(launch)
        else:
            ignored += launch
    # A launch of one process does not exclude an outer launch of several.
    several = [launch for launch in found if launch.world_size > 1]
    if not several:
        return Launch(ignored=tuple(ignored))
    launch = several[0]
    if launch.host is None:
        # Slurm's own libraries for MPI describe the tasks of srun again; the variables of srun also name the hosts.
        same = [one for one in several if (one.rank, one.world_size) == (launch.rank, launch.world_size)]
        launch = next((one for one in same if one.host is not None), launch)
    return launch


def _read(launcher: _Launcher, given: Mapping[str, str]) -> Launch | list[str]:
    """The launch that the variables of ``launcher`` describe, or the names of those that describe none."""
    size_name = launcher.size
    srun = launcher.by == "srun"
    if srun and size_name not in given:
        # A batch script and the shell of salloc have the size of the job, but srun did not start them. Task 0 of srun
        # cannot be distinguished from them; any other task must have been started by srun.
        size_name = "SLURM_NTASKS"
        if _int(given, launcher.rank) in (None, 0):
            return _shown(given, size_name) if (_int(given, size_name) or 1) > 1 else []
    names = [launcher.rank, size_name, launcher.local_rank]
    rank, size = _int(given, launcher.rank), _int(given, size_name)
    if rank is None or size is None or not 0 <= rank < size:
        return _shown(given, *names)
    if srun and size > 1 and "SLURM_PTY_PORT" in given and given.get("SLURM_TASK_PID") != str(os.getpid()):
        return _shown(given, *names)
    host, port = given.get(_ADDRESS[0]) or None, _int(given, _ADDRESS[1])
    if launcher.by == "torchrun" and (host is None or port is None):
        return _shown(given, *names) if size > 1 else []
    if srun and host is None:
        host = _first_host(given)
    if srun and port is None:
        # The port differs between steps of a job, and between jobs on a machine, so that their ranks do not meet.
        port = 15000 + ((_int(given, "SLURM_JOB_ID") or 0) + 101 * (_int(given, "SLURM_STEP_ID") or 0)) % 10000
    if host is None or port is None:
        host, port = None, 0
    local_size = _int(given, launcher.local_size)
    if srun and (nodes := _int(given, "SLURM_STEP_NUM_NODES")) and size % nodes == 0:
        local_size = size // nodes
    variables = (*names, launcher.local_size) if launcher.by != "srun" else names
    return Launch(
        launcher.by,
        rank,
        size,
        _int(given, launcher.local_rank) or 0,
        local_size,
        host,
        port,
        tuple(_shown(given, *variables)),
    )


def _int(given: Mapping[str, str], name: str) -> int | None:
    text = given.get(name, "")
    return int(text) if re.fullmatch(r"\d{1,9}", text) else None


def _shown(given: Mapping[str, str], *names: str) -> list[str]:
    return [
        f"{name}={given[name][:80]!r}" if not given[name].isalnum() else f"{name}={given[name]}"
        for name in names
        if name in given
    ]


def _first_host(given: Mapping[str, str]) -> str | None:
    """The first host of the step, as in "gpu[03-07,12],login1"."""
    if given.get("SLURM_STEP_NUM_NODES", given.get("SLURM_JOB_NUM_NODES")) == "1":
        return "127.0.0.1"
    names = ("SLURM_STEP_NODELIST", "SLURM_JOB_NODELIST", "SLURM_NODELIST")
    nodes = next((given[name] for name in names if given.get(name)), None)
    if nodes is None:
        return None
    return re.sub(r"\[(\w+)[^]]*\]", r"\1", nodes).split(",")[0]


def check_alone(launch: Launch, what: str) -> None:
    """Raise UserError if several processes were started to do ``what``, which needs only one."""
    if launch.world_size > 1:
        raise UserError(
            f"{what}: {launch.by} has started {launch.world_size} processes, and each would do it; {_way_out(launch)}"
        )


def check_ranks(trainer: Devices, launch: Launch) -> None:
    """Raise UserError unless as many ranks were started as ``trainer`` has, on as many machines."""
    devices, nodes, expected, configured = trainer.devices, trainer.num_nodes, trainer.ranks, str(trainer)
    if launch.world_size == 1:
        if nodes > 1:
            raise UserError(
                f"{configured}: a command starts ranks on its own machine only; accepted: srun or torchrun, which start one "
                "on each device of every machine, or launcher=slurm"
            )
        return
    if launch.world_size != expected:
        raise UserError(
            f"{configured}: {'is one rank' if expected == 1 else f'are {expected} ranks'}, but {launch.by} has started "
            f"{launch.world_size} processes; {_way_out(launch)}"
        )
    if launch.local_size not in (None, devices) or launch.local_rank != launch.rank % devices:
        there = "" if launch.local_size is None else f" of {launch.local_size}"
        raise UserError(
            f"{configured}: rank {launch.rank} is process {launch.local_rank}{there} on its machine; accepted: "
            f"{devices} on each machine, one machine after the other (srun --nodes={nodes} --ntasks-per-node={devices}, "
            f"torchrun --nnodes={nodes} --nproc-per-node={devices})"
        )
    if launch.host is None:
        raise UserError(
            f"{configured}: {launch.by} does not say where rank 0 is met; accepted: MASTER_ADDR and MASTER_PORT, its host and a "
            "free port, in the environment of every rank, or torchrun or srun"
        )


def _way_out(launch: Launch) -> str:
    names = " ".join(word.partition("=")[0] for word in launch.variables)
    return (
        f"accepted: as many processes as ranks; where {launch.by} did not start this command, it has left "
        f"{', '.join(launch.variables)} behind: unset {names}"
    )
