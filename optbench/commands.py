"""The commands beside training: list, status, doctor, sync. None needs torch, but for doctor's look at the devices."""

import argparse
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from typing import Any

from rich.table import Table

from optbench import config as configuration
from optbench.errors import UserError
from optbench.suggestions import nearest
from optbench.terminal import console, number, percent


def group_names() -> str:
    """The groups in a line, for the help page."""
    return ", ".join(configuration.GROUPS)


def key_defaults() -> str:
    """The front page's plain keys with their defaults and what it says of them, for the help page."""
    page = (configuration.conf_dir() / "config.yaml").read_text(encoding="utf-8")
    keys = {*configuration.SCIENCE_KEYS, *configuration.MACHINE_KEYS}
    lines = (re.fullmatch(r"(\w+): *(.*?) *(?:# *(.*))?", line) for line in page.splitlines())
    return "\n  ".join(
        f"{f'{line[1]}={line[2]}':24} {line[3] or ''}".rstrip() for line in lines if line and line[1] in keys
    )


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> Any:
        raise UserError(f"{self.prog.removeprefix('optbench ')}: {message}; {' '.join(self.format_usage().split())}")


def list_choices(words: Sequence[str]) -> int:
    """`list [GROUP]`: each choice with a line of explanation and its source."""
    parser = _Parser(prog="optbench list", description="Show what there is to choose from.")
    parser.add_argument("group", nargs="?", help="optimizers, models, datasets, schedules, ...")
    parser.add_argument("--options", action="store_true", help="also show every option with its default and type")
    given = parser.parse_args(list(words))
    screen = console()
    for group in configuration.GROUPS if given.group is None else [_group(given.group)]:
        table = Table(title=f"{group}=...", title_justify="left", box=None, pad_edge=False)
        for column in ("choice", "what it is", "source"):
            table.add_column(column, overflow="fold")
        for name in configuration.choices(group):
            choice = configuration.read_choice(group, name)
            table.add_row(name, choice["info"]["about"], choice["info"].get("source", ""))
            for option, value in configuration.options(choice).items() if given.options else ():
                shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
                table.add_row("", f"  {group}.{option}={shown}  ({choice['info']['schema'][option]})", "")
        screen.print(table)
        screen.print()
    return 0


def _group(word: str) -> str:
    for group in configuration.GROUPS:
        if word in (group, f"{group}s", group.removesuffix("y") + "ies", f"{group}es"):
            return group
    raise UserError(f"list {word}: no such group; {nearest(word, configuration.GROUPS)}")


def status(words: Sequence[str]) -> int:
    """`status`: the runs of a results folder as a table."""
    parser = _Parser(prog="optbench status", description="Show the runs so far.")
    parser.add_argument("--results-dir", default="results")
    given = parser.parse_args(list(words))
    from optbench.store import load

    runs = load(given.results_dir)
    screen = console()
    if runs.empty:
        screen.print(f"no runs in {given.results_dir}")
        return 0
    table = Table(title=f"{len(runs)} runs in {given.results_dir}", title_justify="left")
    columns = ["optimizer", "model", "dataset", "batch", "seed", "status", "learning rate", "steps", "train loss",
               "test loss", "test accuracy", "gap", "seconds"]  # fmt: skip
    for column in columns:
        table.add_column(column, justify="left" if column in columns[:3] or column == "status" else "right")
    order = [f"config.{key}" for key in ("dataset.name", "model.name", "optimizer.name", "batch", "seed")]
    runs = runs.sort_values([key for key in order if key in runs], ignore_index=True)
    for run in runs.astype(object).where(runs.notna(), None).to_dict("records"):
        table.add_row(
            *(str(run.get(f"config.{group}.name", "–")) for group in ("optimizer", "model", "dataset")),
            *(number(run.get(f"config.{key}")) for key in ("batch", "seed")),
            run["status"],
            *(number(run.get(key)) for key in ("learning_rate", "steps", "train_loss", "test_loss")),
            *(percent(run.get(key)) for key in ("test_accuracy", "gap_accuracy")),
            number(run.get("seconds_training")),
        )
    screen.print(table)
    return 0


def sync(words: Sequence[str]) -> int:
    """`sync [RUN ...]`: mirror runs again from the store to their trackers."""
    parser = _Parser(prog="optbench sync", description="Mirror runs again from the store to the trackers they name.")
    parser.add_argument(
        "runs", nargs="*", metavar="RUN", help="run ids, or their beginnings; none: every run that ended"
    )
    parser.add_argument("--results-dir", default="results")
    given = parser.parse_args(list(words))
    from optbench import trackers
    from optbench.store import find, run_directories

    chosen = [find(given.results_dir, name) for name in given.runs]
    if not given.runs:
        chosen = [directory for directory in run_directories(given.results_dir) if directory.is_finished]
    failed = 0
    for directory in chosen:
        tracker = directory.config()["tracker"]
        try:
            done = trackers.sync(directory.path, tracker) if tracker["name"] != "none" else "tracker=none"
        except UserError as error:
            done, failed = f"not mirrored: {error}", failed + 1
        print(done if done.startswith(directory.run_id) else f"{directory.run_id}: {done}")
    print(f"{len(chosen)} runs, {failed} not mirrored")
    return 1 if failed else 0


# ---- doctor -----------------------------------------------------------------------------------------------------------------


def doctor(words: Sequence[str]) -> int:
    """`doctor`: devices, Slurm, wandb login, datasets: what is here and what is missing."""
    parser = _Parser(prog="optbench doctor", description="Say what this machine has, and what is missing.")
    parser.add_argument("--data-dir", default=os.environ.get("OPTBENCH_DATA", "data"))
    given = parser.parse_args(list(words))
    from optbench import environment

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    versions = ", ".join(f"{name} {version or 'MISSING'}" for name, version in environment.versions().items())
    table.add_row("versions", versions)
    table.add_row("choices", str(configuration.conf_dir()))
    table.add_row("processor", f"{environment.processor()}, {os.cpu_count()} cores")
    table.add_row("GPUs", _gpus())
    table.add_row("Slurm", _slurm())
    table.add_row("wandb", _wandb())
    table.add_row("extras", _extras())
    for name in configuration.choices("dataset"):
        table.add_row(f"dataset={name}", _dataset(name, given.data_dir))
    console().print(table)
    return 0


def _gpus() -> str:
    try:
        import torch
    except ImportError as error:
        return f"torch cannot be imported ({error})"
    names = [torch.cuda.get_device_name(device) for device in range(torch.cuda.device_count())]
    return ", ".join(names) if names else "none: runs train on the processor"


def _slurm() -> str:
    program = shutil.which("sbatch")
    if program is None:
        return "none: no sbatch on PATH"
    try:
        answer = subprocess.run(
            ["sinfo", "--noheader", "--format=%P %D nodes"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError) as error:
        return f"sbatch is at {program}, but sinfo does not answer: {error}"
    if answer.returncode:
        return f"sbatch is at {program}, but sinfo fails: {answer.stderr.strip()}"
    return "; ".join(line.strip() for line in answer.stdout.splitlines())


def _wandb() -> str:
    from optbench.trackers.wandb_login import is_logged_in

    return (
        "logged in: runs are mirrored online"
        if is_logged_in()
        else "not logged in (`wandb login`): runs are mirrored offline"
    )


def _extras() -> str:
    extras = {"images": "PIL", "natpatch": "skimage", "zoo": "pytorch_optimizer", "tensorboard": "tensorboard"}
    missing = [extra for extra, module in extras.items() if importlib.util.find_spec(module) is None]
    if not missing:
        return "all installed"
    return f"missing {', '.join(missing)} (pip install 'optbench[{','.join(missing)}]')"


def _dataset(name: str, data_dir: str) -> str:
    from optbench.data.fetch import SOURCES
    from optbench.data.locate import find, places

    choice = configuration.read_choice("dataset", name)
    if choice["info"].get("download") == "none":
        return "here, needs no files"
    if name in SOURCES:
        found = find(SOURCES[name], data_dir)
        if found is not None:
            return f"here: {next(iter(found.values())).parent}"
        return f"MISSING: python -m optbench.data.fetch {name}"
    folders = [choice["path"]] if choice.get("path") else [name]
    here = next((place for place in places(folders, data_dir) if place.name in folders and place.is_dir()), None)
    return f"here: {here}" if here is not None else f"MISSING: {choice['info']['about']}"


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "list": list_choices,
    "status": status,
    "doctor": doctor,
    "sync": sync,
}
