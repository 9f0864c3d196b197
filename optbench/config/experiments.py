"""Check the files of conf/experiment before Hydra composes them: Hydra's own messages name neither the file nor a remedy."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from optbench.config.files import GROUPS, check_one_file, choices, read_file
from optbench.config.yaml_text import YAMLError
from optbench.errors import UserError, nearest

# The keys of `hydra.sweeper` in an experiment; see optbench.sweep.grid.grids.
SWEEPER_KEYS = ("params", "scales", "grids", "exclude")
_PACKAGE = "# @package _global_"
_HEADER = re.compile(r"\s*#\s*@package\s+_global_\s*")


def check_experiment(overrides: Sequence[str]) -> None:
    """Raise UserError for an experiment that lacks its first line, has an unknown key of the sweeper, or is not YAML.

    The experiment is the one that ``overrides`` choose; Hydra reports one that does not exist.
    """
    name = next((word.partition("=")[2] for word in overrides if word.startswith("experiment=")), "")
    path = choices("experiment").get(name)
    if path is None:
        return
    check_one_file("experiment", name)
    if not _is_global(path):
        raise UserError(
            f"experiment={name}: {path} lacks the line {_PACKAGE!r}, without which its keys count as options of an "
            "experiment and not as those of the front page; accepted: that line as the first one"
        )
    try:
        content = read_file(path)
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"experiment={name}: {path} is not YAML: {' '.join(str(error).split())}") from error
    hydra = content.get("hydra") if isinstance(content, Mapping) else None
    sweeper = hydra.get("sweeper") if isinstance(hydra, Mapping) else None
    for key in sweeper if isinstance(sweeper, Mapping) else ():
        if key not in (*SWEEPER_KEYS, "_target_"):
            hint = nearest(str(key), SWEEPER_KEYS)
            accepted = "" if hint.startswith("accepted") else f" (accepted: {', '.join(SWEEPER_KEYS)})"
            raise UserError(f"experiment={name}: {path}: hydra.sweeper.{key}: unknown key; {hint}{accepted}")


def with_choices_of_experiment(overrides: Sequence[str]) -> list[str]:
    """``overrides`` of a sweep, and the choices of its experiment that options among them belong to.

    Hydra composes the front page with the words of the command line alone, so that search.budget=20 would be an option of the
    front page's search, and not of the one that the experiment chooses for all its grids. Of a choice that differs between
    the grids nothing is said here. Without such options the experiment is not read. Raises UserError as `check_experiment` does.
    """
    typed = {key: value for key, _, value in (word.partition("=") for word in overrides)}
    groups = {key.partition(".")[0] for key in typed if "." in key} - typed.keys()
    if not groups & {*GROUPS}:
        return list(overrides)
    check_experiment(overrides)
    path = choices("experiment").get(typed.get("experiment", ""))
    sweeper = _mapping(_mapping(read_file(path) if path is not None else {}, "hydra"), "sweeper")
    scales, grids = _mapping(sweeper, "scales"), _mapping(sweeper, "grids")
    scale = typed.get("scale", next(iter(scales), ""))
    common = {**_mapping(sweeper, "params"), **_mapping(scales, scale)}
    return [
        *overrides,
        *(
            f"{group}={common[group]}"
            for group in GROUPS
            if group in groups
            and str(common.get(group)) in choices(group)
            and not any(group in _mapping(grids, name) for name in grids)
        ),
    ]


def _mapping(content: Any, key: str) -> Mapping[str, Any]:
    """The mapping at ``key``; an empty one if there is none, which Hydra reports."""
    found = content.get(key) if isinstance(content, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def _is_global(path: Path) -> bool:
    """True if the head of the file puts its keys on the front page. Hydra stops at the first line that is not empty or `# @`."""
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        if _HEADER.fullmatch(line):
            return True
        if line.strip() and not re.match(r"\s*#\s*@", line):
            return False
    return False
