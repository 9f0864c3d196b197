"""`list`: what there is to choose from; and the same in short for the help page."""

import re
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from optbench import config as configuration
from optbench.commands.parser import Parser
from optbench.errors import UserError
from optbench.suggestions import nearest
from optbench.terminal import console

_GROUPS = (*configuration.GROUPS, *configuration.LIST_GROUPS, "experiment")


def group_names() -> str:
    """The groups in a line, for the help page."""
    return ", ".join((*configuration.GROUPS, *configuration.LIST_GROUPS))


def key_defaults() -> str:
    """The front page's plain keys with their defaults and what it says of them, for the help page."""
    page = (configuration.conf_dir() / "config.yaml").read_text(encoding="utf-8")
    keys = {*configuration.SCIENCE_KEYS, *configuration.MACHINE_KEYS}
    lines = (re.fullmatch(r"(\w+): *(.*?) *(?:# *(.*))?", line) for line in page.splitlines())
    return "\n  ".join(
        f"{f'{line[1]}={line[2]}':24} {line[3] or ''}".rstrip() for line in lines if line and line[1] in keys
    )


def list_choices(words: Sequence[str]) -> int:
    """`list [GROUP]`: each choice with a line of explanation and its source."""
    parser = Parser(prog="optbench list", description="Show what there is to choose from.")
    parser.add_argument("group", nargs="?", help="optimizers, models, datasets, schedules, ...")
    parser.add_argument("--options", action="store_true", help="also show every option with its default and type")
    given = parser.parse_args(list(words))
    screen = console()
    for group in _GROUPS if given.group is None else [_group(given.group)]:
        if group == "experiment":
            _list_experiments(screen)
            continue
        table = Table(title=f"{group}=...", title_justify="left", box=None, pad_edge=False)
        for column in ("choice", "what it is", "source"):
            table.add_column(column, overflow="fold")
        for name in configuration.choices(group):
            choice = configuration.read_choice(group, name)
            table.add_row(name, choice["info"]["about"], choice["info"].get("source", ""))
            for option, value in configuration.options(choice).items() if given.options else ():
                shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
                where = f"{group}.{name}" if group in configuration.LIST_GROUPS else group
                table.add_row("", f"  {where}.{option}={shown}  ({choice['info']['schema'][option]})", "")
        screen.print(table)
        screen.print()
    return 0


def _list_experiments(screen: Console) -> None:
    table = Table(title="-m experiment=...", title_justify="left", box=None, pad_edge=False)
    for column in ("sweep", "what it is"):
        table.add_column(column, overflow="fold")
    for name, path in configuration.choices("experiment").items():
        # An experiment is no choice with options; what it is stands in the first line after its package.
        lines = path.read_text(encoding="utf-8").splitlines()
        comments = [line.removeprefix("#").strip() for line in lines if line.startswith("#") and "@package" not in line]
        table.add_row(name, comments[0] if comments else "")
    screen.print(table)
    screen.print()


def _group(word: str) -> str:
    for group in _GROUPS:
        if word in (group, f"{group}s", group.removesuffix("y") + "ies", f"{group}es"):
            return group
    raise UserError(f"list {word}: no such group; {nearest(word, _GROUPS)}")
