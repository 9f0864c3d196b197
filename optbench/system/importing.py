"""Make the folder from which a command is started importable, in the command and in every process that it starts.

`python -m optbench` has that folder first on sys.path, where a file such as html.py in it replaces a module of Python; the
installed command `optbench` and workers, which are started with -P, do not have it at all. Here it comes last, in all
processes: `start_folder` of the parent puts it there, and every child takes it from $OPTBENCH_PATH when it imports optbench.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "OPTBENCH_PATH"
# The folder that holds the package optbench, which is already on sys.path.
_ROOT = str(Path(__file__).resolve().parents[2])


def take_over() -> None:
    """Append the missing folders of $OPTBENCH_PATH to sys.path; called once, when optbench is imported."""
    for folder in _handed_over():
        if folder not in sys.path:
            sys.path.append(folder)


@contextmanager
def start_folder() -> Iterator[None]:
    """Put the working folder last on sys.path, and nowhere else unless PYTHONPATH names it; restored afterwards."""
    here = _here()
    if here is None:
        yield
        return
    kept = list(sys.path)
    if here != _ROOT and sys.path[:1] in ([""], [here]):
        del sys.path[0]  # put there by `python -m`
    if here not in sys.path:
        sys.path.append(here)
    try:
        yield
    finally:
        sys.path[:] = kept


def folders() -> list[str]:
    """The folders that a child process must be able to import from: those given to this process, and the working folder."""
    here = _here()
    importable = here is not None and not {"", here}.isdisjoint(sys.path)
    return list(dict.fromkeys([*_handed_over(), *([here] if here is not None and importable else [])]))


def _handed_over() -> list[str]:
    return [folder for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]


def _here() -> str | None:
    try:
        return str(Path.cwd())
    except FileNotFoundError:  # the folder was removed
        return None
