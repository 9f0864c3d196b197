"""The command line: `python -m optbench [overrides]` trains one run; a first word without "=" is another command."""

import re
import signal
import sys
from collections.abc import Sequence

import optbench
from optbench.errors import UserError, WorkersFailed
from optbench.system import importing, streams

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


def _train(words: list[str]) -> int:
    from optbench.cli import train
    from optbench.cli.typed import read

    typed = read(words, with_cache=True)
    if typed.warning:
        print(f"optbench: {typed.warning}", file=sys.stderr)
    if typed.composed is None:
        return 0
    if not typed.is_sweep and not typed.is_submitted:
        return train.train_one(typed.composed)
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
    from optbench.cli import resume, train
    from optbench.config import Devices
    from optbench.training.launch_environment import check_ranks, launched

    config = resume.read(words)
    check_ranks(Devices.of(config["trainer"]), launched())
    return train.train_one(config)


if __name__ == "__main__":
    sys.exit(main())
