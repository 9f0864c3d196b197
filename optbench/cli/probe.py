"""`probe`: measure a run from its checkpoint. This module reads the request; optbench.probes.posthoc measures."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table

from optbench import config as configuration
from optbench.cli.parser import Parser
from optbench.config import Config
from optbench.errors import UserError
from optbench.store import RunDirectory, find
from optbench.system.terminal import console, number

# Settings of the machine that may differ from those of the run.
_SETTINGS = ("micro_batch", "graphs", "data_dir")


@dataclass(frozen=True)
class Request:
    """A request to measure: the run, its checkpoint, and its configuration with the chosen probes in it."""

    run: RunDirectory
    checkpoint: Path
    config: Config


def read(words: Sequence[str]) -> Request:
    """Read `probe RUN probe=NAME ...`. Raises UserError for an unknown run or probe, and for a missing checkpoint."""
    parser = Parser(
        prog="optbench probe",
        description="Measure a run from its last checkpoint, and add the measurements to its folder probes/.\n\n"
        "  python -m optbench probe RUN probe=spectrum\n"
        "  python -m optbench probe RUN 'probe=[spectrum,trace]' probe.spectrum.steps=100",
    )
    parser.add_argument("run", metavar="RUN", help="a run id, a unique beginning or end of one, or a run's directory")
    parser.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help=f"probe=..., probe.NAME.OPTION=..., {', '.join(_SETTINGS)}"
    )
    parser.add_argument("--checkpoint", default="last", metavar="NAME", help="which of checkpoints/ (default: last)")
    parser.add_results_dir()
    given = parser.parse_intermixed_args(list(words))
    keys = [word.partition("=")[0] for word in given.settings]
    for word, key in zip(given.settings, keys, strict=True):
        if "=" not in word or (key not in _SETTINGS and key.partition(".")[0] != "probe"):
            raise UserError(
                f"{word}: not a setting of the command probe; accepted: probe=NAME, 'probe=[NAME,NAME]', "
                f"probe.NAME.OPTION=VALUE, {', '.join(f'{name}=VALUE' for name in _SETTINGS)}"
            )
    composed = configuration.compose(given.settings)
    if not composed["probe"]:
        names = [name for name in configuration.choices("probe") if name != "none"]
        raise UserError(f"probe {given.run}: what is to be measured? accepted: probe=NAME, of {', '.join(names)}")
    run = _run(given.run, given.results_dir)
    config = configuration.thaw_to_measure(run, composed)
    config |= {key: composed[key] for key in keys if key in _SETTINGS}
    return Request(run, _checkpoint(run, given.checkpoint), config)


def _run(name: str, results_dir: str) -> RunDirectory:
    if (Path(name) / "config.yaml").is_file():
        run = RunDirectory(Path(name).resolve())
        run.check_links()
        return run
    return find(results_dir, name)


def _checkpoint(run: RunDirectory, name: str) -> Path:
    folder = run.checkpoint.parent
    path = folder / f"{name.removesuffix('.ckpt')}.ckpt"
    if path.is_file():
        return path
    there = sorted(found.stem for found in folder.glob("*.ckpt"))
    if not there:
        raise UserError(f"run {run.run_id}: has no checkpoint to measure ({run.status().state}); train it first")
    raise UserError(f"--checkpoint {name}: run {run.run_id} has no such checkpoint; accepted: {', '.join(there)}")


def show(request: Request, rows: Iterable[dict[str, Any]], step: int) -> int:
    """Print the measured values, and return the exit status: 1 if a probe failed."""
    screen = console()
    table = Table(title=f"{request.run.run_id} at step {step}", title_justify="left", box=None, pad_edge=False)
    for column in ("probe", "value", "", "seconds"):
        table.add_column(column)
    problems = []
    for row in rows:
        prefix = f"{row['probe']}_"
        shown = [row["probe"], f"{row['probe_seconds']:.1f}"]
        if "problem" in row:
            problems.append(row["problem"])
        for key, value in row.items():
            if key.startswith(prefix):
                table.add_row(shown[0], key.removeprefix(prefix), number(value, 6), shown[1])
                shown = ["", ""]
    if table.row_count:
        screen.print(table)
    for problem in problems:
        screen.print(problem, soft_wrap=True)
    screen.print(f"files: {request.run.measurements.path}", soft_wrap=True)
    return 1 if problems else 0
