"""The choices that can be made, as their files state them: GROUP/NAME.yaml in a place of choices, and the front page."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optbench.config.search_path import Place, conf_dir, places, same_content
from optbench.config.tuning import LAST_TRIAL
from optbench.config.yaml_text import read_yaml
from optbench.errors import UserError
from optbench.moved import current_choice, sentence
from optbench.system.file_cache import FileCache

Config = dict[str, Any]

GROUPS = (
    "optimizer",
    "model",
    "dataset",
    "loss",
    "schedule",
    "momentum_schedule",
    "scaling",
    "init",
    "averaging",
    "budget",
    "trainer",
    "launcher",
    "tracker",
)
# Groups of which any number may be chosen, such as probe=[spectrum,noise_scale]; "none" is the choice of nothing. None
# of them changes what is computed in a run, so that none is in the run id.
LIST_GROUPS = ("probe",)
# The types of the keys on the front page, conf/config.yaml, that are not groups.
SCIENCE_KEYS = {
    "batch": "int >= 1",
    "base_batch": "int >= 1",
    "seed": f"int in [0, {2**53 - 1}]",  # above, a table that holds a missing value, too, rounds it
    "trial": f"int in [0, {LAST_TRIAL}]",
    "ghost_batch_size": "int >= 1 or null",
    "clip_norm": "float > 0 or null",
    "precision": "one of fp64, fp32, tf32, bf16, fp16",
    "eval_every": "duration > 0",
    "evaluate_train": "int >= 1 or null",
    "divergence_factor": "float > 1 or null",
}
MACHINE_KEYS = {
    "micro_batch": "int >= 1 or null",
    "cached_graphs": "int >= 1 or null",
    "compile": "bool",
    "log_every": "int >= 1",
    "checkpoint_every": "duration > 0 or null",
    "results_dir": "str",
    "data_dir": "str",
    "force": "bool",
    "retry": "one of none, failed, diverged, stale, all",
    "sweep": "str or null",
    "scale": "str or null",
    "dry_run": "bool",
    "progress": "bool",
}
# Hydra's word for the place of the file whose defaults it stands in.
HERE = "@_here_"
_FIXED = ("_target_", "name", "info", "fingerprint")  # of every choice or of its data, and not options of it

# What the files and folders below conf/ held when they were last read, for a sweep reads them once for each of its runs.
_READ: FileCache[Any] = FileCache()


def choices(group: str) -> dict[str, Path]:
    """The choices of ``group`` by name, each with its file: that in the first of the places that offer it.

    Hydra takes the same one. `check_one_file` refuses a name that another place offers with another content.
    """
    return {name: path for name, path in _files(group).items() if not is_fragment(name)}


def path_of(group: str, name: str) -> Path | None:
    """The file of a choice or of a fragment; None where no place has it."""
    return _files(group).get(name)


def is_fragment(name: str) -> bool:
    """Whether ``name`` is that of a part of choices, such as conf/probe/_schedule.yaml, which is no choice itself."""
    return name.startswith("_")


def _files(group: str) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for place in places():
        for name, path in _files_in(place, group).items():
            found.setdefault(name, path)
    return found


def _files_in(place: Place, group: str) -> dict[str, Path]:
    folder = place.folder / group
    found: dict[str, Path] = _READ.get(
        folder, lambda: {path.stem: path for path in sorted(folder.glob("*.yaml"))}, "folder"
    )
    return found


def place_of(group: str, name: str) -> Place:
    """The place that offers the choice ``name`` of ``group``; raises KeyError where none does."""
    for place in places():
        if name in _files_in(place, group):
            return place
    raise KeyError(name)


def is_own(group: str, choice: Mapping[str, Any]) -> bool:
    """Whether a composed choice comes from a file of the user's own, and not of optbench's."""
    name = file_of(choice)
    return name in choices(group) and place_of(group, name) != places()[0]


def check_one_file(group: str, name: str) -> None:
    """Raise UserError where two places offer the choice ``name`` with different contents, or it was the name of another one.

    Run ids and frozen configurations know a choice by its name. Whichever file counted in silence, one name would mean
    different things on two machines, or after the next installation.
    """
    offering = [files[name] for files in (_files_in(place, group) for place in places()) if name in files]
    if offering and current_choice(group, name) != name:
        raise UserError(
            f"{group}={name}: {offering[0]}: has a name under which results of another choice stand "
            f"({sentence(f'{group}.{name}')}); accepted: another name for one's own"
        )
    for other in offering[1:]:
        if not same_content(offering[0], other):
            raise UserError(
                f"{group}={name}: is the name of two files, {offering[0]} and {other}; accepted: another name for one's own, "
                f"such as my_{name}.yaml with 'defaults: [{name}]' and what it changes"
            )


def is_free(choice: Mapping[str, Any]) -> bool:
    """Whether a choice's name is one of its options, as in the zoo."""
    return "name" in (choice["info"].get("schema") or ())


def root_of(group: str, name: str) -> str:
    """The choice that ``name`` inherits from in the end, by the defaults of its file and of those; itself where by none."""
    path = choices(group).get(name)
    content = content_of(path) if path is not None and group in (*GROUPS, *LIST_GROUPS) else None
    parts = parts_of(content, group) if isinstance(content, dict) else []
    parents = [part for part in parts if not is_fragment(part)]
    return root_of(group, parents[-1]) if parents else name


def called(choice: Mapping[str, Any], name: str, root: str) -> Config:
    """``choice`` under the name of its file: as its name, or beside the name that is one of its options."""
    info = {**choice["info"], "inherits": root} if root != name else choice["info"]
    if is_free(choice):
        return {**choice, "info": {**info, "choice": name}}
    return {**choice, "name": name, "info": info}


def works_as(choice: Mapping[str, Any]) -> str:
    """The name by which code knows what a choice does: its own, or that of the one that it inherits from."""
    return str(choice.get("info", {}).get("inherits", choice["name"]))


def parts_of(content: Config, group: str) -> list[str]:
    """The choices and fragments in the defaults of a file's ``content``, in their order and under their names of now."""
    defaults = content.get("defaults", [])
    entries = defaults if isinstance(defaults, list) else [defaults]
    names = [str(entry).removeprefix(f"/{group}/") for entry in entries if entry != "_self_"]
    names = [name.removesuffix(HERE) for name in names] if group in LIST_GROUPS else names
    return [current_choice(group, name) for name in names]


def file_of(choice: Mapping[str, Any]) -> str:
    """The name of the file that a choice comes from."""
    return str(choice.get("info", {}).get("choice", choice["name"]))


def name_of(choice: Mapping[str, Any]) -> str:
    """What a choice is called in run ids, columns and conditions: no two files share it, nor do data of one's own."""
    title = choice.get(choice.get("info", {}).get("named_by"))
    return str(title) if title is not None else known_as(choice)


def known_as(choice: Mapping[str, Any]) -> str:
    """What a choice is called by its file, and by its name where that is an option."""
    file = choice.get("info", {}).get("choice", "zoo")
    # The zoo's optimizers had their ids before there was a second such file.
    return str(choice["name"]) if file == "zoo" else f"{file}.{choice['name']}"


def front_page() -> Config:
    """conf/config.yaml as it stands, not composed."""
    found: Config = read_file(conf_dir() / "config.yaml")
    return found


def read_file(path: Path) -> Any:
    """What a YAML file below conf/ states, not composed with anything. Raises YAMLError, OSError, UnicodeDecodeError."""
    return copy.deepcopy(content_of(path))


def content_of(path: Path) -> Any:
    """What a file states, not to be changed by the caller."""
    return _READ.get(path, lambda: read_yaml(path.read_text(encoding="utf-8")))


def title(group: str, name: str) -> str:
    """The name of a choice as pages, tables and charts show it: ``title`` of the ``info`` in its own file, or else ``name``.

    A title is not inherited: a choice that changes another one's options is not that one.
    """
    path = choices(group).get(name)
    try:
        content = content_of(path) if path is not None else None
    except UserError:  # of a file that cannot be read
        return name
    info = content.get("info") if isinstance(content, Mapping) else None
    return str(info.get("title", name)) if isinstance(info, Mapping) else name


def options(choice: Mapping[str, Any]) -> Config:
    """The options of a choice: all but its target, name and info (a name that is an option, as in the zoo, stays)."""
    typed = choice["info"]["schema"]
    return {name: value for name, value in choice.items() if name in typed or name not in _FIXED}
