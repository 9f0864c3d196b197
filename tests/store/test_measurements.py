"""The folder of a run's measurements: arrays, index, and what a resumed run drops."""

import numpy as np
import pytest

from optbench.store import RunDirectory


@pytest.fixture
def run(tmp_path):
    directory = RunDirectory(tmp_path / "run")
    directory.create("seed: 0\n")
    return directory


def write(run, probe, step, **arrays):
    values = {"top": 1.5, "bottom": float("nan")}
    return run.measurements.write(probe, step, values, arrays, 0.25, {"steps": 3})


def test_a_measurement_is_read_back(run):
    array = np.arange(6.0).reshape(2, 3)
    assert write(run, "spectrum", 10, values=array, name=np.array("Hessian")) == "spectrum-10.npz"
    assert write(run, "trace", 10) is None
    first, second = run.measurements.rows()
    assert first == {
        "probe": "spectrum", "step": 10, "file": "spectrum-10.npz", "seconds": 0.25,
        "values": {"top": 1.5, "bottom": None}, "options": {"steps": 3},
    }  # fmt: skip
    assert second["file"] is None
    found = run.measurements.arrays("spectrum-10.npz")
    assert np.array_equal(found["values"], array)
    assert str(found["name"]) == "Hessian"
    assert run.measurements.files() == [run.path / "probes" / "spectrum-10.npz"]


def test_objects_are_not_loaded(run):
    write(run, "spectrum", 10)
    path = run.measurements.path / "evil-1.npz"
    np.savez(path, thing=np.array([{"a": 1}], dtype=object))
    with pytest.raises(ValueError, match="allow_pickle"):
        run.measurements.arrays(path.name)


def test_a_new_measurement_at_the_same_step_takes_the_place_of_the_old_one_and_its_picture(run):
    write(run, "spectrum", 10, values=np.zeros(2))
    write(run, "spectrum", 100, values=np.zeros(2))
    picture = run.measurements.path / "spectrum-10.png"
    picture.write_bytes(b"old")
    write(run, "spectrum", 10, values=np.ones(3))
    assert [row["step"] for row in run.measurements.rows()] == [100, 10]
    assert np.array_equal(run.measurements.arrays("spectrum-10.npz")["values"], np.ones(3))
    assert not picture.exists()


def test_a_resumed_run_drops_what_comes_after_its_step(run):
    for step in (0, 5, 10):
        write(run, "spectrum", step, values=np.zeros(2))
    (run.measurements.path / "spectrum-10.png").write_bytes(b"")
    (run.measurements.path / "stability.png").write_bytes(b"")
    run.truncate_history(5)
    assert [row["step"] for row in run.measurements.rows()] == [0, 5]
    names = {path.name for path in run.measurements.path.iterdir()}
    assert names == {"spectrum-0.npz", "spectrum-5.npz", "index.jsonl", "stability.png"}


def test_a_run_that_starts_over_forgets_its_measurements(run):
    write(run, "spectrum", 10, values=np.zeros(2))
    run.clear()
    assert not run.measurements.path.exists()
    assert run.measurements.rows() == []
    run.truncate_history(0)


def test_what_was_left_half_written_is_removed(run):
    write(run, "spectrum", 10, values=np.zeros(2))
    half = run.measurements.path / ".spectrum-20.npz.1-ab.tmp"
    half.write_bytes(b"half")
    run.remove_leftovers()
    assert not half.exists()
    assert (run.measurements.path / "spectrum-10.npz").exists()
