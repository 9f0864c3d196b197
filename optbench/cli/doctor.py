"""`doctor`: report what this machine has, and what is missing. It needs torch, to look at the devices."""

import importlib.util
import os
import shutil
import subprocess
from collections.abc import Sequence

from rich.table import Table

from optbench import config as configuration
from optbench.cli.parser import Parser
from optbench.data import extras
from optbench.data.fingerprints import files_of
from optbench.data.sources import SOURCES, official_files
from optbench.errors import UserError
from optbench.system.terminal import console


def doctor(words: Sequence[str]) -> int:
    """`doctor`: report which devices, datasets and packages are here, and the state of Slurm and the wandb login."""
    parser = Parser(prog="optbench doctor", description="Say what this machine has, and what is missing.")
    parser.add_argument("--data-dir", default=os.environ.get("OPTBENCH_DATA", "data"))
    given = parser.parse_args(list(words))
    from optbench.provenance import environment

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    versions = ", ".join(f"{name} {version or 'MISSING'}" for name, version in environment.versions().items())
    table.add_row("versions", versions)
    for place in configuration.places():
        table.add_row("choices", f"{place.folder}" + (f" ({place.origin})" if place.origin != "optbench" else ""))
    for plugin in configuration.plugins():
        if plugin.problem:
            table.add_row("choices", f"MISSING: package {plugin.package} of {plugin.distribution}: {plugin.problem}")
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
    others = {"zoo": "pytorch_optimizer", "tensorboard": "tensorboard"}
    missing = [extra for extra in extras.EXTRAS if extras.lacking(extra)]
    missing += [extra for extra, module in others.items() if importlib.util.find_spec(module) is None]
    if not missing:
        return "all installed"
    return f"missing {', '.join(missing)} (pip install 'optbench[{','.join(missing)}]')"


def _dataset(name: str, data_dir: str) -> str:
    try:
        configuration.check_choice("dataset", name)
    except UserError as error:
        return f"cannot be chosen: {error}"
    choice = configuration.read_choice("dataset", name)
    extra = choice["info"].get("extra", "")
    if missing := extras.lacking(extra):
        return f"MISSING: {', '.join(missing)}: {extras.remedy(extra)}"
    if choice["info"].get("download") == "none":
        return "here, needs no files"
    if lacking := [f"dataset.{option}=..." for option in choice["info"].get("needed", {}) if not choice[option]]:
        return f"reads your own data: {' '.join(lacking)}"
    ours = configuration.works_as(choice)
    if ours in SOURCES:
        official = official_files(ours, data_dir)
        if official is not None:
            return f"here: {next(iter(official.values())).parent}"
        return f"MISSING: python -m optbench.data.fetch {ours}"
    try:
        files = files_of(choice, data_dir)
    except UserError:
        return f"MISSING: {choice['info'].get('about', '')}"
    return f"here: {files.where}" if files is not None else "needs nothing that is declared"
