"""Compose the cells of a sweep again, from the words of the command that started it."""

from collections.abc import Sequence

from optbench import config as configuration
from optbench.sweep.grid.expand import Expansion
from optbench.sweep.grid.lattice import Lattice
from optbench.sweep.grid.words import explaining


def compose_again(words: Sequence[str]) -> Expansion | Lattice:
    """The grids that `python -m optbench --multirun` makes of ``words``, in any process; raises UserError for refused words."""
    from hydra import initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra
    from hydra.types import RunMode
    from omegaconf import OmegaConf

    from optbench.sweep.grid.grids import expand_experiment

    configuration.look_where_told(words)
    GlobalHydra.instance().clear()
    with explaining(words), initialize_config_dir(config_dir=str(configuration.conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        master = loader.load_configuration("config", overrides=list(words), run_mode=RunMode.MULTIRUN)
        sweeper = master.hydra.sweeper
        parts = tuple(OmegaConf.to_container(sweeper[name]) for name in ("params", "scales", "grids", "exclude"))
        return expand_experiment(loader, list(master.hydra.overrides.task), parts, master)  # type: ignore[arg-type]
