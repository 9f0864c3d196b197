"""Offline runs are read back from wandb's own files; what needs a server is held against a stand-in."""

import json
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from mirrored_runs import ENVIRONMENT, is_alive, row, wait_until, write_rows, write_summary

from optbench import trackers
from optbench.store import RunDirectory
from optbench.trackers.wandb_mirror import WandbMirror, wandb_id

TRACKER = {"_target_": "optbench.trackers.wandb_mirror.WandbMirror", "name": "wandb", "mode": "offline"}


def without_nulls(step: int) -> dict:
    return {name: value for name, value in row(step).items() if value is not None}


def test_a_finished_run_is_mirrored_whole(make_run, read_wandb, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "secret" * 7)
    path = make_run("lenet5-sgd,b=128", steps=range(600), ended=True)  # more rows than one block of the file holds
    trackers.sync(path, {**TRACKER, "project": "p", "group": "study", "tags": ["a", "b"], "info": {"about": "x"}})
    found = read_wandb(path)
    assert (found["run"].project, found["run"].run_group, list(found["run"].tags)) == ("p", "study", ["a", "b"])
    assert found["run"].display_name == "lenet5-sgd,b=128"
    assert found["run"].run_id == wandb_id("lenet5-sgd,b=128")
    assert {name: value for name, value in found["config"].items() if name != "_wandb"} == {
        "batch": 128,
        "optimizer": {"name": "sgd", "learning_rate": 0.1, "betas": [0.9, 0.99]},
        "clip_norm": None,
        "environment": ENVIRONMENT,
    }
    assert found["steps"] == list(range(600))
    assert found["rows"] == [without_nulls(step) for step in range(600)]
    assert found["exit"] == 0
    expected = {"status": "done", "test_loss": 0.25, "steps": 60, "loss": row(599)["loss"]}
    assert {name: found["summary"].get(name) for name in expected} == expected
    assert not {"curve", "event"} & set(found["summary"])
    axes = {name for name, metric in found["metrics"].items() if not metric.step_metric and metric.options.hidden}
    assert axes == {"step", "epoch", "samples", "seconds", "event"}
    drawn = {name for name, metric in found["metrics"].items() if metric.step_metric == "step"}
    assert drawn == {"loss", "learning_rate", "test_loss", "gap_accuracy"}
    assert not [file for file in path.rglob("*") if file.is_file() and b"secretsecret" in file.read_bytes()]


def test_a_resumed_run_is_one_segment_with_the_whole_history(make_run, read_wandb):
    path = make_run("resumed", steps=range(8))
    assert trackers.start(path, TRACKER).finish(20) is None  # interrupted: no summary
    assert (read_wandb(path)["exit"], len(read_wandb(path)["rows"])) == (1, 8)
    write_rows(path, range(5), mode="w")
    mirror = trackers.start(path, TRACKER)
    write_rows(path, range(5, 12))
    write_summary(path)
    assert mirror.finish(20) is None
    found = read_wandb(path)  # insists on one segment
    assert found["run"].run_id == "resumed"
    assert found["rows"] == [without_nulls(step) for step in range(12)]
    assert (found["exit"], found["summary"]["status"]) == (0, "done")


def test_a_killed_mirror_leaves_no_wandb_process(make_run):
    path = make_run(steps=[1])
    mirror = trackers.start(path, TRACKER)
    assert wait_until(lambda: list((path / "wandb").glob("*run-*/run-*.wandb")))
    (service,) = Path(f"/proc/{mirror.pid}/task/{mirror.pid}/children").read_text().split()
    assert "was stopped" in mirror.finish(0)
    assert wait_until(lambda: not is_alive(int(service)), 3)


@pytest.mark.parametrize(
    ("init", "message"),
    [
        ("time.sleep(1000)", "not done 0.8 s after the run"),
        ("raise RuntimeError('no quota')", "RuntimeError: no quota"),
    ],
)
def test_a_wandb_that_hangs_or_fails_does_not_hold_up_the_run(make_run, tmp_path, monkeypatch, init, message):
    (tmp_path / "fake").mkdir()
    fake = f"import time\nclass Settings(dict): pass\nclass Error(Exception): pass\ndef init(**_):\n    {init}\n"
    (tmp_path / "fake" / "wandb.py").write_text(fake)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "fake"))
    path = make_run("r1", ended=True)
    mirror = trackers.start(path, TRACKER)
    began = time.monotonic()
    sentence = mirror.finish(timeout=0.8 if "sleep" in init else 10)
    assert time.monotonic() - began < 4
    assert message in sentence
    assert "sync r1" in sentence
    assert not is_alive(mirror.pid)


class StandIn:
    """A wandb whose server knows the first ``starting_step`` rows, or does not answer."""

    class Error(Exception):
        pass

    class Settings(SimpleNamespace):
        init_timeout: float
        console: str

    def __init__(self, starting_step: int = 0, answers: bool = True) -> None:
        self.calls, self.rows, self.answers, self.exit_code = [], {}, answers, None
        self.starting_step, self.url, self.summary = starting_step, "https://wandb.test/r", {}
        self.settings = SimpleNamespace(sync_dir="/somewhere")

    def init(self, **arguments):
        self.calls.append(arguments)
        if arguments["mode"] == "online" and not self.answers:
            raise self.Error("no route")
        return self

    def teardown(self):
        self.calls.append("teardown")

    def define_metric(self, *_, **__):
        pass

    def log(self, values, step, commit):
        self.rows[step] = values

    def finish(self, exit_code):
        self.exit_code = exit_code


@pytest.fixture
def stand_in(monkeypatch):
    def put(**options) -> StandIn:
        fake = StandIn(**options)
        monkeypatch.setitem(sys.modules, "wandb", fake)
        return fake

    return put


@pytest.mark.parametrize("mode", ["online", "offline"])
def test_only_earlier_segments_of_the_same_run_are_removed(make_run, stand_in, mode):
    stand_in()
    path = make_run("mine")
    names = {"offline-run-20260101_000000-mine": "run-mine", "run-20260102_000000-mine": "run-mine"}
    names |= {"offline-run-20260101_000000-mine-too": "run-mine-too"}
    for folder, file in names.items():
        (path / "wandb" / folder).mkdir(parents=True)
        (path / "wandb" / folder / f"{file}.wandb").write_bytes(b"")
    WandbMirror(RunDirectory(path), mode=mode)
    assert [folder.name for folder in (path / "wandb").iterdir()] == ["offline-run-20260101_000000-mine-too"]


def test_online_the_rows_that_the_server_has_are_skipped(make_run, stand_in):
    fake = stand_in(starting_step=3)
    mirror = WandbMirror(RunDirectory(make_run("r2")), mode="online")
    for index in range(5):
        mirror.log(index, row(index))
    assert mirror.finish({"status": "done"}, "done") == "wandb, online: https://wandb.test/r"
    assert list(fake.rows) == [3, 4]
    assert (fake.calls[0]["id"], fake.calls[0]["resume"]) == ("r2", "allow")
    # Settings that this version of wandb does not know are not passed.
    assert vars(fake.calls[0]["settings"]) == {"console": "off"}


def test_auto_falls_back_to_offline_and_says_why(make_run, stand_in, monkeypatch, capsys):
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    monkeypatch.setattr("optbench.trackers.wandb_mirror.server_answers", lambda: True)
    fake = stand_in(starting_step=3, answers=False)
    mirror = WandbMirror(RunDirectory(make_run()), mode="auto")
    mirror.log(0, row(1))
    assert mirror.finish({}, "done") == "wandb, offline: /somewhere"
    assert [call if isinstance(call, str) else call["mode"] for call in fake.calls] == ["online", "teardown", "offline"]
    assert list(fake.rows) == [0]
    assert "no route" in capsys.readouterr().out


def test_online_does_not_fall_back(make_run, stand_in):
    fake = stand_in(answers=False)
    with pytest.raises(fake.Error):
        WandbMirror(RunDirectory(make_run()), mode="online")


@pytest.mark.parametrize(
    ("state", "code"),
    [("done", 0), ("diverged", 0), ("paused", 0), ("failed", 1), ("preempted", 1), ("crashed", 1)],
)
def test_only_a_run_with_an_outcome_is_finished_in_wandb(make_run, stand_in, state, code):
    fake = stand_in()
    WandbMirror(RunDirectory(make_run()), mode="offline").finish({}, state)
    assert (fake.exit_code, fake.summary["status"]) == (code, state)


@pytest.mark.parametrize("run_id", ["lenet5-adam-b128_s0.1-0a1b2c3d", "a" * 128])
def test_a_run_id_that_wandb_accepts_is_kept(run_id):
    assert wandb_id(run_id) == run_id


def test_other_run_ids_become_different_ids_that_wandb_accepts():
    ids = [wandb_id(run_id) for run_id in ["a:b", "a;b", "a/b", "a b", "ä", "ö", "a" * 129, "a" * 130]]
    assert len(set(ids)) == len(ids)
    assert all(len(one) <= 128 and one.isascii() and not set(one) & set(":;,#?/'\\% ") for one in ids)


@pytest.mark.slow
def test_wandb_itself_reads_the_same_rows(make_run):
    path = make_run(steps=range(4), ended=True)
    trackers.sync(path, TRACKER)
    (file,) = (path / "wandb").glob("offline-run-*/*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(file)]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=30)
    if shown.returncode != 0:
        pytest.skip("this version of wandb has no `wandb leet inspect`")
    records = [json.loads(line) for line in shown.stdout.splitlines()]
    rows = [record["history"]["item"] for record in records if record["type"] == "history"]
    assert [(item["step"], item.get("loss")) for item in rows] == [(step, row(step).get("loss")) for step in range(4)]
    assert records[-1]["exit"]["exit_code"] == 0


@pytest.mark.slow
def test_offline_rows_reach_the_file_while_the_run_goes_on(make_run, read_wandb):
    path = make_run(steps=range(3))
    mirror = trackers.start(path, TRACKER)
    assert wait_until(lambda: list((path / "wandb").glob("*run-*/*.wandb")))
    assert wait_until(lambda: len(read_wandb(path)["rows"]) == 3, 15)
    assert mirror.finish(20) is None
