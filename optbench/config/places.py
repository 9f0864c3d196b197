"""Check names of sweeps and of folders before anything is created."""

import os
import re
import unicodedata
from pathlib import Path

from optbench.errors import UserError
from optbench.system.home import at_home

# In characters. Reports, wandb groups and Slurm jobs have the name of the sweep, too.
LONGEST_NAME = 100
# In bytes: the longest name on most file systems; the longest path on Linux, less room for the files in the folder.
_LONGEST_COMPONENT = 255
_LONGEST_FOLDER = 3000
# Names in use beside the reports, which have the names of their sweeps.
_OURS = ("runs", "sweeps", "vintages.json")
_ADDRESS = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://?|file:")


def check_sweep_name(name: str, where: str = "", longest: int = LONGEST_NAME) -> None:
    """Raise UserError unless ``name`` is one plain component of a path that optbench does not use itself.

    ``where``, such as "sweep=", precedes it in the message.
    """
    if not name.strip():
        problem = "is empty"
    elif _unprintable(name):
        problem = "has line breaks or control characters"
    elif "/" in name or "\\" in name or name.startswith((".", "-")):
        problem = "is no plain name"
    elif name.casefold() in _OURS:
        problem = "is a name of optbench's own"
    elif len(name) > longest or len(os.fsencode(name)) > _LONGEST_COMPONENT:
        problem = f"has {len(name)} characters"
    else:
        return
    raise UserError(
        f"{where}{_shown(name)}: {problem}; accepted: a name of at most {longest} characters without / or \\, that does not "
        f"begin with . or -, other than {_listed(_OURS)}"
    )


def folder(value: str, where: str) -> str:
    """``value`` as a folder's path, its ~ expanded; raises UserError if it cannot be one.

    ``where``, such as "results_dir=", precedes it in the message.
    """
    expanded = at_home(value)
    if not value.strip():
        problem = "is empty"
    elif _unprintable(value):
        problem = "has line breaks or control characters"
    elif _ADDRESS.match(value):
        problem = "is an address, and only folders of a file system are read and written"
    elif expanded.startswith("~"):
        user = Path(expanded).parts[0]
        problem = "this user has no home folder" if user == "~" else f"there is no user {user} here"
    elif max(len(part) for part in os.fsencode(expanded).split(b"/")) > _LONGEST_COMPONENT:
        problem = f"has a name of more than {_LONGEST_COMPONENT} bytes in it"
    elif len(os.fsencode(expanded)) > _LONGEST_FOLDER:
        problem = f"has {len(expanded)} characters"
    else:
        return expanded
    raise UserError(f"{where}{_shown(value)}: {problem}; accepted: the path of a folder, such as results or ~/results")


def check_own(folder: Path, results_dir: str | Path, where: str) -> None:
    """Raise UserError if ``folder`` is, or lies in, a folder that optbench itself keeps in a results folder.

    A results folder is ``results_dir``, or any folder that holds both runs and sweeps. ``where``, such as "--output ",
    begins the message.
    """
    resolved = folder.resolve()
    for place in (resolved, *resolved.parents):
        above = place.parent
        if place.name.casefold() in _OURS and (above == Path(results_dir).resolve() or _holds_results(above)):
            raise UserError(
                f"{where}{folder}: {place} is a place of optbench's own; accepted: another folder than {_listed(_OURS)} of a "
                "results folder, and none in them"
            )


def _holds_results(folder: Path) -> bool:
    return (folder / "runs").is_dir() and (folder / "sweeps").is_dir()


def _listed(names: tuple[str, ...]) -> str:
    return f"{', '.join(names[:-1])} and {names[-1]}"


def _unprintable(text: str) -> bool:
    # Lone surrogates stand for bytes of file names that are not UTF-8; a folder may have such a name.
    return any(unicodedata.category(letter) in ("Cc", "Cf", "Zl", "Zp") for letter in text)


def _shown(text: str) -> str:
    shown = text if len(text) <= LONGEST_NAME else f"{text[:LONGEST_NAME]}..."
    return repr(shown) if _unprintable(shown) or not shown.strip() else shown
