"""The process that trains the runs of a sweep: it imports once, and takes one run after another from the plan.

    python -m optbench.sweep.worker.process RESULTS_DIR NAME --workers 4   forks four workers, and replaces one that dies
    python -m optbench.sweep.worker.process RESULTS_DIR NAME --run RUN_ID --rank 1 --local-rank 1 --world 2 --rendezvous FILE

Launchers start it. It exits with 0 if all its runs ended as done or diverged, 1 if some failed, 3 if the file system
refused a file that they wrote, and 128 + N if signal N stopped it.
"""

import argparse
import faulthandler
import gc
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import torch
from rich.console import Console

from optbench.config import Devices, RunConfig
from optbench.data.raw import RawData
from optbench.errors import UserError
from optbench.provenance import checkout
from optbench.store import RunDirectory, StoreError
from optbench.store.claims import Claim, claim, record_crash, take
from optbench.store.files import reporting
from optbench.sweep.plan import Plan
from optbench.sweep.search.asking import Asked, Asker, take_searched
from optbench.sweep.search.reading import Search
from optbench.sweep.search.record import Record
from optbench.sweep.worker import rendezvous
from optbench.sweep.worker.events import Event, Ready, Refused, RunEnded, RunStarted, Searched, Warned
from optbench.sweep.worker.supervisor import ALL_WELL, REFUSED, SOME_FAILED, TO_BE_RENEWED, Report, Supervisor
from optbench.system.signals import Stop
from optbench.training import build, run
from optbench.training.outcome import Outcome


class _LastData:
    """Loads data, and keeps the latest, because consecutive runs of a plan often share them."""

    def __init__(self) -> None:
        self._key = ""
        self._raw: RawData | None = None

    def __call__(self, config: RunConfig) -> RawData:
        kept = [config.text[key] for key in ("dataset", "data_dir", "batch", "schedule", "seed")]
        key = json.dumps(kept, sort_keys=True)
        if self._raw is None or key != self._key:
            self._raw = None  # freed before the next are loaded
            self._raw, self._key = build.load_data(config), key
        return self._raw


@contextmanager
def output_to(path: Path) -> Iterator[Console]:
    """Append all output of this process, of its libraries and of its children to ``path``."""
    with reporting("write", path):
        file = path.open("a", encoding="utf-8", errors="replace")
    with file:
        kept = [os.dup(1), os.dup(2)]
        sys.stdout.flush()
        sys.stderr.flush()
        try:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
            file.write(
                f"-- {datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC, process {os.getpid()} on {os.uname().nodename}\n"
            )
            file.flush()
            yield Console(file=file, markup=False, highlight=False, width=200, force_terminal=False)
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            for number, descriptor in enumerate(kept, start=1):
                os.dup2(descriptor, number)
                os.close(descriptor)


def work(
    directories: Sequence[RunDirectory],
    first: int,
    limit: int | None,
    max_retries: int,
    report: Report,
    sharers: int = 1,
    until: Mapping[str, int | None] | None = None,
) -> int:
    """Run one of ``sharers`` workers on a device: train at most ``limit`` runs, one after another; returns the exit status.

    ``until``: by run id, the step after which a run is paused; None or absent: it is trained to its end.
    """
    if limit == 0:
        return ALL_WELL
    stop = Stop()
    stop.listen()
    return _train_all(take(directories, first, max_retries, until), limit, stop, report, sharers)


def work_on_search(plan: Plan, first: int, max_retries: int, report: Report, sharers: int = 1) -> int:
    """Run one worker of a search, which trains what it has chosen and asks it for more; returns the exit status."""
    stop = Stop()
    stop.listen()

    def tell(asked: Asked) -> None:
        report(Searched(asked.chosen, asked.ended, asked.line, asked.why))

    try:
        search = Search.of(plan)
        if search is None:
            raise UserError(f"{plan.path / 'sweep.json'}: names no search; the command of the sweep starts one")
        runs = take_searched(Asker(search), first, max_retries, lambda: stop.signal is not None, tell)
        return _train_all(runs, None, stop, report, sharers)
    except (UserError, StoreError) as error:  # the choices or the data are no longer those of the command
        report(Refused(str(error)))
        return REFUSED


def _train_all(runs: Iterator[Claim], limit: int | None, stop: Stop, report: Report, sharers: int) -> int:
    load = _LastData()
    status, mirror = ALL_WELL, None
    try:
        for done, claimed in enumerate(runs, start=1):
            outcome = _do(claimed, stop, load, report, sharers)
            # A mirror needs a second to end; meanwhile the next run has trained.
            if mirror is not None:
                mirror.finish()
            mirror = outcome.mirror
            if outcome.state == "failed":
                status = SOME_FAILED
                if torch.cuda.is_initialized():
                    return TO_BE_RENEWED  # after a failure the device may stay unusable in this process
            if outcome.refused:
                raise StoreError(outcome.why)
            if stop.signal is not None:
                return 128 + stop.signal
            if done == limit:
                break
            _clean_up()
    except StoreError as error:
        report(Refused(str(error)))
        return REFUSED
    finally:
        if mirror is not None:
            mirror.finish()
    return status


def _do(claimed: Claim, stop: Stop, load: Callable[[RunConfig], RawData], report: Report, sharers: int) -> Outcome:
    """Train one run, and release its lock."""
    directory = claimed.directory
    report(RunStarted(directory.run_id))
    began = time.monotonic()
    with claimed.lock.given_back(), output_to(directory.log) as console:
        outcome = run.execute_claimed(claimed, console, stop, load, sharers, until=claimed.until)
        if outcome.summary is None:
            console.print(f"{outcome.state}: {outcome.why}", soft_wrap=True)
    report(RunEnded(directory.run_id, outcome.state, outcome.why, time.monotonic() - began))
    return outcome


def _clean_up() -> None:
    gc.collect()
    # The remaining objects belong to modules that this run imported first; later collections can skip them.
    gc.freeze()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def be_rank(
    directory: RunDirectory,
    rank: int,
    local_rank: int,
    world: int,
    meeting_file: Path,
    max_retries: int,
    until: int | None = None,
) -> int:
    """Run one of the ranks of a run; rank 0 takes the run and writes its files. Returns the exit status.

    ``until``: the step after which the run is paused; None: it is trained to its end.
    """
    stop = Stop()
    stop.listen()
    trainer = Devices.of(directory.config()["trainer"])
    claimed = claim(directory, max_retries, until) if rank == 0 else None
    if rank != 0:
        meeting = rendezvous.attend(meeting_file, trainer.rendezvous_seconds, f"rank {rank}")
    elif claimed is not None:
        meeting = rendezvous.call(meeting_file)
    else:
        meeting = rendezvous.call_off(meeting_file)
    if not meeting.port:
        return SOME_FAILED if directory.status().state == "failed" else ALL_WELL
    devices = trainer.devices
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(local_rank),
        "GROUP_RANK": str(rank // devices),
        "WORLD_SIZE": str(world),
        "LOCAL_WORLD_SIZE": str(devices),
        "MASTER_ADDR": meeting.address,
        "MASTER_PORT": str(meeting.port),
        "TORCHELASTIC_RUN_ID": meeting_file.stem,  # tells Lightning that the ranks already exist
    }
    if claimed is None:  # its output goes to the job's log: only the holder of the lock writes the run's log
        outcome = run.execute_as_rank(directory, Console(file=sys.stdout, width=200), stop)
    else:
        with output_to(directory.log) as console, claimed.lock.given_back():
            outcome = run.execute_claimed(claimed, console, stop, until=claimed.until)
            if outcome.mirror is not None:
                outcome.mirror.finish()
    if outcome.signal is not None:
        return 128 + outcome.signal
    if outcome.refused:
        return REFUSED
    return ALL_WELL if outcome.state in ("done", "diverged", "paused") else SOME_FAILED


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the worker's command line; returns the exit status."""
    about = __doc__.splitlines()[0] if __doc__ else None
    parser = argparse.ArgumentParser(prog="optbench.sweep.worker.process", description=about)
    parser.add_argument("results_dir")
    parser.add_argument("name")
    parser.add_argument("--runs", type=Path, help="a file with one run id a line; by default all of the plan")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--first", type=int, default=0, help="the run in the list to begin with")
    parser.add_argument("--limit", type=int, help="take at most so many runs in all")
    parser.add_argument("--max-retries", type=int, default=1)
    parser.add_argument("--devices", help="GPUs to divide among the workers, such as 0,1")
    parser.add_argument("--threads", type=int, default=1, help="of the processor, for each worker")
    parser.add_argument("--report-to", type=int, help="an open file descriptor")
    parser.add_argument("--search", action="store_true", help="take the runs that the search of the plan chooses")
    parser.add_argument("--run", help="be one rank of this run")
    parser.add_argument("--rank", type=int, default=0)
    parser.add_argument("--local-rank", type=int, default=0)
    parser.add_argument("--world", type=int, default=1)
    parser.add_argument("--rendezvous", type=Path)
    given = parser.parse_args(arguments)
    faulthandler.enable()
    torch.set_num_threads(given.threads)
    plan = Plan(given.results_dir, given.name)
    warning = checkout.changed_since(plan.information())
    if warning:
        print(f"optbench: {warning}", file=sys.stderr, flush=True)
    if given.run is not None:
        directory = plan.directory(given.run)
        until = Record.of(plan.path).until().get(given.run)
        places = given.rank, given.local_rank, given.world, given.rendezvous
        return be_rank(directory, *places, given.max_retries, until)
    return _supervise(plan, given, warning)


def _supervise(plan: Plan, given: argparse.Namespace, warning: str | None) -> int:
    if given.runs is not None:
        run_ids = given.runs.read_text(encoding="utf-8").split()
    else:
        run_ids = [entry.run_id for entry in plan.entries()]
    directories = [plan.directory(run_id) for run_id in run_ids]
    until = Record.of(plan.path).until()
    stop = Stop()
    stop.listen()
    devices = given.devices.split(",") if given.devices else []

    def report(event: Event) -> None:
        line = memoryview(event.line())
        try:
            while line and given.report_to is not None:
                line = line[os.write(given.report_to, line) :]
        except BrokenPipeError:
            stop.receive(signal.SIGTERM)  # the parent of the workers is gone

    def be_worker(number: int, report: Report) -> int:
        if devices:
            # CUDA is not initialized yet, so that each worker can still choose its visible devices.
            os.environ["CUDA_VISIBLE_DEVICES"] = devices[number % len(devices)]
        first = (given.first + number * len(directories) // given.workers) % max(len(directories), 1)
        limit = None
        if given.limit is not None:
            limit = given.limit // given.workers + (number < given.limit % given.workers)
        sharers = -(-given.workers // max(len(devices), 1))
        if given.search:
            return work_on_search(plan, given.first + number, given.max_retries, report, sharers)
        return work(directories, first, limit, given.max_retries, report, sharers, until)

    def crashed(run_id: str, why: str) -> str:
        return record_crash(plan.directory(run_id), why, given.max_retries).state

    if warning:
        report(Warned(warning))
    # All present objects live as long as the workers, so that collections can skip them.
    gc.collect()
    gc.freeze()
    report(Ready(given.workers))
    return Supervisor(be_worker, given.workers, report, crashed, stop).run()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception:
        traceback.print_exc()
        sys.exit(70)
