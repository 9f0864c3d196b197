"""Sweeps: many runs, planned and checked together, and trained by workers on this machine or on Slurm.

    grid       composes and checks the cells of the words after -m, or of an experiment's grid
    launch     makes a plan and frozen run directories from cells, and hands the unfinished runs to a launcher
    plan       the files of a sweep: results/sweeps/NAME
    worker     the processes that train the runs of one machine, and their supervisor
    launchers  start workers on this machine or on Slurm
    status     the state of every run, job and command
    reset      puts failed runs back to pending

Nothing outside of worker imports torch, so that planning and status take less than a second.

The package is callable: `optbench.sweep(...)` is `optbench.library.sweep`, whichever was imported first.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *words: str, **settings: Any) -> Any:
        """Train every combination of the words; see `optbench.library.sweep`."""
        return import_module("optbench.library").sweep(*words, **settings)


sys.modules[__name__].__class__ = _Callable
