"""The trackers that write files: read back by the csv module and by TensorBoard's own reader."""

import csv
import json
import subprocess
import sys

import pytest
from mirrored_runs import SUMMARY, row, write_rows

from optbench import trackers

CSV = {"_target_": "optbench.trackers.csv_mirror.CSVMirror", "name": "csv"}
TENSORBOARD = {"_target_": "optbench.trackers.tensorboard_mirror.TensorBoardMirror", "name": "tensorboard"}


def read_csv(path) -> list[dict]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_csv_holds_every_row_under_the_union_of_columns(make_run):
    path = make_run(steps=[1, 3])
    with (path / "history.jsonl").open("a") as file:
        file.write('{"step": 4, "eigenvalues": [1.5, 2], "note": "a,\\"b\\"\\nc"}\n')
    assert trackers.start(path, CSV).finish(10) is None
    rows = read_csv(path / "history.csv")
    columns = ["event", "step", "epoch", "samples", "seconds", "loss", "learning_rate", "test_loss", "gap_accuracy"]
    assert list(rows[0]) == [*columns, "eigenvalues", "note"]
    assert [int(one["step"]) for one in rows] == [1, 3, 4]
    assert float(rows[0]["loss"]) == row(1)["loss"]
    assert (rows[0]["test_loss"], rows[1]["loss"], rows[1]["gap_accuracy"]) == ("", "", "")
    assert json.loads(rows[2]["eigenvalues"]) == [1.5, 2]
    assert rows[2]["note"] == 'a,"b"\nc'


def test_csv_holds_the_summary(make_run):
    path = make_run(ended=True)
    trackers.sync(path, CSV)
    values = {line["name"]: line["value"] for line in read_csv(path / "summary.csv")}
    assert values == {"status": "done", "run_id": "r", "test_loss": "0.25", "steps": "60", "curve": "[1, 2]"}
    assert not list(path.glob(".*.tmp"))


@pytest.fixture
def read_events():
    """read_events(run_directory): what TensorBoard shows of it."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")

    def read(path):
        events = accumulator.EventAccumulator(str(path / "tensorboard"))
        events.Reload()
        return events

    return read


def test_tensorboard_shows_every_number_at_its_step(make_run, read_events):
    path = make_run(steps=[1, 2, 3, 4], ended=True)
    trackers.sync(path, TENSORBOARD)
    events = read_events(path)
    scalars = {"step", "epoch", "samples", "seconds", "loss", "learning_rate", "test_loss"}
    assert set(events.Tags()["scalars"]) == scalars
    loss = events.Scalars("loss")
    assert [(event.step, event.value) for event in loss] == [
        (step, pytest.approx(row(step)["loss"])) for step in (1, 2, 4)
    ]
    assert [event.wall_time - loss[0].wall_time for event in loss] == pytest.approx([0.0, 0.5, 1.5], abs=1e-5)
    text = {tag: events.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in events.Tags()["tensors"]}
    assert "learning_rate: 0.1" in text["config"]
    assert json.loads(text["summary"].strip("`json\n")) == SUMMARY


def test_tensorboard_shows_a_resumed_run_once(make_run, read_events):
    path = make_run(steps=[1, 2, 4])
    assert trackers.start(path, TENSORBOARD).finish(10) is None
    write_rows(path, [1, 5], mode="w")
    assert trackers.start(path, TENSORBOARD).finish(10) is None
    assert [event.step for event in read_events(path).Scalars("loss")] == [1, 5]


def test_tensorboard_is_written_without_torch(make_run):
    path = make_run(steps=[1], ended=True)
    code = f"""import sys
from pathlib import Path
from optbench.trackers.mirror import mirror
from optbench.store import RunDirectory
mirror(RunDirectory(Path({str(path)!r})), {TENSORBOARD!r})
assert "torch" not in sys.modules"""
    subprocess.run([sys.executable, "-c", code], check=True)
    assert list((path / "tensorboard").iterdir())
