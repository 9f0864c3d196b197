"""Compose cells with the same result as Hydra, but faster.

Hydra takes a tenth of a second to compose one configuration. Cells that differ only in single values, such as the
batch or the seed, are composed once, and the values are set on a copy as Hydra would set them.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optbench import config as configuration
from optbench.config import Config
from optbench.sweep.grid.words import Factor, Word, explaining

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from omegaconf import DictConfig

_DOTTED_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
# An interpolation that depends on no key of the configuration.
_OF_THE_ENVIRONMENT = re.compile(r"\$\{oc\.env:[^$]*\}")


class Composer:
    """Composes one cell after another; uses Hydra itself wherever a shortcut might give another result."""

    def __init__(self, config_loader: "ConfigLoader", factors: Sequence[Factor], master: "DictConfig | None") -> None:
        self._config_loader = config_loader
        self._master = master
        self._factors = factors
        self._settable = self._find_settable()
        self._templates: dict[tuple[str | None, ...], _Template] = {}

    def _find_settable(self) -> list[bool]:
        """For each factor, True if it only sets an option, independently of the other factors and of their order."""
        from hydra.core.object_type import ObjectType
        from hydra.core.override_parser.types import OverrideType

        words: list[str] = []
        name = "config"
        if self._master is not None:
            words, name = list(self._master.hydra.overrides.hydra), self._master.hydra.job.config_name
        # The groups are asked of Hydra, because its search path may have more folders than conf/.
        groups = self._config_loader.get_group_options("", ObjectType.GROUP, config_name=name, overrides=words)

        def sets_options(factor: Factor) -> bool:
            # A mapping given for a group also sets options.
            return factor.override.key_or_group not in groups or any(isinstance(w.value, dict) for w in factor.words)

        paths = [factor.path if sets_options(factor) else [] for factor in self._factors]
        return [
            factor.is_axis
            and factor.override.key_or_group not in groups
            and factor.override.type is OverrideType.CHANGE
            and factor.override.package is None
            and not factor.override.is_hydra_override()
            and _DOTTED_NAME.fullmatch(factor.override.key_or_group) is not None
            and not any(
                other is not path and other and all(a == b for a, b in zip(path, other, strict=False))
                for other in paths
            )
            for factor, path in zip(self._factors, paths, strict=True)
        ]

    def compose(self, words: Sequence[Word]) -> Config:
        """The configuration with ``words``, one for each factor; equal to the one that Hydra composes."""
        is_set = [settable and word.is_plain for word, settable in zip(words, self._settable, strict=True)]
        settings = {
            factor.override.key_or_group: word.value
            for factor, word, here in zip(self._factors, words, is_set, strict=True)
            if here
        }
        kind = tuple(None if here else word.text for word, here in zip(words, is_set, strict=True))
        texts = [word.text for word in words]
        with explaining(texts):
            if kind in self._templates:
                return self._templates[kind].with_settings(settings)
            configuration.check_overrides(texts)
            template = _Template(self._load(texts), settings)
        if settings:  # otherwise no other cell can use the template
            self._templates[kind] = template
        return template.composed

    def _load(self, words: list[str]) -> "DictConfig":
        from hydra.types import RunMode

        if self._master is not None:
            return self._config_loader.load_sweep_config(self._master, words)
        return self._config_loader.load_configuration("config", overrides=words, run_mode=RunMode.RUN)


class _Template:
    """A cell composed by Hydra, from which cells are made that differ only in plain values.

    Hydra applies such overrides last, and the nodes of a YAML file take any value, so that setting them here is equivalent.
    """

    def __init__(self, node: "DictConfig", settings: Mapping[str, Any]) -> None:
        from omegaconf import OmegaConf

        self._chosen = configuration.Chosen.take_from(node)
        self.composed = self._chosen.named(configuration.plain(node))
        interpolations = _interpolations(OmegaConf.to_container(node, resolve=False))
        is_constant = all(_OF_THE_ENVIRONMENT.fullmatch(text) for text in interpolations)
        # Needed only if a value that is set changes other values, too.
        self._node = None if is_constant else node
        # The parts in which options are set, by their values.
        self._parts = {(first, repr(values)): self.composed[first] for first, values in _below(settings).items()}

    def with_settings(self, settings: Mapping[str, Any]) -> Config:
        """The configuration with other values of the same keys."""
        if self._node is not None:
            from omegaconf import OmegaConf

            for key, value in settings.items():
                OmegaConf.update(self._node, key, value, merge=True)
            return self._chosen.named(configuration.plain(self._node))
        # Cells have the choices in which they do not differ in common, so that what follows from these is computed once.
        config = dict(self.composed)
        config |= {key: value for key, value in settings.items() if "." not in key}
        for first, values in _below(settings).items():
            kind = (first, repr(values))  # in which 1, 1.0 and True differ
            if kind not in self._parts:
                changed = {first: _with_values(config[first], values)}
                self._parts[kind] = self._chosen.named(changed, {first})[first]
            config[first] = self._parts[kind]
        return config


def _below(settings: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """The settings with dotted keys, by the first name of the key, and then by the rest."""
    found: dict[str, dict[str, Any]] = {}
    for key, value in settings.items():
        first, _, option = key.partition(".")
        if option:
            found.setdefault(first, {})[option] = value
    return found


def _with_values(part: Mapping[str, Any], values: Mapping[str, Any]) -> Config:
    """A copy of ``part`` with ``values`` at dotted keys."""
    changed = dict(part)
    for key, value in values.items():
        *parents, last = key.split(".")
        place = changed
        for name in parents:
            place[name] = dict(place[name])
            place = place[name]
        place[last] = value
    return changed


def _interpolations(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _interpolations(item)
    elif isinstance(value, list):
        for item in value:
            yield from _interpolations(item)
    elif isinstance(value, str) and "${" in value:
        yield value
