"""A choice as Hydra composes it: from its own file and from those of the choices and fragments that its ``defaults`` name."""

import copy
from collections.abc import Mapping
from pathlib import Path

from optbench.config.files import (
    GROUPS,
    HERE,
    LIST_GROUPS,
    Config,
    called,
    check_one_file,
    choices,
    content_of,
    is_fragment,
    is_free,
    parts_of,
    path_of,
    root_of,
    shared_options,
    shared_parts,
)
from optbench.config.renamed import current_file
from optbench.config.search_path import conf_dir, places
from optbench.config.yaml_text import YAMLError
from optbench.errors import UserError, nearest
from optbench.system.file_cache import FileCache

_CHOICES: FileCache[Config] = FileCache()


def read_choice(group: str, name: str) -> Config:
    """One choice as Hydra composes it from its file and from those that its ``defaults`` name, under its file's name.

    Raises UserError for a file that cannot be read so.
    """
    return copy.deepcopy(choice_to_read(group, name))


def choice_to_read(group: str, name: str) -> Config:
    """As `read_choice`, but the caller must not change it: it is composed once for as long as its files are the same."""
    folders = [place.folder / group for place in places()]

    def compose() -> tuple[Config, list[Path]]:
        composed = _whole(group, name)
        info = composed.get("info")
        choice = called(composed, name, root_of(group, name)) if isinstance(info, Mapping) else composed
        return choice, [*folders, *(file for part in (*shared_parts(group), name) for file in _files_of(group, part))]

    return _CHOICES.made((group, name, *folders), compose)


def check_choice(group: str, name: str) -> None:
    """Raise UserError, with the file, for a choice that lacks what every choice has, or states another name than its file's."""
    path, composed = choices(group)[name], _composed_file(group, name)
    where = f"{group}={name}: {path}"
    info = composed.get("info")
    if not isinstance(info, Mapping) or not isinstance(info.get("schema"), Mapping):
        raise UserError(
            f"{where} has no info with a schema; accepted: as in CONTRIBUTING.md, or 'defaults: [NAME]', which takes over "
            "those of another choice"
        )
    stated = content_of(path).get("name", name)
    if not is_free(composed) and stated != name:
        raise UserError(f"{where} says name: {stated}; accepted: the name of the file, name: {name}, or no name")


def inherited_name(group: str, name: str) -> object:
    """The name that the files of a choice state, which is that of the choice it inherits from; its own without any."""
    return _composed_file(group, name).get("name", name)


def _whole(group: str, name: str) -> Config:
    """A choice below which stand the fragments that every choice of its group takes over. Not to be changed by the caller."""
    whole: Config = {}
    for part in (*shared_parts(group), name):
        whole = _merged(whole, _composed_file(group, part))
    return whole


def _composed_file(group: str, name: str, heirs: tuple[str, ...] = ()) -> Config:
    """The content of a choice's file, merged with that of the choices in its ``defaults`` in the order that Hydra has.

    Not to be changed by the caller.
    """
    path = path_of(group, name) or conf_dir() / group / f"{name}.yaml"
    check_one_file(group, name)
    try:
        content = content_of(path)
    except (YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{group}={name}: {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{group}={name}: {path} holds no mapping; accepted: KEY: VALUE lines")
    try:
        content = dict(current_file(group, name, content))
    except UserError as error:
        raise UserError(f"{group}={name}: {path}: {error}") from error
    _check_own_options(group, name, content, path)
    if "defaults" not in content or group not in (*GROUPS, *LIST_GROUPS):
        return content
    if group in LIST_GROUPS and (elsewhere := _without_here(content["defaults"])):
        raise UserError(
            f"{group}={name}: {path}: defaults: {elsewhere}: would add {group}.{elsewhere} beside it; accepted: "
            f"{elsewhere}{HERE}, which takes over its options"
        )
    parts = []
    for part in parts_of(content, group):
        if part in (name, *heirs) or path_of(group, part) is None:
            raise UserError(
                f"{group}={name}: {path}: defaults: {part}: is no other choice of this group; "
                f"{nearest(part, choices(group))}"
            )
        parts.append(_composed_file(group, part, (*heirs, name)))
    defaults = content["defaults"]
    own_place = defaults.index("_self_") if isinstance(defaults, list) and "_self_" in defaults else len(parts)
    content = {key: value for key, value in content.items() if key != "defaults"}
    merged: Config = {}
    for below in [*parts[:own_place], content, *parts[own_place:]]:
        merged = _merged(merged, below)
    return merged


def _files_of(group: str, name: str) -> list[Path]:
    """The file of a choice that can be composed, and those of the choices and fragments that it inherits."""
    path = path_of(group, name)
    if path is None:
        return []
    return [path, *(file for part in parts_of(content_of(path), group) for file in _files_of(group, part))]


def _check_own_options(group: str, name: str, content: Config, path: Path) -> None:
    """Raise UserError for a choice whose own schema has an option that every choice of the group has."""
    info = content.get("info")
    stated = info.get("schema") if isinstance(info, Mapping) else None
    if is_fragment(name) or not isinstance(stated, Mapping):
        return
    for option in shared_options(group):
        if option in stated:
            raise UserError(
                f"{group}={name}: {path}: info.schema.{option}: is an option of every {group}, which optbench itself reads; "
                "accepted: another name for one's own"
            )


def _merged(below: Config, above: Config) -> Config:
    """As OmegaConf merges: mappings key by key, and of anything else the one above counts."""
    merged = dict(below)
    for key, value in above.items():
        under = merged.get(key)
        merged[key] = _merged(under, value) if isinstance(under, dict) and isinstance(value, dict) else value
    return merged


def _without_here(defaults: object) -> str:
    """The first of ``defaults`` that Hydra would put beside the file, where each choice of a group has a key of its own."""
    entries = defaults if isinstance(defaults, list) else [defaults]
    return next((str(entry) for entry in entries if entry != "_self_" and not str(entry).endswith(HERE)), "")
