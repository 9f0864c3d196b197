"""Who started this process: each row of the table in `launch_environment`, and as many ranks as are configured."""

import os

import pytest

from optbench import config as configuration
from optbench.config import Devices
from optbench.errors import UserError
from optbench.training.launch_environment import check_alone, check_ranks, launched

ADDRESS = {"MASTER_ADDR": "node7", "MASTER_PORT": "29500"}
TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2", **ADDRESS}
# As Slurm 22.05 sets them.
SRUN = {
    "SLURM_JOB_ID": "71234",
    "SLURM_STEP_ID": "2",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_NTASKS": "4",
    "SLURM_STEP_NUM_TASKS": "4",
    "SLURM_STEP_NUM_NODES": "2",
    "SLURM_STEP_NODELIST": "gpu[07-08]",
}
BATCH_SCRIPT = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_PROCID": "0", "SLURM_LOCALID": "0"}
SALLOC = {"SLURM_JOB_ID": "7", "SLURM_NTASKS": "4", "SLURM_JOB_NODELIST": "n1"}
MPI = {
    "mpirun": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    "mpiexec": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
    "jsrun": ("JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_LOCAL_RANK"),
    "flux run": ("FLUX_TASK_RANK", "FLUX_JOB_SIZE", "FLUX_TASK_LOCAL_ID"),
}


def where(launch):
    return launch.by, launch.rank, launch.world_size, launch.local_rank, launch.local_size, launch.host, launch.port


ALONE = ("", 0, 1, 0, None, None, 0)


def test_nobody():
    assert where(launched({})) == ALONE
    assert launched({}).warning is None


def test_torchrun():
    launch = launched(TORCHRUN)
    assert where(launch) == ("torchrun", 3, 4, 1, 2, "node7", 29500)
    assert launch.variables == ("RANK=3", "WORLD_SIZE=4", "LOCAL_RANK=1", "LOCAL_WORLD_SIZE=2")


def test_srun():
    # 15000 + (71234 + 101 * 2) % 10000
    assert where(launched(SRUN)) == ("srun", 3, 4, 1, 2, "gpu07", 16436)
    assert where(launched(SRUN | ADDRESS))[-2:] == ("node7", 29500)
    assert launched(SRUN | {"SLURM_STEP_NUM_NODES": "1"}).host == "127.0.0.1"


@pytest.mark.parametrize(
    ("nodes", "first"),
    [("n1", "n1"), ("n1,n2", "n1"), ("gpu[03-07,12],login1", "gpu03"), ("gpu[12,14]", "gpu12"), ("a-b[001]", "a-b001")],
)
def test_the_first_host_of_slurm(nodes, first):
    assert launched(SRUN | {"SLURM_STEP_NODELIST": nodes}).host == first


def test_a_task_of_srun_whose_step_variables_were_removed():
    tasks = {"SLURM_PROCID": "1", "SLURM_NTASKS": "2", "SLURM_LOCALID": "1"}
    assert where(launched(tasks))[:4] == ("srun", 1, 2, 1)


@pytest.mark.parametrize("by", MPI)
def test_other_launchers(by):
    rank, size, local = MPI[by]
    tasks = {rank: "1", size: "2", local: "1"}
    assert where(launched(tasks)) == (by, 1, 2, 1, None, None, 0)
    assert where(launched(tasks | ADDRESS)) == (by, 1, 2, 1, None, "node7", 29500)
    assert where(launched({rank: "0", size: "1", local: "0"})) == ALONE


@pytest.mark.parametrize(
    ("left", "named"),
    [
        ({"RANK": "1"}, "RANK=1"),
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK=1"),
        ({"WORLD_SIZE": "4"}, "WORLD_SIZE=4"),
        ({"RANK": "1", "WORLD_SIZE": "2"}, "RANK=1, WORLD_SIZE=2"),
        ({"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "node7"}, "RANK=1, WORLD_SIZE=2"),
        ({"RANK": "4", "WORLD_SIZE": "4", **ADDRESS}, "RANK=4, WORLD_SIZE=4"),
        ({"RANK": "one", "WORLD_SIZE": "", **ADDRESS}, "RANK=one, WORLD_SIZE=''"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE=2"),
        ({"PMI_RANK": "1"}, "PMI_RANK=1"),
        ({"PMI_RANK": "-1", "PMI_SIZE": "2"}, "PMI_RANK='-1', PMI_SIZE=2"),
        (BATCH_SCRIPT, "SLURM_NTASKS=4"),
        (SALLOC, "SLURM_NTASKS=4"),
        # The shell of `srun --pty`, which is the task: its pid is not ours.
        (SRUN | {"SLURM_PTY_PORT": "4711", "SLURM_TASK_PID": "1"}, "SLURM_PROCID=3, SLURM_STEP_NUM_TASKS=4"),
    ],
)
def test_what_was_left_over_is_ignored_with_one_line(left, named):
    launch = launched(left)
    assert where(launch) == ALONE
    assert launch.warning.startswith(f"ignored {named}")
    assert launch.warning.count("\n") == 0


def test_a_task_with_a_terminal_of_its_own_is_one_of_several():
    assert launched(SRUN | {"SLURM_PTY_PORT": "4711", "SLURM_TASK_PID": str(os.getpid())}).world_size == 4


def test_what_is_left_of_one_process_is_not_worth_a_line():
    shell = {"SLURM_PROCID": "0", "SLURM_NTASKS": "1", "SLURM_STEP_NUM_TASKS": "1", "SLURM_LOCALID": "0"}
    notebook = {"RANK": "0", "WORLD_SIZE": "1"}
    assert (where(launched(shell | notebook)), launched(shell | notebook).warning) == (ALONE, None)


def test_the_innermost_launch_of_several_counts():
    mpirun = {"OMPI_COMM_WORLD_RANK": "2", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "2"}
    # mpirun has its daemons started by srun, one on each node.
    assert launched(SRUN | mpirun).by == "mpirun"
    assert launched(SRUN | mpirun | TORCHRUN).by == "torchrun"
    # A shell that exports RANK=0 and WORLD_SIZE=1 does not hide the tasks of srun.
    assert launched(SRUN | TORCHRUN | {"RANK": "0", "WORLD_SIZE": "1"}).by == "srun"
    # srun --mpi=pmi2 describes its tasks twice, and srun knows where to meet.
    assert launched(SRUN | {"PMI_RANK": "3", "PMI_SIZE": "4"}).by == "srun"


# ---- as many ranks as are configured ------------------------------------------------------------------------------------


def of(devices, num_nodes=1):
    return Devices("cpu", devices, num_nodes, 600.0, True)


@pytest.mark.parametrize(
    ("environment", "devices", "nodes"), [({}, 1, 1), ({}, 4, 1), (SALLOC, 4, 1), (TORCHRUN, 2, 2), (SRUN, 2, 2)]
)
def test_ranks_that_are_as_many_as_configured(environment, devices, nodes):
    check_ranks(of(devices, nodes), launched(environment))


@pytest.mark.parametrize(
    ("environment", "devices", "nodes", "message"),
    [
        (SRUN, 1, 1, r"num_nodes=1: is one rank, but srun has started 4 processes; .*unset SLURM_PROCID SLURM_STEP"),
        (TORCHRUN, 1, 1, r"is one rank, but torchrun has started 4 processes; .*RANK=3, WORLD_SIZE=4.* unset RANK WORLD_SIZE"),
        (TORCHRUN, 2, 1, "are 2 ranks, but torchrun has started 4"),
        ({"PMI_RANK": "1", "PMI_SIZE": "2"}, 1, 1, "is one rank, but mpiexec has started 2"),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1"}, 2, 1, "mpiexec does not say where rank 0 is met"),
        (TORCHRUN, 4, 1, "rank 3 is process 1 of 2 on its machine; accepted: 4 on each machine"),
        (SRUN | {"SLURM_LOCALID": "0"}, 2, 2, "rank 3 is process 0 of 2"),
        ({}, 2, 2, "starts ranks on its own machine only"),
    ],
)  # fmt: skip
def test_ranks_that_are_not_as_many_as_configured(environment, devices, nodes, message):
    with pytest.raises(UserError, match=message):
        check_ranks(of(devices, nodes), launched(environment))


def test_a_sweep_is_started_by_one_process():
    check_alone(launched(SALLOC), "--multirun")
    with pytest.raises(UserError, match="--multirun: srun has started 4 processes, and each would do it"):
        check_alone(launched(SRUN), "--multirun")


# ---- through the command line ---------------------------------------------------------------------------------------------

TINY = ["dataset=digits", "model=mlp", "budget.steps=2", "tracker=none", "progress=false"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("SLURM_", "PMI_", "OMPI_"))] + [*TORCHRUN]:
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.mark.parametrize("environment", [SRUN, SRUN | {"SLURM_PROCID": "0", "SLURM_LOCALID": "0"}, TORCHRUN])
@pytest.mark.parametrize("words", [TINY, ["-m", *TINY, "seed=1,2"], [*TINY, "launcher=slurm_debug"]])
def test_one_rank_started_by_several_tasks_writes_nothing(here, monkeypatch, capsys, environment, words):
    from optbench.__main__ import main

    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert main(words) == 2
    message = capsys.readouterr().err.strip().splitlines()
    assert len(message) == 1
    assert f"{launched(environment).by} has started 4 processes" in message[0]
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    "left", [{"RANK": "1"}, {"LOCAL_RANK": "1"}, SALLOC, {"OMPI_COMM_WORLD_SIZE": "2", "RANK": "1", "WORLD_SIZE": "2"}]
)
def test_a_shell_with_variables_left_over_trains_and_writes(here, monkeypatch, capsys, left):
    from optbench.__main__ import main

    for name, value in left.items():
        monkeypatch.setenv(name, value)
    assert main([*TINY, "results_dir=runs"]) == 0
    errors = capsys.readouterr().err.strip().splitlines()
    assert [line.startswith("optbench: ignored ") for line in errors] == [True]
    (path,) = (here / "runs" / "runs").iterdir()
    assert (path / "summary.json").is_file()


def test_the_table_is_complete():
    """Both choices of trainer say how long ranks wait, outside of the science."""
    for name in ("auto", "ddp"):
        choice = configuration.read_choice("trainer", name)
        assert choice["rendezvous_seconds"] == 600
        assert "rendezvous_seconds" in choice["info"]["not_in_run_id"]
