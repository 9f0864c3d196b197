"""The display of a sweep on this machine: a live table, or plain lines without a terminal."""

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from optbench.sweep.worker.events import Event, Ready, Refused, RunEnded, RunStarted, Searched, WorkerCrashed
from optbench.system.terminal import number

_LAST_PROBLEMS = 4
_MOST_PROBLEMS = 20
# For a worker without a step for this time, the time is shown in place of its rate, which no longer holds.
_IDLE_SECONDS = 30.0
_FINISHED = ("done", "diverged", "failed")
_STOPPED = ("paused", "preempted")

Progress = Callable[[str], Mapping[str, Any] | None]


def clock(seconds: float | None) -> str:
    """A duration as 0:07, 3:12, 1:02:03 or 2 d 03:04:05; a dash for None."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours:02}:{minutes:02}:{rest:02}"
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass
class _Worker:
    run: str | None = None
    since: float = 0.0
    progress: Mapping[str, Any] = field(default_factory=dict)


class SweepDisplay:
    """Shows the sweep ``name`` of ``total`` runs, of which ``already`` had ended before.

    A context manager: pass every event of the workers to `report`, and call `refresh` about twice a second.
    """

    def __init__(self, console: Console, name: str, total: int, already: int = 0, enabled: bool = True) -> None:
        self.console, self.name, self.total, self.already = console, name, total, already
        self.live = enabled and console.is_terminal
        self.lines = enabled and not console.is_terminal
        self._workers: dict[int, _Worker] = {}
        self._ended: dict[str, str] = {}
        self._problems: dict[str, str] = {}
        self._seconds: list[float] = []
        self._search: Searched | None = None
        self._began = time.monotonic()
        self._screen = Live(console=console, auto_refresh=False, transient=True)

    def __enter__(self) -> "SweepDisplay":
        self._began = time.monotonic()
        if self.live:
            self._screen.start()
            self._screen.update(self.render(), refresh=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if not self.live:
            return
        self._screen.stop()
        # The table vanishes; the problems stay on the screen.
        for line in self._problem_lines(_MOST_PROBLEMS):
            self.console.print(line, soft_wrap=True)

    def report(self, event: Event) -> None:
        """Record one event of the workers."""
        match event:
            case Ready():
                self._workers = {worker_number: _Worker() for worker_number in range(event.workers)}
            case RunStarted(worker=int(number_of_worker)):
                self._workers[number_of_worker] = _Worker(event.run, time.monotonic())
            case RunEnded(worker=int(number_of_worker)):
                self._end(event)
                self._workers[number_of_worker] = _Worker()
            case Searched():
                self._follow(event)
            case WorkerCrashed():
                self._problem(event.run or f"worker {event.worker}", f"died: {event.why}")
                self._workers[event.worker] = _Worker()
            case Refused():
                self._problem("stopping", event.why)

    def _end(self, event: RunEnded) -> None:
        run, state, why, seconds = event.run, event.state, event.why, event.seconds
        self._ended[run] = state
        if state in ("done", "diverged") and seconds is not None:
            self._seconds.append(seconds)
        if state in ("failed", "diverged"):
            self._problems.pop(run, None)  # the latest problem is shown last
            self._problems[run] = f"{state}: {why}" if why else state
        elif state == "done" and run in self._problems:
            self._problems[run] += "; done at another attempt"
        if self.lines:
            took = f", {seconds:.1f} s" if seconds is not None else ""
            # A search that is continued has not said yet how many runs it has.
            known = state in _FINISHED and self._finished <= self.total
            place = f"[{self._finished}/{self.total}] " if known else ""
            self._print(f"{place}{run}: {state}{took}" + (f": {why}" if why else ""))

    def _follow(self, event: Searched) -> None:
        """Show the answer of a search; other commands and jobs may train runs of it, too."""
        is_news = self._search is None or (event.answer, event.why) != (self._search.answer, self._search.why)
        self._search = event
        self.total = max(self.total, event.chosen)
        self.already = max(self.already, event.ended - len(self._ended))
        if self.lines and is_news:
            self._print(f"search: {self._search_words()}")

    def _search_words(self) -> str:
        assert self._search is not None
        return f"{self._search.answer}{f'; over: {self._search.why}' if self._search.why else ''}"

    def _problem(self, subject: str, what: str) -> None:
        self._problems.pop(subject, None)
        self._problems[subject] = what
        if self.lines:
            self._print(f"{subject}: {what}")

    def _print(self, line: str) -> None:
        self.console.print(line, soft_wrap=True)

    def refresh(self, progress: Progress) -> None:
        """Draw again; ``progress(run id)`` gives the result of `RunDirectory.progress` for a run."""
        if not self.live:
            return
        for worker in self._workers.values():
            if worker.run is not None:
                worker.progress = progress(worker.run) or {}
        self._screen.update(self.render(), refresh=True)

    def summary(self) -> str:
        """The final line, such as "48 runs: 46 done, 1 diverged, 1 failed in 3:12"."""
        counts = Counter(self._ended.values())
        parts = [f"{self.already} before"] if self.already else []
        parts += [f"{counts[state]} {state}" for state in (*_FINISHED, *_STOPPED) if counts[state]]
        left = self.total - self._finished - sum(counts[state] for state in _STOPPED)
        parts += [f"{left} left"] if left > 0 else []
        words = f"{self.total} run{'' if self.total == 1 else 's'}: {', '.join(parts)}"
        answer = f"\nsearch: {self._search_words()}" if self._search is not None and not self.lines else ""
        return f"{words} in {clock(time.monotonic() - self._began)}{answer}"

    def not_ended(self, run_ids: Sequence[str]) -> list[str]:
        """Those of ``run_ids`` for which no worker has reported an end."""
        return [run_id for run_id in run_ids if run_id not in self._ended]

    @property
    def _finished(self) -> int:
        return self.already + sum(state in _FINISHED for state in self._ended.values())

    def seconds_left(self) -> float | None:
        """The estimated seconds left, from the mean of the runs that ended, or else from the rate of those at work."""
        lengths = self._seconds or [
            worker.progress["steps"] / worker.progress["rate"]
            for worker in self._workers.values()
            if worker.run is not None and worker.progress.get("steps") and worker.progress.get("rate")
        ]
        if not lengths:
            return None
        mean = sum(lengths) / len(lengths)
        now = time.monotonic()
        spent = sum(min(mean, now - worker.since) for worker in self._workers.values() if worker.run is not None)
        left = self.total - self._finished
        return max(0.0, left * mean - spent) / min(len(self._workers), max(left, 1))

    # ---- the live table -------------------------------------------------------------------------------------------------

    def render(self) -> RenderableType:
        """The current table."""
        counts = Counter(self._ended.values())
        words = [f"{self._finished}/{self.total} runs"]
        words += [f"{counts[state]} {state}" for state in ("diverged", "failed", *_STOPPED) if counts[state]]
        words += [f"{self.total - self._finished} left", f"{clock(time.monotonic() - self._began)} elapsed"]
        if self._finished < self.total and self._search is None:
            words.append(f"{clock(self.seconds_left())} to go")
        # In a table of its own, because a progress bar does not end its line.
        bar = Table.grid(expand=True)
        bar.add_row(ProgressBar(total=max(self.total, 1), completed=self._finished))
        problems = self._problem_lines(_LAST_PROBLEMS)
        name = Text(self.name, style="bold", no_wrap=True, overflow="ellipsis")
        answer = [Text(self._search_words(), style="dim")] if self._search is not None else []
        return Group(name, Text(", ".join(words)), *answer, bar, self._worker_table(len(problems)), *problems)

    def _worker_table(self, lines_below: int) -> RenderableType:
        if not self._workers:
            return Text("starting workers", style="dim")
        # A table taller than the terminal would lose its last lines, which show the failures.
        room = max(2, self.console.height - lines_below - 7)
        table = Table(box=None, pad_edge=False, header_style="dim")
        table.add_column("", justify="right", no_wrap=True)
        table.add_column("run")  # shortened on a narrow terminal
        for column in ("step", "rate", "loss"):
            table.add_column(column, justify="right", no_wrap=True)
        shown = sorted(self._workers.items())[:room]
        for worker_number, worker in shown:
            table.add_row(str(worker_number), *_row(worker))
        hidden = len(self._workers) - len(shown)
        return Group(table, Text(f"and {hidden} more workers", style="dim")) if hidden else table

    def _problem_lines(self, most: int) -> list[Text]:
        shown = list(self._problems.items())[-most:]
        lines = [Text(f"and {len(self._problems) - most} more before", "dim")] if len(self._problems) > most else []
        for subject, what in shown:
            color = "yellow" if what.startswith("diverged") else "red"
            lines.append(
                Text.assemble((subject, color), f": {what}", no_wrap=most == _LAST_PROBLEMS, overflow="ellipsis")
            )
        return lines


def _row(worker: _Worker) -> tuple[str | Text, ...]:
    if worker.run is None:
        return (Text("waiting", style="dim"), "", "", "")
    progress, run = worker.progress, Text(worker.run, no_wrap=True, overflow="ellipsis")
    if progress.get("step") is None:
        return (run, Text(f"for {clock(time.monotonic() - worker.since)}", style="dim"), "", "")
    idle, rate = progress.get("idle"), progress.get("rate")
    if idle is not None and idle > _IDLE_SECONDS:
        pace = f"idle {clock(idle)}"
    else:
        pace = f"{number(rate, 3)}/s" if rate is not None else ""
    return (run, f"{progress['step']}/{progress.get('steps', '?')}", pace, number(progress.get("loss")))
