"""Settings of the whole test suite."""

import copy
import os
import pwd
import shutil
import time
from pathlib import Path

import pytest
import torch

from optbench.__main__ import main
from optbench.config import composing, search_path
from tests import wheels

# Tests run several at a time, and more threads than cores slow each of them down many times over.
torch.set_num_threads(1)
# Parallel workers are given one, and tables are as wide as it says; tests that are about widths set their own.
os.environ.pop("COLUMNS", None)
# Processes that a test starts import this tree too, not another checkout that happens to be installed.
_ROOT = Path(__file__).resolve().parent.parent
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(_ROOT), os.environ.get("PYTHONPATH")]))

_compose_anew = composing._composed
_COMPOSED = {}


def _composed_once(overrides):
    """A composition of the repository's own choices, which takes Hydra a quarter of a second, once in a process."""
    elsewhere = search_path.conf_dir() != _ROOT / "conf" or search_path.own_places()
    if elsewhere or any(word.startswith("hydra") for word in overrides):
        return _compose_anew(overrides)
    words = (os.environ.get("OPTBENCH_DATA"), *overrides)
    if words not in _COMPOSED:
        _COMPOSED[words] = _compose_anew(overrides)
    return copy.deepcopy(_COMPOSED[words])


composing._composed = _composed_once


def pytest_xdist_auto_num_workers(config):
    """One process more than there are cores, as one of them waits for Slurm most of the time."""
    return len(os.sched_getaffinity(0)) + (shutil.which("sbatch") is not None)


@pytest.fixture(autouse=True)
def _own_search_path():
    """Folders of choices that a test names are those of that test: in a later one they would be handed to its children."""
    with search_path.forgotten_afterwards():
        yield


@pytest.fixture
def stopped_clock(monkeypatch):
    """The time, which stands still at a whole second: an age is then what the test wrote, however busy the machine is."""
    now = float(int(time.time()))
    monkeypatch.setattr(time, "time", lambda: now)
    return now


@pytest.fixture
def command(capsys):
    """Call the command line in this process; returns (exit status, standard output, standard error)."""

    def call(*words):
        capsys.readouterr()
        status = main([*map(str, words)])
        return status, *capsys.readouterr()

    return call


@pytest.fixture
def homeless(monkeypatch):
    """A user without $HOME and without an entry among the users, as in a container that runs under a bare number."""

    def unknown(number):
        raise KeyError(number)

    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with pytest.raises(RuntimeError, match="home directory"):
        Path.home()


@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel of this checkout, built once."""
    for package in ("build", "hatchling"):
        pytest.importorskip(package)
    folder = tmp_path_factory.mktemp("wheel")
    wheels.run(["-m", "build", "--wheel", "--no-isolation", "--outdir", folder, _ROOT], folder)
    [path] = folder.glob("*.whl")
    return path


@pytest.fixture(scope="session")
def from_wheel(wheel, tmp_path_factory):
    """The environment in which Python finds the wheel's content, in a folder with nothing else, and not this checkout."""
    target = tmp_path_factory.mktemp("installed")
    options = ["--no-deps", "--no-index", "--no-compile", "--quiet", "--disable-pip-version-check"]
    wheels.run(["-m", "pip", "install", *options, "--target", target, wheel], target)
    return {"PYTHONPATH": str(target), "OMP_NUM_THREADS": "1"}
