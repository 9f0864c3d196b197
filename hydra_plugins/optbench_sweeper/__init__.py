"""The plug-ins for Hydra: the sweeper of `python -m optbench --multirun`, and the search path of its choices."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, ListConfig, OmegaConf


@dataclass
class OptbenchSweeperConf:
    """`hydra.sweeper` in an experiment file: its grid or grids, its scales, and conditions that exclude cells (``grids``)."""

    _target_: str = "hydra_plugins.optbench_sweeper.OptbenchSweeper"
    params: dict[str, Any] = field(default_factory=dict)
    scales: dict[str, Any] = field(default_factory=dict)
    grids: dict[str, Any] = field(default_factory=dict)
    exclude: list[str] = field(default_factory=list)


ConfigStore.instance().store(group="hydra/sweeper", name="optbench", node=OptbenchSweeperConf, provider="optbench")


class OptbenchSweeper(Sweeper):
    """Expands the grid, and calls the task once with all cells, composed and checked before anything starts."""

    def __init__(self, params: DictConfig, scales: DictConfig, grids: DictConfig, exclude: ListConfig) -> None:
        self._params, self._scales, self._grids, self._exclude = (
            OmegaConf.to_container(words) for words in (params, scales, grids, exclude)
        )

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Called by Hydra before `sweep`."""
        self._loader, self._task, self._master = hydra_context.config_loader, task_function, config

    def sweep(self, arguments: Sequence[str]) -> Any:
        """Called by Hydra with the overrides of the command line."""
        from optbench.sweep.grid.grids import expand_experiment

        words: Any = (self._params, self._scales, self._grids, self._exclude)
        return self._task(expand_experiment(self._loader, arguments, words, self._master))


class OptbenchSearchPath(SearchPathPlugin):
    """Adds the user's own folders of choices to Hydra's search path, after optbench's."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra before it composes anything, also in programs other than optbench."""
        from optbench.config import conf_dir, own_places

        if any(entry.provider == "main" and entry.path == str(conf_dir()) for entry in search_path.get_path()):
            for place in own_places():
                search_path.append("optbench", f"file://{place.folder}")
