"""The names of methods on pages, tables and charts: the titles in conf/optimizer, such as K-FAC for kfac."""

from typing import Any

from optbench.config import title


def method(name: Any) -> Any:
    """The title of the optimizer ``name``; ``name`` itself if it has none, also for a missing value."""
    return title("optimizer", name) if isinstance(name, str) else name


def is_of_methods(column: str) -> bool:
    """Return True for a column of a table that holds names of optimizers."""
    return column.removeprefix("cell.") == "optimizer"
