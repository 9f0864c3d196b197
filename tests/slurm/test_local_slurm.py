"""slurm/local.sh: starts, runs tasks on several nodes, stops, and leaves nothing behind."""

import time
from pathlib import Path

import pytest

pytestmark = [pytest.mark.slurm, pytest.mark.slow, pytest.mark.xdist_group("slurm")]


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.1)


def daemons(slurm):
    """The names of the daemons of this Slurm that live; one that has ended and is not reaped has no command line."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = path.read_text().split("\0")
        except OSError:  # it has just ended
            continue
        name = Path(words[0]).name
        if name in ("munged", "slurmctld", "slurmd") and any(str(slurm.home) in word for word in words):
            found.append(name)
    return sorted(found)


def test_tasks_on_two_nodes(cluster):
    done = cluster.run("srun", "--nodes=2", "--ntasks-per-node=2", "bash", "-c", "echo $SLURMD_NODENAME $SLURM_PROCID")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == ["n1 0", "n1 1", "n2 2", "n2 3"]


def test_a_requeued_job_starts_again_and_appends_to_its_log(cluster, tmp_path):
    log = tmp_path / "log"
    script = 'echo "attempt ${SLURM_RESTART_COUNT:-0}"; [ -n "$SLURM_RESTART_COUNT" ] || sleep 60'
    submitted = cluster.run(
        "sbatch", "--parsable", "--requeue", "--open-mode=append", f"--output={log}", "--wrap", script
    )
    assert submitted.returncode == 0, submitted.stderr
    wait_for(lambda: log.exists() and "attempt 0" in log.read_text())
    assert cluster.run("scontrol", "requeue", submitted.stdout.strip()).returncode == 0
    wait_for(lambda: "attempt 1" in log.read_text())
    assert "attempt 0" in log.read_text()


def test_from_start_to_clean(fresh_slurm, tmp_path):
    assert fresh_slurm.script("status").returncode == 1
    running = ["munged", "slurmctld", *["slurmd"] * fresh_slurm.nodes]
    for _ in range(2):  # the second time does nothing
        done = fresh_slurm.script("start")
        assert done.returncode == 0, done.stderr
        assert daemons(fresh_slurm) == running
    assert fresh_slurm.script("env").stdout == f"export SLURM_CONF='{fresh_slurm.conf}'\n"
    assert "n2" in fresh_slurm.script("status").stdout
    written = tmp_path / "pid"
    fresh_slurm.run("sbatch", "--output=/dev/null", "--wrap", f"echo $$ > {written}; sleep 600")
    wait_for(lambda: written.exists() and written.read_text())
    assert fresh_slurm.script("stop").returncode == 0
    assert daemons(fresh_slurm) == []
    process = Path("/proc") / written.read_text().strip() / "cmdline"
    assert not process.exists() or not process.read_bytes()
    assert fresh_slurm.script("start").returncode == 0
    assert fresh_slurm.run("srun", "true").returncode == 0
    assert fresh_slurm.script("clean").returncode == 0
    assert daemons(fresh_slurm) == []
    assert not fresh_slurm.home.exists()


def test_after_a_crash_it_starts_again(fresh_slurm):
    assert fresh_slurm.script("start").returncode == 0
    home = fresh_slurm.home
    fresh_slurm.run("bash", "-c", f"kill -9 $(cat {home}/*.pid {home}/munge/munged.pid)")
    wait_for(lambda: daemons(fresh_slurm) == [])
    assert fresh_slurm.script("start").returncode == 0
    assert fresh_slurm.run("srun", "true").returncode == 0


def test_clean_removes_no_folder_that_is_not_its_own(fresh_slurm, tmp_path):
    (tmp_path / "precious").write_text("data")
    fresh_slurm.environment["SLURM_HOME"] = str(tmp_path)
    assert fresh_slurm.script("clean").returncode == 0
    assert (tmp_path / "precious").exists()


@pytest.mark.parametrize("words", [["nonsense"], []])
def test_what_it_does_not_know_it_explains(fresh_slurm, words):
    done = fresh_slurm.script(*words)
    assert done.returncode == 2
    assert "local.sh start" in done.stderr
