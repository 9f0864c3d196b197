"""Runs that are stopped, damaged and started again: they end like an undisturbed one, and say what they did not trust."""

import io
import json
import os
import signal
import subprocess

import numpy as np
import pytest
import torch

from optbench import config
from optbench.cli.train import train_one
from optbench.errors import UserError
from optbench.probes import posthoc
from optbench.store import RunDirectory, StoreError
from optbench.store.measured import without_measured
from optbench.store.processes import this_machine
from optbench.training import run

TINY = ["dataset=digits", "model=mlp", "evaluate_train=64", "tracker=none", "progress=false"]
WORDS = [*TINY, "budget.steps=8", "checkpoint_every=2", "log_every=1", "eval_every=4", "optimizer=adam"]
PROBE = ["probe=displacement", "probe.displacement.every=2"]
STOPPED_AT = 5


def execute(folder, *words, stop_at=None, console=None):
    """Train; with ``stop_at``, until it is asked to stop after that step."""
    take_step = run.Task.take_step

    def step(task):
        take_step(task)
        if task.step == stop_at:
            task.stop.receive(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.Task, "take_step", step)
        outcome = run.execute(config.compose([*WORDS, f"results_dir={folder}", *words]), console)
    assert outcome.state == ("done" if stop_at is None else "preempted"), outcome.why
    return outcome.directory


def results(directory: RunDirectory):
    measured = [without_measured(row) for row in directory.measurements.rows()]
    return without_measured(directory.summary()), [without_measured(row) for row in directory.rows()], measured


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return results(execute(tmp_path_factory.mktemp("whole")))


@pytest.fixture(scope="module")
def whole_with_probe(tmp_path_factory):
    return results(execute(tmp_path_factory.mktemp("whole"), *PROBE))


@pytest.fixture
def stopped(tmp_path):
    return execute(tmp_path, stop_at=STOPPED_AT)


def checkpoint(directory, name="last"):
    return directory.path / "checkpoints" / f"{name}.ckpt"


def flip(path, where=0.5):
    """Change one bit of ``path``, at the part ``where`` of its length."""
    content = bytearray(path.read_bytes())
    content[int(where * (len(content) - 1))] ^= 1
    path.write_bytes(content)


def cut(path, by):
    os.truncate(path, path.stat().st_size - by)


def refused_line(said, name="last"):
    [line] = [line for line in said.splitlines() if f"{name}.ckpt " in line]
    return line


# ---- the checkpoint --------------------------------------------------------------------------------------------------------


DAMAGES = {
    "a bit of a tensor": lambda path: flip(path, 0.5),
    "the first bit": lambda path: flip(path, 0.0),
    "a bit of the seal": lambda path: flip(path, (path.stat().st_size - 150) / path.stat().st_size),
    "the last bit": lambda path: flip(path, 1.0),
    "cut by a byte": lambda path: cut(path, 1),
    "cut by a part": lambda path: cut(path, 2000),
    "without its seal": lambda path: os.truncate(path, path.read_bytes().rfind(b"optbench checkpoint")),
    "emptied": lambda path: path.write_bytes(b""),
    "of zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_refused_and_the_one_before_it_taken(stopped, whole, damage, capsys):
    DAMAGES[damage](checkpoint(stopped))
    damaged = checkpoint(stopped).read_bytes()
    execute(stopped.path.parents[1])
    said = refused_line(capsys.readouterr().out)
    assert str(checkpoint(stopped)) in said
    assert "is empty" in said if damage == "emptied" else "is damaged" in said
    assert "goes on from previous.ckpt, step 4" in said
    assert results(stopped) == whole
    assert checkpoint(stopped).with_name("last.ckpt.refused").read_bytes() == damaged


@pytest.mark.parametrize("words", [["seed=1"], ["optimizer=sgd"]])
def test_a_checkpoint_of_another_run_is_refused(stopped, whole, tmp_path, words, capsys):
    other = execute(tmp_path / "other", *words, stop_at=STOPPED_AT)
    checkpoint(stopped).write_bytes(checkpoint(other).read_bytes())
    execute(tmp_path)
    said = refused_line(capsys.readouterr().out)
    assert f"is the checkpoint of the run {other.run_id}, not of {stopped.run_id}" in said
    assert results(stopped) == whole


def test_where_no_checkpoint_can_be_used_the_run_starts_over(stopped, whole, capsys):
    flip(checkpoint(stopped))
    flip(checkpoint(stopped, "previous"))
    execute(stopped.path.parents[1])
    said = capsys.readouterr().out
    for name in ("last", "previous"):
        assert "the run starts from its first step" in refused_line(said, name)
    assert results(stopped) == whole


def test_a_crash_between_the_two_renames_costs_nothing(stopped, whole, capsys):
    checkpoint(stopped).unlink()
    execute(stopped.path.parents[1])
    assert "ckpt" not in capsys.readouterr().out
    assert results(stopped) == whole


def test_two_are_kept_while_it_trains_and_one_when_it_is_done(stopped):
    def steps():
        return {
            path.name: torch.load(path, weights_only=True)["task"]["step"]
            for path in checkpoint(stopped).parent.iterdir()
        }

    assert steps() == {"last.ckpt": STOPPED_AT, "previous.ckpt": 4}
    execute(stopped.path.parents[1])
    assert steps() == {"last.ckpt": 8}


def as_earlier_versions_wrote(path):
    """Rewrite ``path`` without a seal."""
    content = io.BytesIO()
    torch.save(torch.load(path, weights_only=True), content)
    path.write_bytes(content.getvalue())


def test_a_checkpoint_of_an_earlier_version_is_taken_and_said_to_be_unverified(stopped, whole, capsys):
    as_earlier_versions_wrote(checkpoint(stopped))
    execute(stopped.path.parents[1])
    assert "last.ckpt is of an earlier version" in capsys.readouterr().out
    assert results(stopped) == whole


def test_a_damaged_checkpoint_of_an_earlier_version_is_found_by_its_own_checksums(stopped, whole, capsys):
    as_earlier_versions_wrote(checkpoint(stopped))
    flip(checkpoint(stopped))
    execute(stopped.path.parents[1])
    assert "is damaged" in refused_line(capsys.readouterr().out)
    assert results(stopped) == whole


def test_an_archive_that_holds_no_run_is_refused(stopped, whole, capsys):
    torch.save({"weights": torch.zeros(3)}, checkpoint(stopped))
    execute(stopped.path.parents[1])
    assert "holds no state of a run" in refused_line(capsys.readouterr().out)
    assert results(stopped) == whole


class _Evil:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_code_in_a_checkpoint_is_not_run(stopped, whole, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"task": _Evil(), "recorder": {}}, checkpoint(stopped))
    execute(tmp_path)
    assert not (tmp_path / "executed").exists()
    assert results(stopped) == whole


def test_a_checkpoint_that_cannot_be_read_at_the_moment_stops_the_run(stopped, whole, monkeypatch):
    from optbench.store import checkpoints

    read_bytes = checkpoints.read_bytes

    def fail(path):
        if path.name == "last.ckpt":
            raise OSError(5, "Input/output error")
        return read_bytes(path)

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints, "read_bytes", fail)
        outcome = run.execute(config.compose([*WORDS, f"results_dir={stopped.path.parents[1]}"]))
    assert (outcome.state, outcome.why) == ("failed", f"cannot read {checkpoint(stopped)}: Input/output error")
    execute(stopped.path.parents[1])
    assert results(stopped) == whole


@pytest.mark.parametrize("damage", ["flip", "foreign"])
def test_a_probe_refuses_it_and_names_the_way_out(stopped, tmp_path, damage):
    if damage == "flip":
        flip(checkpoint(stopped))
    else:
        checkpoint(stopped).write_bytes(
            checkpoint(execute(tmp_path / "other", "seed=1", stop_at=STOPPED_AT)).read_bytes()
        )
    with pytest.raises(StoreError, match=r"last\.ckpt is .*previous\.ckpt.*force=true"):
        posthoc.measure(stopped, "probe=sharpness")
    revived = posthoc.revive(stopped, stopped.config(), checkpoint(stopped, "previous"))
    assert revived.task.step == 4


def test_an_interpolation_to_a_damaged_run_is_refused(stopped, tmp_path):
    other = execute(tmp_path, "seed=1", stop_at=STOPPED_AT)
    flip(checkpoint(other))
    with pytest.raises(UserError, match=rf"probe\.interpolation\.other={other.run_id}: .*last\.ckpt is damaged"):
        posthoc.measure(stopped, "probe=interpolation", f"probe.interpolation.other={other.run_id}")


# ---- the history -------------------------------------------------------------------------------------------------------------


def change_a_digit(path, line):
    lines = path.read_bytes().split(b"\n")
    lines[line] = lines[line].replace(b'"loss": 2.', b'"loss": 3.')
    assert path.read_bytes() != b"\n".join(lines)
    path.write_bytes(b"\n".join(lines))


HISTORIES = {
    "deleted": (lambda path: path.unlink(), "starts from its first step"),
    "emptied": (lambda path: path.write_bytes(b""), "starts from its first step"),
    "cut before both": (lambda path: os.truncate(path, path.stat().st_size // 2), "starts from its first step"),
    "cut between them": (lambda path: cut(path, 20), "goes on from previous.ckpt, step 4"),
    "garbled between them": (lambda path: flip(path, 0.999), "goes on from previous.ckpt, step 4"),
    "another value": (lambda path: change_a_digit(path, 0), "starts from its first step"),
    "a line less": (lambda path: path.write_bytes(path.read_bytes().split(b"\n", 1)[1]), "starts from its first step"),
}


@pytest.mark.parametrize("damage", HISTORIES)
def test_a_run_goes_on_where_history_and_checkpoint_agree(stopped, whole, damage, capsys):
    change, then = HISTORIES[damage]
    change(stopped.path / "history.jsonl")
    execute(stopped.path.parents[1])
    line = refused_line(capsys.readouterr().out)
    assert "history.jsonl" in line
    assert then in line
    assert results(stopped) == whole


def test_rows_after_the_checkpoint_are_written_once_also_at_its_own_step(stopped, whole):
    row = stopped.rows()[-1]
    stopped.append(row | {"event": "probe"})
    stopped.append(row | {"step": 6})
    execute(stopped.path.parents[1])
    assert results(stopped) == whole


def test_a_history_that_shrinks_while_the_run_trains_stops_it(tmp_path, whole):
    take_step = run.Task.take_step

    def step(task):
        take_step(task)
        if task.step == 5:
            next(tmp_path.glob("runs/*/history.jsonl")).write_bytes(b"")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run.Task, "take_step", step)
        outcome = run.execute(config.compose([*WORDS, f"results_dir={tmp_path}"]))
    assert outcome.state == "failed"
    assert "history.jsonl was cut or removed while the run was training" in outcome.why
    assert results(execute(tmp_path)) == whole


# ---- measurements ------------------------------------------------------------------------------------------------------------


def test_measurements_before_the_first_checkpoint_are_taken_once(tmp_path, whole_with_probe, monkeypatch):
    # As when it is killed there: nothing but what has been written is left.
    with monkeypatch.context() as patch:
        patch.setattr(run.Task, "take_step", lambda task: (_ for _ in ()).throw(RuntimeError("killed")))
        outcome = run.execute(config.compose([*WORDS, *PROBE, f"results_dir={tmp_path}"]))
    assert [row["event"] for row in outcome.directory.rows()] == ["probe"]
    assert results(execute(tmp_path, *PROBE)) == whole_with_probe


@pytest.mark.parametrize("damage", ["index", "folder"])
def test_lost_measurements_are_taken_again(tmp_path, whole_with_probe, damage, capsys):
    import shutil

    stopped = execute(tmp_path, *PROBE, stop_at=STOPPED_AT)
    if damage == "index":
        (stopped.path / "probes" / "index.jsonl").unlink()
    else:
        shutil.rmtree(stopped.path / "probes")
    execute(tmp_path, *PROBE)
    assert "stands on a measurement that is not there" in capsys.readouterr().out
    assert results(stopped) == whole_with_probe


ARRAYS = ["probe=spectrum", "probe.spectrum.every=4", "probe.spectrum.steps=3", "probe.spectrum.vectors=1"]


def pictures(directory):
    return sorted(path.name for path in (directory.path / "probes").glob("*.png"))


def test_lost_arrays_and_figures_not_yet_drawn_are_made_good(tmp_path, monkeypatch):
    stopped = execute(tmp_path, *ARRAYS, stop_at=STOPPED_AT)
    arrays = sorted((stopped.path / "probes").glob("*.npz"))
    before = {path.name: dict(np.load(path)) for path in arrays}
    assert before
    flip(arrays[-1])

    class Killed(BaseException):
        pass

    def killed(directory):
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(run, "draw", killed)
        with pytest.raises(Killed):
            execute(tmp_path, *ARRAYS)
    assert pictures(stopped) == []
    # As a killed process would have left it.
    stopped.set_status("running")
    execute(tmp_path, *ARRAYS)
    assert pictures(stopped) == [f"{path.stem}.png" for path in sorted((stopped.path / "probes").glob("*.npz"))]
    for name, content in before.items():
        again = dict(np.load(stopped.path / "probes" / name))
        assert {key: value.tobytes() for key, value in again.items()} == {
            key: value.tobytes() for key, value in content.items()
        }


# ---- what a killed process left ------------------------------------------------------------------------------------------------


def leave_litter(directory):
    """Leave the files of a process that is killed in the middle of everything; returns them."""
    dead = subprocess.Popen(["true"])
    dead.wait()
    process = {"host": os.uname().nodename, "machine": this_machine(), "pid": dead.pid, "started": "1"}
    litter = {
        directory.path / f".lock.{token}.{kind}": token for token, kind in [("a", "new"), ("b", "claim0"), ("c", "old")]
    }
    litter |= {directory.path / "lock": "d", directory.path / ".status.json.1-ab.tmp": "e"}
    litter |= {checkpoint(directory).with_name(".last.ckpt.1-ab.tmp"): "f"}
    for path, token in litter.items():
        path.write_text(json.dumps(process | {"token": token}))
    return set(litter)


def test_a_run_removes_what_a_killed_one_left_when_it_goes_on_and_when_it_is_done(stopped, whole, capsys):
    litter = leave_litter(stopped)
    execute(stopped.path.parents[1])
    assert not {path for path in litter if path.exists()}
    assert results(stopped) == whole
    litter = leave_litter(stopped)
    assert train_one(stopped.config()) == 0
    assert "done already" in capsys.readouterr().out
    assert not {path for path in litter if path.exists()}
