"""With the index or without it the same is read: awkward, changed, removed and damaged runs, and after a death at any moment."""

import contextlib
import errno
import itertools
import json
import os
import random
import shutil

import pandas as pd
import pytest
from mortal_workers import DIED, die_at, fork, wait

from optbench.cli import overview
from optbench.store import RunDirectory, index, load, read_results, reading
from optbench.store.columns import encode, frame, join, take
from optbench.store.notes import annotate
from optbench.store.reading import integers
from optbench.store.run_row import BASE, NOTED, Row, read_row
from optbench.sweep.plan import Entry, Plan
from optbench.sweep.status.survey import survey

CONFIG = """\
batch: {batch}
seed: {seed}
scale: null
probes: {{extremes: {{every: 1, on: true}}}}
optimizer:
  name: sgd
  learning_rate: {rate}
  betas: [0.9, 0.999]
  info: {{search_space: {{learning_rate: {{low: 1.0e-3}}}}}}
"""


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """Every reader keeps what it has read."""
    monkeypatch.setattr(index, "MANY", 1)


def make(results, number, state="done", **summary):
    run = RunDirectory.at(results, f"run-{number:03}")
    rate = ["0.1", "1", "null", "fast"][number % 4]
    run.create(CONFIG.format(batch=32 * number, seed=number % 2, rate=rate))
    if state in ("done", "diverged"):
        run.finish({"run_id": run.run_id, "status": state, "loss": number / 7, **summary}, state)
    elif state != "pending":
        run.set_status(state, "out of memory")
    return run


def by_records(rows, search_spaces=False):
    """The frame that pandas makes of the rows as dictionaries."""
    configs = [
        {name: value for name, value in row.config.items() if search_spaces or name != "search_space"} for row in rows
    ]
    summary_keys = dict.fromkeys(key for row in rows for key in row.summary if key not in (*BASE, *NOTED))
    config_keys = dict.fromkeys(key for config in configs for key in config)
    records = [config | row.summary | row.base for row, config in zip(rows, configs, strict=True)]
    named = [key for key in config_keys if not key.startswith("config.") and key not in summary_keys]
    settings = [key for key in config_keys if key.startswith("config.")]
    noted = [name for name in NOTED if any(row.base[name] for row in rows)]
    return integers(pd.DataFrame(records, columns=[*BASE, *noted, *summary_keys, *named, *settings]))


def read(results, search_spaces=False):
    """The frame of all runs, each read from its folder."""
    run_ids = sorted(path.name for path in (results / "runs").iterdir() if path.is_dir() and not path.is_symlink())
    return by_records([read_row(RunDirectory.at(results, run_id)) for run_id in run_ids], search_spaces)


def check(results):
    """The same frame is read from the folders, and then with an index that holds what it can hold."""
    for search_spaces in (False, True):
        expected = read(results, search_spaces)
        for _ in range(2):
            pd.testing.assert_frame_equal(load(results, search_spaces=search_spaces), expected)


def known(results):
    """The runs that the index knows as they are now."""
    run_ids = sorted(path.name for path in (results / "runs").iterdir())
    return {run_id for run_id, place in zip(run_ids, index.Look(results).find(run_ids)[1], strict=True) if place >= 0}


@pytest.fixture
def results(tmp_path):
    """Runs in every state, of several shapes, with notes, and with damage."""
    make(tmp_path, 0, steps=10, extremes_top=2.0, flag=True, mixed=1, text="é", nested={"a": {"b": 1}}, list=[1])
    make(tmp_path, 1, steps=11, flag=None, mixed=2.5, text=None, big=2**70, peak=3)
    make(tmp_path, 2, "diverged", why="loss is nan", mixed="three", nothing=None, peak=None)
    make(tmp_path, 3, steps=13, flag=False, tags="no tag")
    make(tmp_path, 4, "failed")
    make(tmp_path, 5, "preempted")
    make(tmp_path, 6, "running")
    make(tmp_path, 7, "pending")
    annotate(make(tmp_path, 8, text="b"), ["kept"], note="a note")
    (make(tmp_path, 9).path / "summary.json").write_text('{"loss": 1')
    (make(tmp_path, 10).path / "status.json").write_text("[]")
    (make(tmp_path, 11).path / "config.yaml").write_text("a: [")
    (make(tmp_path, 12).path / "summary.json").unlink()
    (make(tmp_path, 13).path / "summary.json").write_text('{"loss": NaN, "text": "c", "steps": 1e3}')
    (tmp_path / "runs" / "run-014").mkdir()
    return tmp_path


def test_awkward_runs_are_read_as_from_their_folders(results):
    check(results)
    plain = {f"run-{number:03}" for number in (0, 2, 3, 4, 5, 6, 7, 8, 13)}
    assert known(results) == plain  # the others have a problem, or an integer of 70 bits


def test_what_the_index_knows_is_not_read_again(results, monkeypatch):
    load(results)
    again = []
    monkeypatch.setattr(index, "read_row", lambda run: again.append(run.run_id) or read_row(run))
    load(results)
    assert again == [f"run-{number:03}" for number in (1, 9, 10, 11, 12, 14)]


def test_chosen_runs_come_in_the_order_asked_for(results):
    load(results)
    chosen = ["run-008", "run-000", "run-013", "run-002", "run-000"]
    expected = by_records([read_row(RunDirectory.at(results, run_id)) for run_id in chosen])
    pd.testing.assert_frame_equal(load(results, chosen), expected)


@pytest.mark.parametrize("seed", range(5))
def test_columns_of_any_types_are_those_that_pandas_makes(seed):
    draw = random.Random(seed)
    pool = [None, True, False, 0, 1, -(2**63), 2**63, 2**80, 0.5, -0.0, float("nan"), "", "a", "é", [1], b"b"]
    for _ in range(40):
        values = draw.sample(pool, draw.randint(1, 3))
        names = [f"column {number}" for number in range(4)]
        rows = []
        for number in range(draw.randint(1, 6)):
            there = {name: draw.choice(values) for name in draw.sample(names, draw.randint(0, 4))}
            configured = {f"config.{name}": draw.choice(values) for name in draw.sample(names, draw.randint(0, 4))}
            base = dict(zip(BASE, (f"run-{number}", "done", "", "now", ""), strict=True)) | {"tags": "", "note": ""}
            rows.append(Row(base, there, configured))
        expected = by_records(rows)
        cut = draw.randint(0, len(rows))
        parts = [encode(part) for part in (rows[cut:], rows[:cut]) if part]
        order = [(place - cut) % len(rows) for place in range(len(rows))]
        pd.testing.assert_frame_equal(integers(frame(take(join(parts), pd.array(order).to_numpy()), False)), expected)


def test_text_that_is_not_utf8_is_escaped(tmp_path):
    for number, text in enumerate(["a", "\udc80b"]):
        make(tmp_path, number, text=text, **{f"key{text}": 1})
    for _ in range(2):
        found = load(tmp_path)
        assert list(found["text"]) == ["a", "\\udc80b"]
        assert found["key\\udc80b"][1] == 1
    assert known(tmp_path) == {"run-000", "run-001"}


# ---- runs that change ----------------------------------------------------------------------------------------------------------


def restarted(results):
    RunDirectory.at(results, "run-000").clear()


def finished_again(results):
    RunDirectory.at(results, "run-000").finish({"loss": 7.5})


def removed(results):
    shutil.rmtree(results / "runs" / "run-000")


def swapped(results):
    first, second = results / "runs" / "run-000", results / "runs" / "run-008"
    first.rename(results / "runs" / "aside")
    second.rename(first)
    (results / "runs" / "aside").rename(second)


def renamed(results):
    (results / "runs" / "run-000").rename(results / "runs" / "run-100")


def annotated(results):
    annotate(RunDirectory.at(results, "run-000"), ["new"])


def edited(file, old, new):
    def edit(results):
        path = results / "runs" / "run-000" / file
        text = path.read_text()
        assert old in text
        assert len(old) == len(new)
        path.write_text(text.replace(old, new))

    edit.__name__ = f"edited {file}"
    return edit


def linked(results):
    path = results / "runs" / "run-000" / "summary.json"
    path.rename(results / "summary")
    path.symlink_to(results / "summary")


@pytest.mark.parametrize(
    "change",
    [
        *(restarted, finished_again, removed, swapped, renamed, annotated, linked),
        edited("summary.json", '"steps": 10', '"steps": 12'),
        edited("status.json", '"since": "2', '"since": "3'),
        edited("config.yaml", "seed: 0", "seed: 5"),
        edited("notes.json", "other", "tests"),
    ],
    ids=lambda change: change.__name__,
)
def test_a_run_that_changed_is_read_from_its_folder(results, change):
    if "notes" in change.__name__:
        annotate(RunDirectory.at(results, "run-000"), ["other"])
    before = load(results)
    change(results)
    assert not before.equals(read(results))
    check(results)


# ---- the files of the index ----------------------------------------------------------------------------------------------------


def fill(results):
    """An index with a part, and a tail of three lines."""
    runs = [make(results, number, steps=number) for number in range(6)]
    load(results, [run.run_id for run in runs[:3]])
    for run in runs[3:]:
        index.add(run)


def test_who_finishes_appends_one_line(tmp_path):
    fill(tmp_path)
    assert sorted(path.suffix for path in (tmp_path / ".index").iterdir()) == [".jsonl", ".parquet"]
    assert known(tmp_path) == {f"run-{number:03}" for number in range(6)}
    check(tmp_path)


def test_a_damaged_index_counts_as_none(tmp_path):
    fill(tmp_path)
    run_ids = sorted(known(tmp_path))
    for path in sorted((tmp_path / ".index").iterdir()):
        content = path.read_bytes()
        for place in range(1, len(content), len(content) // 30):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            rows, places = index.Look(tmp_path).find(run_ids)
            there = [run_id for run_id, row in zip(run_ids, places, strict=True) if row >= 0]
            assert rows is not None
            assert len(there) < len(run_ids), place
            expected = by_records([read_row(RunDirectory.at(tmp_path, run_id)) for run_id in there])
            pd.testing.assert_frame_equal(integers(frame(rows, False)), expected)
        path.write_bytes(content)
    for path in (tmp_path / ".index").iterdir():
        path.write_bytes(b"damaged")
    assert not known(tmp_path)
    check(tmp_path)


def test_a_line_after_one_that_was_cut_is_read(tmp_path):
    first, second = make(tmp_path, 0), make(tmp_path, 1)
    index.add(first)
    tail = tmp_path / ".index" / "tail.jsonl"
    tail.write_bytes(tail.read_bytes()[:-20])
    index.add(second)
    assert known(tmp_path) == {"run-001"}
    check(tmp_path)


def test_rows_that_another_version_made_are_not_used(tmp_path, monkeypatch):
    fill(tmp_path)
    assert known(tmp_path)
    monkeypatch.setattr(index, "_code", lambda: "another version")
    assert not known(tmp_path)
    check(tmp_path)
    assert known(tmp_path)
    assert len(list((tmp_path / ".index").glob("part-*"))) == 1  # of the other version nothing is kept


def test_long_tails_become_parts_and_small_parts_are_joined(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "_LONGEST_TAIL", 1)
    for number in range(20):
        index.add(make(tmp_path, number, steps=number))
    assert len(known(tmp_path)) == 20
    assert not list((tmp_path / ".index").glob("tail*"))
    assert len(list((tmp_path / ".index").glob("part-*"))) < 6
    shutil.rmtree(tmp_path / "runs" / "run-001")
    check(tmp_path)


def test_processes_that_finish_runs_at_the_same_time_lose_no_line(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "_LONGEST_TAIL", 4000)
    runs = [make(tmp_path, number) for number in range(4, 44)]

    def finish(own):
        for run in own:
            index.add(run)

    assert [wait(child) for child in [fork(finish, runs[first::4]) for first in range(4)]] == [0] * 4
    assert known(tmp_path) == {run.run_id for run in runs}
    check(tmp_path)


def test_a_death_at_any_change_of_a_file_costs_nothing_but_time(tmp_path):
    for number in range(4):
        make(tmp_path, number)
    expected = read(tmp_path)

    def work(change):
        index._LONGEST_TAIL = 1500  # so that some lines are moved and some are not
        die_at(change)
        for number in (0, 1, 2):
            index.add(RunDirectory.at(tmp_path, f"run-{number:03}"))
        load(tmp_path)

    for change in itertools.count():
        died = wait(fork(work, change))
        pd.testing.assert_frame_equal(load(tmp_path), expected)
        if died == 0:
            break
        assert died == DIED
        # Now and then the next one finds what a dead one has left.
        if change % 3 == 0:
            shutil.rmtree(tmp_path / ".index", ignore_errors=True)
    assert change > 20
    load(tmp_path)
    assert known(tmp_path) == {f"run-{number:03}" for number in range(4)}
    assert not [path.name for path in (tmp_path / ".index").iterdir() if path.name.endswith((".tmp", ".new", "lock"))]


def refuse(*arguments, **options):
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.parametrize("call", ["write", "open", "mkdir", "rename", "replace", "fsync"])
def test_a_full_disk_does_not_fail_a_reader_or_who_finishes(tmp_path, monkeypatch, call):
    monkeypatch.setattr(index, "_LONGEST_TAIL", 1)
    run = make(tmp_path, 0)
    expected = read(tmp_path)
    opened = os.open

    def open_to_read(path, flags, *rest, **named):
        return refuse() if flags & os.O_WRONLY else opened(path, flags, *rest, **named)

    monkeypatch.setattr(os, call, open_to_read if call == "open" else refuse)
    index.add(run)
    pd.testing.assert_frame_equal(load(tmp_path), expected)
    monkeypatch.undo()
    assert sorted(path.name for path in run.path.iterdir()) == sorted(
        path.name for path in make(tmp_path / "b", 0).path.iterdir()
    )


@pytest.mark.parametrize("there", ["a file", "a link"])
def test_something_else_in_its_place_is_left_alone(tmp_path, there):
    run, elsewhere = make(tmp_path / "results", 0), tmp_path / "elsewhere"
    elsewhere.mkdir()
    place = tmp_path / "results" / ".index"
    if there == "a file":
        place.write_text("mine")
    else:
        place.symlink_to(elsewhere)
    index.add(run)
    check(tmp_path / "results")
    assert list(elsewhere.iterdir()) == []
    assert there != "a file" or place.read_text() == "mine"


def test_a_link_among_its_files_is_not_followed(tmp_path):
    run = make(tmp_path / "results", 0)
    (tmp_path / "mine").write_text("mine")
    (tmp_path / "results" / ".index").mkdir()
    (tmp_path / "results" / ".index" / "tail.jsonl").symlink_to(tmp_path / "mine")
    index.add(run)
    check(tmp_path / "results")
    assert (tmp_path / "mine").read_text() == "mine"


def test_an_index_made_up_by_somebody_is_not_believed(tmp_path):
    """Results that are sent with an index: its keys cannot fit to files that were written here."""
    fill(tmp_path / "theirs")
    shutil.copytree(tmp_path / "theirs", tmp_path / "ours", copy_function=shutil.copy2)
    assert not known(tmp_path / "ours")
    check(tmp_path / "ours")


def test_few_runs_are_read_without_writing(tmp_path, monkeypatch):
    monkeypatch.setattr(index, "MANY", 10)
    make(tmp_path, 0)
    load(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_line_is_whole_json_after_its_digest(tmp_path):
    index.add(make(tmp_path, 0, steps=3))
    [line] = [line for line in (tmp_path / ".index" / "tail.jsonl").read_bytes().split(b"\n") if line]
    assert json.loads(line.partition(b" ")[2])["summary"]["steps"] == 3


def test_a_run_outside_of_a_results_folder_has_no_index(tmp_path):
    run = RunDirectory(tmp_path / "alone")
    run.create("batch: 1\n")
    with contextlib.suppress(KeyError):
        index.add(run)
    assert [path.name for path in tmp_path.iterdir()] == ["alone"]


# ---- what is read of many runs, often ------------------------------------------------------------------------------------------


def results_of(results, names):
    """State and values of each run by its own files."""
    found = {}
    for run_id in [*sorted(path.name for path in (results / "runs").iterdir()), "nowhere"]:
        run = RunDirectory.at(results, run_id)
        state = run.status().state
        summary = (run.summary() or {}) if state in ("done", "diverged") else {}
        summary |= {f"nested.a.{name}": value for name, value in summary.get("nested", {}).get("a", {}).items()}
        found[run_id] = (state, {name: summary[name] for name in names if name in summary})
    return found


def test_results_by_name(results, monkeypatch):
    names = ["steps", "loss", "flag", "text", "mixed", "nested.a.b", "big", "nowhere", "batch"]
    expected = results_of(results, names)
    assert expected["run-000"][1]["nested.a.b"] == 1
    assert expected["run-001"] == ("done", expected["run-001"][1])
    assert "batch" not in expected["run-000"][1]  # it is in the configuration only
    for few in (1000, 0):
        monkeypatch.setattr(reading, "_FEW", few)
        monkeypatch.setattr(index, "MANY", 1000)
        assert repr(read_results(results, list(expected), names)) == repr(expected)
    monkeypatch.setattr(index, "MANY", 1)
    for _ in range(2):
        assert repr(read_results(results, list(expected)[:-1], names)) == repr(dict(list(expected.items())[:-1]))
    monkeypatch.setattr(index, "MANY", 1000)
    assert repr(read_results(results, list(expected), names)) == repr(expected)


def test_the_index_is_not_read_for_a_few_results(tmp_path, monkeypatch):
    fill(tmp_path)
    load(tmp_path)
    read = []
    monkeypatch.setattr(index, "_read_all", lambda *arguments: read.append(arguments) or [])
    run_ids = [f"run-{number:03}" for number in range(5)]
    monkeypatch.setattr(reading, "_FEW", 6)
    few = read_results(tmp_path, run_ids, ["loss"])
    assert not read
    monkeypatch.setattr(reading, "_FEW", 5)
    assert read_results(tmp_path, run_ids, ["loss"]) == few
    assert len(read) == 1


@pytest.mark.parametrize("few", [0, 256])
def test_a_new_result_is_there_at_once(tmp_path, monkeypatch, few):
    monkeypatch.setattr(reading, "_FEW", few)
    fill(tmp_path)
    new = make(tmp_path, 9, "pending")
    run_ids = [f"run-{number:03}" for number in (*range(6), 9)]
    assert read_results(tmp_path, run_ids, ["loss"])[new.run_id] == ("pending", {})
    new.finish({"loss": 0.25})
    assert read_results(tmp_path, run_ids, ["loss"])[new.run_id] == ("done", {"loss": 0.25})
    index.add(new)
    assert read_results(tmp_path, run_ids, ["loss"])[new.run_id] == ("done", {"loss": 0.25})
    new.clear()
    assert read_results(tmp_path, run_ids, ["loss"])[new.run_id] == ("pending", {})


def test_states_and_tables_are_the_same_with_an_index(results):
    shown = {"optimizer": "sgd", "model": "m", "dataset": "d", "batch": 1, "seed": 2}
    make(results, 20, **shown, learning_rate=0.5, code="abc")
    make(results, 21, "diverged", **shown, why="loss is nan", train_loss=None)
    make(results, 22, **shown, steps=3, tags="not a tag", gap_accuracy=0.1)
    annotate(RunDirectory.at(results, "run-022"), ["best"])
    run_ids = sorted(path.name for path in (results / "runs").iterdir())
    plan = Plan(results, "all")
    plan.extend([Entry(run_id, {"batch": "1"}) for run_id in run_ids], {})
    states, table = survey(plan, lambda ids: {}), overview.read_runs(index.Look(results))
    assert not states.known
    load(results)
    again = survey(plan, lambda ids: {})
    assert again.runs == states.runs
    assert {"run-020", "run-021", "run-022"} <= set(again.known)
    assert (again.known["run-020"].code, again.known["run-022"].tags) == ("abc", "best")
    assert {"run-004": "out of memory", "run-021": "loss is nan"}.items() <= {
        run.run_id: run.why for run in again.runs
    }.items()
    assert repr(overview.read_runs(index.Look(results))) == repr(table)
