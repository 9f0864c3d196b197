import json
import re
import shutil
import time

import pandas as pd
import pytest

from optbench.errors import UserError
from optbench.store import RunDirectory, find, load, load_history, run_directories


def make(results, run_id, config="batch: 128\n", rows=(), summary=None, state="done"):
    run = RunDirectory.at(results, run_id)
    run.create(config)
    for row in rows:
        run.append(row)
    if summary is not None:
        run.finish(summary, state)
    return run


@pytest.mark.parametrize("folder", ["absent", "."])
def test_no_results_give_an_empty_frame(tmp_path, folder):
    frame, history = load(tmp_path / folder), load_history(tmp_path / folder)
    assert list(frame.columns) == ["run_id", "status", "why", "since", "problem"]
    assert list(history.columns) == ["run_id", "step"]
    assert list(load_history(tmp_path / folder, columns=["step", "loss"]).columns) == ["run_id", "step", "loss"]
    assert len(frame) == len(history) == len(list(run_directories(tmp_path / folder))) == 0


def test_load(tmp_path):
    config = "batch: 128\noptimizer:\n  name: sgd\n  learning_rate: 0.1\n  betas: [0.9, 0.999]\nnote: null\n"
    summary = {"run_id": "a", "status": "done", "test_loss": 0.25, "probe": {"top": 2.0}, "list": [1], "bad": None}
    make(tmp_path, "a", config, summary=summary)
    make(tmp_path, "b", "batch: 256\ndata: {}\n", summary={"test_loss": 0.5, "steps": 7}, state="diverged")
    make(tmp_path, "c").set_status("failed", "out of memory")
    frame = load(tmp_path)
    assert list(frame.columns) == [
        *("run_id", "status", "why", "since", "problem"),
        *("test_loss", "probe.top", "bad", "steps"),
        *("optimizer", "batch", "base_learning_rate"),
        *("config.batch", "config.optimizer.name", "config.optimizer.learning_rate", "config.optimizer.betas"),
        "config.note",
    ]
    assert list(frame["run_id"]) == ["a", "b", "c"]
    assert list(frame["status"]) == ["done", "diverged", "failed"]
    assert list(frame["why"]) == ["", "", "out of memory"]
    assert list(frame["problem"]) == ["", "", ""]
    assert list(frame["test_loss"][:2]) == [0.25, 0.5]
    assert frame["probe.top"][0] == 2.0
    assert list(frame["config.batch"]) == [128, 256, 128]
    assert frame["config.batch"].dtype == "int64"
    assert frame["config.optimizer.learning_rate"][0] == 0.1
    assert frame["config.optimizer.betas"][0] == "[0.9, 0.999]"
    missing = frame.isna()
    assert list(missing["test_loss"]) == [False, False, True]
    assert list(missing["steps"]) == [True, False, True]
    assert list(missing["config.optimizer.name"]) == [False, True, True]
    assert missing["bad"].all()


def test_search_spaces_are_there_for_who_asks(tmp_path):
    config = "optimizer:\n  name: sgd\n  info:\n    search_space: {learning_rate: {distribution: uniform, low: 0, high: 1}}\n"
    make(tmp_path, "a", config, summary={"steps": 1})
    assert "search_space" not in load(tmp_path)
    assert json.loads(load(tmp_path, search_spaces=True)["search_space"][0])["learning_rate"]["high"] == 1


def test_runs_in_every_state_are_in_their_groups(tmp_path):
    """A groupby counts what failed or has not ended, too; whole numbers stay whole."""
    from optbench import config as configuration

    states = ["done", "diverged", "failed", "running", "preempted", "pending"]
    words = ["optimizer=adam", "model=mlp", "dataset=digits", "batch=64", "trial=2", "scaling=sqrt", "base_batch=16"]
    configs = [configuration.compose([*words, f"seed={seed}"]) for seed in range(len(states))]
    for state, config in zip(states, configs, strict=True):
        ended = {"optimizer": "adam", "batch": 64, "learning_rate": None, "test_loss": 0.5}
        run = make(
            tmp_path,
            f"run-{state}",
            config,
            summary=ended if state in ("done", "diverged") else None,
            state=state,
        )
        if run.status().state != state:
            run.set_status(state)
    frame = load(tmp_path)
    assert frame["status"].value_counts().to_dict() == dict.fromkeys(states, 1)
    rates = {"learning_rate": 2 * configs[0]["optimizer"]["learning_rate"]}
    rates["base_learning_rate"] = configs[0]["optimizer"]["learning_rate"]
    same = {"optimizer": "adam", "model": "mlp", "dataset": "digits", "batch": 64, "trial": 2, "scaling_rule": "sqrt"}
    for name, value in (same | rates).items():
        assert frame[name].tolist() == [value] * 6, name
    assert sorted(frame["seed"]) == list(range(6))
    assert all(frame[name].dtype == "int64" for name in ("batch", "seed", "trial"))
    assert frame.groupby(["optimizer", "batch"]).size().to_dict() == {("adam", 64): 6}
    # They differ in their seed only, and say so; nothing of what a choice says about itself is a column.
    assert frame["setting"].nunique() == 1
    assert not [name for name in frame if ".info." in name or name.endswith(".info")]
    make(tmp_path, "without", "{}")
    damaged = load(tmp_path)
    assert all(damaged[name].dtype == "Int64" for name in ("batch", "seed", "trial"))
    assert damaged["seed"].isna().sum() == 1


@pytest.mark.parametrize(
    ("word", "same"),
    [
        ("seed=7", True),
        ("micro_batch=8", True),
        ("trainer.devices=2", True),
        ("probe=trace", True),
        ("budget.epochs=1.0", True),
        ("optimizer.beta2=0.9", False),
        ("ghost_batch_size=64", False),
        ("budget.epochs=2", False),
        ("communication=fp16", False),
    ],
)
def test_the_setting_is_the_science_but_for_the_seed(tmp_path, word, same):
    from optbench import config as configuration

    words = ["optimizer=adam", "model=mlp", "dataset=digits", "trainer=ddp", "budget.epochs=1"]
    for name, chosen in (("a", words), ("b", [*words, word])):
        make(tmp_path, name, configuration.compose(chosen))
    assert (load(tmp_path)["setting"].nunique() == 1) == same


def test_why_of_a_run_that_diverged_comes_from_its_summary(tmp_path):
    make(tmp_path, "a", summary={"test_loss": None, "why": "the loss was 29.4 at step 5"}, state="diverged")
    make(tmp_path, "b", summary={"test_loss": 0.5, "why": ""})
    assert list(load(tmp_path)["why"]) == ["the loss was 29.4 at step 5", ""]


def test_nested_settings_of_any_mapping_and_key_are_columns(tmp_path):
    config = "1: one\nscience:\n  2: two\n  empty: {}\n  list: [{a: 1}]\n"
    make(tmp_path, "a", config, summary={})
    row = load(tmp_path).iloc[0]
    assert row["config.1"] == "one"
    assert row["config.science.2"] == "two"
    assert row["config.science.list"] == '[{"a": 1}]'
    assert not [name for name in row.index if "empty" in name]


def test_many_runs_are_read_in_little_time(tmp_path):
    config = "".join(f"group{number}:\n  name: a\n  rate: 0.5\n  values: [1, 2]\n" for number in range(20))
    first = make(tmp_path, "run-0", config, summary={"test_loss": 0.5})
    for number in range(1, 200):
        shutil.copytree(first.path, tmp_path / "runs" / f"run-{number}")
    load(tmp_path, runs=[])  # pandas is imported here, once
    start = time.process_time()
    assert load(tmp_path)["test_loss"].sum() == 100
    # The processor's time, not the clock's, for others use the machine. It takes 0.04 s; YAML's parser alone would take 0.6.
    assert time.process_time() - start < 0.3


def test_a_run_that_was_started_over_shows_no_old_summary(tmp_path):
    run = make(tmp_path, "a", summary={"test_loss": 0.25})
    run.set_status("running")
    frame = load(tmp_path)
    assert list(frame["status"]) == ["running"]
    assert "test_loss" not in frame


@pytest.mark.parametrize(
    ("file", "content", "status"),
    [
        ("summary.json", b"{", "done"),
        ("summary.json", b"[1]", "done"),
        ("summary.json", None, "done"),
        ("status.json", b"", "pending"),
        ("status.json", None, "pending"),
        ("config.yaml", b"a: [", "done"),
        ("config.yaml", b"\xff\xfe", "done"),
        ("config.yaml", None, "done"),
    ],
)
def test_a_damaged_run_is_a_row_with_its_problem(tmp_path, file, content, status):
    damaged = make(tmp_path, "a", summary={"test_loss": 0.25})
    make(tmp_path, "b", summary={"test_loss": 0.5})
    (damaged.path / file).unlink()
    if content is not None:
        (damaged.path / file).write_bytes(content)
    frame = load(tmp_path).set_index("run_id")
    assert frame["status"].to_dict() == {"a": status, "b": "done"}
    assert file in frame["problem"]["a"]
    assert frame["problem"]["b"] == ""
    assert frame["test_loss"]["b"] == 0.5
    assert len(load_history(tmp_path)) == 0


def test_other_things_in_the_folder(tmp_path):
    make(tmp_path, "a")
    (tmp_path / "runs" / "notes.txt").write_text("not a run")
    (tmp_path / "runs" / ".hidden").mkdir()
    (tmp_path / "runs" / "empty").mkdir()
    frame = load(tmp_path).set_index("run_id")
    assert list(frame.index) == ["a", "empty"]
    assert "config.yaml" in frame["problem"]["empty"]


def test_find(tmp_path):
    for run_id in ("sgd-lenet-0a1b", "sgd-lenet-0a1bc", "adam-lenet-77ff", "adam-wrn-88ff"):
        make(tmp_path, run_id)
    assert find(tmp_path, "sgd-lenet-0a1b").run_id == "sgd-lenet-0a1b"  # exact, though also a prefix of another
    assert find(tmp_path, "adam-w").path == tmp_path / "runs" / "adam-wrn-88ff"
    assert find(tmp_path, "77ff").run_id == "adam-lenet-77ff"
    with pytest.raises(UserError, match=r"'ff' is not unique .* 2 ids .*\(adam-lenet-77ff, adam-wrn-88ff\)"):
        find(tmp_path, "ff")
    with pytest.raises(UserError, match=r"no run 'adam-lenet-77fe' in .*; the nearest are adam-lenet-77ff"):
        find(tmp_path, "adam-lenet-77fe")
    with pytest.raises(UserError, match=re.escape("4 runs there, none with a similar id")):
        find(tmp_path, "0000")
    with pytest.raises(UserError, match="no run 'x'"):
        find(tmp_path / "absent", "x")


def test_named_runs(tmp_path):
    for run_id in ("a-1", "b-2", "c-3"):
        make(tmp_path, run_id, rows=[{"step": 1}])
    assert list(load(tmp_path, runs=["c-3", "a"])["run_id"]) == ["c-3", "a-1"]
    assert list(load_history(tmp_path, runs=iter(["b-2"]))["run_id"]) == ["b-2"]
    assert len(load(tmp_path, runs=[])) == 0
    with pytest.raises(UserError, match="no run 'd'"):
        load(tmp_path, runs=["a-1", "d"])


def test_histories_of_running_and_finished_runs(tmp_path):
    make(tmp_path, "done", rows=[{"step": 1, "loss": 1}, {"step": 2, "loss": 0.5, "event": "end"}], summary={})
    running = make(tmp_path, "running", rows=[{"step": 1, "loss": 2.0, "run_id": "not this"}])
    with (running.path / "history.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    make(tmp_path, "pending")
    frame = load_history(tmp_path)
    expected = pd.DataFrame(
        {
            "run_id": ["done", "done", "running"],
            "step": [1, 2, 1],
            "loss": [1.0, 0.5, 2.0],
            "event": [None, "end", None],
        }
    )
    pd.testing.assert_frame_equal(frame, expected, check_dtype=False)
    assert str(frame["step"].dtype) == "int64"
    frame = load_history(tmp_path, columns=["loss", "absent", "loss", "run_id"])
    assert list(frame.columns) == ["run_id", "loss", "absent"]
    assert list(frame["loss"]) == [1.0, 0.5, 2.0]
    assert frame["absent"].isna().all()


def test_columns_whose_types_differ_between_runs(tmp_path):
    make(tmp_path, "a", rows=[{"step": 1, "value": 1, "mixed": 0.5, "spectrum": [1, 2]}], summary={})
    make(tmp_path, "b", rows=[{"step": 1, "value": 2.5, "mixed": "none", "spectrum": [0.5]}], summary={})
    make(tmp_path, "c", rows=[{"step": 1, "value": None, "mixed": None}])
    frame = load_history(tmp_path)
    assert list(frame["value"][:2]) == [1.0, 2.5]
    assert list(frame["mixed"][:2]) == [0.5, "none"]
    assert [list(value) for value in frame["spectrum"][:2]] == [[1, 2], [0.5]]
    assert list(frame["value"].isna()) == [False, False, True]


def test_an_unreadable_history_is_left_out_with_a_warning(tmp_path):
    make(tmp_path, "a", rows=[{"step": 1}])
    bad = make(tmp_path, "b")
    (bad.path / "history.jsonl").mkdir()
    with pytest.warns(UserWarning, match="the history of run b is left out: cannot read"):
        frame = load_history(tmp_path)
    assert list(frame["run_id"]) == ["a"]


def test_a_history_without_damage_gives_no_warning(tmp_path, recwarn):
    make(tmp_path, "a", rows=[{"step": 1}, {"step": 2}])
    make(tmp_path, "b", rows=[{"step": 1}], summary={})
    assert len(load_history(tmp_path)) == 3
    assert len(load(tmp_path)) == 2
    assert list(recwarn) == []
