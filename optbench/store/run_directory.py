"""One run's directory: its configuration, status, history and summary, and the paths of its other files."""

import hashlib
import os
import tempfile
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from optbench.errors import UserError
from optbench.moved import with_current_names
from optbench.store import history
from optbench.store.checkpoints import Checkpoints
from optbench.store.config_texts import as_json, as_yaml, texts_of
from optbench.store.files import (
    StoreError,
    component,
    flatten,
    read_bytes,
    read_object,
    refuse_link,
    refuse_links_in,
    remove_orphans,
    reporting,
    sync_file,
    to_json,
    write_atomically,
    write_if_absent,
)
from optbench.store.measurements import Measurements

if TYPE_CHECKING:
    import pyarrow as pa

State = Literal["pending", "running", "done", "diverged", "failed", "preempted", "paused"]
STATES: tuple[State, ...] = get_args(State)
FINISHED: tuple[State, ...] = ("done", "diverged")
# For this time an empty config.yaml counts as one that is being written.
_PATIENCE_SECONDS = 2.0


@dataclass(frozen=True)
class Status:
    """The status of a run.

    state: pending, running, done, diverged, failed, preempted, or paused: stopped by a search at an evaluation before its end.
    why: the reason in one line, or empty.
    since: the time at which the run entered this state, in UTC to the second ("2025-01-31T12:00:00Z"); empty if unknown.
    host, pid: the process that trains it, while it is running.
    crashes: the number of times its process has died since it last recorded an end.
    step: the step at which a paused run stands.
    """

    state: State
    why: str = ""
    since: str = ""
    host: str | None = None
    pid: int | None = None
    crashes: int = 0
    step: int | None = None

    def content(self) -> bytes:
        """The text of status.json."""
        written = asdict(self)
        if self.step is None:  # earlier versions refuse a key that they do not know
            del written["step"]
        return to_json(written, indent=2)


class RunDirectory:
    """The directory of one run: writes and reads its files.

    Nothing is cached, so that several objects, processes and hosts may read one run. After `create`, only the holder of
    the run's lock may write. Every method that writes raises `StoreError`, with the file and the reason in one message,
    if the file system refuses (disk full, read-only, no permission).
    """

    def __init__(self, path: str | Path):
        self.path = path if isinstance(path, Path) else Path(path)

    def __repr__(self) -> str:
        return f"RunDirectory({str(self.path)!r})"

    @classmethod
    def at(cls, results_dir: str | Path, run_id: str) -> "RunDirectory":
        """The directory of the run ``run_id`` under ``results_dir``, whether it exists or not.

        Raises UserError if ``run_id`` is not a plain name, and StoreError if the directory is a symbolic link: run ids are
        read from files of possibly unknown origin, and changes to a run must stay below ``results_dir``.
        """
        path = Path(results_dir, "runs", component(run_id, "run id"))
        refuse_link(path)
        return cls(path)

    @property
    def results_dir(self) -> Path:
        """The results folder that contains the run."""
        return self.path.parent.parent

    @property
    def run_id(self) -> str:
        """The run id, which is the directory's name."""
        return self.path.name

    @property
    def checkpoints(self) -> Checkpoints:
        """The last checkpoint and the one before it."""
        return Checkpoints(self.path / "checkpoints")

    @property
    def checkpoint(self) -> Path:
        """The path of the last checkpoint, which may not exist yet."""
        return self.checkpoints.last

    @property
    def measurements(self) -> Measurements:
        """The measurements of probes."""
        return Measurements(self.path / "probes")

    @property
    def history(self) -> Path:
        """The path of the JSON lines of the history, which may not exist yet."""
        return self.path / "history.jsonl"

    @property
    def log(self) -> Path:
        """The path of the run's log."""
        return self.path / "log.txt"

    @property
    def lock(self) -> Path:
        """The path for `optbench.store.RunLock`. It runs `check_links`, because the lock is taken before any writing."""
        self.check_links()
        return self.path / "lock"

    def check_links(self) -> None:
        """Raise StoreError if one of the run's files or folders is a symbolic link (see `store.files.refuse_link`).

        The content of wandb's folder is not checked: wandb makes links of its own there.
        """
        for folder in (self.path, self.checkpoint.parent, self.measurements.path, self.path / "tensorboard"):
            refuse_links_in(folder)

    def make(self) -> None:
        """Make the directory, which a lock needs, if it does not exist."""
        refuse_link(self.path)
        with reporting("create", self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    def create(self, configuration: str | Mapping[str, Any], replace: bool = False, sync: bool = True) -> bool:
        """Make the directory with its frozen configuration, as pending; True if this call made it.

        configuration: of plain types, or the text of a YAML file that holds it. sync: False for a caller that makes many runs,
        and then calls `files.sync_file_system`.

        A directory that exists with the same configuration is left as it is. If it exists with another one, raises
        `UserError`, naming the keys that differ; with ``replace`` it takes the new one instead. The caller must then know
        that the difference cannot change the run, such as another machine on which it continues.
        """
        if isinstance(configuration, str):
            text, config = configuration, _parse_yaml(configuration)
            parts = texts_of(config)
        else:
            parts = texts_of(configuration)
            text, config = as_yaml(parts), dict(configuration)
        self.make()
        content = text.encode()
        path = self.path / "config.yaml"
        created = not path.exists() and write_if_absent(path, content, sync=sync)
        if not created:
            stored = self._stored_config(path)
            if stored != content and (replace or not stored):
                write_atomically(path, content, sync=sync)
            elif stored != content:
                self._check_same(config)
                # config.json is a copy of the stored text, which may differ in layout from the given one.
                content, parts = stored, texts_of(self.config())
        if created or replace or not (self.path / "config.json").exists():
            self._write_quick_config(content, as_json(parts))
        if not (self.path / "status.json").exists():
            write_if_absent(self.path / "status.json", _pending(_now()), sync=sync)
        return created

    def _stored_config(self, path: Path) -> bytes:
        """The content of config.yaml; empty only if its writer, without hard links, died before filling it."""
        until = time.monotonic() + _PATIENCE_SECONDS
        while True:
            with reporting("read", path):
                stored = read_bytes(path)
            if stored or time.monotonic() > until:
                return stored
            time.sleep(0.05)

    def _check_same(self, given: dict[str, Any]) -> None:
        old, new = flatten(self.config()), flatten(with_current_names(given))
        # Compared as text: NaN differs from itself, and True equals 1.
        changed = [key for key in old | new if repr(old.get(key, "absent")) != repr(new.get(key, "absent"))]
        if changed:
            shown = "; ".join(
                f"{key}: {old.get(key, 'absent')!r} there, {new.get(key, 'absent')!r} here" for key in changed[:8]
            )
            more = f" and {len(changed) - 8} more keys" if len(changed) > 8 else ""
            raise UserError(
                f"run {self.run_id} exists in {self.path} with another configuration ({shown}{more}); "
                "remove that directory, or choose another results_dir"
            )

    def _write_quick_config(self, config_yaml: bytes, config: bytes | None) -> None:
        # PyYAML's C parser needs milliseconds for each run, JSON 30 microseconds. The copy counts only if its digest
        # matches config.yaml, and is not written if JSON would change a value (infinity, dates, keys that are not
        # text).
        if config is not None:
            copy = b'{"config_yaml": "%b", "config": %b}' % (_digest(config_yaml).encode(), config)
            write_atomically(self.path / "config.json", copy, sync=False)

    def config(self) -> dict[str, Any]:
        """The run's configuration, in the names of now. Raises `StoreError` when config.yaml is absent or damaged."""
        path = self.path / "config.yaml"
        with reporting("read", path):
            content = read_bytes(path)
        try:
            return with_current_names(self._quick_config(content) or _parse_yaml(content.decode()))
        except ValueError as error:
            raise StoreError(f"{path} is damaged: {error}") from error

    def _quick_config(self, config_yaml: bytes) -> dict[str, Any] | None:
        try:
            copy = read_object(self.path / "config.json")
        except (StoreError, FileNotFoundError):
            return None
        config = copy.get("config")
        return config if copy.get("config_yaml") == _digest(config_yaml) and isinstance(config, dict) else None

    def status(self) -> Status:
        """The run's status; an absent or damaged status.json reads as pending, with the reason in ``why``."""
        path = self.path / "status.json"
        try:
            written = read_object(path)
            if "deaths" in written:  # the name in earlier versions
                written["crashes"] = written.pop("deaths")
            status = Status(**written)
        except FileNotFoundError:
            return Status("pending", why="status.json is absent")
        except TypeError as error:
            return Status("pending", why=f"{path} is damaged: {error}")
        except StoreError as error:
            return Status("pending", why=str(error))
        if status.state not in STATES:
            return Status("pending", why=f"{path} is damaged: unknown state {status.state!r}")
        return status

    def set_status(self, state: State, why: str = "", crashes: int = 0, step: int | None = None) -> None:
        """Replace the status atomically; a running run is marked with this host and process. ``step``: of a paused run."""
        if state not in STATES:
            raise ValueError(f"state must be one of {', '.join(STATES)}, got {state!r}")
        host, pid = (os.uname().nodename, os.getpid()) if state == "running" else (None, None)
        status = Status(state, why, _now(), host, pid, crashes, step)
        write_atomically(self.path / "status.json", status.content())

    def set_progress(self, step: int, steps: int, rate: float, loss: float | None) -> None:
        """Record the progress of a running run; the file's time of modification is the time of its last step."""
        progress = {"step": step, "steps": steps, "rate": rate, "loss": loss}
        write_atomically(self.path / "progress.json", to_json(progress), sync=False)

    def progress(self) -> dict[str, Any] | None:
        """The last record of `set_progress`, with its age in seconds as "idle"; None if there is none."""
        path = self.path / "progress.json"
        try:
            progress = read_object(path)
            return {**progress, "idle": max(0.0, time.time() - path.stat().st_mtime)}
        except (StoreError, OSError):
            return None

    def append(self, row: dict[str, Any]) -> None:
        """Append one row, an event at ``row["step"]``, to the file of the history."""
        history.append_row(self.history, row)

    def rows(self) -> list[dict[str, Any]]:
        """All rows of the history so far; a last line that was cut by a crash is ignored."""
        return history.read_rows(self.history)

    def truncate_history(self, after_step: int) -> None:
        """Atomically remove the rows of the steps after ``after_step`` and a cut last line: a resumed run redoes them.

        The measurements of probes after that step are also removed.
        """
        self._drop_measurements(after_step)
        history.truncate(self.history, after_step)

    def cut_history(self, size: int, after_step: int) -> None:
        """Keep only the first ``size`` bytes of the history, and remove the measurements of probes after ``after_step``."""
        self._drop_measurements(after_step)
        with reporting("write", self.history):
            if self.history.exists() and self.history.stat().st_size > size:
                os.truncate(self.history, size)

    def _drop_measurements(self, after_step: int) -> None:
        self.measurements.truncate(after_step)
        with reporting("remove", self.path / "history.parquet"):
            (self.path / "history.parquet").unlink(missing_ok=True)

    def flush(self) -> None:
        """Return once the history, the measurements of probes, and the names of these files are on the disk."""
        with reporting("write", self.path):
            for path in (self.history, self.measurements.index, self.measurements.path, self.path):
                sync_file(path)

    def history_table(self, columns: list[str] | None = None) -> "pa.Table":
        """The history as an Arrow table (for types see `history.to_table`); ``columns``: only these, if they exist."""
        return history.read_table(self.history, self.path / "history.parquet", columns)

    def finish(self, summary: dict[str, Any], state: State = "done") -> None:
        """Close the run: write history.parquet, then summary.json, then the status ("done" or "diverged").

        The checkpoint before the last and progress.json are removed: only a run that continues needs them.
        """
        if state not in FINISHED:
            raise ValueError(f"a run ends as one of {', '.join(FINISHED)}, got {state!r}")
        content = to_json(summary, indent=2)
        history.write_parquet(self.history, self.path / "history.parquet")
        write_atomically(self.path / "summary.json", content)
        self.checkpoints.remove_previous()
        with reporting("clean", self.path):
            (self.path / "progress.json").unlink(missing_ok=True)
        self.flush()  # after a loss of power the status must not be there without the results
        self.set_status(state)

    def summary(self) -> dict[str, Any] | None:
        """The summary, or None if it is missing or cannot be read."""
        try:
            return read_object(self.path / "summary.json")
        except (StoreError, FileNotFoundError):
            return None

    @property
    def is_finished(self) -> bool:
        """True if the run is done or has diverged, and its summary can be read."""
        return self.status().state in FINISHED and self.summary() is not None

    def clear(self) -> None:
        """Remove all results, for a run that starts over; the configuration, the log, the notes and the lock stay."""
        import shutil

        # The status comes first: a crash must not leave a finished run without its results.
        self.set_status("pending", "cleared")
        with reporting("clear", self.path):
            for name in ("summary.json", "history.parquet", "history.jsonl", "environment.json", "progress.json"):
                (self.path / name).unlink(missing_ok=True)
            for folder in (self.checkpoint.parent, self.measurements.path):
                if folder.exists():
                    shutil.rmtree(folder)

    def remove_leftovers(self) -> None:
        """Remove incomplete files, mostly checkpoints, that a killed process has left; for the holder of the lock."""
        with reporting("clean", self.path):
            for path in [
                *self.path.glob(".*.tmp"),
                *self.checkpoint.parent.glob("*.tmp"),
                *self.measurements.path.glob(".*.tmp"),
            ]:
                # Planning a run again writes its configuration without the lock, possibly at this moment.
                if not path.name.startswith(".config."):
                    path.unlink(missing_ok=True)
        remove_orphans(self.path, "config.")
        self.checkpoints.remove_unused()

    def has_leftovers(self) -> bool:
        """True if the directory holds a lock or incomplete files, of a process at work or of a killed one."""
        try:
            with os.scandir(self.path) as entries:
                names = [entry.name for entry in entries]
        except OSError:
            return False
        return any(name == "lock" or name.startswith(".lock.") or name.endswith(".tmp") for name in names)

    def write_environment(self, environment: dict[str, Any]) -> None:
        """Write environment.json: versions, git commit, hardware. It must hold no environment variables."""
        write_atomically(self.path / "environment.json", to_json(environment, indent=2))


def check_writable(results_dir: str | Path) -> None:
    """Raise UserError unless ``results_dir`` is a writable folder, or can be made."""
    folder = Path(results_dir).absolute()
    existing = next(place for place in (folder, *folder.parents) if place.exists())
    if not existing.is_dir():
        raise UserError(f"results_dir={results_dir}: {existing} is not a folder; accepted: a folder, or one to be made")
    if not os.access(existing, os.W_OK | os.X_OK):
        raise UserError(f"results_dir={results_dir}: no permission to write in {existing}; accepted: a writable folder")
    try:
        # A read-only or virtual file system such as /proc may refuse in spite of the permissions. The file has no name
        # if possible, so that nothing of it can remain.
        tempfile.TemporaryFile(prefix=".optbench-", dir=existing).close()
    except OSError as error:
        raise UserError(
            f"results_dir={results_dir}: cannot write in {existing} ({error.strerror or error}); accepted: a writable folder"
        ) from error


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


@lru_cache(maxsize=1)  # thousands of runs are planned in a second
def _pending(since: str) -> bytes:
    return Status("pending", since=since).content()


def _digest(content: bytes) -> str:
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def _parse_yaml(text: str) -> dict[str, Any]:
    """The mapping written in ``text``. Raises ValueError if it is not YAML or not a mapping."""
    from optbench.config.yaml_text import YAMLError, read_yaml

    try:
        config = read_yaml(text)
    except YAMLError as error:
        raise ValueError(f"not YAML: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"the configuration must be a mapping, got {type(config).__name__}")
    return config
