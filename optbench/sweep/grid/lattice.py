"""The grids of a search: lattices whose cells are composed only when they are asked for."""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from optbench import config as configuration
from optbench.config.run_config import RunConfig
from optbench.data import fingerprints
from optbench.errors import UserError
from optbench.sweep.grid.expand import Cell, CellMaker
from optbench.sweep.grid.words import Word, interval_of, read_word
from optbench.sweep.search.method import Grid, Pick

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from omegaconf import DictConfig

_Key = tuple[str, tuple[tuple[str, str], ...]]
# Up to this number of cells, each is looked at to count those that conditions leave.
_COUNTED = 20_000
# Values of an axis that are composed before anything starts: the ends, and others between them.
_SAMPLED = 32
# Places that are tried for a first cell of a grid.
_TRIED = 10_000


@dataclass(frozen=True)
class Part:
    """One grid, and the arguments from which its cells are made; see `optbench.sweep.grid.expand.expand`."""

    name: str
    words: Mapping[str, Any]
    maker: CellMaker
    intervals: Mapping[str, Mapping[str, Any]]

    @property
    def grid(self) -> Grid:
        """The grid as a search sees it."""
        return Grid(self.name, {key: tuple(values) for key, values in self.maker.axes.items()}, self.intervals)


class Lattice:
    """The grids of a sweep that a search chooses from.

    parts: the grids. axes: the values, as on the command line, of every key that any grid sweeps over. scale: of an experiment
    with several. samples: some cells, which show the values of every axis beside the first values of the others.
    """

    def __init__(
        self,
        config_loader: "ConfigLoader",
        parts: Sequence[Part],
        arguments: Sequence[str],
        exclude: Sequence[str],
        master: "DictConfig | None",
        scale: str | None = None,
    ) -> None:
        self._loader, self._arguments, self._exclude, self._master = config_loader, arguments, exclude, master
        self._parts = {part.name: part for part in parts}
        self.scale = scale
        self.axes: dict[str, list[str]] = {}
        for part in parts:
            for key, values in part.maker.axes.items():
                self.axes[key] = list(dict.fromkeys([*self.axes.get(key, []), *values]))
        self._made: dict[_Key, Cell | None] = {}
        self._steps: dict[_Key, int] = {}

    @cached_property
    def grids(self) -> tuple[Grid, ...]:
        """All grids, in the order of the experiment."""
        return tuple(part.grid for part in self._parts.values())

    @cached_property
    def totals(self) -> tuple[int, int]:
        """The number of cells, and the optimizer steps of all.

        Cells that conditions exclude are left out. In a large grid this is told from the axes that conditions name, beside the
        first values of the others.
        """
        parts = list(self._parts.values())
        is_small = sum(part.maker.count for part in parts) <= _COUNTED
        cells = steps = 0
        for part in parts:
            axes = part.maker.axes
            keys = set(axes) if is_small and part.maker.is_restricted else self._telling(part)
            repeated = math.prod(len(texts) for key, texts in axes.items() if key not in keys)
            factors = part.maker.factors
            choices = (factor.words if factor.key in keys else factor.words[:1] for factor in factors)
            for words in itertools.product(*choices):
                if part.maker.holds(words):
                    cells += repeated
                    steps += repeated * self.steps(_pick(part, words))
        return cells, steps

    def _telling(self, part: Part) -> set[str]:
        """The axes of a grid that tell if a cell exists and how long it runs.

        The second only, if the first are too many to count.
        """
        named = {key for key in part.maker.axes if part.maker.is_named(key)}
        deciding = set(self._deciding[part.name])
        count = math.prod(len(part.maker.axes[key]) for key in named | deciding)
        return named | deciding if count <= _COUNTED else deciding

    @cached_property
    def _deciding(self) -> dict[str, tuple[str, ...]]:
        """For each grid the axes on which the length of a run depends, as far as its samples show it."""
        return {name: _deciding(part, self._sampled[name]) for name, part in self._parts.items()}

    @cached_property
    def _sampled(self) -> dict[str, list[Cell]]:
        """The samples of each grid."""
        found = {}
        for name, part in self._parts.items():
            with naming(name):
                found[name] = _samples(part.maker)
        return found

    def cell(self, pick: Pick) -> Cell | None:
        """The cell of ``pick``; None if a condition excludes it. Raises UserError if it cannot run."""
        key = (pick.grid, tuple(pick.cell.items()))
        if key not in self._made:
            self._made[key] = self._make(pick)
        return self._made[key]

    @fingerprints.kept()
    def _make(self, pick: Pick) -> Cell | None:
        part = self._parts[pick.grid]
        maker = part.maker
        added = {key: text for key, text in pick.cell.items() if key not in maker.axes}
        if added:  # options that no axis lists: composed anew, as constants
            words = [*self._arguments, *(f"{key}={text}" for key, text in added.items())]
            maker = CellMaker(self._loader, words, part.words, self._exclude, self._master, maker.selection)
        chosen: list[Word] = []
        for factor in maker.factors:
            if not factor.is_axis:
                chosen.append(factor.words[0])
                continue
            text = pick.cell[factor.key]
            known = (word for word in factor.words if word.value_text == text)
            chosen.append(next(known, None) or read_word(self._loader, factor.key, text))
        made = maker.make(chosen)
        if not isinstance(made, Cell):
            return None
        return Cell((*made.overrides, *(f"{key}={text}" for key, text in added.items())), made.config, made.asked)

    def exists(self, pick: Pick) -> bool:
        """False if a condition excludes the cell."""
        return self.cell(pick) is not None

    def steps(self, pick: Pick) -> int:
        """The optimizer steps of the whole run of a cell; 0 for a cell that does not exist."""
        maker = self._parts[pick.grid].maker
        if pick.cell.keys() == maker.axes.keys():
            key = (pick.grid, tuple((axis, pick.cell[axis]) for axis in self._deciding[pick.grid]))
        else:
            key = (pick.grid, tuple(pick.cell.items()))
        if key not in self._steps:
            cell = self.cell(pick)
            if cell is None:
                return 0
            self._steps[key] = _length(cell)
        return self._steps[key]

    def search_space(self, pick: Pick) -> dict[str, Mapping[str, Any]]:
        """The search space of the optimizer of a cell, by keys of the command line, without the options that words set."""
        part = self._parts[pick.grid]
        inner = {key: text for key, text in pick.cell.items() if key in part.maker.axes}
        cell = self.cell(Pick(inner, pick.grid))
        if cell is None:
            return {}
        space = cell.config["optimizer"]["info"].get("search_space") or {}
        words = {factor.key for factor in part.maker.factors}
        return {
            key: distribution
            for option, distribution in space.items()
            if (key := f"optimizer.{option}") not in words and key not in part.intervals
        }

    @cached_property
    def samples(self) -> list[Cell]:
        """Some cells: for values of every axis one with the first values of the other axes, where it exists.

        Raises UserError for the first that cannot run, for words that cancel each other, and if there is no cell at all.
        """
        found: dict[str, Cell] = {}
        for part in self._parts.values():
            cells = self._sampled[part.name]
            configs = [cell.config for cell in cells]
            with naming(part.name):
                typed = [*(f"{key}={text}" for key, text in part.words.items()), *self._arguments]
                configuration.check_trials(typed, configs)
                configuration.check_budget(self._arguments, configs)
            for cell in cells:
                found.setdefault(cell.run_id, cell)
        if not found:
            raise UserError(
                f"hydra.sweeper.exclude={list(self._exclude)}: leaves no cell of any grid; accepted: fewer conditions"
            )
        return list(found.values())


def _length(cell: Cell) -> int:
    config = RunConfig.of(cell.config)
    examples = configuration.training_examples(config)
    return 1 if examples is None else configuration.horizon(config, examples).steps


def _pick(part: Part, words: Sequence[Word]) -> Pick:
    pairs = zip(part.maker.factors, words, strict=True)
    return Pick({factor.key: word.value_text for factor, word in pairs if factor.is_axis}, part.name)


def _deciding(part: Part, samples: Sequence[Cell]) -> tuple[str, ...]:
    """The axes of a grid that change the length of a run, each beside the first values of the others."""
    cells = [(dict(word.split("=", 1) for word in cell.overrides), _length(cell)) for cell in samples]
    if not cells:
        return ()
    first, base = cells[0]
    changed = {key for values, length in cells if length != base for key in values if values[key] != first[key]}
    return tuple(key for key in part.maker.axes if key in changed)


def _samples(maker: CellMaker) -> list[Cell]:
    """A first cell, and for each other value of one axis the one beside the values of the first, where it exists."""
    if maker.is_empty:
        return []
    tried = ((words, maker.make(words)) for words in itertools.islice(_places(maker), _TRIED))
    first, cell = next(((words, made) for words, made in tried if isinstance(made, Cell)), (None, None))
    if first is None or cell is None:
        return []
    others = (
        maker.make([*first[:place], word, *first[place + 1 :]])
        for place, factor in enumerate(maker.factors)
        for word in _spread([word for word in factor.words if word != first[place]])
    )
    return [cell, *(made for made in others if isinstance(made, Cell))]


def _spread(words: Sequence[Word]) -> list[Word]:
    if len(words) <= _SAMPLED:
        return list(words)
    return [words[place * (len(words) - 1) // (_SAMPLED - 1)] for place in range(_SAMPLED)]


def _places(maker: CellMaker) -> Iterator[tuple[Word, ...]]:
    return itertools.product(*(factor.words for factor in maker.factors))


def intervals(words: Sequence[str]) -> tuple[list[str], dict[str, Mapping[str, Any]]]:
    """Split off the words whose value is an interval, such as tag(log,interval(1e-5,0.1)), as distributions by their keys."""
    others: list[str] = []
    found: dict[str, Mapping[str, Any]] = {}
    for word in words:
        distribution = interval_of(word)
        if distribution is None:
            others.append(word)
        else:
            found[word.partition("=")[0]] = distribution
    return others, found


@contextmanager
def naming(grid: str) -> Iterator[None]:
    """Put the name of the ``grid`` before the message of a UserError."""
    try:
        yield
    except UserError as error:
        if not grid:
            raise
        raise UserError(f"grid {grid}: {error}") from error
