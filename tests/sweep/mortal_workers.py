"""A trainer without torch, processes that die at a chosen file operation, and the log by which they are judged."""

import io
import json
import os
import sys
import traceback
import zipfile

# What the children would otherwise import one by one.
import pandas  # noqa: F401
import pyarrow.parquet  # noqa: F401

from optbench.store import RunDirectory, resuming
from optbench.store.checkpoints import Seal
from optbench.store.claims import take

DIED = 9  # the exit status of a process that was to die
_CHANGES = {"os.link", "os.rename", "os.remove", "os.mkdir", "os.truncate", "os.utime"}
_WRITE, _OPEN = os.write, io.open


def fork(function, *arguments):
    """Start a child process that calls ``function``; returns its process id."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            function(*arguments)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid


def wait(pid):
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def die_at(number):
    """End this process, without a word, at its ``number``-th change to the file system; a write is then half done.

    A file that is opened to be written is a change twice: it is made, or emptied, and then it is filled.
    """
    left = number

    def change(half_done=lambda: None):
        nonlocal left
        left -= 1
        if left < 0:
            half_done()
            os._exit(DIED)

    def hook(event, arguments):
        if event in _CHANGES or (event == "open" and (arguments[2] or 0) & (os.O_WRONLY | os.O_RDWR)):
            change()

    def open_file(*arguments, **options):
        file = _OPEN(*arguments, **options)
        if file.writable():
            change()
        return file

    def write(descriptor, content):
        change(lambda: _WRITE(descriptor, bytes(content)[: len(content) // 2]))
        return _WRITE(descriptor, content)

    io.open, os.write, os.fsync = open_file, write, lambda descriptor: change()
    sys.addaudithook(hook)


class Log:
    """A record of events of runs, in order, written by many processes. A session is one taking of one run."""

    def __init__(self, path):
        self.path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
        self._sessions = 0

    def begin(self):
        self._sessions += 1

    def say(self, run_id, word):
        _WRITE(self._file, f"{os.getpid()}:{self._sessions} {run_id} {word}\n".encode())

    def lines(self):
        return [tuple(line.split()) for line in self.path.read_text().splitlines()]


def archive(state):
    """``state`` in a zip archive, as torch.save makes one of more."""
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("state", json.dumps(state))
    return content.getvalue()


def parse(path, content):
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        return json.loads(file.read("state"))


def train(directory, crashes, steps, every, log):
    """Do a run of ``steps`` steps from its last checkpoint, as a real one would; a checkpoint ``every`` so many."""
    directory.set_status("running", crashes=crashes)
    start = resuming.choose(directory, parse)
    assert not start.said, start.said  # death damages nothing
    step = start.state["step"] if start.state else 0
    resuming.begin(directory, start, step)
    digest = resuming.HistoryDigest(directory.history)
    while step < steps:
        step += 1
        log.say(directory.run_id, f"step{step}")
        directory.append({"step": step})
        if step % every == 0:
            directory.flush()
            seal = Seal(directory.run_id, step, *digest.take())
            directory.checkpoints.write(memoryview(archive({"step": step})), seal)
    directory.finish({"run_id": directory.run_id, "steps": steps})
    log.say(directory.run_id, "done")


def work(directories, log, steps, every, first=0, max_retries=100, last_change=None):
    """Be a worker; with ``last_change``, one that dies at that change to the file system."""
    if last_change is not None:
        die_at(last_change)
    for claimed in take(directories, first, max_retries):
        directory = claimed.directory
        log.begin()
        log.say(directory.run_id, "take")
        if directory.is_finished:
            log.say(directory.run_id, "again")
        train(directory, claimed.crashes, steps, every, log)
        log.say(directory.run_id, "leave")
        claimed.lock.release()


def check_log(lines, killed=()):
    """No run was in two hands at once, none was done twice, and none was taken that was done already.

    ``killed``: the processes that were, which say no word when they leave a run.
    """
    holder, left = {}, set()
    for session, run_id, word in lines:
        assert word != "again", f"{run_id} was done, and is done again by {session}"
        if word == "take":
            before = holder.get(run_id)
            assert before is None or before in left or int(before.partition(":")[0]) in killed, (
                f"{session} took {run_id}, which {before} had"
            )
            holder[run_id] = session
        assert holder[run_id] == session, f"{session} went on with {run_id}, which {holder[run_id]} had by then"
        if word == "leave":
            left.add(session)
    done = [run_id for _, run_id, word in lines if word == "done"]
    assert len(done) == len(set(done)), f"done twice: {done}"


def check_done(directory, steps):
    """The run has ended, with every step once."""
    assert directory.status().state == "done", directory.status()
    assert [row["step"] for row in directory.rows()] == [*range(1, steps + 1)]
    assert directory.history_table().column("step").to_pylist() == [*range(1, steps + 1)]
    assert directory.summary() == {"run_id": directory.run_id, "steps": steps}


def files(directory):
    return {str(path.relative_to(directory.path)) for path in directory.path.rglob("*") if path.is_file()}


def make_runs(results_dir, names):
    directories = [RunDirectory.at(results_dir, name) for name in names]
    for directory in directories:
        directory.create("batch: 1\n")
    return directories
