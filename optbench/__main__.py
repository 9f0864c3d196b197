"""The command line: `python -m optbench [overrides]` trains one run; a first word without "=" is another command."""

import argparse
import os
import re
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import optbench
from optbench.errors import UserError, WorkersFailed
from optbench.system import importing, streams

if TYPE_CHECKING:
    from rich.console import Console

    from optbench.store import RunDirectory
    from optbench.sweep.cell_cache import CellCache
    from optbench.training.outcome import Outcome
    from optbench.training.recorder import OnEvaluation

HELP = """\
optbench: a bench for deep-learning optimizers.

  python -m optbench [GROUP=CHOICE ...] [KEY=VALUE ...]      train one configuration, or continue it
  python -m optbench -m optimizer=sgd,adam 'seed=range(3)'   a sweep: every combination, by warm workers on this machine
  python -m optbench -m experiment=NAME [KEY=VALUE ...]      a sweep that conf/experiment/NAME.yaml describes
  python -m optbench -m ... launcher=slurm                   the same as arrays of Slurm jobs: returns at once
  python -m optbench list [GROUP]                            list the choices: optimizers, models, datasets, schedules, ...
  python -m optbench new KIND NAME                           write an optimizer, model, dataset, ... of your own, that runs
  python -m optbench status [NAME]                           the sweeps and the runs so far, or all about one sweep
  python -m optbench report NAME                             what a sweep found: a page, tables, figures; also while it runs
  python -m optbench pages [FOLDER ...]                      build the pages of reports again, without the runs
  python -m optbench compare RUN RUN ...                     runs side by side: settings, results, curves
  python -m optbench retry NAME                              start again what failed or was lost
  python -m optbench verify NAME                             run a random part again, and compare bit for bit
  python -m optbench cancel NAME                             stop a sweep, wherever it runs
  python -m optbench logs RUN                                what a run printed
  python -m optbench probe RUN probe=NAME                    measure a run afterwards, from its checkpoint
  python -m optbench certify optimizer=NAME                  check what is promised of a choice, also one of your own
  python -m optbench sync [NAME ...]                         mirror runs, or sweeps, again to the trackers they name
  python -m optbench resume RUN                              continue one run here, by its frozen configuration
  python -m optbench du [NAME ...]                           how many bytes sweeps take, and of what
  python -m optbench merge FOLDER                            take the finished runs of another machine's results folder
  python -m optbench prune NAME ...                          remove the checkpoints of finished runs, keep the results
  python -m optbench rm NAME ...                             remove sweeps or runs
  python -m optbench tag NAME WORD ...                       give tags to a run, or to all runs of a sweep
  python -m optbench note RUN "TEXT"                         keep a text beside a run
  python -m optbench doctor                                  what this machine has, and what is missing
  python -m optbench --cfg job [...]                         print the composed configuration and stop
  python -m optbench --version                               print the version

Examples
  python -m optbench optimizer=adam model=lenet5 budget.epochs=3
  python -m optbench optimizer=lamb model=wrn model.depth=16 model.width=4 batch=4096 micro_batch=512 scaling=auto
  python -m optbench optimizer=momentum model=resnet18 dataset=cifar10 schedule=cosine schedule.warmup=5epochs
  python -m optbench model=resnet18 trainer=ddp trainer.devices=2
  python -m optbench -m optimizer=sgd,adam batch=128,1024 'trial=range(20)' dry_run=true

A choice is a file in conf/GROUP, or in a folder of your own that --config-dir or $OPTBENCH_CONF names; its options are
GROUP.OPTION=VALUE (optimizer.learning_rate=0.01). The groups are
  {groups}
and the other keys, with their defaults:
  {keys}

A run lives in results/runs/RUN_ID. The same command again continues it where it was killed, and does nothing once it is
done (force=true runs it again). batch is the GLOBAL batch, whatever the number of devices.

Exit status: 0 done (or diverged, which is a result), 1 failed, 2 a mistake in the command, 128 + N stopped by signal N.
"""


# The commands that need torch, beside `optbench.cli.COMMANDS`.
_HEAVY = ("certify", "probe", "resume")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    from optbench.system.terminal import shown_as_text

    streams.open_closed()  # first, so that no file that is opened takes the number of a closed stream
    with shown_as_text(), importing.start_folder():
        return _main(arguments)


def _main(arguments: Sequence[str] | None) -> int:
    from optbench.config import search_path
    from optbench.store import StoreError

    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        with search_path.forgotten_afterwards():
            status = _dispatch(words)
        sys.stdout.flush()
        return status
    except BrokenPipeError:  # `... | head`: the reader has closed the pipe
        streams.let_go(sys.stdout)
        return 128 + signal.SIGPIPE
    except UserError as error:
        print(f"optbench: {_shortened(str(error))}", file=sys.stderr)
        return 2
    except (StoreError, WorkersFailed) as error:
        print(f"optbench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("optbench: stopped", file=sys.stderr)
        return 130


def _shortened(message: str) -> str:
    """``message`` with overlong typed words cut, so that it fits on a screen."""
    return re.sub(r"\S{500,}", lambda match: f"{match[0][:80]}...", message)


def _dispatch(words: list[str]) -> int:
    from optbench import cli

    command = words[0] if words and words[0].isidentifier() else None
    if command == "help" or (command is None and {"--help", "-h"} & set(words)):
        print(HELP.format(groups=cli.group_names(), keys=cli.key_defaults()))
        return 0
    if command is None and "--version" in words:  # Hydra would print its own version
        print(f"optbench {optbench.__version__}")
        return 0
    if command is None:
        with streams.expendable():
            return _train(words)
    if command == "probe":
        return _probe(words[1:])
    if command == "certify":
        return _certify(words[1:])
    if command == "resume":
        with streams.expendable():
            return _resume(words[1:])
    if command not in cli.COMMANDS:
        from optbench.errors import nearest

        raise UserError(
            f"{command}: no such command; {nearest(command, [*cli.COMMANDS, *_HEAVY])} "
            "(a setting is written KEY=VALUE; see python -m optbench --help)"
        )
    return cli.COMMANDS[command](words[1:])


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
    cache: "CellCache | None" = None

    @property
    def is_sweep(self) -> bool:
        """True if there are several configurations, to be planned together."""
        from optbench.sweep.cell_cache import EndedSweep
        from optbench.sweep.grid.expand import Expansion
        from optbench.sweep.grid.lattice import Lattice

        return isinstance(self.composed, Expansion | Lattice | EndedSweep)

    @property
    def is_submitted(self) -> bool:
        """True if this is a single run that another process trains."""
        from optbench import config as configuration

        return not self.is_sweep and configuration.works_as(self.composed["launcher"]) != "local"


def read(words: Sequence[str], with_cache: bool = False) -> Typed:
    """Compose and check the words of a command that trains; raises UserError for what is refused, before anything starts.

    with_cache: a sweep whose runs have all ended is not composed, if it is known from an earlier command of the same words.
    """
    from optbench import config as configuration
    from optbench.config import Devices
    from optbench.system.home import at_home

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
    from optbench.training.launch_environment import check_alone, check_ranks, launched

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


def _cache(words: Sequence[str], parsed: argparse.Namespace) -> "CellCache | None":
    """The cache of a sweep; None for a single run, and for a command with other flags of Hydra, which show something."""
    flags = {name for name, value in vars(parsed).items() if value}
    if not parsed.multirun or not flags <= {"overrides", "multirun", "config_dir"}:
        return None
    from optbench.sweep.cell_cache import CellCache

    return CellCache(words)


def _train(words: list[str]) -> int:
    typed = read(words, with_cache=True)
    if typed.warning:
        print(f"optbench: {typed.warning}", file=sys.stderr)
    if typed.composed is None:
        return 0
    if not typed.is_sweep and not typed.is_submitted:
        return train_one(typed.composed)
    from optbench.sweep import launch

    if typed.is_sweep:
        return launch.sweep(typed.composed, typed.overrides, typed.experiment, cache=typed.cache).status
    return launch.submit_one(typed.composed, typed.overrides).status


def _probe(words: list[str]) -> int:
    from optbench.cli import probe

    request = probe.read(words)
    # Imported late, because torch takes seconds to import.
    from optbench.probes import posthoc

    revived = posthoc.revive(request.run, request.config, request.checkpoint)
    return probe.show(request, revived.measure(), revived.task.step)


def _certify(words: list[str]) -> int:
    from optbench.cli import certify

    request = certify.read(words)
    from optbench import testing

    return certify.show(request, testing.certify(*request.words, **request.arguments))


def _resume(words: list[str]) -> int:
    from optbench.cli import resume
    from optbench.config import Devices
    from optbench.training.launch_environment import check_ranks, launched

    config = resume.read(words)
    check_ranks(Devices.of(config["trainer"]), launched())
    return train_one(config)


def _composed(words: list[str], parsed: argparse.Namespace) -> Any:
    """The result of Hydra: one checked configuration, with --multirun an Expansion or a Lattice, with --cfg None."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from optbench import config as configuration
    from optbench.sweep.grid.expand import Expansion
    from optbench.sweep.grid.lattice import Lattice

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


def train_one(config: dict[str, Any]) -> int:
    """Train one resolved configuration, unless it is done; prints its result and returns the exit status."""
    from optbench import config as configuration
    from optbench.store import RunDirectory
    from optbench.system import terminal

    directory = RunDirectory.at(config["results_dir"], configuration.run_id(config))
    console, asked = terminal.console(), configuration.epochs_asked_for(configuration.RunConfig.of(config))
    stale = _of_other_code(directory, config)
    if config["dry_run"]:
        state = directory.status().state if directory.path.is_dir() else "new"
        code = f" ({stale})" if stale else ""
        console.print(f"{directory.run_id}: {state}{code}; dry_run=true starts nothing", soft_wrap=True)
        for line in _estimate(config):
            console.print(line, soft_wrap=True)
        return 0
    outcome = execute_one(config, console, stale=stale)
    if outcome is None:
        note = f" already, {stale}; retry=stale runs it again" if stale else " already; force=true runs it again"
        terminal.print_result(console, directory.summary() or {}, directory.path, note, asked)
        if config["probe"]:
            names = ",".join(config["probe"])
            console.print(
                "probes do not make a run another run: to measure this one as it is, python -m optbench probe "
                f"{directory.run_id} 'probe=[{names}]'",
                soft_wrap=True,
            )
        return 0
    from optbench.training.launch_environment import launched

    if launched().rank != 0:
        # Rank 0 reports the outcome; a launcher would kill it if this rank returned another status.
        return 1 if outcome.state == "failed" else 0
    if outcome.tracker_problem:
        print(f"optbench: {outcome.tracker_problem}", file=sys.stderr)
    if outcome.summary is not None:
        terminal.print_result(console, outcome.summary, directory.path, epochs_asked_for=asked)
        devices = configuration.Devices.of(config["trainer"])
        if devices.ranks > 1:
            console.print(
                f"trained by {devices.ranks} ranks ({devices}), each with {config['batch'] // devices.ranks} of the "
                f"{config['batch']} examples of a batch",
                soft_wrap=True,
            )
        return 0
    print(f"optbench: {directory.run_id} {outcome.state}: {outcome.why}; files: {directory.path}", file=sys.stderr)
    if outcome.refused:
        return 1
    if outcome.state == "failed":
        print(f"optbench: the traceback is in {directory.log}", file=sys.stderr)
        return 1
    print("optbench: the same command continues it", file=sys.stderr)
    return 128 + outcome.signal if outcome.signal else 1


def _estimate(config: dict[str, Any]) -> list[str]:
    """Describe what a run would take, in lines: memory, the micro-batch, and time as far as earlier runs tell."""
    from optbench import config as configuration
    from optbench.sweep.estimate import estimate

    lines = [estimate(config["results_dir"], [config]).in_words()]
    read = configuration.RunConfig.of(config)
    if read.sorted_shards:
        lines.append(
            f"communication.shards=sorted: the training set is ordered by label and cut in {read.workers}; each worker draws "
            "from its own shard"
        )
    try:
        _require_data(config)
    except UserError as error:
        return [*lines, f"memory and micro_batch are not known before the data are there: {error}"]
    from optbench.training import micro_batch

    chosen = micro_batch.of_dry_run(read)
    return lines if chosen is None else [chosen.describe(), *lines]


def _require_data(config: dict[str, Any]) -> None:
    """Raise UserError, which says how to fetch them, if the data of a run are not there."""
    from optbench import config as configuration
    from optbench.data import fetch

    dataset = config["dataset"]
    fetch.require(configuration.works_as(dataset), config["data_dir"], dataset.get("check_hash", True))


def execute_one(
    config: dict[str, Any],
    console: "Console",
    on_evaluation: "OnEvaluation | None" = None,
    stale: str | None = None,
) -> "Outcome | None":
    """Train one resolved configuration here; returns None if it has already ended and is not to run again.

    ``stale``: the result of `_of_other_code`, if it is known. Raises as `optbench.training.run.execute` does.
    """
    from optbench import config as configuration
    from optbench.store import RunDirectory, check_writable, tidy

    directory = RunDirectory.at(config["results_dir"], configuration.run_id(config))
    if config["retry"] == "stale" and (_of_other_code(directory, config) if stale is None else stale):
        config = {**config, "force": True}
    if directory.is_finished and not config["force"]:
        tidy(directory)
        return None
    check_writable(config["results_dir"])
    _require_data(config)
    # Imported late, because torch takes seconds to import, and Lightning takes longer.
    from optbench.training import run

    return run.execute(config, console, on_evaluation)


def _of_other_code(directory: "RunDirectory", config: dict[str, Any]) -> str:
    """Describe the difference between the code that has computed a run and the current code; empty if there is none."""
    from optbench.provenance import Vintages, changed_modules, fingerprints

    vintages = Vintages(config["results_dir"])
    code = (directory.summary() or {}).get("code")
    if directory.is_finished:
        standing = vintages.standing(directory.run_id, code, config)
    else:
        standing = vintages.of_begun(directory, config)
    if standing == "current":
        return ""
    if standing == "unknown":
        return "by code of which no fingerprint was recorded"
    changed = changed_modules(config["results_dir"], fingerprints(code)[-1], vintages.sources.code(config))
    which = f" ({', '.join(changed[:3])}{', ...' if len(changed) > 3 else ''} changed)" if changed else ""
    return f"by other code than is there now{which}"


if __name__ == "__main__":
    sys.exit(main())
