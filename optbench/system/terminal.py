"""The terminal display of a run: a progress bar and a short table, or plain lines without a terminal."""

import math
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console, ConsoleOptions, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

_PIPED_COLUMNS = 200
# Characters that a terminal does not show but interprets: control characters except tab and line end, and characters that
# change the direction of text or are invisible. A lone half of a UTF-16 pair cannot be written at all.
_OBEYED = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]")


def printable(text: str) -> str:
    """``text`` with the characters that a terminal would interpret spelled as ``\\u001b``, which JSON reads back unchanged."""
    return _OBEYED.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


class _Shown:
    """A stream whose written text is made `printable`. All other attributes are those of the ``stream`` behind it."""

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream

    def write(self, text: str) -> int:
        self.stream.write(printable(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


@contextmanager
def shown_as_text() -> Iterator[None]:
    """Within this context all printed text is made `printable`, because names and logs come from files of any origin."""
    kept = sys.stdout, sys.stderr
    sys.stdout, sys.stderr = _Shown(sys.stdout), _Shown(sys.stderr)
    try:
        yield
    finally:
        sys.stdout, sys.stderr = kept


class _Console(Console):
    """Rich's console with `printable` texts; only its own codes for colours and so on reach the terminal."""

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError for the command line to handle; rich itself would exit with 1."""
        raise BrokenPipeError

    def render_str(self, text: str, **options: Any) -> Text:
        """Rich's text of ``text``, made `printable` before its width is measured."""
        return super().render_str(printable(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Rich's segments of ``renderable``, their texts `printable`."""
        for segment in super().render(renderable, options):
            if segment.control or _OBEYED.search(segment.text) is None:
                yield segment
            else:
                yield Segment(printable(segment.text), segment.style)


def console() -> Console:
    """Standard output, with square brackets and colons taken literally, and control characters spelled out.

    If it is not a terminal, lines are not wrapped, for grep, and tables have at most $COLUMNS columns, or 200.
    """
    stream = sys.stdout
    while isinstance(stream, _Shown):
        stream = stream.stream
    width = None if stream.isatty() else _columns()
    return _Console(file=stream, markup=False, highlight=False, emoji=False, width=width)


def _columns() -> int:
    asked = os.environ.get("COLUMNS", "")
    return int(asked) if asked.isdecimal() and int(asked) > 0 else _PIPED_COLUMNS


def number(value: object, digits: int = 4) -> str:
    """A metric for display; a dash if there is none."""
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.{digits}g}" if math.isfinite(value) else str(value)
    return str(value)


def percent(value: object) -> str:
    """An accuracy as a percentage with two decimals."""
    return f"{100 * value:.2f} %" if isinstance(value, float) else "–"


class RunDisplay:
    """Shows one run's progress: call `step` often, and `row` with every row of its history."""

    def __init__(self, console: Console, total: int, enabled: bool = True) -> None:
        self.console, self.total = console, total
        self.live = enabled and console.is_terminal
        self.lines = enabled and not console.is_terminal
        self.loss = self.accuracy = ""
        self._shown = 0.0
        self._began: tuple[int, float] | None = None
        self._progress = Progress(
            TextColumn("{task.fields[status]}"),
            BarColumn(bar_width=None),
            TextColumn("{task.completed}/{task.total} steps  {task.fields[rate]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            auto_refresh=False,
            transient=True,
        )
        self._bar = self._progress.add_task("", total=total, status="starting", rate="")

    def __enter__(self) -> "RunDisplay":
        if self.live:
            self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.live:
            self._progress.stop()

    def step(self, done: int) -> None:
        """Show that ``done`` steps are finished; redraws at most twice a second."""
        now = time.monotonic()
        if self._began is None:
            self._began = (done, now)
        if not self.live or now - self._shown < 0.5:
            return
        self._shown = now
        first, since = self._began
        rate = f"{(done - first) / (now - since):.1f}/s" if now > since and done > first else ""
        status = "  ".join(part for part in (self.loss, self.accuracy) if part) or "training"
        self._progress.update(self._bar, completed=done, status=status, rate=rate, refresh=True)

    def row(self, row: Mapping[str, Any]) -> None:
        """Show a row of the history; without a terminal, an evaluation is one line."""
        if row["event"] == "train":
            self.loss = f"loss {number(row['loss'])}"
            return
        if row["event"] == "probe":
            if "problem" in row and (self.live or self.lines):
                self.console.print(row["problem"], soft_wrap=True)
            elif self.lines:
                values = [
                    f"{name} {number(value)}" for name, value in row.items() if name.startswith(f"{row['probe']}_")
                ]
                self.console.print(f"step {row['step']}/{self.total}  " + "  ".join(values), soft_wrap=True)
            return
        if row.get("validation_accuracy") is not None:
            self.accuracy = f"validation {percent(row['validation_accuracy'])}"
        if self.lines:
            shown = [f"step {row['step']}/{self.total}", f"epoch {row['epoch']:.2f}", self.loss]
            for split in ("train", "validation", "test"):
                shown.append(f"{split} {number(row[f'{split}_loss'])}")
                if row[f"{split}_accuracy"] is not None:
                    shown[-1] += f" ({percent(row[f'{split}_accuracy'])})"
            self.console.print("  ".join(shown), soft_wrap=True)


def print_result(
    console: Console,
    summary: Mapping[str, Any],
    where: object,
    note: str = "",
    epochs_asked_for: float | None = None,
) -> None:
    """Print the short table at the end of a run: the result, the gap, the effective learning rate and the place of the files.

    ``epochs_asked_for``: by the budget, if it is in epochs; a run of whole batches may exceed them by a part of a batch.
    """
    # Printed apart, because a title of the table would be folded at the table's width.
    console.print(f"{summary['run_id']}: {summary['status']}{note}", style="bold", soft_wrap=True)
    table = Table()
    table.add_column("")
    for split in ("train", "validation", "test", "gap"):
        table.add_column(split, justify="right")
    table.add_row("loss", *(number(summary.get(f"{split}_loss")) for split in ("train", "validation", "test")),
                  number(summary.get("gap_loss")))  # fmt: skip
    if summary.get("test_accuracy") is not None:
        table.add_row("accuracy", *(percent(summary.get(f"{split}_accuracy")) for split in ("train", "validation", "test")),
                      percent(summary.get("gap_accuracy")))  # fmt: skip
    if summary.get("averaged_test_loss") is not None:
        for name, show in (("loss", number), ("accuracy", percent)):
            cells = [show(summary.get(f"averaged_{split}_{name}")) for split in ("train", "validation", "test")]
            table.add_row(f"averaged {name}", *cells, show(summary.get(f"averaged_gap_{name}")))
    console.print(table)
    epochs = f"{summary['epochs']:.2f} epochs"
    if epochs_asked_for is not None and summary["epochs"] > epochs_asked_for:
        asked = f"{epochs_asked_for:.2f} epochs"
        epochs += f" ({number(epochs_asked_for)} in whole batches)" if epochs != asked else ""
    lines = [
        f"learning rate {number(summary.get('learning_rate'))}"
        + (f" ({summary['scaling_rule']} scaling)" if summary.get("scaling_rule") not in (None, "none") else ""),
        f"{summary['steps']} steps of {summary['batch']} examples, {epochs}, "
        f"{summary['seconds_training']:.1f} s of training, {summary['parameters']:,} parameters",
    ]
    if summary.get("why"):
        lines.insert(0, f"{summary['status']}: {summary['why']}")
    if summary.get("steps_to_target") is not None:
        lines.append(f"target reached at step {summary['steps_to_target']}, after {summary['seconds_to_target']:.1f} s")
    lines.append(f"files: {where}")
    for line in lines:
        console.print(line, soft_wrap=True)
