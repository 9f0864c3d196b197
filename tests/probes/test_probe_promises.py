"""The promises of every probe in conf/probe: whoever adds a file gets these tests for nothing.

1. It changes nothing: the run with it ends bit for bit where the run without it ends.
2. It measures at the same steps, and finds the same, in a run that is stopped and resumed.
3. What it finds is in the history, the summary, the index and a file; afterwards it is found again from the checkpoint.

The network has batch norm and dropout, and steps are taken in micro-batches, so that there is much that could be changed.
"""

import random
import signal

import numpy as np
import pytest
import torch

from optbench import config
from optbench.probes import SCHEDULE_OPTIONS, posthoc
from optbench.store import load
from optbench.store.measured import without_measured
from optbench.training import run
from optbench.training.task import Task

PROBES = sorted(set(config.choices("probe")) - {"none"})
COMMON = [
    "model=wrn", "model.depth=10", "model.width=1", "model.dropout=0.3", "dataset=digits", "dataset.train_limit=64",
    "dataset.validation=16", "batch=16", "ghost_batch_size=8", "micro_batch=8", "optimizer=adam", "budget.steps=5",
    "eval_every=100steps", "evaluate_train=16", "tracker=none", "progress=false", "log_every=1",
]  # fmt: skip
# The same measurements, cheaper.
SMALLER = {
    "batch_hessian": {"batch_sizes": "[2,4]", "draws": 1, "steps": 2, "probes": 1},
    "eigenvalues": {"largest": 1, "smallest": 1, "steps": 3},
    "interpolation": {"points": 3},
    "landscape": {"points": 3},
    "noise_scale": {"window": 3},
    "profile": {"closest": 0.001, "per_decade": 2, "random": 1, "normalized": 1, "steps": 2},
    "phase_space": {"window": 3, "directions": 2, "steps": 3},
    "sharpness": {"iterations": 2},
    "shift": {"iterations": 2},
    "spectrum": {"steps": 3, "vectors": 2},
    "stability": {"steps": 2},
    "trace": {"most": 2},
}
# Of what was measured, that which depends on earlier measurements of the live run.
REMEMBERED = {
    "displacement": {"moved", "path"},
    "gradient_statistics": {"cosine"},
    "noise_scale": None,
    "profile": {"step", "secant", "cosine", "oscillation_exponent"},
    "phase_space": None,
}


def composed(folder, probe=None, **options):
    words = [*COMMON, f"results_dir={folder}"]
    if probe is not None:
        options = {"every": 2, "start": True, "end": True, "log_spaced": "null"} | SMALLER.get(probe, {}) | options
        if "examples" in config.read_choice("probe", probe):
            options["examples"] = 16
        words += [f"probe=[{probe}]", *(f"probe.{probe}.{name}={value}" for name, value in options.items())]
    return config.compose(words)


def executed(chosen):
    for seed in (torch.manual_seed, np.random.seed, random.seed):
        seed(0)
    outcome = run.execute(chosen)
    generators = (torch.get_rng_state(), *np.random.get_state()[1:3], random.getstate())
    return outcome, generators


def assert_identical(found, expected, where=""):
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for name, value in expected.items():
            assert_identical(found[name], value, f"{where}.{name}")
    elif isinstance(expected, list | tuple):
        assert len(found) == len(expected), where
        for number, value in enumerate(expected):
            assert_identical(found[number], value, f"{where}.{number}")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), where
    elif isinstance(expected, np.ndarray):
        assert np.array_equal(found, expected, equal_nan=expected.dtype.kind == "f"), where
    else:
        assert found == expected, where


def final_state(directory):
    state = torch.load(directory.checkpoint, weights_only=True)["task"]
    state.pop("seconds")
    return state


# Each probe is measured once for all tests.
pytestmark = pytest.mark.xdist_group("probe_promises")


@pytest.fixture(scope="module")
def without(tmp_path_factory):
    """The run without probes: its final state and generators."""
    outcome, generators = executed(composed(tmp_path_factory.mktemp("without")))
    assert outcome.state == "done", outcome.why
    return final_state(outcome.directory), generators, outcome.directory


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """Runs with one probe each, taken once."""
    kept = {}

    def take(probe):
        if probe not in kept:
            kept[probe] = executed(composed(tmp_path_factory.mktemp(probe), probe))
        return kept[probe]

    return take


def of_training(directory):
    rows = [row for row in directory.rows() if row["event"] != "probe"]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in rows]


@pytest.mark.parametrize("probe", PROBES)
class TestEveryProbe:
    def test_changes_nothing_in_the_run(self, probe, measured, without):
        outcome, generators = measured(probe)
        state, expected_generators, directory = without
        assert outcome.state == "done", outcome.why
        assert outcome.directory.run_id == directory.run_id
        assert_identical(final_state(outcome.directory), state)
        assert_identical(generators, expected_generators)
        assert of_training(outcome.directory) == of_training(directory)

    def test_leaves_what_it_found_in_history_summary_index_and_files(self, probe, measured):
        outcome, _ = measured(probe)
        directory, summary = outcome.directory, outcome.summary
        rows = [row for row in directory.rows() if row["event"] == "probe"]
        assert [row["step"] for row in rows] == [0, 2, 4, 5]
        assert all("problem" not in row for row in rows), rows
        found = {name: value for name, value in rows[-1].items() if name.startswith(f"{probe}_")}
        assert found
        assert any(value is not None for value in found.values())
        for name, value in found.items():
            # JSON knows no NaN.
            assert value is None or summary[name] == value
        assert summary["probe_seconds"] == pytest.approx(sum(row["probe_seconds"] for row in rows))
        assert summary["probe_seconds"] > 0
        index = directory.measurements.rows()
        assert [(row["probe"], row["step"]) for row in index] == [(probe, step) for step in (0, 2, 4, 5)]
        for row, line in zip(rows, index, strict=True):
            assert {f"{probe}_{name}": value for name, value in line["values"].items()}.items() <= row.items()
            assert line["options"]["every"] == 2
            assert (line["file"] is None) == ("probe_file" not in row)
            if line["file"] is not None:
                assert row["probe_file"] == f"probes/{line['file']}"
                arrays = directory.measurements.arrays(line["file"])
                assert arrays
                assert all(array.dtype.kind in "iufU" for array in arrays.values())
        frame = load(directory.path.parents[1])
        assert frame["probe_seconds"][0] == summary["probe_seconds"]

    def test_has_options_for_its_schedule_and_no_part_in_the_run_id(self, probe, tmp_path):
        schema = config.read_choice("probe", probe)["info"]["schema"]
        assert SCHEDULE_OPTIONS.items() <= schema.items()
        assert config.run_id(composed(tmp_path, probe)) == config.run_id(composed(tmp_path))

    def test_finds_the_same_afterwards_from_the_checkpoint(self, probe, measured):
        directory = measured(probe)[0].directory
        history = (directory.path / "history.jsonl").read_bytes()
        live = directory.measurements.rows()[-1]["values"]
        revived = posthoc.revive(directory, directory.config(), directory.checkpoint)
        (row,) = revived.measure()
        assert "problem" not in row
        left_out = REMEMBERED.get(probe, set())
        for name, value in live.items():
            if left_out is not None and name not in left_out and value is not None:
                assert row[f"{probe}_{name}"] == pytest.approx(value, rel=1e-6), name
        assert (directory.path / "history.jsonl").read_bytes() == history
        assert [line["step"] for line in directory.measurements.rows()] == [0, 2, 4, 5]

    def test_measures_the_same_in_a_run_that_is_stopped_and_resumed(self, probe, measured, tmp_path, monkeypatch):
        whole, _ = measured(probe)
        take_step = Task.take_step

        def stopped_at_4(task):
            take_step(task)
            if task.step == 4:
                task.stop.signal = signal.SIGTERM

        monkeypatch.setattr(Task, "take_step", stopped_at_4)
        chosen = composed(tmp_path, probe)
        assert run.execute(chosen).state == "preempted"
        monkeypatch.undo()
        outcome = run.execute(chosen)
        assert outcome.state == "done", outcome.why
        assert_identical(final_state(outcome.directory), final_state(whole.directory))

        def found(directory):
            return [(row["step"], row["values"], row["file"]) for row in directory.measurements.rows()]

        # Measured afterwards, the last one of the whole run may have been replaced: it is in the history.
        assert found(outcome.directory)[:3] == found(whole.directory)[:3]
        assert of_probes(outcome.directory) == of_probes(whole.directory)
        for step, _, file in found(outcome.directory)[:3]:
            if file is not None:
                arrays = [each.measurements.arrays(file) for each in (outcome.directory, whole.directory)]
                assert_identical(*map(dict, arrays), where=f"step {step}")


def of_probes(directory):
    rows = [row for row in directory.rows() if row["event"] == "probe"]
    return [without_measured(row) for row in rows]
