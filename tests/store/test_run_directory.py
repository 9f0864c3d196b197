import errno
import json
import math
import os
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import yaml

from optbench.config.yaml_text import read_yaml
from optbench.errors import UserError
from optbench.store import RunDirectory, Status, StoreError, check_writable
from optbench.store.config_texts import as_json, as_yaml, texts_of
from optbench.store.files import flatten, plain, to_json, write_atomically, write_if_absent
from optbench.store.processes import machine_tag

CONFIG = """\
batch: 128
optimizer:
  name: sgd
  learning_rate: 0.1
  betas: [0.9, 0.999]
note: null
"""


@pytest.fixture
def run(tmp_path):
    run = RunDirectory.at(tmp_path, "sgd-1234")
    run.create(CONFIG)
    return run


def test_paths(tmp_path):
    run = RunDirectory.at(tmp_path, "sgd-1234")
    assert run.path == tmp_path / "runs" / "sgd-1234"
    assert run.run_id == "sgd-1234"
    assert run.checkpoint == run.path / "checkpoints" / "last.ckpt"
    assert (run.log, run.lock) == (run.path / "log.txt", run.path / "lock")
    assert not run.path.exists()


def test_create_writes_the_configuration_and_a_pending_status(run):
    assert (run.path / "config.yaml").read_text() == CONFIG
    assert run.config() == yaml.safe_load(CONFIG)
    assert run.status().state == "pending"
    assert sorted(file.name for file in run.path.iterdir()) == ["config.json", "config.yaml", "status.json"]


ODD = {
    "plain": {"a": 1, "b": {"c": [1, 2.5, "x"], "d": None}},
    "alike": {"a": 1, "b": 1.0, "c": True, "d": "1", "e": {"f": 1}, "g": {"f": 1.0}},
    "the same object twice": {"a": (shared := {"x": [1]}), "b": shared},
    "none": {},
    "texts": {"a": "Größe", "b": "1e-3", "c": "yes", "d": "two\nlines", "e": ""},
    "numbers": {"a": 5e-324, "b": -0.0, "c": 1e22, "d": 2**70},
}


@pytest.mark.parametrize("config", ODD.values(), ids=ODD)
def test_the_texts_of_a_configuration_are_those_of_the_whole(config):
    for _ in range(2):  # also from the texts that are kept
        parts = texts_of(config)
        assert as_json(parts) == to_json(config)
        assert repr(read_yaml(as_yaml(parts))) == repr(config)


@pytest.mark.parametrize("value", [math.inf, math.nan, {1: 2}, {"a": (1, 2)}, datetime(2001, 1, 1)])
def test_a_configuration_that_json_would_change_has_no_json(value):
    parts = texts_of({"a": 1, "b": value})
    assert as_json(parts) is None
    assert as_json(texts_of({"a": 1, "b": 2})) == b'{"a": 1, "b": 2}'


def test_the_quick_copy_counts_only_beside_its_own_text(run):
    copy = json.loads((run.path / "config.json").read_text())
    assert copy["config"] == yaml.safe_load(CONFIG)
    (run.path / "config.json").write_text(json.dumps({**copy, "config": {"batch": 1}}))
    assert run.config()["batch"] == 1  # it is read indeed
    (run.path / "config.yaml").write_text(CONFIG + "more: 1\n")
    assert run.config() == yaml.safe_load(CONFIG) | {"more": 1}


def test_create_again_changes_nothing(run):
    run.set_status("done", "because")
    before = {file.name: file.read_bytes() for file in run.path.iterdir()}
    assert run.create(CONFIG) is False
    assert run.create("# another layout\n" + CONFIG.replace("[0.9, 0.999]", "\n  - 0.9\n  - 0.999")) is False
    assert {file.name: file.read_bytes() for file in run.path.iterdir()} == before


def test_create_with_another_configuration_names_the_keys(run):
    other = CONFIG.replace("0.1", "0.2").replace("batch: 128", "batch: 256").replace("note: null", "extra: true")
    with pytest.raises(UserError) as caught:
        run.create(other)
    message = str(caught.value)
    assert "sgd-1234" in message
    assert "optimizer.learning_rate: 0.1 there, 0.2 here" in message
    assert "batch: 128 there, 256 here" in message
    assert "note: None there, 'absent' here" in message
    assert "extra: 'absent' there, True here" in message
    assert "optimizer.name" not in message
    assert (run.path / "config.yaml").read_text() == CONFIG


def test_create_takes_another_configuration_in_place_of_the_old_one_when_told_to(run):
    run.set_status("preempted")
    other = CONFIG.replace("batch: 128", "batch: 256")
    assert run.create(other, replace=True) is False
    assert (run.path / "config.yaml").read_text() == other
    assert run.config()["batch"] == 256
    assert run.status().state == "preempted"


def test_create_completes_a_directory_that_a_crash_left(tmp_path):
    run = RunDirectory.at(tmp_path, "half")
    run.path.mkdir(parents=True)
    assert run.create(CONFIG) is True
    (run.path / "status.json").unlink()
    (run.path / "config.json").unlink()
    assert run.create(CONFIG) is False
    assert run.status().since
    assert run.config() == yaml.safe_load(CONFIG)


@pytest.mark.parametrize("text", ["- a\n- b\n", "a: [", "", "just text"])
def test_a_configuration_must_be_a_mapping(tmp_path, text):
    with pytest.raises(ValueError, match=r"mapping|not YAML"):
        RunDirectory.at(tmp_path, "x").create(text)


@pytest.mark.parametrize("text", [CONFIG, "bound: .inf\n", "none: .nan\nbatch: 1\n", "1: one\n", "name: Müller\n"])
def test_the_quick_configuration_says_the_same_as_the_yaml(tmp_path, text):
    run = RunDirectory.at(tmp_path, "x")
    run.create(text)
    assert repr(run.config()) == repr(yaml.safe_load(text))


@pytest.mark.parametrize(
    "config", [{"rate": 1e-05, "on": True, "n": 1, "list": [1.0]}, {"bound": math.inf}, {1: "one"}]
)
def test_a_configuration_that_is_no_text_is_what_its_file_says(tmp_path, config):
    run = RunDirectory.at(tmp_path, "x")
    assert run.create(config) is True
    assert repr(run.config()) == repr(yaml.safe_load((run.path / "config.yaml").read_text())) == repr(config)
    assert run.create(config) is False


def test_the_quick_configuration_does_not_outlive_a_change(run):
    (run.path / "config.yaml").write_text(CONFIG.replace("128", "129"))
    assert run.config()["batch"] == 129
    (run.path / "config.json").write_text("damaged")
    assert run.config()["batch"] == 129


@pytest.mark.parametrize("content", [None, "a: [", b"\xff\xfe\x00"])
def test_an_unreadable_configuration_is_reported(run, content):
    path = run.path / "config.yaml"
    path.unlink()
    if content is not None:
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(StoreError, match=re.escape(str(path))):
        run.config()


def test_status(run):
    run.set_status("running")
    status = run.status()
    assert (status.state, status.why) == ("running", "")
    assert (status.host, status.pid) == (os.uname().nodename, os.getpid())
    since = datetime.strptime(status.since, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)
    assert abs(datetime.now(UTC) - since) < timedelta(seconds=30)
    run.set_status("failed", "out of memory")
    assert (run.status().state, run.status().why, run.status().pid) == ("failed", "out of memory", None)
    with pytest.raises(ValueError, match="one of pending, running"):
        run.set_status("finished")


def test_crashes_are_those_in_a_row(run):
    assert run.status().crashes == 0
    run.set_status("running", crashes=2)
    assert (run.status().crashes, run.status().pid) == (2, os.getpid())
    run.set_status("failed", "killed", 3)
    assert (run.status().why, run.status().crashes) == ("killed", 3)
    run.set_status("preempted")
    assert run.status().crashes == 0


def test_a_status_from_before_crashes_were_counted(run):
    (run.path / "status.json").write_text('{"state": "running", "why": "", "since": "", "host": "node7", "pid": 7}')
    assert run.status() == Status("running", host="node7", pid=7, crashes=0)


def test_a_status_that_calls_crashes_by_their_earlier_name(run):
    (run.path / "status.json").write_text(
        '{"state": "running", "why": "", "since": "", "host": "n", "pid": 7, "deaths": 2}'
    )
    assert run.status() == Status("running", host="n", pid=7, crashes=2)


def test_progress_says_how_far_and_how_long_ago(run):
    assert run.progress() is None
    run.set_progress(30, 100, 12.5, 0.25)
    progress = run.progress()
    assert progress.pop("idle") == pytest.approx(0, abs=5)
    assert progress == {"step": 30, "steps": 100, "rate": 12.5, "loss": 0.25}
    os.utime(run.path / "progress.json", (0, time.time() - 60))
    assert run.progress()["idle"] == pytest.approx(60, abs=5)
    run.set_progress(40, 100, 12.5, float("inf"))
    assert (run.progress()["step"], run.progress()["loss"]) == (40, None)
    assert run.progress()["idle"] < 5


def test_the_clock_of_a_file_server_that_is_ahead_makes_nobody_younger_than_now(run):
    run.set_progress(1, 2, 1.0, None)
    os.utime(run.path / "progress.json", (0, time.time() + 3600))
    assert run.progress()["idle"] == 0


@pytest.mark.parametrize("content", ["", "{", "[1]"])
def test_a_damaged_progress_is_none(run, content):
    (run.path / "progress.json").write_text(content)
    assert run.progress() is None


@pytest.mark.parametrize(
    "content", ["", "{", "[1]", '{"state": "flying"}', '{"why": "no state"}', '{"state": "done", "more": 1}', "\0" * 40]
)
def test_a_damaged_status_reads_as_pending(run, content):
    (run.path / "status.json").write_text(content)
    assert run.status().state == "pending"
    assert "status.json is damaged" in run.status().why


def test_an_absent_status_reads_as_pending(tmp_path):
    assert RunDirectory.at(tmp_path, "nowhere").status() == Status("pending", why="status.json is absent")


def test_finish(run):
    run.append({"step": 1, "loss": 0.5})
    run.set_progress(1, 1, 1.0, 0.5)
    assert not run.is_finished
    assert run.summary() is None
    run.finish({"run_id": run.run_id, "steps": 1, "bad": float("nan")}, "diverged")
    assert run.is_finished
    assert run.status().state == "diverged"
    assert run.summary() == {"run_id": "sgd-1234", "steps": 1, "bad": None}
    assert (run.path / "summary.json").read_text().startswith('{\n  "run_id"')
    assert (run.path / "history.parquet").exists()
    assert run.progress() is None


def test_a_run_is_finished_only_with_status_and_summary(run):
    run.finish({"steps": 1})
    run.set_status("running")
    assert not run.is_finished
    run.set_status("done")
    assert run.is_finished
    (run.path / "summary.json").write_text("{")
    assert not run.is_finished
    assert run.summary() is None


def test_a_run_does_not_finish_as_failed(run):
    with pytest.raises(ValueError, match="done, diverged"):
        run.finish({}, "failed")
    assert run.summary() is None


def test_a_summary_that_cannot_be_written_leaves_the_run_unfinished(run):
    with pytest.raises(TypeError, match="object"):
        run.finish({"what": object()})
    assert run.status().state == "pending"


def test_clear_keeps_the_configuration_only(run):
    run.append({"step": 1})
    run.write_environment({"torch": "2"})
    run.set_progress(1, 1, 1.0, None)
    run.checkpoint.parent.mkdir()
    run.checkpoint.write_bytes(b"weights")
    run.finish({"steps": 1})
    run.clear()
    assert sorted(file.name for file in run.path.iterdir()) == ["config.json", "config.yaml", "status.json"]
    assert run.status().state == "pending"
    assert run.rows() == []


def test_environment(run):
    run.write_environment({"python": "3.11", "cores": np.int64(2), "path": Path("a/b")})
    content = json.loads((run.path / "environment.json").read_text())
    assert content == {"python": "3.11", "cores": 2, "path": "a/b"}


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (float("inf"), "null"),
        (np.float32("nan"), "null"),
        (np.float32(0.5), "0.5"),
        (np.float64(0.1), "0.1"),
        (np.int64(3), "3"),
        (np.bool_(True), "true"),
        (np.array([1.0, np.nan]), "[1.0, null]"),
        ((1, [2, None]), "[1, [2, null]]"),
        (Path("a/b"), '"a/b"'),
        ({"b": 1, "a": {2: -float("inf")}}, '{"b": 1, "a": {"2": null}}'),
        ("Möbius ∂ \u2028", '"Möbius ∂ \u2028"'),
    ],
)
def test_json_is_strict_and_keeps_the_order(value, text):
    assert to_json(value) == text.encode()


def test_json_keeps_file_names_that_are_not_utf8():
    name = os.fsdecode(b"caf\xe9")
    assert json.loads(to_json({"path": Path(name)})) == {"path": name}


@pytest.mark.parametrize("value", [object(), {1, 2}, b"bytes", 1j])
def test_what_json_has_no_word_for_is_refused(value):
    with pytest.raises(TypeError, match=type(value).__name__):
        plain({"key": [value]})


def test_flatten():
    assert flatten({"a": {"b": {"c": 1}, "d": [1, {"e": 2}]}, "f": {}, "g": None}, "config.") == {
        "config.a.b.c": 1,
        "config.a.d": [1, {"e": 2}],
        "config.g": None,
    }


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_file_and_is_reported(run, monkeypatch, number, call):
    run.set_status("running", "old")

    def fail(*arguments, **options):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(*((os, "fsync") if call == "fsync" else (Path, "replace")), fail)
    with pytest.raises(StoreError, match=f"cannot write {run.path / 'status.json'}: {os.strerror(number)}"):
        run.set_status("done", "new")
    assert (run.status().state, run.status().why) == ("running", "old")
    assert sorted(file.name for file in run.path.iterdir()) == ["config.json", "config.yaml", "status.json"]


def test_an_interruption_between_writing_and_renaming_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    write_atomically(path, b"old")

    def interrupt(self, target):
        assert self.read_bytes() == b"new"
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_write_if_absent_writes_once(tmp_path):
    path = tmp_path / "file"
    assert write_if_absent(path, b"first") is True
    assert write_if_absent(path, b"second") is False
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_a_folder_that_cannot_be_made_is_reported(tmp_path):
    (tmp_path / "runs").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=r"cannot create .*runs/x: "):
        RunDirectory.at(tmp_path, "x").create(CONFIG)


def test_importing_the_store_imports_no_heavy_library(run):
    run.append({"step": 1})
    script = f"""
import sys
from optbench.store import RunDirectory, RunLock, load, load_history, find
heavy = {{"torch", "pytorch_lightning", "lightning", "pandas", "pyarrow", "numpy", "yaml", "omegaconf", "hydra"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
assert len(load({str(run.path.parents[1])!r})) == len(load_history({str(run.path.parents[1])!r})) == 1
heavy = {{"torch", "pytorch_lightning", "lightning"}}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    subprocess.run([sys.executable, "-c", script], check=True, env=environment)


def test_leftovers_are_what_was_never_renamed(run):
    run.append({"step": 1})
    run.set_progress(1, 2, 1.0, None)
    run.checkpoint.parent.mkdir()
    run.checkpoint.write_bytes(b"weights")
    before = sorted(run.path.rglob("*"))
    run.remove_leftovers()
    assert sorted(run.path.rglob("*")) == before
    for path in (run.path / ".summary.json.1-ab.tmp", run.checkpoint.with_name("last.1.tmp")):
        path.write_bytes(b"half")
    run.remove_leftovers()
    assert sorted(run.path.rglob("*")) == before


@pytest.mark.parametrize("folder", ["", "absent", "absent/deeper"])
def test_a_folder_that_can_be_made_is_writable(tmp_path, folder, monkeypatch):
    check_writable(tmp_path / folder)
    monkeypatch.chdir(tmp_path)
    check_writable(folder or ".")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("folder", ["file", "file/deeper"])
def test_a_file_is_no_folder_for_results(tmp_path, folder):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=rf"results_dir={tmp_path / folder}: {tmp_path / 'file'} is not a folder"):
        check_writable(tmp_path / folder)


@pytest.mark.parametrize("folder", ["/proc", "/proc/absent/deeper"])
def test_a_folder_that_only_looks_writable_is_found_out(folder):
    if not Path("/proc/self").exists():
        pytest.skip("no /proc here")
    with pytest.raises(UserError, match=rf"results_dir={folder}: .* in /proc.*; accepted: a writable folder"):
        check_writable(folder)


@pytest.mark.parametrize("folder", ["", "absent"])
def test_a_folder_without_permission_is_not_writable(tmp_path, folder, monkeypatch):
    # Not chmod: root, who runs the tests in a container, may write everywhere.
    monkeypatch.setattr(os, "access", lambda path, mode: (Path(path), mode) != (tmp_path, os.W_OK | os.X_OK))
    with pytest.raises(UserError, match=rf"results_dir={tmp_path / folder}: no permission to write in {tmp_path};"):
        check_writable(tmp_path / folder)


def test_half_written_configurations_are_removed_once_their_writer_is_gone(run):
    kept = run.path / f".config.yaml.{machine_tag()}-{os.getpid()}-0123abcd.tmp"
    elsewhere = run.path / ".config.yaml.00000000-1-0123abcd.tmp"
    dead = subprocess.Popen(["true"])
    dead.wait()
    orphan = run.path / f".config.json.{machine_tag()}-{dead.pid}-0123abcd.tmp"
    for path in (kept, elsewhere, orphan):
        path.write_bytes(b"half")
    run.remove_leftovers()
    assert [path.exists() for path in (kept, elsewhere, orphan)] == [True, True, False]
