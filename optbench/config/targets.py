"""Import targets: the classes and functions that choices name by a dotted path in ``_target_``."""

import importlib
import inspect
import traceback
from typing import Any

from optbench.config.run_config import Choice
from optbench.errors import UserError


def load_target(choice: Choice, kind: type | None = None) -> Any:
    """Import the ``_target_`` of ``choice``, and return it without calling it; see `load_path`."""
    return load_path(choice.target, choice.group, kind)


def load_path(path: object, group: str, kind: type | None = None) -> Any:
    """Import the object at the dotted ``path``, the ``_target_`` of a choice of ``group``, and return it without calling it.

    kind: the class from which a class must be derived; a plain Python function is accepted, too. None: functions only.

    The caller must have checked that this installation offers the choice: `optbench.config.resolve` checks a composed one,
    and `optbench.config.thaw` one from a results folder. Raises UserError if the path cannot be imported, or names an
    object of another kind.
    """
    target = imported(path, group)
    if inspect.isfunction(target) or (kind is not None and isinstance(target, type) and issubclass(target, kind)):
        return target
    wanted = "" if kind is None else f"is not a subclass of {kind.__module__}.{kind.__qualname__} and "
    raise UserError(f"{group}._target_={path}: {wanted}is not a function; accepted: the dotted path of a {group}")


def imported(path: object, where: str) -> Any:
    """Import the object at the dotted ``path``; raises UserError, with ``where``, such as "optimizer", if that fails."""
    module, _, name = path.rpartition(".") if isinstance(path, str) else ("", "", "")
    try:
        return getattr(importlib.import_module(module), name)
    except (Exception, SystemExit) as error:  # a module of the user's own may raise anything
        why = str(error)
        if not isinstance(error, ImportError | AttributeError | ValueError):
            why = f"{type(error).__name__}: {error}{_line_of(error)}"
        raise UserError(
            f"{where}._target_={path}: cannot be imported ({why}); accepted: the dotted path of a class or function"
        ) from error


def _line_of(error: BaseException) -> str:
    """The place where an error was raised, as ", in FILE, line N"; empty if it is unknown."""
    if isinstance(error, SyntaxError):
        return ""  # its message names the line
    frames = traceback.extract_tb(error.__traceback__)
    last = next((frame for frame in reversed(frames) if "importlib" not in frame.filename), None)
    return f", in {last.filename}, line {last.lineno}" if last is not None and last.filename != __file__ else ""
