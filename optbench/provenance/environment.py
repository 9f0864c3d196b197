"""The environment of a run: versions, commit and hardware. No environment variables, because they may hold secrets."""

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
    # Holds the optimizers of `optimizer=zoo`.
    "pytorch-optimizer",
)


@cache  # a worker describes its environment once for each run
def versions() -> dict[str, str | None]:
    """The versions of Python and of the packages on which a result may depend; None if one is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version()}
    for package in (*_PACKAGES, *(plugin.distribution for plugin in plugins())):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            found[package] = None
    # Also right for a checkout that is not installed, or used beside an installed wheel.
    found["optbench"] = optbench.__version__
    return found


@cache
def git_commit() -> dict[str, Any] | None:
    """The commit of the checkout from which the package runs, and True if it was changed; None outside of a checkout."""
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
    """The content of environment.json; ``device_names``: the devices on which the ranks of this host train."""
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
