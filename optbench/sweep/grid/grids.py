"""Expand the grids of an experiment, from ``hydra.sweeper`` in conf/experiment/NAME.yaml, into one list of cells.

    params: {model: mlp, seed: "0,1,2"}            words of all its grids, as on the command line
    scales:                                        words that depend on the size of the experiment: scale=smoke
      smoke: {batch: "32,256"}
      laptop: {batch: "32,128,512,2048"}
    grids:                                         several grids, whose cells together make the sweep
      tuned: {optimizer: "sgd,adam", trial: "range(8)"}
      remedies: {optimizer: sgd, scaling: "linear,sqrt"}
    exclude: ["batch > 512 and optimizer == 'sgd'"]

Words of the scale replace those of ``params`` with the same key, words of a grid replace both, and words of the command line
replace all; options that another choice of the command line does not have, such as model.hidden with model=lenet5, go away. But
if the grids set a key to different values, a word of the command line with that key selects cells instead: in
each grid those that have one of its values. Above, scaling=none selects the cells of ``tuned``, and optimizer=sgd half of these
and all ``remedies``.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from optbench import config as configuration
from optbench.errors import UserError, nearest
from optbench.sweep.grid.expand import Cell, CellMaker, Expansion, expand
from optbench.sweep.grid.lattice import Lattice, Part, intervals, naming
from optbench.sweep.grid.selecting import Selection
from optbench.sweep.grid.words import LIMIT, words_of
from optbench.system.file_cache import looking_once

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from omegaconf import DictConfig

Words = Mapping[str, Any]


@looking_once()  # conf/ is read for the whole sweep as it is now
def expand_experiment(
    config_loader: "ConfigLoader",
    arguments: Sequence[str],
    words: tuple[Words, Mapping[str, Words], Mapping[str, Words], Sequence[str]],
    master: "DictConfig",
) -> Expansion | Lattice:
    """All cells of all grids, each once, in the order of the grids; with a search, the grids that it chooses cells from.

    ``words``: params, scales, grids and exclude of ``hydra.sweeper``. ``scale`` of ``master`` chooses among the scales, and is
    the result's if there are any. Raises UserError as ``expand`` does, for a scale that the experiment lacks, and if all
    grids together are empty or larger than `LIMIT`.
    """
    params, scales, grids, exclude = words
    scale = _chosen(scales, master.get("scale"))
    common = _without_replaced({**params, **(scales[scale] if scale is not None else {})}, arguments)
    selection, others = Selection.split(config_loader, arguments, grids)
    if scale is not None and master.get("scale") is None:
        others = [*others, f"scale={scale}"]  # for the conditions, which may name the scale
    named = {name: {**common, **own} for name, own in (grids or {"": {}}).items()}
    if _search([*arguments], common, master) != "grid":
        return _lattice(config_loader, others, named, exclude, master, selection, scale)

    def cells_of(own: Words, chosen: Selection) -> Expansion:
        return expand(config_loader, others, own, exclude, master, bool(grids), chosen)

    found: dict[str, Cell] = {}
    axes: dict[str, list[str]] = {}
    excluded = 0
    for name, own in named.items():
        with naming(name):
            part = cells_of(own, selection)
        configs = [cell.config for cell in part.cells]
        with naming(name):
            configuration.check_trials([*(f"{key}={text}" for key, text in own.items()), *others], configs)
            configuration.check_budget(others, configs)
        for cell in part.cells:
            found.setdefault(cell.run_id, cell)
        for key, values in part.axes.items() if part.cells else ():
            axes[key] = list(dict.fromkeys([*axes.get(key, []), *values]))
        excluded += part.excluded
    selection.check(
        [cell.asked for cell in found.values()],
        lambda: (cell.asked for own in named.values() for cell in cells_of(own, Selection()).cells),
    )
    if not found:
        raise UserError(
            f"hydra.sweeper.exclude={list(exclude)}: leaves no cell of any grid; accepted: fewer conditions"
        )
    if len(found) > LIMIT:
        raise UserError(f"{len(found):,} cells in all grids; accepted: at most {LIMIT:,} in one sweep")
    return Expansion(list(found.values()), axes, excluded, scale)


def _without_replaced(words: Words, arguments: Sequence[str]) -> Words:
    """``words`` without options that a choice does not have which ``arguments`` make in place of the one of the words."""
    typed = dict(argument.split("=", 1) for argument in arguments if "=" in argument)
    dropped = set()
    for group in configuration.GROUPS:
        name = typed.get(group)
        if group in words and name != str(words[group]) and name in configuration.choices(group):
            known = configuration.options(configuration.read_choice(group, name))
            own = [key for key in words if key.startswith(f"{group}.")]
            dropped |= {key for key in own if key.split(".")[1] not in known}
    return {key: value for key, value in words.items() if key not in dropped}


def _search(arguments: Sequence[str], common: Words, master: "DictConfig") -> str:
    """The name of the search: from the command line, or else from the experiment, or else from the front page."""
    typed = [word.partition("=")[2] for word in arguments if word.startswith("search=")]
    chosen = master.get("search")
    return str([common.get("search") or (chosen.name if chosen is not None else "grid"), *typed][-1])


def _lattice(
    config_loader: "ConfigLoader",
    arguments: Sequence[str],
    grids: Mapping[str, Words],
    exclude: Sequence[str],
    master: "DictConfig",
    selection: Selection,
    scale: str | None,
) -> Lattice:
    typed, swept = intervals(arguments)

    def lattice_of(chosen: Selection) -> Lattice:
        parts = []
        for name, own in grids.items():
            with naming(name):
                listed, ranges = intervals(words_of(own))
                rest = {word.partition("=")[0]: own[word.partition("=")[0]] for word in listed}
                maker = CellMaker(config_loader, typed, rest, exclude, master, chosen)
            if not maker.is_empty:
                parts.append(Part(name, rest, maker, {**ranges, **swept}))
        return Lattice(config_loader, parts, typed, exclude, master, scale)

    lattice = lattice_of(selection)
    samples = lattice.samples if lattice.grids or not selection.is_given else []
    selection.check([cell.asked for cell in samples], lambda: (cell.asked for cell in lattice_of(Selection()).samples))
    return lattice


def _chosen(scales: Mapping[str, Words], asked: str | None) -> str | None:
    if not scales:
        if asked is not None:
            raise UserError(
                f"scale={asked}: this sweep has no scales; accepted: an experiment that has (list experiments)"
            )
        return None
    if asked is None:
        return next(iter(scales))
    if asked not in scales:
        raise UserError(f"scale={asked}: no such scale of this experiment; {nearest(asked, scales)}")
    return asked
