"""`certify`: what the bench promises of a choice, checked. Here it is read what to check, and shown; optbench.testing checks."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from optbench.cli.parser import Parser
from optbench.config import folder
from optbench.errors import UserError
from optbench.system.terminal import console, number
from optbench.testing.card import FOLDER, Card

_DESCRIPTION = """\
Check what the bench promises of a choice, within minutes, and write a card of what was found.

  python -m optbench certify optimizer=mine              a choice, with options: optimizer.weight_decay=0.1
  python -m optbench certify torch.optim.RAdam           any subclass of torch.optim.Optimizer, by its dotted path
  python -m optbench certify adan                        a name of the pytorch-optimizer package
  python -m optbench certify model=mine                  also dataset=mine and probe=mine

Exit status: 0 if no check has failed, 1 if one has.
"""
_STYLES = {"passed": "green", "failed": "bold red", "not applicable": "dim"}


@dataclass(frozen=True)
class Request:
    """The words that name the subject, and the arguments of `optbench.testing.certify`."""

    words: tuple[str, ...]
    arguments: dict[str, Any]


def read(words: Sequence[str]) -> Request:
    """Read the words of `certify optimizer=mine ...`. Raises UserError for unknown options."""
    parser = Parser(prog="optbench certify", description=_DESCRIPTION)
    parser.add_argument("words", nargs="+", metavar="SUBJECT", help="what is certified, then its options as KEY=VALUE")
    parser.add_argument("--quick", action="store_true", help="without ranks, killed runs and times: a few seconds")
    parser.add_argument(
        "--check", action="append", metavar="NAME", help="only this check, or group of checks (repeatable)"
    )
    parser.add_argument(
        "--reference", metavar="PATH", help="a class whose steps are the same, such as torch.optim.Adam"
    )
    parser.add_argument("--output", metavar="FOLDER", help=f"for the card (default: RESULTS/{FOLDER})")
    parser.add_results_dir()
    given = parser.parse_intermixed_args(list(words))
    unknown = [word for word in given.words[1:] if "=" not in word]
    if unknown:
        raise UserError(f"certify {unknown[0]}: one subject at a time; accepted after it: its options as KEY=VALUE")
    output: str | None = None  # a part of the checks is no card of the choice, unless a folder for it is named
    if given.output is not None:
        output = folder(given.output, "--output ")
    elif not given.check:
        output = str(Path(given.results_dir) / FOLDER)
    return Request(
        tuple(given.words),
        {"output": output, "quick": given.quick, "checks": given.check, "reference": given.reference},
    )


def show(request: Request, card: Card) -> int:
    """Print the card, and return the exit status: 1 where a check has failed."""
    screen = console()
    table = Table(title=card.subject, title_justify="left", box=None, pad_edge=False)
    for heading in ("check", "outcome", "found", "seconds"):
        table.add_column(heading, overflow="fold", justify="right" if heading == "seconds" else "left")
    for check in card.checks:
        found = "; ".join(filter(None, (check.reason, *_values(check.values))))
        outcome = Text(check.outcome, style=_STYLES[check.outcome])
        table.add_row(check.name, outcome, Text(found), f"{check.seconds:.1f}")
    screen.print(table)
    counts = [f"{sum(check.outcome == outcome for check in card.checks)} {outcome}" for outcome in _STYLES]
    screen.print(f"{card.subject}: {', '.join(counts)}", soft_wrap=True)
    if request.arguments["output"] is not None:
        screen.print(f"card: {card.path_in(request.arguments['output'])}", soft_wrap=True)
    return 0 if card.passed else 1


def _values(values: Any) -> Iterator[str]:
    """The measured values, in words."""
    for name, value in values.items():
        yield f"{name} {number(value, 3) if isinstance(value, int | float) else value}"
