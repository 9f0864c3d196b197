"""What a run ran on: versions, commit and hardware. No environment variables: they may hold secrets."""

import os
import platform
import subprocess
import sys
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import optbench
from optbench.config import plugins

_PACKAGES = (
    "optbench",
    "torch",
    "pytorch-lightning",
    "hydra-core",
    "omegaconf",
    "numpy",
    "pandas",
    "wandb",
    "submitit",
    # Whatever `optimizer=zoo` takes is of this one.
    "pytorch-optimizer",
)


@cache  # of this process: a worker describes its environment once a run
def versions() -> dict[str, str | None]:
    """The versions of Python and of the packages that a result may depend on; None where one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in (*_PACKAGES, *(plugin.distribution for plugin in plugins())):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    # Of a checkout that is not installed, or beside an installed wheel.
    found["optbench"] = optbench.__version__
    return found


@cache
def git_commit() -> dict[str, Any] | None:
    """The commit of the checkout that the package runs from, and whether it was changed; None outside of one."""
    folder = Path(__file__).resolve().parents[2]
    if not (folder / ".git").exists():
        return None
    try:
        commit, changes = (
            subprocess.run(
                ["git", "-C", str(folder), *words], capture_output=True, text=True, timeout=10, check=True
            ).stdout
            for words in (["rev-parse", "HEAD"], ["status", "--porcelain", "--untracked-files=no"])
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit.strip(), "changed": bool(changes.strip())}


def processor() -> str:
    """The processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    name = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return name or platform.processor() or platform.machine()


def describe(device_names: list[str], world_size: int) -> dict[str, Any]:
    """The content of environment.json; ``device_names``: the devices that the ranks of this host train on."""
    return {
        "versions": versions(),
        "git": git_commit(),
        "platform": platform.platform(),
        "host": platform.node(),
        "processor": processor(),
        "cores": os.cpu_count(),
        "devices": device_names,
        "ranks": world_size,
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
    }
