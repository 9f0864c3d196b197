"""The command line: `python -m optbench [overrides]` trains one run; a first word without "=" is another command."""

import argparse
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

from optbench.errors import UserError

HELP = """\
optbench: a bench for deep-learning optimizers.

  python -m optbench [GROUP=CHOICE ...] [KEY=VALUE ...]      train one configuration, or continue it
  python -m optbench -m optimizer=sgd,adam 'seed=range(3)'   a sweep: every combination, by warm workers on this machine
  python -m optbench -m experiment=NAME [KEY=VALUE ...]      a sweep that conf/experiment/NAME.yaml describes
  python -m optbench -m ... launcher=slurm                   the same as arrays of Slurm jobs: returns at once
  python -m optbench list [GROUP]                            what there is: optimizers, models, datasets, schedules, ...
  python -m optbench status [NAME]                           the sweeps and the runs so far, or all about one sweep
  python -m optbench report NAME                             what a sweep found: a page, tables, figures; also while it runs
  python -m optbench compare RUN RUN ...                     runs side by side: settings, results, curves
  python -m optbench retry NAME                              start again what failed or was lost
  python -m optbench cancel NAME                             stop a sweep, wherever it runs
  python -m optbench logs RUN                                what a run printed
  python -m optbench probe RUN probe=NAME                    measure a run afterwards, from its checkpoint
  python -m optbench sync [NAME ...]                         mirror runs, or sweeps, again to the trackers they name
  python -m optbench doctor                                  what this machine has, and what is missing
  python -m optbench --cfg job [...]                         print the composed configuration and stop

Examples
  python -m optbench optimizer=adam model=lenet5 budget.epochs=3
  python -m optbench optimizer=lamb model=wrn model.depth=16 model.width=4 batch=4096 micro_batch=512 scaling=auto
  python -m optbench optimizer=momentum model=resnet18 dataset=cifar10 schedule=cosine schedule.warmup=5epochs
  python -m optbench model=resnet18 trainer=ddp trainer.devices=2
  python -m optbench -m optimizer=sgd,adam batch=128,1024 'trial=range(20)' dry_run=true

A choice is a file in conf/GROUP; its options are GROUP.OPTION=VALUE (optimizer.learning_rate=0.01). The groups are
  {groups}
and the other keys, with their defaults:
  {keys}

A run lives in results/runs/RUN_ID. The same command again continues it where it was killed, and does nothing once it is
done (force=true runs it again). batch is the GLOBAL batch, whatever the number of devices.

Exit status: 0 done (or diverged, which is a result), 1 failed, 2 a mistake in the command, 128 + N stopped by signal N.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    from optbench.store import StoreError

    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        return _dispatch(words)
    except UserError as error:
        print(f"optbench: {error}", file=sys.stderr)
        return 2
    except StoreError as error:
        print(f"optbench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("optbench: stopped", file=sys.stderr)
        return 130


def _dispatch(words: list[str]) -> int:
    from optbench import commands

    command = words[0] if words and words[0].isidentifier() else None
    if command == "help" or (command is None and {"--help", "-h"} & set(words)):
        print(HELP.format(groups=commands.group_names(), keys=commands.key_defaults()))
        return 0
    if command is None:
        return _train(words)
    if command == "probe":
        return _probe(words[1:])
    if command not in commands.COMMANDS:
        from optbench.suggestions import nearest

        raise UserError(
            f"{command}: no such command; {nearest(command, [*commands.COMMANDS, 'probe'])} "
            "(a setting is written KEY=VALUE; see python -m optbench --help)"
        )
    return commands.COMMANDS[command](words[1:])


def _train(words: list[str]) -> int:
    parsed = _parse(words)
    composed = _composed(words, parsed)
    if composed is None:  # it was only to be shown
        return 0
    overrides: list[str] = parsed.overrides
    experiment = next((word.partition("=")[2] for word in overrides if word.startswith("experiment=")), None)
    from optbench.sweep.expand import Expansion

    if isinstance(composed, Expansion):
        if "RANK" in os.environ:
            raise UserError(
                "--multirun: under torchrun each rank would start the whole sweep; accepted: launcher=slurm, or one run"
            )
        from optbench.sweep import launch

        return launch.sweep(composed, overrides, experiment)
    if experiment not in (None, "null"):
        raise UserError(f"experiment={experiment}: is a sweep; accepted with --multirun (-m)")
    if composed["launcher"]["name"] != "local":
        from optbench.sweep import launch

        return launch.submit_one(composed, overrides)
    return train_one(composed)


def _probe(words: list[str]) -> int:
    from optbench.commands import probe

    request = probe.read(words)
    # Only from here on is torch needed, which takes seconds to import.
    from optbench import afterwards

    revived = afterwards.revive(request.run, request.config, request.checkpoint)
    return probe.show(request, revived.measure(), revived.task.step)


def _composed(words: list[str], parsed: argparse.Namespace) -> Any:
    """What Hydra composes: one checked configuration, with --multirun an Expansion of many, with --cfg None."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from optbench import config as configuration
    from optbench.sweep.expand import Expansion

    overrides: list[str] = parsed.overrides
    configuration.check_overrides(overrides)
    configuration.check_experiment(overrides)
    if parsed.cfg is not None and not parsed.multirun:
        configuration.compose(overrides)  # Hydra would show one that cannot run, too
    composed: list[Any] = []

    def task(given: Any) -> None:
        composed.append(given if isinstance(given, Expansion) else configuration.plain(given))

    # So that Hydra lets exceptions through, to be shown as one message.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # A second command in one process (tests, notebooks) finds what the first left behind.
    GlobalHydra.instance().clear()
    decorated = hydra.main(config_path=str(configuration.conf_dir()), config_name="config", version_base="1.3")(task)
    kept = sys.argv
    try:
        # Overrides last: Hydra does not look for any after a flag that follows one.
        sys.argv = [kept[0], *(word for word in words if word not in overrides), *overrides]
        decorated()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(configuration.explain(error, overrides)) from error
    finally:
        sys.argv = kept
    if not composed or isinstance(composed[0], Expansion):
        return composed[0] if composed else None
    config = configuration.resolve(composed[0])
    configuration.check_trials(overrides, [config])
    configuration.check_budget(overrides, [config])
    return config


def _parse(words: list[str]) -> argparse.Namespace:
    from hydra._internal.utils import get_args_parser

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; a setting is written KEY=VALUE; see python -m optbench --help")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    return parser.parse_intermixed_args(words)


def train_one(config: dict[str, Any]) -> int:
    """Train one resolved configuration, unless it is done; prints its result and returns the exit status."""
    from optbench import config as configuration
    from optbench import terminal
    from optbench.store import RunDirectory, check_writable

    directory = RunDirectory.at(config["results_dir"], configuration.run_id(config))
    console, asked = terminal.console(), configuration.epochs_asked_for(config)
    if config["dry_run"]:
        state = directory.status().state if directory.path.is_dir() else "new"
        console.print(f"{directory.run_id}: {state}; dry_run=true starts nothing", soft_wrap=True)
        return 0
    if directory.is_finished and not config["force"]:
        note = " already; force=true runs it again"
        terminal.print_result(console, directory.summary() or {}, directory.path, note, asked)
        if config["probe"]:
            names = ",".join(config["probe"])
            console.print(
                "probes do not make a run another run: to measure this one as it is, python -m optbench probe "
                f"{directory.run_id} 'probe=[{names}]'",
                soft_wrap=True,
            )
        return 0
    check_writable(config["results_dir"])
    # Only from here on is torch needed, which takes seconds to import, and Lightning more of them.
    from optbench.data import fetch

    fetch.require(config["dataset"]["name"], config["data_dir"], config["dataset"].get("check_hash", True))
    from optbench import building, run

    outcome = run.execute(config, console)
    if building.rank_from_environment() != 0:
        return 0 if outcome.state in ("done", "diverged") else 1
    if outcome.tracker_problem:
        print(f"optbench: {outcome.tracker_problem}", file=sys.stderr)
    if outcome.summary is not None:
        terminal.print_result(console, outcome.summary, directory.path, epochs_asked_for=asked)
        ranks = configuration.ranks(config)
        if ranks > 1:
            devices, nodes = config["trainer"]["devices"], config["trainer"]["num_nodes"]
            console.print(
                f"trained by {ranks} ranks (trainer.devices={devices} x trainer.num_nodes={nodes}), each with "
                f"{config['batch'] // ranks} of the {config['batch']} examples of a batch",
                soft_wrap=True,
            )
        return 0
    print(f"optbench: {directory.run_id} {outcome.state}: {outcome.why}; files: {directory.path}", file=sys.stderr)
    if outcome.state == "failed":
        print(f"optbench: the traceback is in {directory.log}", file=sys.stderr)
        return 1
    print("optbench: the same command continues it", file=sys.stderr)
    return 128 + outcome.signal if outcome.signal else 1


if __name__ == "__main__":
    sys.exit(main())
