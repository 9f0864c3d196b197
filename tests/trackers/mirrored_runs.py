"""What the tests of the trackers share: synthetic rows and summaries, a recording tracker, LevelDB's log format."""

import json
import os
import struct
import time
from pathlib import Path

CONFIG = {
    "batch": 128,
    "optimizer": {"name": "sgd", "learning_rate": 0.1, "betas": [0.9, 0.99], "info": {"about": "not an option"}},
    "clip_norm": None,
}
ENVIRONMENT = {"torch": "2.13.0", "devices": 1}
SUMMARY = {"run_id": "r", "status": "done", "test_loss": 0.25, "steps": 60, "curve": [1, 2]}

RECORDER = '''
import json, subprocess, time
from optbench.trackers import Tracker

class Recorder(Tracker):
    """Writes each call to recorded.jsonl; ``crash``, ``hang``: at construction."""

    def __init__(self, run, crash=None, hang=False, finish_timeout=60.0):
        if crash:
            raise RuntimeError(crash)
        if hang:
            child = subprocess.Popen(["sleep", "1000"])
            (run.path / "hanging").write_text(str(child.pid))
            time.sleep(1000)
        self.path = run.path / "recorded.jsonl"
        self.path.write_text("")

    def log(self, index, row):
        self._write(["log", index, row])

    def finish(self, summary, state):
        self._write(["finish", summary, state])
        return "recorded.jsonl"

    def _write(self, call):
        with self.path.open("a") as file:
            file.write(json.dumps(call) + "\\n")
'''


def row(step: int) -> dict:
    """A training row, or at every third step an evaluation row with other columns."""
    axes = {"step": step, "epoch": step / 100, "samples": 128 * step, "seconds": 0.5 * step}
    if step % 3:
        return {"event": "train", **axes, "loss": 1 / (1 + step), "learning_rate": 0.1}
    return {"event": "evaluation", **axes, "test_loss": 2 / (1 + step), "gap_accuracy": None}


def write_rows(path: Path, steps, mode: str = "a") -> None:
    with (path / "history.jsonl").open(mode) as file:
        file.writelines(json.dumps(row(step)) + "\n" for step in steps)


def write_summary(path: Path, **changes) -> None:
    (path / ".summary").write_text(json.dumps({**SUMMARY, **changes}))
    (path / ".summary").rename(path / "summary.json")


def wait_until(condition, seconds: float = 20.0) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return bool(condition())


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        # An orphan that ended stays as a zombie where no init process collects it.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def recorded(path: Path) -> list:
    """The calls that the recorder has seen so far."""
    file = path / "recorded.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def leveldb_records(data: bytes):
    """The records of a .wandb file: the log format of LevelDB behind a header of 7 bytes.

    Blocks of 32 KiB hold fragments of a checksum (4 bytes), a length (2), a type (1: whole, 2: first, 3: middle,
    4: last) and the body; what is left at the end of a block is zero.
    """
    assert data[:4] in (b":W&B", b"")  # empty: nothing is flushed yet
    position, parts = 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        _, length, kind = struct.unpack_from("<IHB", data, position) if left >= 7 else (0, 0, 0)
        if kind == 0:
            position += left
            continue
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):
            yield parts
            parts = b""
