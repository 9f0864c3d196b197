"""The available choices, read from their files: GROUP/NAME.yaml in a folder of choices, and the front page."""

import copy
from collections.abc import Mapping
from functools import cache
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
    "communication",
    "selection",
    "budget",
    "trainer",
    "launcher",
    "search",
    "tracker",
)
# Of these the ones that say how and where a run is trained and shown: they are not part of its science.
ASIDE_GROUPS = ("launcher", "search", "tracker")
# Groups with any number of choices, such as probe=[spectrum,noise_scale]; "none" chooses nothing.
LIST_GROUPS = ("transform", "probe")
# Of these the ones that change no result of a run, so that they are in no run id and cannot be an axis of a sweep.
MEASURING_GROUPS = ("probe",)
# The parts of a step at which a transform acts, in their order; those of one part act in the order of their names.
TRANSFORM_PLACES = ("evaluation", "gradient", "update", "weights")
# The types of the keys on the front page, conf/config.yaml, that are not groups.
SCIENCE_KEYS = {
    "batch": "int >= 1",
    "base_batch": "int >= 1",
    "seed": f"int in [0, {2**53 - 1}]",  # a table with missing values would round larger ones
    "trial": f"int in [0, {LAST_TRIAL}]",
    "ghost_batch_size": "int >= 1 or null",
    "clip_norm": "float > 0 or null",
    "precision": "one of fp64, fp32, tf32, bf16, fp16",
    "eval_every": "spacing",
    "evaluate_train": "int >= 1 or null",
    "divergence_factor": "float > 1 or null",
}
MACHINE_KEYS = {
    "micro_batch": "int >= 1 or null or auto",
    "cached_graphs": "int >= 1 or null",
    "compile": "bool",
    "channels_last": "bool",
    "evaluate_test": "one of always, end",
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


def path_of(group: str, name: str) -> Path | None:
    """The file of a choice or of a fragment; None where no place has it."""
    offering = (_files_in(place, group, is_fragment(name)) for place in places())
    return next((files[name] for files in offering if name in files), None)


def is_fragment(name: str) -> bool:
    """True if ``name`` is the name of a fragment, such as conf/probe/_schedule.yaml, which is no choice itself."""
    return name.startswith("_")


def _files_in(place: Place, group: str, fragments: bool = False) -> dict[str, Path]:
    """The files of choices of ``group`` in one place by their names, or those of fragments."""
    folder = place.folder / group

    def read() -> tuple[dict[str, Path], dict[str, Path]]:
        files = {path.stem: path for path in sorted(folder.glob("*.yaml"))}
        parts = {name: path for name, path in files.items() if is_fragment(name)}
        return {name: path for name, path in files.items() if name not in parts}, parts

    found: tuple[dict[str, Path], dict[str, Path]] = _READ.get(folder, read, "folder")
    return found[fragments]


def place_of(group: str, name: str) -> Place:
    """The first place that offers the choice ``name`` of ``group``; raises KeyError if there is none."""
    for place in places():
        if name in _files_in(place, group):
            return place
    raise KeyError(name)


def is_offered(group: str, name: str) -> bool:
    """True if ``name`` is one of the `choices` of ``group``."""
    return any(name in _files_in(place, group) for place in places())


def is_own(group: str, choice: Mapping[str, Any]) -> bool:
    """True if a composed choice comes from a file of the user, not from one of optbench."""
    ours, *others = places()
    name = file_of(choice)
    return name not in _files_in(ours, group) and any(name in _files_in(place, group) for place in others)


def check_one_file(group: str, name: str) -> None:
    """Raise UserError where two places offer the choice ``name`` with different contents, or it was the name of another one.

    Run ids and frozen configurations identify a choice by its name. With two files, one name could mean different things
    on two machines, or after the next installation.
    """
    files = [_files_in(place, group, is_fragment(name)) for place in places()]
    offering = [found[name] for found in files if name in found]
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
    """True if a choice's name is one of its options, as in the zoo."""
    return "name" in (choice["info"].get("schema") or ())


def root_of(group: str, name: str) -> str:
    """The root of ``name``: the last choice in its chain of defaults, or ``name`` itself if it inherits from none."""
    path = choices(group).get(name)
    content = content_of(path) if path is not None and group in (*GROUPS, *LIST_GROUPS) else None
    parts = parts_of(content, group) if isinstance(content, dict) else []
    parents = [part for part in parts if not is_fragment(part)]
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


def parts_of(content: Config, group: str) -> list[str]:
    """The choices and fragments in the defaults of a file's ``content``, in their order and under their names of now."""
    defaults = content.get("defaults", [])
    entries = defaults if isinstance(defaults, list) else [defaults]
    names = [str(entry).removeprefix(f"/{group}/") for entry in entries if entry != "_self_"]
    names = [name.removesuffix(HERE) for name in names] if group in LIST_GROUPS else names
    return [current_choice(group, name) for name in names]


def shared_parts(group: str) -> tuple[str, ...]:
    """The fragments that every choice of ``group`` takes over, as the front page says for Hydra: GROUP/_NAME in its defaults."""
    return tuple(_shared(group))


@cache  # run ids need it, of which a sweep makes thousands; optbench's own files stay as they are
def shared_options(group: str) -> Mapping[str, str]:
    """The options that every choice of ``group`` has, with their types: the bench reads them, not the class of the choice."""
    return {name: kind for schema in _shared(group).values() for name, kind in schema.items()}


@cache
def _shared(group: str) -> dict[str, Mapping[str, str]]:
    """The schemas of the fragments that every choice of ``group`` takes over."""
    defaults = content_of(conf_dir() / "config.yaml")["defaults"]
    parts = [entry.removeprefix(f"{group}/") for entry in defaults if str(entry).startswith(f"{group}/_")]
    return {part: content_of(conf_dir() / group / f"{part}.yaml")["info"]["schema"] for part in parts}


def left_out_of_run_id(group: str, choice: Mapping[str, Any]) -> list[str]:
    """The options of a choice that are in no run id: those that its file lists, and those that every choice of the group has."""
    return [*choice["info"].get("not_in_run_id", []), *shared_options(group)]


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


def front_page() -> Config:
    """The content of conf/config.yaml, not composed."""
    found: Config = read_file(conf_dir() / "config.yaml")
    return found


def transforms_of(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The transforms of the optimizer in ``config``, in the order in which they act, which is not that of the command line."""
    chosen = config.get("transform") or {}
    return [chosen[name] for name in sorted(chosen, key=lambda name: (_place_of(chosen[name]), name)) if name != "none"]


def _place_of(transform: Mapping[str, Any]) -> int:
    place = transform["info"].get("place")
    return TRANSFORM_PLACES.index(place) if place in TRANSFORM_PLACES else len(TRANSFORM_PLACES)


def optimizer_name(config: Mapping[str, Any]) -> str:
    """The name of the optimizer of ``config`` in run ids, columns and conditions, with its transforms: adamw+cautious."""
    return "+".join([name_of(config["optimizer"]), *(str(each["name"]) for each in transforms_of(config))])


def read_file(path: Path) -> Any:
    """The content of a YAML file below conf/, not composed. Raises YAMLError, OSError, UnicodeDecodeError."""
    return copy.deepcopy(content_of(path))


def content_of(path: Path) -> Any:
    """The content of a file; the caller must not change it."""
    return _READ.get(path, lambda: read_yaml(path.read_text(encoding="utf-8")))


def title(group: str, name: str) -> str:
    """The name of a choice on pages, tables and charts: ``title`` of the ``info`` in its own file, or else ``name``.

    A title is not inherited: a choice that changes the options of another one is a different choice.
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
