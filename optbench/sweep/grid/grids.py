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
replace all. But if the grids set a key to different values, a word of the command line with that key selects cells instead: in
each grid those that have one of its values. Above, scaling=none selects the cells of ``tuned``, and optimizer=sgd half of these
and all ``remedies``.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from optbench import config as configuration
from optbench.errors import UserError, nearest
from optbench.sweep.grid.expand import Cell, Expansion, expand
from optbench.sweep.grid.selecting import Selection
from optbench.sweep.grid.words import LIMIT

if TYPE_CHECKING:
    from hydra.core.config_loader import ConfigLoader
    from omegaconf import DictConfig

Words = Mapping[str, Any]


def expand_experiment(
    config_loader: "ConfigLoader",
    arguments: Sequence[str],
    words: tuple[Words, Mapping[str, Words], Mapping[str, Words], Sequence[str]],
    master: "DictConfig",
) -> Expansion:
    """All cells of all grids, each once, in the order of the grids; see ``expand`` for the cells of one.

    ``words``: params, scales, grids and exclude of ``hydra.sweeper``. ``scale`` of ``master`` chooses among the scales, and is
    the result's if there are any. Raises UserError as ``expand`` does, for a scale that the experiment lacks, and if all
    grids together are empty or larger than `LIMIT`.
    """
    params, scales, grids, exclude = words
    scale = _chosen(scales, master.get("scale"))
    common = {**params, **(scales[scale] if scale is not None else {})}
    selection, others = Selection.split(config_loader, arguments, grids)

    def cells_of(own: Words, chosen: Selection) -> Expansion:
        return expand(config_loader, others, {**common, **own}, exclude, master, bool(grids), chosen)

    found: dict[str, Cell] = {}
    axes: dict[str, list[str]] = {}
    excluded = 0
    for name, own in (grids or {"": {}}).items():
        with _naming(name):
            part = cells_of(own, selection)
        configs = [cell.config for cell in part.cells]
        with _naming(name):
            configuration.check_trials(
                [*(f"{key}={text}" for key, text in {**common, **own}.items()), *others], configs
            )
            configuration.check_budget(others, configs)
        for cell in part.cells:
            found.setdefault(configuration.run_id(cell.config), cell)
        for key, values in part.axes.items() if part.cells else ():
            axes[key] = list(dict.fromkeys([*axes.get(key, []), *values]))
        excluded += part.excluded
    selection.check(
        [cell.asked for cell in found.values()],
        lambda: (cell.asked for own in grids.values() for cell in cells_of(own, Selection()).cells),
    )
    if not found:
        raise UserError(
            f"hydra.sweeper.exclude={list(exclude)}: leaves no cell of any grid; accepted: fewer conditions"
        )
    if len(found) > LIMIT:
        raise UserError(f"{len(found):,} cells in all grids; accepted: at most {LIMIT:,} in one sweep")
    return Expansion(list(found.values()), axes, excluded, scale)


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


@contextmanager
def _naming(grid: str) -> Iterator[None]:
    try:
        yield
    except UserError as error:
        if not grid:
            raise
        raise UserError(f"grid {grid}: {error}") from error
