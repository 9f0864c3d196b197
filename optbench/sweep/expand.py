"""From the words after -m to the cells of a grid: each composed as Hydra would compose it alone, and checked.

Hydra takes a tenth of a second to compose one configuration. Cells that differ only in single values, such as the
batch or the seed, are composed once, and the values are set on a copy as Hydra would set them.
"""

import dataclasses
import itertools
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optbench import config as configuration
from optbench.config import Config
from optbench.errors import UserError
from optbench.suggestions import nearest
from optbench.sweep.expressions import Expression

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.override_parser.types import Override
    from omegaconf import DictConfig

LIMIT = 100_000

_DOTTED_NAME = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*")
# An interpolation that depends on nothing in the configuration.
_OF_THE_ENVIRONMENT = re.compile(r"\$\{oc\.env:[^$]*\}")


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    ``overrides``: what the sweep sets here, "key=value" in the order of the axes. ``config``: composed and resolved;
    cells share parts of it, so that it is to be read, not changed.
    """

    overrides: tuple[str, ...]
    config: Config


@dataclass(frozen=True)
class Expansion:
    """A whole grid.

    ``axes``: the values, as on the command line, of every key that is swept over. ``excluded``: how many cells the
    conditions dropped. ``scale``: of an experiment that has several.
    """

    cells: list[Cell]
    axes: dict[str, list[str]]
    excluded: int
    scale: str | None = None


def expand(
    config_loader: "ConfigLoader",
    arguments: Sequence[str],
    params: Mapping[str, Any] | None = None,
    exclude: str | Sequence[str] = (),
    master: "DictConfig | None" = None,
    may_be_empty: bool = False,
) -> Expansion:
    """All cells of the grid that ``arguments`` span, in the order of Hydra's own sweeper, the last axis fastest.

    ``params`` are words as in ``hydra.sweeper.params``: they come first, and one of ``arguments`` with the same key takes
    its place. A cell where one of the conditions ``exclude`` holds is dropped; they see it as it is composed, before a
    trial is drawn. Of cells with the same run id the first is kept. ``master`` is what Hydra hands to a sweeper: its
    overrides of ``hydra`` hold in every cell.

    Raises UserError for words that cannot be read, a sweep that cannot be listed or has more than `LIMIT` cells, a
    condition that cannot be evaluated, a grid without cells unless it ``may_be_empty``, and for the first cell that cannot
    run, which it names.
    """
    texts = [exclude] if isinstance(exclude, str) else exclude
    conditions = [Expression.parse(text, "hydra.sweeper.exclude") for text in texts]
    factors = _factors(config_loader, [*_words(params or {}), *arguments])
    axes = {factor.key: [word.value_text for word in factor.words] for factor in factors if factor.is_axis}
    count = math.prod(len(values) for values in axes.values())
    if count > LIMIT:
        raise UserError(f"{', '.join(axes)}: a grid of {count:,} cells; accepted: at most {LIMIT:,} in one sweep")
    composer = _Composer(config_loader, factors, master)
    cells: dict[str, Cell] = {}
    excluded = 0
    for words in itertools.product(*(factor.words for factor in factors)):
        overrides = tuple(word.text for factor, word in zip(factors, words, strict=True) if factor.is_axis)
        with _naming(overrides if count > 1 else ()):
            composed = composer.compose(words)
        if any(condition.holds(composed) for condition in conditions):
            excluded += 1
            continue
        with _naming(overrides if count > 1 else ()):
            config = configuration.resolve(composed)
        cells.setdefault(configuration.run_id(config), Cell(overrides, config))
    if not cells and not may_be_empty:
        raise UserError(
            f"hydra.sweeper.exclude={list(texts)}: leaves none of {count} cells; accepted: fewer conditions"
        )
    return Expansion(list(cells.values()), axes, excluded)


@contextmanager
def _naming(overrides: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        if not overrides:
            raise
        raise UserError(f"cell {' '.join(overrides)}: {error}") from error


@contextmanager
def _explaining(words: Sequence[str]) -> Iterator[None]:
    """Turn what Hydra refuses into one message."""
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    try:
        yield
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        # Hydra wraps some errors of OmegaConf in one without a message.
        cause = error.__cause__ if isinstance(error.__cause__, Exception) and not str(error) else error
        raise UserError(configuration.explain(cause, words)) from error


# ---- reading the words ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Word:
    """One value of one key: ``text`` is what Hydra is told, ``value`` is what it reads there."""

    text: str
    value_text: str
    value: Any

    @property
    def is_plain(self) -> bool:
        """Whether it is a single value that means itself: no list, no interpolation, not OmegaConf's mark of a missing one."""
        if isinstance(self.value, str):
            return "$" not in self.value and "\\" not in self.value and self.value != "???"
        return self.value is None or isinstance(self.value, int | float)


@dataclass(frozen=True)
class _Factor:
    """One key with its values: an axis where it is swept over, else a single word that holds in all cells."""

    override: "Override"
    words: tuple[_Word, ...]

    @property
    def key(self) -> str:
        """As on the command line, with the + or ~ before it and the @package after it."""
        return self.override.get_key_element()

    @property
    def is_axis(self) -> bool:
        return self.override.is_sweep_override()

    @property
    def path(self) -> list[str]:
        """The names of the keys from the front page down to its own."""
        return self.override.key_or_group.split(".")


def _words(params: Mapping[str, Any]) -> list[str]:
    words = []
    for key, value in params.items():
        where = f"hydra.sweeper.params.{key}={value}"
        if key.lstrip("+~") == "experiment":
            raise UserError(f"{where}: an experiment cannot choose an experiment; accepted: experiment=NAME, with -m")
        if value is not None and not isinstance(value, str | int | float):
            raise UserError(f"{where}: must be text; accepted: 'a,b' for a run each, '[a,b]' for one list")
        words.append(f"{key}={'null' if value is None else value}")
    return words


def _factors(config_loader: "ConfigLoader", words: Sequence[str]) -> list[_Factor]:
    """The factors of the grid, in the order of Hydra's BasicSweeper: a later word takes the place of one with its key."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create(config_loader=config_loader)
    with _explaining(words):
        overrides = parser.parse_overrides(list(words))
    factors: dict[str, _Factor] = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            value = override.get_value_element_as_str()
            factors[key] = _Factor(override, (_Word(f"{key}={value}", value, override.value()),))
            continue
        with _explaining(words):
            values = _swept_values(override)
            read_again = parser.parse_overrides([f"{key}={value}" for value in values])
        factors[key] = _Factor(
            override,
            tuple(_Word(f"{key}={text}", text, again.value()) for text, again in zip(values, read_again, strict=True)),
        )
    return list(factors.values())


def _swept_values(override: "Override") -> list[str]:
    from hydra.core.override_parser.types import RangeSweep

    line = override.input_line
    if override.key_or_group == "experiment":
        raise UserError(f"{line}: one experiment a sweep; accepted: experiment=NAME, and a command for each")
    if override.is_hydra_override():
        raise UserError(f"{line}: what is Hydra's own cannot be swept over; accepted: one value")
    if not override.is_discrete_sweep():
        raise UserError(f"{line}: has no values to list; accepted: a,b, choice(a,b), range(first,end,step) or glob(*)")
    sweep = override.value()
    if isinstance(sweep, RangeSweep):
        if not sweep.step:
            raise UserError(f"{line}: never gets from {sweep.start} to {sweep.stop}; accepted: a step other than 0")
        # Counted before it is listed: a range may be longer than the memory.
        numbers = dataclasses.replace(sweep, shuffle=False).range()
        if sum(1 for _ in itertools.islice(numbers, LIMIT + 1)) > LIMIT:
            raise UserError(f"{line}: has more than {LIMIT:,} values; accepted: at most {LIMIT:,} cells in one sweep")
    values = list(override.sweep_string_iterator())
    if not values:
        group = override.key_or_group
        hint = (
            nearest(group, configuration.choices(group)) if group in configuration.GROUPS else "accepted: at least one"
        )
        raise UserError(f"{line}: has no values; {hint}")
    return values


# ---- composing ------------------------------------------------------------------------------------------------------


class _Composer:
    """Composes cell after cell, by Hydra where a shortcut might differ from it."""

    def __init__(self, config_loader: "ConfigLoader", factors: Sequence[_Factor], master: "DictConfig | None") -> None:
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

        def sets_options(factor: _Factor) -> bool:
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

    def compose(self, words: Sequence[_Word]) -> Config:
        """The configuration with ``words``, one of each factor; equal to what Hydra composes from them."""
        is_set = [settable and word.is_plain for word, settable in zip(words, self._settable, strict=True)]
        settings = {
            factor.override.key_or_group: word.value
            for factor, word, here in zip(self._factors, words, is_set, strict=True)
            if here
        }
        kind = tuple(None if here else word.text for word, here in zip(words, is_set, strict=True))
        texts = [word.text for word in words]
        with _explaining(texts):
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
        from omegaconf import OmegaConf, open_dict

        with open_dict(node):
            node.pop("hydra", None)
        self.composed = configuration.plain(node)
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
            return configuration.plain(self._node)
        config = dict(self.composed)
        for key, value in settings.items():
            *parents, last = key.split(".")
            place = config
            for name in parents:
                place[name] = dict(place[name])
                place = place[name]
            place[last] = value
        return config


def _interpolations(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for item in value.values():
            yield from _interpolations(item)
    elif isinstance(value, list):
        for item in value:
            yield from _interpolations(item)
    elif isinstance(value, str) and "${" in value:
        yield value
