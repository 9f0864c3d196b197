"""The available choices, read from their files: GROUP/NAME.yaml in a folder of choices, and the front page."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from optbench.config.search_path import Place, conf_dir, places, same_content
from optbench.config.tuning import LAST_TRIAL
from optbench.config.yaml_text import YAMLError, read_yaml
from optbench.errors import UserError, nearest
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
# Groups with any number of choices, such as probe=[spectrum,noise_scale]; "none" chooses nothing. None of them changes
# the results of a run, so that none is in the run id.
LIST_GROUPS = ("probe",)
# The types of the keys on the front page, conf/config.yaml, that are not groups.
SCIENCE_KEYS = {
    "batch": "int >= 1",
    "base_batch": "int >= 1",
    "seed": f"int in [0, {2**53 - 1}]",  # a table with missing values would round larger ones
    "trial": f"int in [0, {LAST_TRIAL}]",
    "norm_batch": "int >= 1 or null",
    "clip_norm": "float > 0 or null",
    "precision": "one of fp64, fp32, tf32, bf16, fp16",
    "eval_every": "duration > 0",
    "evaluate_train": "int >= 1 or null",
    "divergence_factor": "float > 1 or null",
}
MACHINE_KEYS = {
    "micro_batch": "int >= 1 or null or auto",
    "graphs": "int >= 1 or null",
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
# Hydra's word for the package of the file that has the defaults list.
_HERE = "@_here_"
_FIXED = ("_target_", "name", "info", "fingerprint")  # keys of every choice or of its data that are not options

# A cache of the files and folders below conf/: a sweep needs them once for each of its runs.
_READ: FileCache[Any] = FileCache()


def choices(group: str) -> dict[str, Path]:
    """The choices of ``group`` by name, each with its file: the one in the first place that offers it.

    Hydra takes the same file. `check_one_file` refuses a name that two places offer with different contents.
    """
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
    """The first place that offers the choice ``name`` of ``group``; raises KeyError if there is none."""
    for place in places():
        if name in _files_in(place, group):
            return place
    raise KeyError(name)


def is_own(group: str, choice: Mapping[str, Any]) -> bool:
    """True if a composed choice comes from a file of the user, not from one of optbench."""
    name = file_of(choice)
    return name in choices(group) and place_of(group, name) != places()[0]


def check_one_file(group: str, name: str) -> None:
    """Raise UserError where two places offer the choice ``name`` with different contents.

    Run ids and frozen configurations identify a choice by its name. With two files, one name could mean different things
    on two machines, or after the next installation.
    """
    offering = [files[name] for files in (_files_in(place, group) for place in places()) if name in files]
    for other in offering[1:]:
        if not same_content(offering[0], other):
            raise UserError(
                f"{group}={name}: is the name of two files, {offering[0]} and {other}; accepted: another name for one's own, "
                f"such as my_{name}.yaml with 'defaults: [{name}]' and what it changes"
            )


def read_choice(group: str, name: str) -> Config:
    """One choice as Hydra composes it from its file and the files in its ``defaults``, under its file's name.

    Raises UserError for a file that cannot be composed.
    """
    composed = copy.deepcopy(_composed_file(group, name))
    info = composed.get("info")
    return called(composed, name, root_of(group, name)) if isinstance(info, Mapping) else composed


def check_choice(group: str, name: str) -> None:
    """Raise UserError, with the file, for a choice without a schema, or with a name other than its file's."""
    path, composed = choices(group)[name], _composed_file(group, name)
    where = f"{group}={name}: {path}"
    info = composed.get("info")
    if not isinstance(info, Mapping) or not isinstance(info.get("schema"), Mapping):
        raise UserError(
            f"{where} has no info with a schema; accepted: as in CONTRIBUTING.md, or 'defaults: [NAME]', which takes over "
            "those of another choice"
        )
    stated = _content(path).get("name", name)
    if not is_free(composed) and stated != name:
        raise UserError(f"{where} says name: {stated}; accepted: the name of the file, name: {name}, or no name")


def inherited_name(group: str, name: str) -> object:
    """The name stated in the files of a choice, which may be inherited; ``name`` if they state none."""
    return _composed_file(group, name).get("name", name)


def is_free(choice: Mapping[str, Any]) -> bool:
    """True if a choice's name is one of its options, as in the zoo."""
    return "name" in (choice["info"].get("schema") or ())


def root_of(group: str, name: str) -> str:
    """The root of ``name``: the last choice in its chain of defaults, or ``name`` itself if it inherits from none."""
    path = choices(group).get(name)
    content = _content(path) if path is not None and group in (*GROUPS, *LIST_GROUPS) else None
    parents = _parents(content, group) if isinstance(content, dict) else []
    return root_of(group, parents[-1]) if parents else name


def called(choice: Mapping[str, Any], name: str, root: str) -> Config:
    """``choice`` with the name of its file: as its name, or beside a name that is one of its options."""
    info = {**choice["info"], "inherits": root} if root != name else choice["info"]
    if is_free(choice):
        return {**choice, "info": {**info, "choice": name}}
    return {**choice, "name": name, "info": info}


def works_as(choice: Mapping[str, Any]) -> str:
    """The name that tells code what a choice does: its own, or that of the choice from which it inherits."""
    return str(choice.get("info", {}).get("inherits", choice["name"]))


def _parents(content: Config, group: str) -> list[str]:
    """The choices in the defaults of a file's ``content``, in order."""
    defaults = content.get("defaults", [])
    entries = defaults if isinstance(defaults, list) else [defaults]
    names = [str(entry).removeprefix(f"/{group}/") for entry in entries if entry != "_self_"]
    return [name.removesuffix(_HERE) for name in names] if group in LIST_GROUPS else names


def _without_here(defaults: object) -> str:
    """The first of ``defaults`` that Hydra would put beside the file; for groups in which each choice has a key of its own."""
    entries = defaults if isinstance(defaults, list) else [defaults]
    return next((str(entry) for entry in entries if entry != "_self_" and not str(entry).endswith(_HERE)), "")


def file_of(choice: Mapping[str, Any]) -> str:
    """The name of the file that a choice comes from."""
    return str(choice.get("info", {}).get("choice", choice["name"]))


def name_of(choice: Mapping[str, Any]) -> str:
    """The name of a choice in run ids, columns and conditions, unique among files and among the user's own data."""
    title = choice.get(choice.get("info", {}).get("named_by"))
    return str(title) if title is not None else known_as(choice)


def known_as(choice: Mapping[str, Any]) -> str:
    """The name of a choice by its file, followed by its name if that is an option."""
    file = choice.get("info", {}).get("choice", "zoo")
    # The run ids of the zoo's optimizers are older than the second such file, and leave its name out.
    return str(choice["name"]) if file == "zoo" else f"{file}.{choice['name']}"


def _composed_file(group: str, name: str, heirs: tuple[str, ...] = ()) -> Config:
    """The content of a choice's file, merged with that of the choices in its ``defaults`` in Hydra's order.

    The caller must not change it.
    """
    path = choices(group).get(name, conf_dir() / group / f"{name}.yaml")
    check_one_file(group, name)
    try:
        content = _content(path)
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{group}={name}: {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{group}={name}: {path} holds no mapping; accepted: KEY: VALUE lines")
    if "defaults" not in content or group not in (*GROUPS, *LIST_GROUPS):
        return content
    if group in LIST_GROUPS and (elsewhere := _without_here(content["defaults"])):
        raise UserError(
            f"{group}={name}: {path}: defaults: {elsewhere}: would add {group}.{elsewhere} beside it; accepted: "
            f"{elsewhere}{_HERE}, which takes over its options"
        )
    parts = []
    for parent in _parents(content, group):
        if parent in (name, *heirs) or parent not in choices(group):
            raise UserError(
                f"{group}={name}: {path}: defaults: {parent}: is no other choice of this group; "
                f"{nearest(parent, choices(group))}"
            )
        parts.append(_composed_file(group, parent, (*heirs, name)))
    defaults = content["defaults"]
    own_place = defaults.index("_self_") if isinstance(defaults, list) and "_self_" in defaults else len(parts)
    content = {key: value for key, value in content.items() if key != "defaults"}
    merged: Config = {}
    for part in [*parts[:own_place], content, *parts[own_place:]]:
        merged = _merged(merged, part)
    return merged


def _merged(below: Config, above: Config) -> Config:
    """Merge as OmegaConf does: mappings key by key; otherwise the value of ``above`` wins."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def front_page() -> Config:
    """The content of conf/config.yaml, not composed."""
    found: Config = read_file(conf_dir() / "config.yaml")
    return found


def read_file(path: Path) -> Any:
    """The content of a YAML file below conf/, not composed. Raises YAMLError, OSError, UnicodeDecodeError."""
    return copy.deepcopy(_content(path))


def _content(path: Path) -> Any:
    """The content of a file; the caller must not change it."""
    return _READ.get(path, lambda: read_yaml(path.read_text(encoding="utf-8")))


def title(group: str, name: str) -> str:
    """The name of a choice on pages, tables and charts: ``title`` of the ``info`` in its own file, or else ``name``.

    A title is not inherited: a choice that changes the options of another one is a different choice.
    """
    path = choices(group).get(name)
    try:
        content = _content(path) if path is not None else None
    except UserError:  # the file cannot be read
        return name
    info = content.get("info") if isinstance(content, Mapping) else None
    return str(info.get("title", name)) if isinstance(info, Mapping) else name


def options(choice: Mapping[str, Any]) -> Config:
    """The options of a choice: all but its target, name and info (a name that is an option, as in the zoo, stays)."""
    typed = choice["info"]["schema"]
    return {name: value for name, value in choice.items() if name in typed or name not in _FIXED}
