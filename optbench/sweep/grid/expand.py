"""Expand the words after -m into the cells of a grid, each composed as Hydra would compose it alone, and checked."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import TYPE_CHECKING, Any

from optbench import config as configuration
from optbench.config import Config, SharedParts
from optbench.data import fingerprints
from optbench.errors import UserError
from optbench.sweep.expressions import Expression
from optbench.sweep.grid.composing import Composer
from optbench.sweep.grid.selecting import Selection
from optbench.sweep.grid.words import LIMIT, Word, factors_of, told_by, words_of

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from omegaconf import DictConfig


@dataclass(frozen=True)
class Cell:
    """One run of a grid.

    ``overrides``: the values that the sweep sets here, "key=value" in the order of the axes. ``config``: composed and
    resolved; read-only, because cells share parts of it. ``asked``: the same before it was resolved, without the values that
    a trial draws or that follow from the model and the data. ``known_id``: the run id, if it was computed before.
    """

    overrides: tuple[str, ...]
    config: Config
    asked: Config
    known_id: str | None = field(default=None, compare=False)

    @cached_property
    def run_id(self) -> str:
        """The run id of ``config``."""
        return self.known_id or configuration.run_id(self.config)


@dataclass(frozen=True)
class Expansion:
    """A whole grid.

    ``axes``: the values, as on the command line, of every key that is swept over. ``excluded``: the number of cells that
    the conditions dropped. ``scale``: of an experiment with several scales.
    """

    cells: list[Cell]
    axes: dict[str, list[str]]
    excluded: int
    scale: str | None = None


@fingerprints.kept()  # a folder of data is read once, not once for each cell
def expand(
    config_loader: "ConfigLoader",
    arguments: Sequence[str],
    params: Mapping[str, Any] | None = None,
    exclude: str | Sequence[str] = (),
    master: "DictConfig | None" = None,
    may_be_empty: bool = False,
    selection: Selection | None = None,
) -> Expansion:
    """All cells of the grid that ``arguments`` span, in the order of Hydra's own sweeper, the last axis fastest.

    ``params`` are words as in ``hydra.sweeper.params``; ``arguments`` with the same key replace them. Cells that ``selection``
    does not choose are left out, and so are cells for which one of the conditions ``exclude`` holds; both see a cell as it is
    composed, before a trial is drawn. Of cells with the same run id the first is kept. ``master`` is the configuration that
    Hydra gives to a sweeper: its overrides of ``hydra`` hold in every cell.

    Raises UserError for words that cannot be read, a sweep that cannot be listed or has more than `LIMIT` cells, a
    condition that cannot be evaluated, a grid without cells unless it ``may_be_empty``, and for the first cell that cannot
    run, which the message names.
    """
    cells_of = CellMaker(config_loader, arguments, params, exclude, master, selection)
    count = cells_of.count
    if count > LIMIT:
        axes = ", ".join(cells_of.axes)
        raise UserError(f"{axes}: a grid of {count:,} cells; accepted: at most {LIMIT:,} in one sweep")
    cells: dict[str, Cell] = {}
    excluded = 0
    shared = SharedParts()
    for words in itertools.product(*(factor.words for factor in cells_of.factors)):
        cell = cells_of.make(words, shared)
        if isinstance(cell, Cell):
            cells.setdefault(cell.run_id, cell)
        else:
            excluded += cell is Left.EXCLUDED
    if not cells and not may_be_empty:
        raise UserError(
            f"hydra.sweeper.exclude={cells_of.exclude}: leaves none of {count} cells; accepted: fewer conditions"
        )
    return Expansion(list(cells.values()), cells_of.axes, excluded)


class Left(Enum):
    """The reason for which a grid has no cell at a place: a condition excludes it, or it is not among the selected."""

    EXCLUDED = "excluded"
    NOT_SELECTED = "not selected"


class CellMaker:
    """Composes the cells of one grid one at a time; see `expand` for the arguments and the errors.

    factors: the keys with their values. axes: the values, as on the command line, of every key that is swept over.
    count: the number of combinations, those without a cell included.
    """

    def __init__(
        self,
        config_loader: "ConfigLoader",
        arguments: Sequence[str],
        params: Mapping[str, Any] | None = None,
        exclude: str | Sequence[str] = (),
        master: "DictConfig | None" = None,
        selection: Selection | None = None,
    ) -> None:
        self.exclude = [exclude] if isinstance(exclude, str) else list(exclude)
        self._conditions = [Expression.parse(text, "hydra.sweeper.exclude") for text in self.exclude]
        self.selection = selection or Selection()
        self.factors = self.selection.restrict(factors_of(config_loader, [*words_of(params or {}), *arguments]))
        self.axes = {
            factor.key: [word.value_text for word in factor.words] for factor in self.factors if factor.is_axis
        }
        self.count = math.prod(len(values) for values in self.axes.values())
        self._composer = Composer(config_loader, self.factors, master)
        self._told: dict[str, Mapping[str, Any]] = {}  # by the text of a word

    def make(self, words: Sequence[Word], shared: SharedParts | None = None) -> Cell | Left:
        """The cell with ``words``, one for each factor; or the reason for which there is none.

        ``shared``: for cells that are made at one time, from the same files and data.
        """
        if self._is_excluded(words):
            return Left.EXCLUDED
        overrides = tuple(word.text for factor, word in zip(self.factors, words, strict=True) if factor.is_axis)
        with _naming(overrides if self.count > 1 else ()):
            composed = self._composer.compose(words)
        if (left := self._left(composed)) is not None:
            return left
        with _naming(overrides if self.count > 1 else ()):
            config = configuration.resolve(composed, shared)
            return Cell(overrides, configuration.apart(config), composed, configuration.run_id(config, shared))

    @property
    def is_empty(self) -> bool:
        """True if a key has no value that is selected."""
        return not all(factor.words for factor in self.factors)

    @property
    def is_restricted(self) -> bool:
        """True if conditions or selected words may leave out cells."""
        return bool(self._conditions) or self.selection.is_given

    def holds(self, words: Sequence[Word]) -> bool:
        """True if there is a cell with ``words``; faster than `make`: not resolved, and not composed where the words tell."""
        excluded = self._is_excluded(words)
        return self._left(self._composer.compose(words)) is None if excluded is None else not excluded

    def is_named(self, key: str) -> bool:
        """True if a condition names the key, or an option of the group ``key``."""
        paths = (path for condition in self._conditions for path in condition.paths)
        return any(path == key or path.startswith(f"{key}.") for path in paths)

    def _is_excluded(self, words: Sequence[Word]) -> bool | None:
        """True if a condition excludes the cell with ``words``, False if none does; None if the words alone do not tell.

        Composing a cell takes some thousand times as long.
        """
        if self.selection.is_given:
            return None
        known: dict[str, Any] = {}
        for factor, word in zip(self.factors, words, strict=True):
            if word.text not in self._told:
                self._told[word.text] = told_by(factor, word)
            known |= self._told[word.text]
        outcomes = [condition.decided(known) for condition in self._conditions]
        return True if True in outcomes else None if None in outcomes else False

    def _left(self, composed: Config) -> Left | None:
        if not self.selection.holds(composed):
            return Left.NOT_SELECTED
        return Left.EXCLUDED if any(condition.holds(composed) for condition in self._conditions) else None


@contextmanager
def _naming(overrides: Sequence[str]) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        if not overrides:
            raise
        raise UserError(f"cell {' '.join(overrides)}: {error}") from error
