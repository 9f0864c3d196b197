"""Check targets without importing them: a plan reports a missing target before it needs torch or freezes a run."""

import ast
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from functools import lru_cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

from optbench.config.files import GROUPS, LIST_GROUPS, is_own
from optbench.errors import UserError

# A module with one of these may bind names that its text does not show.
_BINDS_IN_SECRET = ("__getattr__", "globals", "exec", "setattr", "sys.modules")
_SCOPES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def check_target(choice: Mapping[str, Any], where: str) -> None:
    """Raise UserError if the ``_target_`` of ``choice`` cannot be found: its module, or the name in that module's text.

    where: the dotted path of the choice, such as "probe.spectrum", for the message. Errors that only appear when the module
    runs, such as a failing import in it, are found when it is imported.
    """
    path = choice.get("_target_")
    if path is None:
        return
    problem = _problem(path) if isinstance(path, str) and "." in path else "it is no dotted path"
    if problem:
        raise UserError(
            f"{where}._target_={path}: cannot be imported ({problem}); accepted: MODULE.NAME of a class or function, of a "
            "module that is installed or lies in the folder from which the command is started"
        )


def own_targets(config: Mapping[str, Any]) -> dict[str, str]:
    """The targets of the user's own choices in ``config``, by their places, such as "probe.mine"."""
    placed = [(group, group, config[group]) for group in GROUPS if group in config]
    placed += [
        (f"{group}.{name}", group, choice)
        for group in LIST_GROUPS
        for name, choice in (config.get(group) or {}).items()
    ]
    return {
        where: choice["_target_"] for where, group, choice in placed if "_target_" in choice and is_own(group, choice)
    }


def _problem(path: str) -> str:
    module, _, name = path.rpartition(".")
    if module in sys.modules:
        return "" if hasattr(sys.modules[module], name) else f"{module} has no {name}"
    file = _file(module)
    if file is None:
        return f"there is no module {module} on the import path"
    if file.suffix != ".py":
        return ""  # compiled: only importing it shows its names
    try:
        names = _names(file.read_bytes())
    except SyntaxError as error:
        return f"{file}, line {error.lineno}: {error.msg}"
    except (OSError, ValueError) as error:
        return f"{file}: {error}"
    return "" if name in names or "*" in names else f"{file} binds no name {name}"


def _file(module: str) -> Path | None:
    """The file of a module by its dotted name; for a package without __init__.py its folder. None if there is none."""
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)  # imports nothing for a name without dots
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not rest:
        folders = [Path(place) for place in spec.submodule_search_locations or ()]
        return Path(spec.origin) if spec.has_location and spec.origin else next(iter(folders), Path(top))
    for folder in spec.submodule_search_locations or ():
        place = Path(folder, *rest)
        beside = (place.with_name(place.name + suffix) for suffix in (".py", *EXTENSION_SUFFIXES))
        for file in (place / "__init__.py", *beside):
            if file.is_file():
                return file
        if place.is_dir():
            return place
    return None


@lru_cache(maxsize=64)
def _names(content: bytes) -> frozenset[str]:
    """The names that a module with this text binds, or "*" if its text does not show them. Raises SyntaxError, ValueError."""
    tree = ast.parse(content)
    if any(word in content.decode("utf-8", errors="replace") for word in _BINDS_IN_SECRET):
        return frozenset("*")
    return frozenset(_bound(tree))


def _bound(node: ast.AST) -> Iterator[str]:
    """The names bound in the scope of ``node``, also within branches, loops and handlers."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, _SCOPES):
            yield child.name
        elif isinstance(child, ast.Import | ast.ImportFrom):
            for alias in child.names:
                yield alias.asname or alias.name.partition(".")[0]
        elif isinstance(child, ast.Lambda):
            continue
        else:
            if isinstance(child, ast.Name) and isinstance(child.ctx, ast.Store):
                yield child.id
            yield from _bound(child)
