"""Names of methods as pages, tables and charts show them: the titles that conf/optimizer states, such as K-FAC for kfac."""

from typing import Any

from optbench.config import title


def method(name: Any) -> Any:
    """The title of the optimizer ``name``; ``name`` itself where it has none, as where a value is missing."""
    return title("optimizer", name) if isinstance(name, str) else name


def is_of_methods(column: str) -> bool:
    """Return True for a column of a table that holds names of optimizers."""
    return column.removeprefix("cell.") == "optimizer"
