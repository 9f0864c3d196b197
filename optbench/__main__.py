"""The command line: `python -m optbench [overrides]` trains one run; a first word without "=" is another command."""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from optbench.errors import UserError

HELP = """\
optbench: a bench for deep-learning optimizers.

  python -m optbench [GROUP=CHOICE ...] [KEY=VALUE ...]      train one configuration, or continue it
  python -m optbench -m optimizer=sgd,adam batch=128,1024    every combination, one after another
  python -m optbench list [GROUP]                            what there is: optimizers, models, datasets, schedules, ...
  python -m optbench status [--results-dir DIR]              the runs so far, as a table
  python -m optbench sync [RUN ...]                          mirror runs again to wandb, or to the tracker they name
  python -m optbench doctor                                  what this machine has, and what is missing
  python -m optbench --cfg job [...]                         print the composed configuration and stop

Examples
  python -m optbench optimizer=adam model=lenet5 budget.epochs=3
  python -m optbench optimizer=lamb model=wrn model.depth=16 model.width=4 batch=4096 micro_batch=512 scaling=auto
  python -m optbench optimizer=momentum model=resnet18 dataset=cifar10 schedule=cosine schedule.warmup=5epochs
  python -m optbench model=resnet18 trainer=ddp trainer.devices=2

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
    if command not in commands.COMMANDS:
        from optbench.suggestions import nearest

        raise UserError(
            f"{command}: no such command; {nearest(command, commands.COMMANDS)} "
            "(a setting is written KEY=VALUE; see python -m optbench --help)"
        )
    return commands.COMMANDS[command](words[1:])


def _train(words: list[str]) -> int:
    from optbench import config as configuration

    # All of them are checked before the first one starts.
    configs = [configuration.resolve(composed) for composed in _composed(words)]
    if len(configs) > 1 and "RANK" not in os.environ and any(configuration.ranks(config) > 1 for config in configs):
        # Each rank is this very command once more: it would train the first run while its rank 0 is at another.
        raise UserError(
            f"trainer.devices={configs[0]['trainer']['devices']} with --multirun: one run of several ranks at a time; "
            "accepted: trainer.devices=1, one command a run, or torchrun"
        )
    status = 0
    for config in configs:
        status = max(status, train_one(config))
        if status > 128:  # stopped by a signal, which is meant for the runs to come too
            break
    return status


def _composed(words: list[str]) -> list[dict[str, Any]]:
    """What Hydra composes: one configuration, several with --multirun, or none with --cfg."""
    import hydra
    from hydra.core.global_hydra import GlobalHydra
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    from optbench import config as configuration

    parsed = _parse(words)
    overrides: list[str] = parsed.overrides
    configuration.check_overrides(overrides)
    if parsed.cfg is not None and not parsed.multirun:
        configuration.compose(overrides)  # Hydra would show one that cannot run, too
    composed: list[dict[str, Any]] = []

    def task(node: Any) -> None:
        composed.append(configuration.plain(node))

    # So that Hydra lets exceptions through, to be shown as one message.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    # A second command in one process (tests, notebooks) finds what the first left behind.
    GlobalHydra.instance().clear()
    decorated = hydra.main(config_path=str(configuration.conf_dir()), config_name="config", version_base="1.3")(task)
    kept = sys.argv
    try:
        # Hydra's sweeper insists on a folder to write a multirun.yaml to, which nobody needs.
        with tempfile.TemporaryDirectory(prefix="optbench-") as folder:
            place = [f"hydra.sweep.dir='{folder}'"] if parsed.multirun else []
            # Overrides last: Hydra does not look for any after a flag that follows one.
            sys.argv = [kept[0], *(word for word in words if word not in overrides), *overrides, *place]
            decorated()
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        raise UserError(configuration.explain(error, overrides)) from error
    finally:
        sys.argv = kept
    return composed


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
    from optbench.store import RunDirectory

    directory = RunDirectory.at(config["results_dir"], configuration.run_id(config))
    console = terminal.console()
    if config["dry_run"]:
        state = directory.status().state if directory.path.is_dir() else "new"
        console.print(f"{directory.run_id}: {state}; dry_run=true starts nothing", soft_wrap=True)
        return 0
    if directory.is_finished and not config["force"]:
        terminal.print_result(console, directory.summary() or {}, directory.path, " already; force=true runs it again")
        return 0
    _check_writable(config["results_dir"])
    # Only from here on is torch needed, which takes seconds to import.
    from optbench import run

    outcome = run.execute(config, console)
    if run.rank_from_environment() != 0:
        return 0 if outcome.state in ("done", "diverged") else 1
    if outcome.tracker_problem:
        print(f"optbench: {outcome.tracker_problem}", file=sys.stderr)
    if outcome.summary is not None:
        terminal.print_result(console, outcome.summary, directory.path)
        return 0
    print(f"optbench: {directory.run_id} {outcome.state}: {outcome.why}; files: {directory.path}", file=sys.stderr)
    if outcome.state == "failed":
        print(f"optbench: the traceback is in {directory.log}", file=sys.stderr)
        return 1
    print("optbench: the same command continues it", file=sys.stderr)
    return 128 + outcome.signal if outcome.signal else 1


def _check_writable(results_dir: str) -> None:
    folder = Path(results_dir).absolute()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not existing.is_dir():
        raise UserError(f"results_dir={results_dir}: {existing} is not a folder; accepted: a folder, or one to be made")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"results_dir={results_dir}: no permission to write in {existing}; accepted: a writable folder")


if __name__ == "__main__":
    sys.exit(main())
