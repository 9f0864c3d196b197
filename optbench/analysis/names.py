"""The names of methods on pages, tables and charts: the titles in conf/optimizer, such as K-FAC for kfac."""

from typing import Any

from optbench.config import title


def method(name: Any) -> Any:
    """The title of the optimizer ``name``, with those of its transforms; ``name`` itself if it has none, or is missing."""
    if not isinstance(name, str):
        return name
    optimizer, *transforms = name.split("+")
    return " + ".join([title("optimizer", optimizer), *(title("transform", each) for each in transforms)])


def is_of_methods(column: str) -> bool:
    """Return True for a column of a table that holds names of optimizers."""
    return column.removeprefix("cell.") == "optimizer"
