"""The folder from which a command is started can be imported from: in it, and in every process that it starts.

`python -m optbench` has that folder first on sys.path, where a file like html.py in it stands in for a module of Python's;
the installed command `optbench` does not have it at all, and neither have workers, which are started with -P. Here it comes
last, everywhere: a parent's `start_folder` puts it there, and what it hands on in $OPTBENCH_PATH every other process takes
when it imports optbench.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VARIABLE = "OPTBENCH_PATH"
# What holds the package optbench, which has its place on sys.path already.
_ROOT = str(Path(__file__).resolve().parents[2])


def take_over() -> None:
    """Append to sys.path what $OPTBENCH_PATH names and is not there; called once, when optbench is imported."""
    for folder in _handed_over():
        if folder not in sys.path:
            sys.path.append(folder)


@contextmanager
def start_folder() -> Iterator[None]:
    """Have the working folder last on sys.path, and nowhere else unless PYTHONPATH names it; undone afterwards."""
    here = _here()
    if here is None:
        yield
        return
    kept = list(sys.path)
    if here != _ROOT and sys.path[:1] in ([""], [here]):
        del sys.path[0]  # which `python -m` has put there
    if here not in sys.path:
        sys.path.append(here)
    try:
        yield
    finally:
        sys.path[:] = kept


def folders() -> list[str]:
    """What a process that is started here must be able to import from: what this one was handed, and the working folder."""
    here = _here()
    importable = here is not None and not {"", here}.isdisjoint(sys.path)
    return list(dict.fromkeys([*_handed_over(), *([here] if here is not None and importable else [])]))


def _handed_over() -> list[str]:
    return [folder for folder in os.environ.get(VARIABLE, "").split(os.pathsep) if folder]


def _here() -> str | None:
    try:
        return str(Path.cwd())
    except FileNotFoundError:  # somebody has removed it
        return None
