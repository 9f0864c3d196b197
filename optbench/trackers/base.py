"""The base class of trackers, with its three methods, and the check before a run starts."""

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

from optbench.config.targets import load_path
from optbench.errors import UserError
from optbench.store import RunDirectory

_NOT_OPTIONS = ("_target_", "name", "info")


class Tracker(ABC):
    """A copy of one run somewhere else.

    The mirroring process builds it with the run and the tracker's options, calls ``log`` once for every row of the
    history, from the first and in order, and then ``finish``. The constructor removes the files of an earlier mirror of the
    same run.
    """

    #: The package that the tracker needs, if any, and the command that installs it.
    package: ClassVar[str | None] = None
    install: ClassVar[str] = ""

    @abstractmethod
    def __init__(self, run: RunDirectory, **options: Any) -> None: ...

    @classmethod  # noqa: B027 - most trackers have nothing to check
    def check_options(cls, options: Mapping[str, Any]) -> None:
        """Raise UserError if ``options`` cannot work here; contacts no network."""

    @abstractmethod
    def log(self, index: int, row: Mapping[str, Any]) -> None:
        """Mirror row ``index`` (from 0) of the history."""

    @abstractmethod
    def finish(self, summary: Mapping[str, Any], state: str) -> str:
        """Complete the mirror, and return its place in a few words.

        ``summary`` is empty if the run ended without one; ``state`` is the run's state in the store, or "crashed" if the
        process of the run died without recording an end.
        """


def options_of(tracker: Mapping[str, Any]) -> dict[str, Any]:
    """The options in a choice of the group ``tracker``: all keys but ``_target_``, ``name`` and ``info``."""
    return {key: value for key, value in tracker.items() if key not in _NOT_OPTIONS}


def tracker_class(tracker: Mapping[str, Any]) -> type[Tracker] | None:
    """The class that ``tracker`` names in ``_target_``, or None if it names none; raises UserError if it is not a tracker."""
    if tracker.get("_target_") is None:
        return None
    found: type[Tracker] = load_path(tracker["_target_"], "tracker", Tracker)
    return found


def check(tracker: Mapping[str, Any]) -> None:
    """Raise UserError if ``tracker`` cannot work here: its package is missing, or `check_options` refuses an option."""
    found = tracker_class(tracker)
    if found is None:
        return
    if found.package is not None and not _is_installed(found.package):
        name = tracker.get("name", found.package)
        raise UserError(
            f"tracker={name}: the {found.package} package is not installed: {found.install}; or use tracker=none"
        )
    found.check_options(options_of(tracker))


def _is_installed(package: str) -> bool:
    spec = importlib.util.find_spec(package)
    # A folder with that name on the path (wandb writes its runs to ./wandb) is found as a package without an origin.
    return spec is not None and spec.origin is not None
