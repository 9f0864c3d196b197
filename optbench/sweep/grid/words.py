"""The words after -m, read as Hydra reads them: keys with one value, and axes with several."""

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from optbench import config as configuration
from optbench.errors import UserError, nearest

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from hydra.core.override_parser.types import Override

# The largest number of cells in one sweep.
LIMIT = 100_000


@contextmanager
def explaining(words: Sequence[str]) -> Iterator[None]:
    """Turn errors of Hydra into one message."""
    try:
        yield
    except configuration.refusals() as error:
        # Hydra wraps some errors of OmegaConf in an error without a message.
        cause = error.__cause__ if isinstance(error.__cause__, Exception) and not str(error) else error
        raise UserError(configuration.explain(cause, words)) from error


@dataclass(frozen=True)
class Word:
    """One value of one key: ``text`` is the word for Hydra, ``value`` is the value that Hydra reads from it."""

    text: str
    value_text: str
    value: Any

    @property
    def is_plain(self) -> bool:
        """True for a single literal value: not a list, not an interpolation, not OmegaConf's mark of a missing value."""
        if isinstance(self.value, str):
            return "$" not in self.value and "\\" not in self.value and self.value != "???"
        return self.value is None or isinstance(self.value, int | float)


@dataclass(frozen=True)
class Factor:
    """One key with its values: an axis if it is swept over, otherwise a single word that holds in all cells."""

    override: "Override"
    words: tuple[Word, ...]

    @property
    def key(self) -> str:
        """As on the command line, with the + or ~ before it and the @package after it."""
        return self.override.get_key_element()

    @property
    def is_axis(self) -> bool:
        """True if the key is swept over."""
        return self.override.is_sweep_override()

    @property
    def path(self) -> list[str]:
        """The names of the keys from the front page down to this key."""
        return self.override.key_or_group.split(".")


def told_by(factor: Factor, word: Word) -> dict[str, Any]:
    """The key and the value that every configuration with the word has, as conditions see them; empty if this is not sure.

    A choice is seen under its name, which some choices take from an option.
    """
    from hydra.core.override_parser.types import OverrideType

    override, key = factor.override, factor.override.key_or_group
    is_change = override.type is OverrideType.CHANGE and override.package is None and not override.is_hydra_override()
    if not (is_change and key.isidentifier() and word.is_plain):
        return {}
    if key in configuration.GROUPS:
        if word.value not in configuration.choices(key):
            return {}
        choice = configuration.read_choice(key, str(word.value))
        is_fixed = not configuration.is_free(choice) and not choice["info"].get("named_by")
    else:
        is_fixed = key in configuration.front_page()
    return {key: word.value} if is_fixed else {}


def words_of(params: Mapping[str, Any]) -> list[str]:
    """``hydra.sweeper.params`` as words of the command line; raises UserError for an entry that cannot be one."""
    words = []
    for key, value in params.items():
        where = f"hydra.sweeper.params.{key}={value}"
        if key.lstrip("+~") == "experiment":
            raise UserError(f"{where}: an experiment cannot choose an experiment; accepted: experiment=NAME, with -m")
        if value is not None and not isinstance(value, str | int | float):
            raise UserError(f"{where}: must be text; accepted: 'a,b' for a run each, '[a,b]' for one list")
        words.append(f"{key}={'null' if value is None else value}")
    return configuration.with_geometric(words)


def factors_of(config_loader: "ConfigLoader", words: Sequence[str]) -> list[Factor]:
    """The factors of the grid, in the order of Hydra's BasicSweeper: a later word replaces one with the same key.

    Raises UserError for words that cannot be read, and for a sweep that cannot be listed or has more than `LIMIT` values.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parser = OverridesParser.create(config_loader=config_loader)
    with explaining(words):
        overrides = parser.parse_overrides(list(words))
    factors: dict[str, Factor] = {}
    for override in overrides:
        key = override.get_key_element()
        if not override.is_sweep_override():
            value = override.get_value_element_as_str()
            factors[key] = Factor(override, (Word(f"{key}={value}", value, override.value()),))
            continue
        with explaining(words):
            values = _swept_values(override)
            read_again = parser.parse_overrides([f"{key}={value}" for value in values])
        factors[key] = Factor(
            override,
            tuple(Word(f"{key}={text}", text, again.value()) for text, again in zip(values, read_again, strict=True)),
        )
    return list(factors.values())


def read_word(config_loader: "ConfigLoader", key: str, text: str) -> Word:
    """The word ``key``=``text``, for one value; raises UserError if Hydra cannot read it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    word = f"{key}={text}"
    with explaining([word]):
        (override,) = OverridesParser.create(config_loader=config_loader).parse_overrides([word])
    return Word(word, text, override.value())


def interval_of(word: str) -> dict[str, Any] | None:
    """The distribution of a word such as KEY=interval(0,1) or KEY=tag(log,interval(1e-5,1)); None for other words.

    The distributions are those of `optbench.config.tuning`; whole numbers are KEY=int(interval(1,8)).
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import IntervalSweep

    if "interval" not in word:
        return None
    with explaining([word]):
        sweep = OverridesParser.create().parse_override(word).value()
    if not isinstance(sweep, IntervalSweep):
        return None
    if "log" in sweep.tags:
        kind = "log_uniform"
    else:
        kind = "integer" if isinstance(sweep.start, int) and isinstance(sweep.end, int) else "uniform"
    return {"distribution": kind, "low": sweep.start, "high": sweep.end}


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
        # Counted before it is listed: a range may not fit into memory.
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
