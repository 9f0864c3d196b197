"""Cells composed as Hydra would compose each alone, only faster.

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
# An interpolation that depends on nothing in the configuration.
_OF_THE_ENVIRONMENT = re.compile(r"\$\{oc\.env:[^$]*\}")


class Composer:
    """Composes cell after cell, by Hydra where a shortcut might differ from it."""

    def __init__(self, config_loader: "ConfigLoader", factors: Sequence[Factor], master: "DictConfig | None") -> None:
        self._config_loader = config_loader
        self._master = master
        self._factors = factors
        self._settable = self._find_settable()
        self._templates: dict[tuple[str | None, ...], _Template] = {}

    def _find_settable(self) -> list[bool]:
        """Which factors merely set an option: the order in which they are applied, and what else is, cannot matter."""
        from hydra.core.object_type import ObjectType
        from hydra.core.override_parser.types import OverrideType

        words: list[str] = []
        name = "config"
        if self._master is not None:
            words, name = list(self._master.hydra.overrides.hydra), self._master.hydra.job.config_name
        # Which keys are groups is Hydra's to say: its search path may have more than conf/.
        groups = self._config_loader.get_group_options("", ObjectType.GROUP, config_name=name, overrides=words)

        def sets_options(factor: Factor) -> bool:
            # With a mapping for a group, too, options are set.
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
        """The configuration with ``words``, one of each factor; equal to what Hydra composes from them."""
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
            template = _Template(self._load(texts))
        if settings:  # else no other cell is like it
            self._templates[kind] = template
        return template.composed

    def _load(self, words: list[str]) -> "DictConfig":
        from hydra.types import RunMode

        if self._master is not None:
            return self._config_loader.load_sweep_config(self._master, words)
        return self._config_loader.load_configuration("config", overrides=words, run_mode=RunMode.RUN)


class _Template:
    """A cell that Hydra composed, to make others from that differ in plain values only.

    Hydra applies such an override last of all, and the nodes of a YAML file take any value, so to set it here is the same.
    """

    def __init__(self, node: "DictConfig") -> None:
        from omegaconf import OmegaConf

        self._chosen = configuration.Chosen.take_from(node)
        self.composed = self._chosen.named(configuration.plain(node))
        interpolations = _interpolations(OmegaConf.to_container(node, resolve=False))
        is_constant = all(_OF_THE_ENVIRONMENT.fullmatch(text) for text in interpolations)
        # Only needed where what is set changes other values, too.
        self._node = None if is_constant else node

    def with_settings(self, settings: Mapping[str, Any]) -> Config:
        """The configuration with other values of the same keys."""
        if self._node is not None:
            from omegaconf import OmegaConf

            for key, value in settings.items():
                OmegaConf.update(self._node, key, value, merge=True)
            return self._chosen.named(configuration.plain(self._node))
        config = dict(self.composed)
        for key, value in settings.items():
            *parents, last = key.split(".")
            place = config
            for name in parents:
                place[name] = dict(place[name])
                place = place[name]
            place[last] = value
        return self._chosen.named(config)


def _interpolations(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _interpolations(item)
    elif isinstance(value, list):
        for item in value:
            yield from _interpolations(item)
    elif isinstance(value, str) and "${" in value:
        yield value
