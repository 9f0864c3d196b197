"""The automatic name of a sweep: made from the science of its cells, as a run id is made from that of a run."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence

from optbench import config as configuration
from optbench.moved import published_key
from optbench.store.files import flatten
from optbench.sweep.grid.expand import Cell

_LONGEST = 80


def automatic_name(cells: Sequence[Cell], axes: Iterable[str], arguments: Sequence[str]) -> str:
    """The names of the axes, and a hash of the fixed values: the same name for a wider grid over the same axes.

    ``cells``: of the sweep, or some that show every value of every axis. Only values in the run
    ids count; the order and the spelling of the ``arguments`` do not.
    """
    sciences = [flatten(configuration.science(asked)) for asked in configuration.distinct(cell.asked for cell in cells)]
    fixed = sciences[0]
    # Of all cells, because communication=dense has no part in the science, and the other choices have.
    known = {key for here in sciences for key in here}
    paths = sorted(axis for axis in map(_path, axes) if any(_is_below(key, axis) for key in known))
    typed = {_path(word.partition("=")[0]) for word in arguments} - {*paths}
    for here in sciences:
        fixed = {key: value for key, value in fixed.items() if key in here and here[key] == value}
    if len({cell.asked["seed"] for cell in cells}) > 1:
        fixed.pop("seed", None)
    # The options of a choice that is swept over are not fixed, even if they are equal in all cells so far.
    fixed = {
        key: value
        for key, value in fixed.items()
        if not any(_is_below(key, axis) for axis in paths) or any(_is_below(key, path) for path in typed)
    }
    content = json.dumps([paths, fixed], sort_keys=True, separators=(",", ":"))
    words = "_".join(axis.rpartition(".")[2] for axis in paths) or "sweep"
    return f"{re.sub('[^A-Za-z0-9_.-]', '_', words)[:_LONGEST]}-{hashlib.sha256(content.encode()).hexdigest()[:6]}"


def _path(key: str) -> str:
    """The path of an option as the science has it, without what may stand before and after it: +KEY, KEY@PACKAGE."""
    return published_key(key.lstrip("+~").partition("@")[0])


def _is_below(key: str, path: str) -> bool:
    return key == path or key.startswith(f"{path}.")
