"""The mirroring process as the run sees it: it follows, it ends, and it never holds up the run."""

import json
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from mirrored_runs import SUMMARY, is_alive, recorded, row, wait_until, write_rows, write_summary

from optbench import trackers
from optbench.config import conf_dir
from optbench.errors import UserError
from optbench.store import RunDirectory

WAKES_UP_SECONDS = 1.5  # more than the time between two looks


def test_rows_are_mirrored_as_they_come_and_a_cut_row_only_when_complete(make_run, recorder):
    path = make_run(steps=[1, 2])
    mirror = trackers.start(path, recorder())
    assert wait_until(lambda: len(recorded(path)) == 2)
    line = json.dumps(row(3)) + "\n"
    with (path / "history.jsonl").open("a") as file:
        file.write(line[:20])
        file.flush()
        time.sleep(WAKES_UP_SECONDS)
        assert len(recorded(path)) == 2
        file.write(line[20:])
    assert wait_until(lambda: len(recorded(path)) == 3)
    write_rows(path, [4])
    write_summary(path)
    assert mirror.finish(10) is None
    assert recorded(path) == [*(["log", i, row(i + 1)] for i in range(4)), ["finish", SUMMARY, "done"]]
    assert "4 rows mirrored to recorded.jsonl" in (path / "tracker.log").read_text()


def test_what_the_store_writes_is_mirrored(tmp_path, recorder):
    run = RunDirectory(tmp_path / "runs" / "stored")
    run.create("batch: 128\n")
    run.set_status("running")
    mirror = trackers.start(run.path, recorder())
    run.append({"step": 1, "loss": float("nan")})
    run.append({"step": 2, "loss": 0.5})
    run.finish({"status": "diverged", "steps": 2}, "diverged")
    assert mirror.finish(20) is None
    rows = [["log", 0, {"step": 1, "loss": None}], ["log", 1, {"step": 2, "loss": 0.5}]]
    assert recorded(run.path) == [*rows, ["finish", {"status": "diverged", "steps": 2}, "diverged"]]


def test_the_mirror_of_a_paused_run_ends_as_paused_and_the_next_one_begins_anew(tmp_path, recorder):
    run = RunDirectory(tmp_path / "runs" / "stored")
    run.create("batch: 128\n")
    run.set_status("running")
    mirror = trackers.start(run.path, recorder())
    run.append({"step": 1})
    run.set_status("paused", "at step 1 of 2", step=1)
    assert mirror.finish(20) is None
    assert recorded(run.path)[-1] == ["finish", {}, "paused"]
    run.set_status("running")
    mirror = trackers.start(run.path, recorder())
    run.append({"step": 2})
    run.finish({"status": "done"})
    assert mirror.finish(20) is None
    assert recorded(run.path)[-3:] == [
        ["log", 0, {"step": 1}],
        ["log", 1, {"step": 2}],
        ["finish", {"status": "done"}, "done"],
    ]


def test_the_mirror_ends_by_itself_when_the_summary_is_there(make_run, recorder):
    path = make_run(steps=[1])
    mirror = trackers.start(path, recorder())
    write_rows(path, [2])
    write_summary(path, status="diverged")
    assert wait_until(lambda: recorded(path)[-1:] and recorded(path)[-1][0] == "finish")
    assert recorded(path)[-1][2] == "diverged"
    assert wait_until(lambda: not is_alive(mirror.pid))
    assert mirror.finish(10) is None


def test_a_run_that_ends_without_a_summary_ends_the_mirror_too(make_run, recorder):
    path = make_run(steps=[1])
    mirror = trackers.start(path, recorder())
    (path / "status.json").write_text('{"state": "preempted"}')
    assert mirror.finish(10) is None
    assert recorded(path)[-1] == ["finish", {}, "preempted"]


def test_start_returns_at_once(make_run, recorder):
    path = make_run()
    began = time.monotonic()
    mirror = trackers.start(path, recorder(hang=True))
    assert time.monotonic() - began < 1.0
    mirror.finish(0)


def test_a_hanging_tracker_is_killed_with_all_its_processes(make_run, recorder):
    path = make_run("hangs")
    mirror = trackers.start(path, recorder(hang=True))
    assert wait_until(lambda: (path / "hanging").exists() and (path / "hanging").read_text())
    write_summary(path)
    began = time.monotonic()
    sentence = mirror.finish(timeout=0.5)
    assert time.monotonic() - began < 4.0
    assert "tracker=recorder" in sentence
    assert "0.5 s" in sentence
    assert "`python -m optbench sync hangs`" in sentence
    assert not is_alive(mirror.pid)
    assert wait_until(lambda: not is_alive(int((path / "hanging").read_text())))


def test_a_crashing_tracker_is_reported_in_a_sentence(make_run, recorder):
    path = make_run("crashes", ended=True)
    sentence = trackers.start(path, recorder(crash="no\nquota")).finish(10)
    assert "failed (RuntimeError: no quota)" in sentence
    assert "sync crashes" in sentence
    assert "Traceback" in (path / "tracker.log").read_text()


def test_a_mirror_that_cannot_start_is_reported_and_does_not_raise(tmp_path, recorder):
    assert "could not be started" in trackers.start(tmp_path / "nowhere", recorder()).finish(10)


def test_a_history_rewritten_under_the_mirror_is_reported(make_run, recorder):
    path = make_run(steps=[1, 2])
    mirror = trackers.start(path, recorder())
    assert wait_until(lambda: len(recorded(path)) == 2)
    (path / "new").write_text("")
    (path / "new").rename(path / "history.jsonl")
    assert "rewritten" in mirror.finish(10)


@pytest.mark.parametrize("case", ["follows", "hangs", "has a forked sibling"])
def test_the_mirror_ends_when_the_run_is_killed(make_run, recorder, case):
    path = make_run(steps=[1, 2, 3])
    hang = case == "hangs"
    options = recorder(hang=hang, finish_timeout=0.2)
    # A fork of the run keeps the pipe to the mirror open, so that its end does not tell of the end of the run.
    code = f"""
        import os, time
        from pathlib import Path
        from optbench import trackers
        mirror = trackers.start(Path({str(path)!r}), {options!r})
        sibling = os.fork() if "fork" in {case!r} else None
        if sibling != 0:
            print(mirror.pid, sibling or "", flush=True)
        time.sleep(1000)
    """
    run = subprocess.Popen([sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE)
    mirror_pid, *siblings = (int(pid) for pid in run.stdout.readline().split())
    try:
        assert wait_until(lambda: (path / "hanging").exists() if hang else len(recorded(path)) == 3)
        assert is_alive(mirror_pid)
        run.kill()
        run.wait()
        assert wait_until(lambda: not is_alive(mirror_pid))
        assert recorded(path)[3:] == ([] if hang else [["finish", {}, "crashed"]])
    finally:
        for sibling in siblings:
            os.kill(sibling, signal.SIGKILL)
        run.stdout.close()


def test_a_run_has_one_mirror_at_a_time(make_run, recorder):
    """The mirror of a resumed run waits for that of its killed predecessor."""
    path = make_run(steps=[1])
    first = trackers.start(path, recorder())
    assert wait_until(lambda: len(recorded(path)) == 1)
    (path / "recorded.jsonl").unlink()
    second = trackers.start(path, recorder())
    time.sleep(0.5)
    assert not recorded(path)
    assert is_alive(second.pid)
    assert first.finish(10) is None
    assert second.finish(10) is None
    assert recorded(path) == [["log", 0, row(1)], ["finish", {}, "crashed"]]


def test_sync_mirrors_a_finished_run_whole(make_run, recorder):
    path = make_run("finished", steps=range(5), ended=True)
    assert trackers.sync(path, recorder()) == "finished: 5 rows mirrored to recorded.jsonl"
    assert [call[1] for call in recorded(path)[:-1]] == [0, 1, 2, 3, 4]
    assert recorded(path)[-1] == ["finish", SUMMARY, "done"]


@pytest.mark.parametrize(
    ("options", "message"),
    [({"crash": "boom"}, "failed.*boom"), ({"hang": True}, "not done after 0.5 s")],
)
def test_sync_raises_what_went_wrong(make_run, recorder, options, message):
    with pytest.raises(UserError, match=message):
        trackers.sync(make_run(), recorder(**options), timeout=0.5 if "hang" in options else 10)


def test_by_hand_the_tracker_comes_from_the_configuration(make_run, recorder, tmp_path, monkeypatch):
    path = make_run("by_hand", steps=[1], ended=True)
    conf = tmp_path / "conf"
    shutil.copytree(conf_dir(), conf)
    choice = {**recorder(), "info": {"about": "a test's", "source": "", "schema": {}}}
    (conf / "tracker" / "recorder.yaml").write_text(json.dumps(choice))
    monkeypatch.setenv("OPTBENCH_CONF", str(conf))
    with (path / "config.yaml").open("a") as file:
        file.write(f"tracker: {json.dumps(recorder())}\n")
    command = [sys.executable, "-m", "optbench.trackers.mirror", str(path), "--follow"]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert finished.stdout == "optbench: by_hand: 1 rows mirrored to recorded.jsonl\n"
    assert finished.stderr == ""


def test_no_tracker_is_no_mirror(make_run):
    assert trackers.start(make_run("a"), {"name": "none"}) is None
    assert "nothing" in trackers.sync(make_run("b"), {"name": "none"})


def test_containers_of_omegaconf_are_accepted(make_run, recorder):
    from omegaconf import OmegaConf

    path = make_run(ended=True)
    tracker = OmegaConf.create({**recorder(), "info": {"schema": {"a": [1, 2]}}})
    assert trackers.start(path, tracker).finish(10) is None


def test_a_wandb_run_around_the_bench_is_not_joined(make_run, recorder, monkeypatch):
    monkeypatch.setenv("WANDB_SERVICE", "3-1234-unix-/nowhere")
    monkeypatch.setenv("WANDB_RUN_ID", "of-somebody-else")
    path = make_run()
    mirror = trackers.start(path, recorder())
    assert wait_until(lambda: (path / "recorded.jsonl").exists())
    entries = Path(f"/proc/{mirror.pid}/environ").read_text().split("\0")
    environment = dict(entry.split("=", 1) for entry in entries if entry)
    assert not {"WANDB_SERVICE", "WANDB_RUN_ID"} & set(environment)
    assert environment["OMP_NUM_THREADS"] == "1"
    assert os.getpgid(mirror.pid) == mirror.pid
    assert mirror.finish(10) is None


def test_torch_is_not_imported():
    modules = "optbench.trackers, optbench.trackers.mirror, optbench.trackers.wandb_mirror"
    code = f"import sys, {modules}; assert not {{'torch', 'wandb', 'pandas'}} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
