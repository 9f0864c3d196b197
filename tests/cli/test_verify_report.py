"""`verify FOLDER`: the runs of a published report are trained again from its commands, and compared with its table."""

import math
import shutil

import pandas as pd
import pytest

from optbench.analysis.report.published import PublishedRun, is_published, published
from optbench.errors import UserError

WORDS = [
    "dataset=digits",
    "model=mlp",
    "model.hidden=[8]",
    "batch=256",
    "budget.epochs=1",
    "tracker=none",
]


@pytest.fixture(scope="module")
def original(tmp_path_factory):
    """A report of three runs, of which one diverges, without the folders of its runs."""
    from optbench.__main__ import main

    root = tmp_path_factory.mktemp("published")
    axes = ["optimizer=sgd", "optimizer.learning_rate=0.01,0.1,1e30", "sweep=three", "trainer.accelerator=cpu"]
    main(["-m", *WORDS, *axes, f"results_dir={root / 'all'}", "launcher.workers=1", "progress=false"])
    assert main(["report", "three", "--results-dir", str(root / "all"), "--output", str(root / "three")]) == 0
    shutil.rmtree(root / "all")
    return root / "three"


@pytest.fixture
def folder(original, tmp_path):
    return shutil.copytree(original, tmp_path / "three")


def edit(folder, name, column, change):
    path = folder / name
    table = pd.read_parquet(path)
    table[column] = [change(value) for value in table[column]]
    table.to_parquet(path)


def test_its_runs_have_commands_and_results(folder):
    assert is_published(folder)
    runs = published(folder)
    assert sorted(run.state for run in runs) == ["diverged", "done", "done"]
    trained = [run for run in runs if run.state == "done"]
    assert all({"steps", "train_loss", "validation_loss", "test_accuracy"} <= run.results.keys() for run in trained)
    assert not any("seconds" in name or name in ("batch", "seed") for run in runs for name in run.results)
    assert {run.config()["optimizer"]["learning_rate"] for run in runs} == {0.01, 0.1, 1e30}


@pytest.mark.slow
def test_runs_that_agree_and_a_result_that_was_changed(folder, command):
    # Of a report of another day the runs may have other names.
    for name in ("page/commands.parquet", "tables/runs.parquet"):
        edit(folder, name, "run_id", lambda run_id: f"{run_id}x")
    status, printed, _ = command("verify", folder, "--fraction", "100%", "--workers", 1)
    assert (status, printed.splitlines()[-1]) == (0, f"{folder}: 3 runs again: 3 agree")
    edit(folder, "tables/runs.parquet", "train_loss", lambda loss: math.nextafter(loss, 1))
    status, printed, _ = command("verify", folder, "--workers", 1)
    assert status == 1
    assert printed.splitlines()[-1].endswith("3 runs again: 1 agrees, 2 differ")
    assert "train_loss" in printed


@pytest.mark.parametrize(
    "typed",
    [
        "python -m other optimizer=sgd",
        "python -m optbench -cd=/tmp optimizer=sgd",
        "python -m optbench hydra.run.dir=/tmp",
        "python -m optbench report x",
        "python -m optbench optimizer=sgdd",
        "python -m optbench optimizer._target_=os.system",
        "python -m optbench 'optimizer=sgd",
        "",
    ],
)
def test_a_command_that_could_not_be_typed_is_refused(typed):
    with pytest.raises(UserError, match=r"^run some-run: "):
        PublishedRun("some-run", typed, "done", {}).config()


def test_mistakes_are_one_message(folder, command, tmp_path):
    empty = tmp_path / "empty"
    empty.mkdir()
    status, _, said = command("verify", empty)
    assert status == 2
    assert "has no page/commands.parquet and tables/runs.parquet; accepted: a report's folder" in said
    status, _, said = command("verify", folder, "--run", "nothing")
    assert (status, said.count("\n")) == (2, 1)
    assert "--run nothing: is not a finished run of the report" in said
    (folder / "tables" / "runs.parquet").write_bytes(b"PAR1")
    status, _, said = command("verify", folder)
    assert (status, said.count("\n")) == (2, 1)
    assert "its runs cannot be read" in said
