"""optbench: a bench for deep-learning optimizers.

As a library (`optbench.library` says more):

    run(words, settings)      train one configuration, or continue it: a Run
    sweep(words, settings)    train every combination: Runs
    load(results_dir)         all runs as a data frame
    grid(values)              alternatives of one setting of a sweep
    testing.certify(words)    what is promised of a choice, checked: a Card
"""

from typing import TYPE_CHECKING, Any

from optbench.system import importing as _importing

if TYPE_CHECKING:
    from optbench.library import (
        Run,
        RunFailed,
        Runs,
        Stop,
        StoreError,
        UserError,
        WorkersFailed,
        grid,
        load,
        run,
        sweep,
    )

__version__ = "0.1.0"

__all__ = [
    "Run",
    "RunFailed",
    "Runs",
    "Stop",
    "StoreError",
    "UserError",
    "WorkersFailed",
    "grid",
    "load",
    "run",
    "sweep",
]


def __getattr__(name: str) -> Any:
    """Import the functions of the library at their first use, so that commands answer within a second."""
    from importlib import import_module

    if name in ("sweep", "testing"):  # packages; that of the first name can be called
        return import_module(f"optbench.{name}")
    if name in __all__:
        return getattr(import_module("optbench.library"), name)
    raise AttributeError(f"module 'optbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


_importing.take_over()
