"""The plug-ins for Hydra: the sweeper of `python -m optbench --multirun`, and the search path of its choices."""

import builtins
import copy
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.config_search_path import ConfigSearchPath
from hydra.core.config_store import ConfigStore
from hydra.core.object_type import ObjectType
from hydra.plugins.config_source import ConfigResult
from hydra.plugins.search_path_plugin import SearchPathPlugin
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, ListConfig, OmegaConf

from optbench.system.file_cache import FileCache

_PARSED: FileCache[ConfigResult] = FileCache()


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


class OptbenchConfigSource(FileConfigSource):
    """Reads a folder of choices as Hydra does, but that it knows earlier names and offers no fragments.

    See `optbench.config.renamed` and `optbench.config.files`.
    """

    @staticmethod
    def scheme() -> str:
        """The scheme of the paths of such folders, before ://."""
        return "optbench"

    def load_config(self, config_path: str) -> ConfigResult:
        """Called by Hydra for every file that it composes."""
        from optbench.config import current_file
        from optbench.errors import UserError
        from optbench.moved import mentions

        path = Path(self.path, self._normalize_file_name(config_path))
        # Hydra composes each kind of cell anew, and would parse all files each time.
        parsed = _PARSED.get(path, lambda: super(OptbenchConfigSource, self).load_config(config_path), self.provider)
        result = replace(parsed, config=copy.deepcopy(parsed.config))
        if not mentions(path.read_text(encoding="utf-8")):
            return result
        group, _, name = config_path.removesuffix(".yaml").rpartition("/")
        content = OmegaConf.to_container(result.config, resolve=False)
        try:
            current = current_file(group, name, content)
        except UserError as error:
            raise UserError(f"{group}={name}: {self.path}/{group}/{name}.yaml: {error}") from error
        if current != content:
            result.config = OmegaConf.create(current)
        return result

    def list(self, config_path: str, results_filter: ObjectType | None) -> builtins.list[str]:
        """Called by Hydra for completion and for glob(*): the names below ``config_path`` that may be chosen."""
        from optbench.config import is_fragment

        return [name for name in super().list(config_path, results_filter) if not is_fragment(name)]


class OptbenchSearchPath(SearchPathPlugin):
    """Lets Hydra look in the user's own places of choices, after ours, and read all of them by `OptbenchConfigSource`."""

    def manipulate_search_path(self, search_path: ConfigSearchPath) -> None:
        """Called by Hydra before it composes anything, also in programs other than optbench."""
        from optbench.config import conf_dir, own_places

        ours = [entry for entry in search_path.get_path() if entry.provider == "main" and entry.path == str(conf_dir())]
        for entry in ours:
            entry.path = f"{OptbenchConfigSource.scheme()}://{entry.path}"
        for place in own_places() if ours else ():
            search_path.append("optbench", f"{OptbenchConfigSource.scheme()}://{place.folder}")
