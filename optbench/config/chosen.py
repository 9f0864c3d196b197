"""The file that was chosen in each group: a choice is identified by its file, even if it inherits another one's name."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optbench.config.files import (
    GROUPS,
    LIST_GROUPS,
    Config,
    called,
    choices,
    is_free,
    root_of,
)
from optbench.config.inheritance import check_choice, inherited_name
from optbench.errors import UserError

if TYPE_CHECKING:
    from omegaconf import DictConfig


class Chosen:
    """The choices of a composed configuration, as Hydra's runtime knows them.

    Raises UserError, with the file, for a choice that lacks a required part.
    """

    def __init__(self, files: Mapping[str, str | None]) -> None:
        self._files: dict[str, _File] = {}
        for group in GROUPS:
            name = files.get(group)
            # The check of the configuration reports a choice that no file holds.
            if name is not None and name in choices(group):
                self._files[group] = _file(group, name)

    @classmethod
    def take_from(cls, node: "DictConfig") -> "Chosen":
        """Read the choices from a configuration that has Hydra's own node, and remove that node."""
        from omegaconf import open_dict

        with open_dict(node):
            return cls.of(node.pop("hydra"))

    @classmethod
    def of(cls, hydra: Any) -> "Chosen":
        """Read the choices from Hydra's own node."""
        return cls(hydra.runtime.choices)

    def named(self, config: Config, groups: Collection[str] = (*GROUPS, *LIST_GROUPS)) -> Config:
        """``config`` with every choice under the name of its file; raises UserError where another name was typed.

        groups: only the choices of these; the others have their names already.
        """
        named = dict(config)
        for group, file in self._files.items():
            if group in groups:
                named[group] = _named(group, file, config.get(group))
        for group in LIST_GROUPS:
            several = config.get(group)
            if group in groups and isinstance(several, Mapping):
                known = choices(group)
                named[group] = {
                    name: _named(f"{group}.{name}", _file(group, name), choice) if name in known else choice
                    for name, choice in several.items()
                }
        return named


@dataclass(frozen=True)
class _File:
    """The file of a choice: its group and name, its root (the last choice in its chain of defaults), and its stated name."""

    group: str
    name: str
    root: str
    inherited: object


def _file(group: str, name: str) -> _File:
    check_choice(group, name)
    return _File(group, name, root_of(group, name), inherited_name(group, name))


def _named(where: str, file: _File, choice: Any) -> Any:
    if not isinstance(choice, Mapping) or not isinstance(choice.get("info"), Mapping):
        return choice  # the check of the configuration refuses it
    stated = choice.get("name", file.name)
    if not is_free(choice) and stated not in (file.name, file.inherited):
        raise UserError(
            f"{where}.name={stated}: is fixed; choose with {file.group}=...; accepted: {', '.join(choices(file.group))}"
        )
    return called(choice, file.name, file.root)
