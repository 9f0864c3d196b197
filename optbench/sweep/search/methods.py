"""The searches by the names of conf/search."""

from importlib import import_module
from typing import cast

from optbench.sweep.search.method import Method

_METHODS = {
    "adaptive": "adaptive.method.Adaptive",
    "halving": "halving.Halving",
    "optuna": "optuna_search.OptunaSearch",
    "random": "random_cells.RandomCells",
    "verdict": "verdict.SequentialVerdict",
}


def method(name: str) -> Method:
    """The method of search=``name``; its module is imported only now, because some need a library of their own."""
    module, _, kind = _METHODS[name].rpartition(".")
    return cast(Method, getattr(import_module(f"optbench.sweep.search.{module}"), kind)())
