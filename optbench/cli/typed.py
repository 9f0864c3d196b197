"""The words of a command that trains, composed by Hydra and checked before anything starts."""

import argparse
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from optbench import config as configuration
from optbench.config import Devices
from optbench.errors import UserError
from optbench.sweep.cell_cache import CellCache, EndedSweep
from optbench.sweep.grid.expand import Expansion
from optbench.sweep.grid.lattice import Lattice
from optbench.system.home import at_home
from optbench.training.launch_environment import check_alone, check_ranks, launched


class Typed(NamedTuple):
    """The words of a command that trains, checked.

    composed: one resolved configuration, with --multirun an `Expansion` of many, the `Lattice` of a search, or an
        `EndedSweep`, with --cfg None.
    overrides: the words that are settings. experiment: the chosen experiment.
    warning: a warning about the launch of this process.
    cache: keeps what a sweep composes.
    """

    composed: Any
    overrides: list[str]
    experiment: str | None
    warning: str | None
    cache: CellCache | None = None

    @property
    def is_sweep(self) -> bool:
        """True if there are several configurations, to be planned together."""
        return isinstance(self.composed, Expansion | Lattice | EndedSweep)

    @property
    def is_submitted(self) -> bool:
        """True if this is a single run that another process trains."""
        return not self.is_sweep and configuration.works_as(self.composed["launcher"]) != "local"


def read(words: Sequence[str], with_cache: bool = False) -> Typed:
    """Compose and check the words of a command that trains; raises UserError for what is refused, before anything starts.

    with_cache: a sweep whose runs have all ended is not composed, if it is known from an earlier command of the same words.
    """
    # A shell expands ~ only at the beginning of a word, and Hydra does not expand it.
    words = [re.sub(r"^([\w.]+=)(~[^/]*)", lambda part: part[1] + at_home(part[2]), word) for word in words]
    parsed = _parse(words)
    configuration.look_in([parsed.config_dir] if parsed.config_dir else [])
    configuration.look_where_told(parsed.overrides)
    overrides = configuration.current_words(configuration.with_geometric(parsed.overrides))
    if parsed.multirun:
        overrides = configuration.with_choices_of_experiment(overrides)
    if overrides != parsed.overrides:
        words = [*(word for word in words if word not in parsed.overrides), *overrides]
        parsed = _parse(words)
    cache = _cache(words, parsed) if with_cache else None
    composed: Any = (cache.find() if cache is not None else None) or _composed(words, parsed)
    experiment = next((word.partition("=")[2] for word in overrides if word.startswith("experiment=")), None)
    if composed is None:  # --cfg only shows it
        return Typed(None, overrides, experiment, None)
    started = launched()
    typed = Typed(composed, overrides, experiment, started.warning, cache)
    if typed.is_sweep:
        check_alone(started, "--multirun")
        return typed
    if experiment not in (None, "null"):
        raise UserError(f"experiment={experiment}: is a sweep; accepted with --multirun (-m)")
    if composed["search"]["name"] != "grid":
        raise UserError(f"search={composed['search']['name']}: chooses among many runs; accepted: with --multirun (-m)")
    if composed["scale"] is not None:
        raise UserError(f"scale={composed['scale']}: only experiments have scales; accepted: with -m experiment=NAME")
    if typed.is_submitted:
        check_alone(started, f"launcher={composed['launcher']['name']}")
    else:
        check_ranks(Devices.of(composed["trainer"]), started)
    return typed


def _cache(words: Sequence[str], parsed: argparse.Namespace) -> CellCache | None:
    """The cache of a sweep; None for a single run, and for a command with other flags of Hydra, which show something."""
    flags = {name for name, value in vars(parsed).items() if value}
    if not parsed.multirun or not flags <= {"overrides", "multirun", "config_dir"}:
        return None
    return CellCache(words)


def _composed(words: list[str], parsed: argparse.Namespace) -> Any:
    """The result of Hydra: one checked configuration, with --multirun an Expansion or a Lattice, with --cfg None."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    overrides: list[str] = parsed.overrides
    configuration.check_overrides(overrides)
    configuration.check_experiment(overrides)
    if parsed.cfg is not None and not parsed.multirun:
        from optbench.cli import shown

        composed = configuration.composed(overrides)
        text = shown.as_yaml(composed, parsed.package)
        configuration.resolve(composed)  # Hydra would show one that cannot run, too
        if parsed.cfg == "job":
            print(text, end="")
            return None
    found: list[Any] = []

    def task(given: Any) -> None:
        if found:
            raise _ForeignSweep
        if isinstance(given, Expansion | Lattice):
            found.append(given)
            return
        hydra_alone = HydraConfig.get()
        if not OmegaConf.is_missing(hydra_alone.job, "num"):  # only the jobs of a sweep have a number
            raise _ForeignSweep
        try:
            found.append(configuration.Chosen.of(hydra_alone).named(configuration.plain(given)))
        except (OmegaConfBaseException, UserError) as error:
            found.append(error)  # raised below: here Hydra would print a line of its own

    # With this, Hydra does not catch exceptions, and each is shown as one message.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # A second command in one process (tests, notebooks) would find the state of the first.
    GlobalHydra.instance().clear()
    decorated = hydra.main(config_path=str(configuration.conf_dir()), config_name="config", version_base="1.3")(task)
    kept = sys.argv
    noted = Path("multirun.yaml")  # written by Hydra's own sweeper before it calls the task
    had_one = noted.exists()
    try:
        # Overrides come last: Hydra ignores overrides after a flag that follows an override.
        sys.argv = [kept[0], *(word for word in words if word not in overrides), *overrides]
        decorated()
        if found and isinstance(found[0], Exception):
            raise found[0]
    except configuration.refusals() as error:
        raise UserError(configuration.explain(error, overrides)) from error
    except _ForeignSweep:
        if not had_one:
            noted.unlink(missing_ok=True)
        raise UserError(
            "hydra/sweeper: another sweeper than optbench's, which would train only one of the cells; accepted: the "
            "front page's line 'override hydra/sweeper: optbench', and no other choice of it"
        ) from None
    finally:
        sys.argv = kept
    if not found or isinstance(found[0], Expansion | Lattice):
        return found[0] if found else None
    config = configuration.resolve(found[0])
    configuration.check_trials(overrides, [config])
    configuration.check_budget(overrides, [config])
    return config


class _ForeignSweep(BaseException):
    """Another sweeper than optbench's has called the task. A BaseException, because Hydra wraps every Exception."""


def _parse(words: list[str]) -> argparse.Namespace:
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; a setting is written KEY=VALUE; see python -m optbench --help")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    parsed = parser.parse_intermixed_args(words)
    if parsed.experimental_rerun is not None:
        raise UserError(
            f"--experimental-rerun {parsed.experimental_rerun}: would unpickle that file, which may run any code; accepted: "
            "the run's command again, or `python -m optbench retry`"
        )
    return parsed
