"""`list`: what there is to choose from; and the same in short for the help page."""

import re
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from optbench import config as configuration
from optbench.cli.parser import Parser
from optbench.config.scaling import RULE_OF_FAMILY
from optbench.data import extras
from optbench.errors import UserError, nearest
from optbench.system.terminal import console
from optbench.testing.card import FOLDER, Card, cards, code_of

_GROUPS = (*configuration.GROUPS, *configuration.LIST_GROUPS, "experiment")
# What stands above the tables in Markdown, and so on top of conf/README.md.
_TITLE = """\
# Choices of every group

Made by `python -m optbench list --markdown > conf/README.md`; what to edit is the `info` of the YAML files."""
_MANY = 10  # choices, from which on a group comes first in Markdown


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
    form = parser.add_mutually_exclusive_group()
    form.add_argument("--options", action="store_true", help="also show every option with its default and type")
    form.add_argument("--markdown", action="store_true", help="as Markdown with links, for conf/README.md")
    form.add_argument("--zoo", action="store_true", help="with optimizers: the names of the pytorch-optimizer package")
    parser.add_results_dir()
    given = parser.parse_args(list(words))
    groups = _GROUPS if given.group is None else (_group(given.group),)
    if given.zoo:
        if groups != ("optimizer",):
            raise UserError(f"list {given.group or ''} --zoo: accepted: list optimizers --zoo".replace("  ", " "))
        return _list_zoo(console())
    if given.markdown:
        tables = [
            _markdown(group) for group in sorted(groups, key=lambda group: len(configuration.choices(group)) < _MANY)
        ]
        print("\n\n".join(tables if given.group else [_TITLE, *tables]))
        return 0
    screen, certified = console(), cards(Path(given.results_dir) / FOLDER)
    for group in groups:
        if group == "experiment":
            _list_experiments(screen)
            continue
        if given.options:
            _list_options(screen, group)
            continue
        table = Table(title=f"{group}=...", title_justify="left", box=None, pad_edge=False)
        for column in ("choice", "what it is", "source"):
            table.add_column(column, overflow="fold")
        for name in configuration.choices(group):
            info = _choice(group, name)["info"]
            about = _about(group, info) + _not_installed(info) + _from(group, name) + _certified(certified, group, name)
            table.add_row(name, about, info.get("source", ""))
        screen.print(table)
        for (kind, name), card in certified.items():  # classes, and names of the zoo
            if kind == group and name not in configuration.choices(group):
                screen.print(f"{name}: {card.standing}", soft_wrap=True)
        screen.print()
    return 0


def _list_zoo(screen: Console) -> int:
    """Every name of the installed pytorch-optimizer package: accepted or refused, why, and the choice that is the same method."""
    # Imported here, because it imports torch.
    from optbench.optimizers import zoo

    names = zoo.classes()
    table = Table(title="optimizer=zoo optimizer.name=...", title_justify="left", box=None, pad_edge=False)
    for column in ("name", "", "what to know of it, or why it is refused", "choice"):
        table.add_column(column, overflow="fold")
    standings = {name: zoo.standing(name) for name in names}
    for name, found in standings.items():
        if found.refused is not None:
            table.add_row(name, "refused", found.refused, found.native or "", style="dim")
        else:
            table.add_row(name, "accepted", found.remark, found.native or "")
    screen.print(table)
    refused = sum(found.refused is not None for found in standings.values())
    screen.print(
        f"\npytorch-optimizer {version('pytorch-optimizer')}: {len(names) - refused} names are accepted, {refused} refused. "
        "choice: the bench's own choice of that method"
    )
    return 0


def _certified(certified: Mapping[tuple[str, str], Card], group: str, name: str) -> str:
    """The standing of a choice by its card, if it has one, and a note if the card is of other code."""
    card = certified.get((group, name))
    if card is None:
        return ""
    stale = card.code != code_of(group, _choice(group, name))
    return f"; {card.standing}{', by other code than is there now' if stale else ''}"


def _about(group: str, info: Mapping[str, Any]) -> str:
    """The description of a choice; for an optimizer with the effect of scaling=auto on its learning rate."""
    about = str(info.get("about", ""))
    if group != "optimizer" or "family" not in info:
        return about
    rule = info.get("scaling", RULE_OF_FAMILY.get(info["family"]))
    return f"{about} (scaling=auto: {'by its name' if isinstance(rule, Mapping) else rule})"


def _not_installed(info: Mapping[str, Any]) -> str:
    missing = extras.lacking(info.get("extra", ""))
    return f"; NOT INSTALLED: {', '.join(missing)} ({extras.remedy(info['extra'])})" if missing else ""


def _from(group: str, name: str) -> str:
    """The file and the origin of a choice that is not optbench's own."""
    place = configuration.place_of(group, name)
    if place == configuration.places()[0]:
        return ""
    return f"; from {place.folder / group / name}.yaml ({place.origin})"


def _choice(group: str, name: str) -> configuration.Config:
    """One choice; of one that cannot be chosen, what is wrong with it as its explanation."""
    try:
        configuration.check_choice(group, name)
        return configuration.read_choice(group, name)
    except UserError as error:
        return {"name": name, "info": {"about": f"CANNOT BE CHOSEN: {error}", "schema": {}}}


def _list_options(screen: Console, group: str) -> None:
    """Each choice of a group, and below it every option with its default and type, in a line of its own."""
    screen.print(f"{group}=...", style="italic")
    for name in configuration.choices(group):
        choice = _choice(group, name)
        info = choice["info"]
        about = f"{name}: {_about(group, info)}"
        screen.print("; ".join(filter(None, (about, info.get("source")))) + _from(group, name))
        where = f"{group}.{name}" if group in configuration.LIST_GROUPS else group
        for option, value in configuration.options(choice).items():
            shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
            screen.print(f"  {where}.{option}={shown}  ({info['schema'].get(option, 'no type')})", soft_wrap=True)
        screen.print()


def _list_experiments(screen: Console) -> None:
    table = Table(title="-m experiment=...", title_justify="left", box=None, pad_edge=False)
    for column in ("sweep", "what it is"):
        table.add_column(column, overflow="fold")
    for name in configuration.choices("experiment"):
        table.add_row(name, _experiment(name)[0] + _from("experiment", name))
    screen.print(table)
    screen.print()


def _experiment(name: str) -> tuple[str, str]:
    """The description of an experiment and the folder of its study (or nothing), from the first comments of its file."""
    # An experiment is no choice with options, and has no info: what it is stands in the first line after its package.
    lines = configuration.choices("experiment")[name].read_text(encoding="utf-8").splitlines()
    comments = [line.removeprefix("#").strip() for line in lines if line.startswith("#") and "@package" not in line]
    folders = (re.search(r"\bexperiments/(\w+)", comment) for comment in comments)
    return comments[0] if comments else "", next((found[1] for found in folders if found), "")


def _markdown(group: str) -> str:
    """The table of a group in Markdown; links are relative to conf/."""
    rows = []
    for name in configuration.choices(group):
        if _from(group, name):
            continue
        if group == "experiment":
            about, folder = _experiment(name)
            source = f"[experiments/{folder}](../experiments/{folder}/README.md)" if folder else ""
        else:
            info = _choice(group, name)["info"]
            about, source = _about(group, info), _linked(info.get("source") or "")
        cells = (f"[{name}]({group}/{name}.yaml)", about, source)
        rows.append(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in cells)} |")
    word, source = (
        ("-m experiment=...", "question, source and protocol") if group == "experiment" else (f"{group}=...", "source")
    )
    return "\n".join([f"## `{word}`", "", f"| name | what it is | {source} |", "| --- | --- | --- |", *rows])


def _linked(source: str) -> str:
    """``source`` with its addresses and arXiv numbers as links."""
    addresses = re.sub(r"https?://[^\s;,()]+", r"<\g<0>>", source)
    return re.sub(r"\barXiv (\d{4}\.\d{4,5})\b", r"[arXiv \1](https://arxiv.org/abs/\1)", addresses)


def _group(word: str) -> str:
    for group in _GROUPS:
        if word in (group, f"{group}s", group.removesuffix("y") + "ies", f"{group}es"):
            return group
    raise UserError(f"list {word}: no such group; {nearest(word, _GROUPS)}")
