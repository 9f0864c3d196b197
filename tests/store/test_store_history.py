import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optbench.store import RunDirectory, StoreError
from optbench.store.history import to_table


@pytest.fixture
def run(tmp_path):
    run = RunDirectory.at(tmp_path, "run")
    run.create("batch: 1\n")
    return run


def history(run):
    return run.path / "history.jsonl"


def test_rows_come_back_as_they_were_appended(run):
    assert run.rows() == []
    run.append({"step": 1, "loss": 0.5, "text": "é\n\u2028"})
    run.append({"step": np.int64(2), "loss": float("nan"), "spectrum": np.array([1.0, 2.0])})
    assert run.rows() == [
        {"step": 1, "loss": 0.5, "text": "é\n\u2028"},
        {"step": 2, "loss": None, "spectrum": [1.0, 2.0]},
    ]
    lines = history(run).read_text(encoding="utf-8").split("\n")
    assert lines[0] == '{"step": 1, "loss": 0.5, "text": "é\\n\u2028"}'
    assert lines[2:] == [""]


def test_a_line_is_one_write(run, monkeypatch):
    written = []
    write = os.write
    monkeypatch.setattr(os, "write", lambda file, content: (written.append(bytes(content)), write(file, content))[1])
    run.append({"step": 1, "text": "x" * 100_000})
    assert written == [history(run).read_bytes()]


@pytest.mark.parametrize("row", [{}, {"step": None}, {"step": 1.0}, {"step": True}, {"step": "1"}])
def test_a_row_needs_a_step(run, row):
    with pytest.raises(ValueError, match="'step'"):
        run.append(row)
    assert not history(run).exists()


@pytest.mark.parametrize("removed", range(1, len('{"step": 2}\n')))
def test_a_cut_last_line_is_ignored_and_replaced(run, removed):
    run.append({"step": 1})
    run.append({"step": 2})
    os.truncate(history(run), history(run).stat().st_size - removed)
    assert run.rows() == [{"step": 1}]
    run.append({"step": 3})
    assert run.rows() == [{"step": 1}, {"step": 3}]
    assert history(run).read_text() == '{"step": 1}\n{"step": 3}\n'


def test_damaged_lines_elsewhere_are_left_out_with_a_warning(run):
    history(run).write_bytes(b'{"step": 1}\n\0\0\0\n{"step": 2}\n[3]\n{"step": 4}\n')
    with pytest.warns(UserWarning, match="2 damaged lines are left out, the first is line 2"):
        assert run.rows() == [{"step": 1}, {"step": 2}, {"step": 4}]


def test_two_objects_in_one_line_are_damage(run):
    history(run).write_bytes(b'{"step": 1}, {"step": 2}\n{"step": 3}\n')
    with pytest.warns(UserWarning, match="1 damaged lines"):
        assert run.rows() == [{"step": 3}]


@pytest.mark.parametrize(
    ("after_step", "kept"), [(-1, []), (0, [0]), (1, [0, 1, 1]), (2, [0, 1, 1, 3][:3]), (9, [0, 1, 1, 3])]
)
def test_truncate(run, after_step, kept):
    for step in (0, 1, 1, 3):
        run.append({"step": step})
    with history(run).open("ab") as file:
        file.write(b'{"step": 0')
    run.truncate_history(after_step)
    assert history(run).read_text() == "".join(f'{{"step": {step}}}\n' for step in kept)


def test_truncate_without_a_history(run):
    run.truncate_history(5)
    assert run.rows() == []


def test_truncate_drops_the_parquet_file_of_an_earlier_end(run):
    run.append({"step": 1})
    run.finish({})
    run.truncate_history(5)
    assert not (run.path / "history.parquet").exists()


def test_truncate_is_atomic(run, monkeypatch):
    for step in range(4):
        run.append({"step": step})
    before = history(run).read_bytes()

    def crash(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", crash)
    with pytest.raises(KeyboardInterrupt):
        run.truncate_history(1)
    assert history(run).read_bytes() == before


def test_a_full_disk_leaves_whole_lines(run):
    # The file system accepts part of the third line: a limit on the size of files does what a full disk does.
    run.append({"step": 1})
    run.append({"step": 2})
    script = f"""
import resource
from optbench.store import RunDirectory, StoreError
run = RunDirectory({str(run.path)!r})
resource.setrlimit(resource.RLIMIT_FSIZE, (30, 30))
try:
    run.append({{"step": 3}})
except StoreError as error:
    print(error)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=environment, check=True)
    assert result.stdout == f"cannot write {history(run)}: File too large\n"
    assert history(run).read_text() == '{"step": 1}\n{"step": 2}\n'


def test_a_killed_writer_leaves_consecutive_rows(run):
    script = f"""
from itertools import count
from optbench.store import RunDirectory
run = RunDirectory({str(run.path)!r})
for step in count():
    run.append({{"step": step, "text": "x" * 3000}})
    if step == 20:
        print("writing", flush=True)
"""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    process = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, env=environment)
    process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    steps = [row["step"] for row in run.rows()]
    assert len(steps) > 20
    assert steps == list(range(len(steps)))
    run.append({"step": len(steps)})
    assert [row["step"] for row in run.rows()] == [*steps, len(steps)]


def test_a_refused_write_is_reported(run, monkeypatch):
    def refuse(*arguments):
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(StoreError, match=r"cannot write .*history.jsonl: Read-only file system"):
        run.append({"step": 1})


VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
)
ROWS = st.builds(
    lambda step, rest: {**rest, "step": step},
    st.integers(0, 20),
    st.dictionaries(st.text(max_size=3), VALUES | st.lists(VALUES, max_size=2), max_size=3),
)
ACTIONS = st.one_of(
    st.tuples(st.just("append"), ROWS),
    st.tuples(st.just("cut"), st.floats(0, 1)),
    st.tuples(st.just("truncate"), st.integers(-1, 20)),
)


@settings(max_examples=40, deadline=None)
@given(st.lists(ACTIONS, max_size=12))
def test_any_sequence_of_appends_crashes_and_truncations_keeps_the_rows(actions):
    with tempfile.TemporaryDirectory() as folder:
        run = RunDirectory(folder)
        path = history(run)
        expected, last_line_is_whole = [], True
        for action, argument in actions:
            if action == "append":
                run.append(argument)
                expected.append(argument)
                last_line_is_whole = True
            elif action == "truncate":
                run.truncate_history(argument)
                expected = [row for row in expected if row["step"] <= argument]
                last_line_is_whole = True
            elif expected and last_line_is_whole:  # a crash during the last append cuts its line anywhere
                line = path.read_bytes().split(b"\n")[-2] + b"\n"
                os.truncate(path, path.stat().st_size - 1 - int(argument * (len(line) - 1)))
                expected.pop()
                last_line_is_whole = path.read_bytes().endswith(b"\n") or path.stat().st_size == 0
            assert run.rows() == expected
        assert run.history_table().num_rows == len(expected)
        run.finish({})
        assert run.history_table(["step"]).to_pylist() == [{"step": row["step"]} for row in expected]


@pytest.mark.parametrize(
    ("values", "kind", "expected"),
    [
        ([1, 2, None], "int64", [1, 2, None]),
        ([1, 2.5, None], "double", [1.0, 2.5, None]),
        ([True, None], "bool", [True, None]),
        (["a", None], "string", ["a", None]),
        ([[1.5], [], None], "list<item: double>", [[1.5], [], None]),
        ([None, None], "null", [None, None]),
        ([1, "a", None], "string", ["1", '"a"', None]),
        ([{"a": 1}, {"b": 2}, {}], "string", ['{"a": 1}', '{"b": 2}', "{}"]),
        ([[{"a": 1}], []], "string", ['[{"a": 1}]', "[]"]),
        ([2**70, 1], "string", [str(2**70), "1"]),
        (["\udc80"], "string", ['"\\udc80"']),
    ],
)
def test_types_of_columns(run, values, kind, expected):
    for step, value in enumerate(values):
        run.append({"step": step, "value": value})
    live = run.history_table()
    run.finish({})
    assert json.loads((run.path / "summary.json").read_text()) == {}
    history(run).unlink()  # so that only the parquet file can answer
    for table in (live, run.history_table()):
        assert str(table.schema.field("value").type).replace("element", "item") == kind
        assert table["value"].to_pylist() == expected
        assert table.column_names == ["step", "value"]


def test_columns_are_the_union_of_the_keys():
    table = to_table([{"step": 1, "a": 1.0}, {"step": 2, "b.c": True}, {"a": 3.0, "step": 3}])
    assert table.to_pydict() == {"step": [1, 2, 3], "a": [1.0, None, 3.0], "b.c": [None, True, None]}
    assert to_table([]).to_pydict() == {"step": []}


def test_named_columns(run):
    run.append({"step": 1, "probe": 0.5, "probe.top": 2.0, "loss": 1.0})
    expected = {"probe.top": [2.0], "step": [1]}
    assert run.history_table(["probe.top", "absent", "step"]).to_pydict() == expected
    run.finish({})
    assert run.history_table(["probe.top", "absent", "step"]).to_pydict() == expected
    assert run.history_table(["probe"]).to_pydict() == {"probe": [0.5]}


def test_the_parquet_file_is_read_only_while_it_holds_the_whole_history(run):
    run.append({"step": 1, "loss": 1.5})
    run.finish({})
    parquet = run.path / "history.parquet"
    content = history(run).read_bytes()
    history(run).write_bytes(content.replace(b"1.5", b"9.5"))
    assert run.history_table()["loss"].to_pylist() == [1.5]  # the same size: the parquet file answers
    history(run).write_bytes(content)
    run.append({"step": 2, "loss": 0.5})
    assert run.history_table()["loss"].to_pylist() == [1.5, 0.5]
    run.finish({})
    parquet.write_bytes(parquet.read_bytes()[:-10])
    assert run.history_table()["loss"].to_pylist() == [1.5, 0.5]
