"""`python -m optbench probe`: a run is measured afterwards, and a mistake is one message."""

import subprocess
import sys

import pytest
import torch

from optbench import config
from optbench.__main__ import main
from optbench.config import RunConfig
from optbench.errors import nearest
from optbench.store import RunLock
from optbench.training import run

WORDS = [
    "model=mlp", "model.hidden=[8]", "dataset=digits", "dataset.train_limit=64", "batch=16", "budget.steps=4",
    "evaluate_train=16", "tracker=none", "progress=false",
]  # fmt: skip


# The runs that they look at are trained once.
pytestmark = pytest.mark.xdist_group("probe_command")


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("results")
    outcome = run.execute(config.compose([*WORDS, f"results_dir={folder}"]))
    run.execute(config.compose([*WORDS, f"results_dir={folder}", "seed=1"]))
    return folder, outcome.directory


def snapshot(directory):
    return {
        path.name: path.read_bytes()
        for path in directory.path.iterdir()
        if path.is_file() and path.name not in ("lock", "tracker.lock")
    }


def test_it_measures_a_finished_run_and_changes_nothing_else(finished, capsys):
    folder, directory = finished
    before = snapshot(directory)
    words = ["probe", directory.run_id, "--results-dir", str(folder), "probe=[trace,landscape]", "probe.trace.most=3"]
    assert main([*words, "probe.landscape.points=3"]) == 0
    out = capsys.readouterr().out
    assert f"{directory.run_id} at step 4" in out
    assert "standard_error" in out
    assert "mean_curvature" in out
    assert snapshot(directory) == before
    index = directory.measurements.rows()
    assert [(row["probe"], row["step"]) for row in index] == [("trace", 4), ("landscape", 4)]
    assert index[0]["options"]["most"] == 3
    assert directory.measurements.arrays("landscape-4.npz")["loss"].shape == (1, 3)
    assert (directory.path / "probes" / "landscape-4.png").read_bytes().startswith(b"\x89PNG")
    # Once more, with other options: the old measurement is replaced.
    assert main([*words[:4], "probe=trace", "probe.trace.most=2"]) == 0
    index = directory.measurements.rows()
    assert [(row["probe"], row["options"].get("most")) for row in index] == [("landscape", None), ("trace", 2)]


def test_a_directory_names_a_run_too_and_a_setting_of_the_machine_may_differ(finished):
    _, directory = finished
    assert main(["probe", str(directory.path), "probe=trace", "probe.trace.most=2", "micro_batch=7"]) == 0


def test_interpolation_reaches_the_weights_of_another_run(finished):
    folder, directory = finished
    (other,) = [path for path in (folder / "runs").iterdir() if path.name != directory.run_id]
    words = ["probe", str(directory.path), "probe=interpolation", "probe.interpolation.points=3"]
    words += ["probe.interpolation.first=0", "probe.interpolation.last=1", "probe.interpolation.statistics=running"]
    assert main([*words, f"probe.interpolation.other={other.name}", "probe.interpolation.float64=true"]) == 0
    arrays = directory.measurements.arrays("interpolation-4.npz")
    # The final test losses of the two runs.
    import json

    ends = [json.loads((path / "summary.json").read_text())["test_loss"] for path in (other, directory.path)]
    assert arrays["test_loss"][[0, -1]] == pytest.approx(ends, rel=1e-5)


def test_a_failing_probe_is_told_and_fails_the_command(finished, capsys, monkeypatch):
    from optbench.probes.trace import Trace

    def fail(self, context):
        raise RuntimeError("no trace")

    monkeypatch.setattr(Trace, "measure", fail)
    assert main(["probe", str(finished[1].path), "probe=trace"]) == 1
    assert "probe trace failed at step 4: RuntimeError: no trace" in capsys.readouterr().out


def test_a_run_that_is_being_trained_is_left_alone(finished, capsys):
    directory = finished[1]
    with RunLock(directory.lock):
        assert main(["probe", str(directory.path), "probe=trace"]) == 2
    assert "probe" not in (directory.path / "lock.txt").name
    assert capsys.readouterr().err.startswith("optbench: ")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["RUN"], "what is to be measured? accepted: probe=NAME, of batch_hessian, coreset, displacement"),
        (["RUN", "probe=none"], "what is to be measured?"),
        (["RUN", "probe=specrum"], "probe=specrum: no such probe; did you mean spectrum?"),
        (["RUN", "probe=trace", "probe.trace.most=x"], "probe.trace.most=x: must be int >= 2"),
        (["RUN", "probe=trace", "batch=3"], "batch=3: not a setting of the command probe; accepted: probe=NAME"),
        (["RUN", "spectrum"], "spectrum: not a setting of the command probe"),
        (["nobody", "probe=trace"], "no run 'nobody' in"),
        (
            ["RUN", "probe=trace", "--checkpoint", "best"],
            "--checkpoint best: run {run} has no such checkpoint; accepted: last",
        ),
        ([], "the following arguments are required: RUN"),
        (["RUN", "probe=interpolation", "probe.interpolation.other=nobody"], "no run 'nobody' in"),
    ],
    ids=str,
)
def test_a_mistake_is_one_message(words, message, finished, capsys):
    folder, directory = finished
    words = [directory.run_id if word == "RUN" else word for word in words]
    assert main(["probe", *words, "--results-dir", str(folder)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message.format(run=directory.run_id) in err
    assert err.count("\n") == 1


def test_a_run_without_a_checkpoint_is_told(finished, tmp_path, capsys):
    from optbench.store import RunDirectory

    chosen = config.compose([*WORDS, "seed=5"])
    directory = RunDirectory.at(tmp_path, config.run_id(chosen))
    directory.create(chosen)
    assert main(["probe", directory.run_id, "--results-dir", str(tmp_path), "probe=trace"]) == 2
    assert "has no checkpoint to measure (pending); train it first" in capsys.readouterr().err


def test_a_mistake_is_told_without_importing_torch(finished):
    folder, directory = finished
    program = (
        f"import sys\nfrom optbench.__main__ import main\nassert main({['probe', directory.run_id, f'--results-dir={folder}']})"
        " == 2\nassert 'torch' not in sys.modules"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


def test_a_finished_run_is_not_run_again_for_a_probe_and_says_so(finished, capsys):
    folder, directory = finished
    status = main([*WORDS, f"results_dir={folder}", "probe=[trace,spectrum]"])
    assert status == 0
    line = f"python -m optbench probe {directory.run_id} 'probe=[trace,spectrum]'"
    assert line in capsys.readouterr().out


def test_the_command_is_suggested():
    assert "probe" in nearest("prob", ["probe", "status"])


def test_a_checkpoint_is_measured_on_the_weights_that_it_holds(finished, capsys):
    """The start of the run, put back into a checkpoint of another name, is no distance away."""
    from optbench.training import build

    directory = finished[1]
    state = torch.load(directory.checkpoint, weights_only=True)
    chosen = directory.config()
    read = RunConfig.of(chosen)
    model = build.build_model(read, build.load_data(read))
    state["task"]["model"], state["task"]["step"] = model.state_dict(), 0
    torch.save(state, directory.checkpoint.with_name("start.ckpt"))
    assert main(["probe", str(directory.path), "probe=displacement", "--checkpoint", "start"]) == 0
    (row,) = [row for row in directory.measurements.rows() if row["probe"] == "displacement"]
    assert (row["step"], row["values"]["distance"]) == (0, 0.0)
