"""A real Slurm on this machine for the tests of this folder, started once."""

import os
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "slurm" / "local.sh"
NODES = 2


def _free_ports(count):
    """The first of ``count`` ports in a row that nobody listens on."""
    # Every worker of pytest-xdist may start its own Slurm.
    first = 20000 + 100 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for start in range(first, 60000, count):
        try:
            for port in range(start, start + count):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port))
        except OSError:
            continue
        return start
    raise RuntimeError("no free ports")


class LocalSlurm:
    """slurm/local.sh with a home of its own."""

    nodes = NODES

    def __init__(self, home):
        self.home = home
        self.conf = home / "slurm.conf"
        own = {
            "SLURM_HOME": str(home),
            "SLURM_LOCAL_PORT": str(_free_ports(NODES + 1)),
            "SLURM_LOCAL_NODES": str(NODES),
        }
        self.environment = {**os.environ, **own, "SLURM_CONF": str(self.conf)}

    def script(self, *words):
        """Run slurm/local.sh; returns the finished process."""
        return self.run(SCRIPT, *words)

    def run(self, *command):
        """Run a command that talks to this Slurm; returns the finished process."""
        # Files, not pipes: the daemons that the script starts keep them open.
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            done = subprocess.run(command, env=self.environment, stdout=out, stderr=err, timeout=120, check=False)
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(done.args, done.returncode, out.read(), err.read())


def _new():
    path = os.pathsep.join(["/usr/sbin", "/sbin", os.environ["PATH"]])
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if shutil.which(name, path=path) is None]
    if missing:
        pytest.skip(f"{', '.join(missing)} not installed: slurm/local.sh install")
    # Sockets lie in it, whose paths must be short.
    return LocalSlurm(Path(tempfile.mkdtemp(prefix="optbench-slurm-")))


@pytest.fixture(scope="session")
def _started():
    slurm = _new()
    try:
        done = slurm.script("start")
        assert done.returncode == 0, done.stderr
        yield slurm
    finally:
        slurm.script("clean")


@pytest.fixture
def cluster(_started, monkeypatch):
    """A running Slurm of two nodes, to which the commands of Slurm talk; its jobs end with the test."""
    monkeypatch.setenv("SLURM_CONF", str(_started.conf))
    yield _started
    _started.run("scancel", f"--user={os.geteuid()}")


@pytest.fixture
def fresh_slurm():
    """A Slurm of the test's own, not started."""
    slurm = _new()
    yield slurm
    slurm.script("clean")
    shutil.rmtree(slurm.home, ignore_errors=True)
