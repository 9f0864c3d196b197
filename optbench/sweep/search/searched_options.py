"""The options that Optuna searches, between the words of the command line and Optuna's distributions.

A drawn value is rounded before it is used, and Optuna is told the rounded one, so that the configuration, the run id and Optuna
agree about it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from optbench.config import tuning
from optbench.config.commands import written

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


class Option(Protocol):
    """One option that is searched."""

    @property
    def key(self) -> str:
        """As on the command line."""

    def distribution(self) -> "BaseDistribution":
        """The distribution that Optuna draws from."""

    def word(self, drawn: Any) -> str:
        """The value on the command line for the value that Optuna drew."""

    def drawn(self, word: str) -> Any:
        """The inverse of ``word``."""


@dataclass(frozen=True)
class RealOption:
    """Real values: uniform, log_uniform, or log_uniform_complement, which is 1 - x for x log-uniform on [low, high]."""

    key: str
    kind: str
    low: float
    high: float

    def distribution(self) -> "BaseDistribution":
        """That of x for a complement."""
        from optuna.distributions import FloatDistribution

        return FloatDistribution(self.low, self.high, log=self.kind != "uniform")

    def word(self, drawn: Any) -> str:
        """With six significant digits, as trials have."""
        value = tuning.rounded(drawn, self.low, self.high)
        return repr(round(1 - value, 15) if self.kind == "log_uniform_complement" else value)

    def drawn(self, word: str) -> Any:
        """The rounded value, or x."""
        value = float(word)
        return tuning.rounded(1 - value if self.kind == "log_uniform_complement" else value, self.low, self.high)


@dataclass(frozen=True)
class IntegerOption:
    """Integers from ``low`` to ``high``."""

    key: str
    low: int
    high: int

    def distribution(self) -> "BaseDistribution":
        """All with the same probability."""
        from optuna.distributions import IntDistribution

        return IntDistribution(self.low, self.high)

    def word(self, drawn: Any) -> str:
        """The number."""
        return str(int(drawn))

    def drawn(self, word: str) -> Any:
        """The number."""
        return int(word)


@dataclass(frozen=True)
class ListedOption:
    """The values of an axis that lists them. If all are numbers, their places in numeric order are searched, otherwise names."""

    key: str
    words: tuple[str, ...]

    def distribution(self) -> "BaseDistribution":
        """Places from 0, or names."""
        from optuna.distributions import CategoricalDistribution, IntDistribution

        if self._ordered is None:
            return CategoricalDistribution(self.words)
        return IntDistribution(0, len(self._ordered) - 1)

    def word(self, drawn: Any) -> str:
        """The value as it was listed."""
        return str(drawn) if self._ordered is None else self._ordered[int(drawn)]

    def drawn(self, word: str) -> Any:
        """The place, or the name."""
        return word if self._ordered is None else self._ordered.index(word)

    @property
    def _ordered(self) -> list[str] | None:
        try:
            return sorted(self.words, key=float)
        except ValueError:
            return None


def option(key: str, entry: Mapping[str, Any]) -> Option:
    """The option for one entry of a search space (`optbench.config.tuning`); raises UserError if the entry is not valid."""
    tuning.validate({key: entry})
    kind = entry["distribution"]
    if kind == "categorical":
        return ListedOption(key, tuple(written(choice) for choice in entry["choices"]))
    if kind == "integer":
        return IntegerOption(key, entry["low"], entry["high"])
    return RealOption(key, kind, float(entry["low"]), float(entry["high"]))


def values_of(options: Sequence[Option], cell: Mapping[str, str]) -> dict[str, Any]:
    """The values that Optuna drew for a cell."""
    return {option.key: option.drawn(cell[option.key]) for option in options}
