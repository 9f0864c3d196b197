"""Sweeps: many runs, planned and checked at once, done by workers that may come and go, here or on Slurm.

    expand     the words after -m, and an experiment's grid, become cells: composed as Hydra would, and checked
    launch     cells become a plan and frozen run directories; what is done is dropped, the rest goes to a launcher
    plan       what a sweep is made of: results/sweeps/NAME
    queue      which run a worker does next, by the store's locks
    supervisor keeps the workers of one machine alive; optbench.sweep.worker.process is what they do
    local, slurm  the launchers
    survey     what every run is doing
    reset      puts failed runs back, to be done again

Nothing here imports torch: planning and looking after a sweep answer within a second.

The package can be called: `optbench.sweep(...)` is `optbench.library.sweep`, whatever of the package was imported before.
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
