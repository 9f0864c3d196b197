"""The environment of every process that optbench starts: workers, ranks, mirrors and Slurm jobs.

They import the same package and the same user code as their parent, and find the same choices and studies.
"""

import os
from pathlib import Path

import optbench
from optbench.config.search_path import VARIABLE as CONF
from optbench.config.search_path import folders_to_hand_on
from optbench.system import importing

EXPERIMENTS = "OPTBENCH_EXPERIMENTS"


def environment() -> dict[str, str]:
    """The environment of this process, and the variables that a child needs in addition."""
    # At the end of PYTHONPATH, so that a checkout that is not installed is found and shadows nothing.
    root = str(Path(optbench.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [os.environ.get("PYTHONPATH"), root]))
    return {**os.environ, **handed_on(), "PYTHONPATH": path}


def handed_on() -> dict[str, str]:
    """The variables that name the user's own folders, as absolute paths; empty ones are left out."""
    studies = [name for name in os.environ.get(EXPERIMENTS, "").split(os.pathsep) if name]
    named = {
        importing.VARIABLE: importing.folders(),
        CONF: [str(folder) for folder in folders_to_hand_on()],
        EXPERIMENTS: [str(Path(name).absolute()) for name in studies],
    }
    return {variable: os.pathsep.join(folders) for variable, folders in named.items() if folders}
