"""`python scripted_workers.py FOLDER SCRIPT STATE`: a supervisor whose workers do what a script says.

SCRIPT, as JSON: for each worker, for each of its lives in turn, what it does (the last life is repeated).
STATE: what becomes of runs whose worker died. FOLDER gets reports.jsonl, what was reported, and lives.jsonl, the
process id of every worker.
"""

import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from optbench.sweep.worker.events import OfWorker, RunEnded, RunStarted
from optbench.sweep.worker.supervisor import Supervisor
from optbench.system.signals import Stop

FOLDER = Path(sys.argv[1])


@dataclass(frozen=True)
class Said(OfWorker):
    kind = "said"
    number: int
    text: str


@dataclass(frozen=True)
class Counting(OfWorker):
    kind = "counting"


@dataclass(frozen=True)
class Received(OfWorker):
    kind = "received"
    signals: list


def note(name, value):
    descriptor = os.open(FOLDER / name, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    line = memoryview(json.dumps(value).encode() + b"\n")
    while line:
        line = line[os.write(descriptor, line) :]
    os.close(descriptor)


def notes(name):
    path = FOLDER / name
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


class Worker:
    def __init__(self, number, report):
        self.number, self.report, self.stop = number, report, Stop()

    def do(self, actions):
        """Returns the exit status."""
        for action in actions:
            word, *arguments = action.split()
            status = getattr(self, word)(*arguments)
            if status is not None:
                return status
        return 0

    def listen(self):
        self.stop.listen()

    def start(self, run):
        self.report(RunStarted(run))

    def end(self, run, state):
        self.report(RunEnded(run, state, "", 0.0))

    def say(self, count, length):
        for number in range(int(count)):
            self.report(Said(number, "é" * int(length)))

    def kill(self, name):
        os.kill(os.getpid(), signal.Signals[name])

    def exit(self, code):
        os._exit(int(code))

    def fail(self):
        raise RuntimeError("by the script")

    def give(self, status):
        return int(status)

    def sleep(self, seconds):
        until = time.monotonic() + float(seconds)
        while time.monotonic() < until:
            time.sleep(0.01)  # whatever signals come

    def runs(self, count, seconds):
        """Runs of so many seconds each, until it is asked to stop."""
        for number in range(int(count)):
            self.start(f"{self.number}.{number}")
            note("begun.jsonl", {"worker": self.number, "at": time.time()})
            self.sleep(seconds)
            self.end(f"{self.number}.{number}", "done")
            if self.stop.signal is not None:
                note("stopped.jsonl", {"worker": self.number, "at": time.time()})
                return 128 + self.stop.signal
        return None

    def count(self):
        """Report all signals that come until half a second after the first one."""
        received, receive = [], self.stop.receive
        self.stop.receive = lambda number, frame: (received.append(signal.Signals(number).name), receive(number))
        self.listen()
        self.report(Counting())
        while not received:
            time.sleep(0.01)
        time.sleep(0.5)
        self.report(Received(received))
        return 128 + self.stop.signal


def main():
    script, state = json.loads(sys.argv[2]), sys.argv[3]

    def work(number, report):
        earlier = [life for life in notes("lives.jsonl") if life["worker"] == number]
        note("lives.jsonl", {"worker": number, "pid": os.getpid()})
        return Worker(number, report).do(script[number][min(len(earlier), len(script[number]) - 1)])

    def record_crash(run, why):
        note("reports.jsonl", {"event": "crash_recorded", "run": run, "why": why})
        return state

    stop = Stop()
    stop.listen()
    return Supervisor(
        work, len(script), lambda event: note("reports.jsonl", json.loads(event.line())), record_crash, stop
    ).run()


if __name__ == "__main__":
    sys.exit(main())
