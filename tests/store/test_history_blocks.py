"""Long histories are read and closed block by block, with the same result as in one piece."""

import itertools
import random

import pytest

from optbench.store import RunDirectory, history
from optbench.store.history import to_table


@pytest.fixture
def run(tmp_path):
    run = RunDirectory.at(tmp_path, "run")
    run.create("batch: 1\n")
    return run


@pytest.mark.parametrize("seed", range(6))
def test_by_blocks_the_table_is_that_of_all_rows_at_once(tmp_path, monkeypatch, seed):
    draw = random.Random(seed)
    pool = [
        None,
        1,
        2.5,
        -3,
        2**53 + 1,
        2**70,
        True,
        "text",
        '"',
        "1",
        "\udc80",
        [1],
        [2.5],
        ["a"],
        [],
        [[1]],
        {"a": 1},
    ]
    path = tmp_path / "history.jsonl"
    for _ in range(60):
        of_column = {name: draw.sample(pool, draw.randint(1, 3)) for name in "abc"}
        rows = []
        for step in range(draw.randint(0, 12)):
            there = {name: draw.choice(values) for name, values in of_column.items() if draw.random() < 0.7}
            rows.append({"step": step, **there})
        history.rewrite(path, rows)
        monkeypatch.setattr(history, "_BLOCK", 1 << 20)
        whole = history.read_table(path, tmp_path / "none")
        assert whole.to_pydict() == to_table(rows).to_pydict()
        monkeypatch.setattr(history, "_BLOCK", draw.randint(1, 90))
        assert list(itertools.chain(*history.rows_in_blocks(path))) == rows
        by_blocks = history.read_table(path, tmp_path / "none")
        assert by_blocks.schema.equals(whole.schema), f"{by_blocks.schema}\n{whole.schema}\n{rows}"
        assert by_blocks.to_pydict() == whole.to_pydict(), rows
        history.write_parquet(path, tmp_path / "history.parquet")
        assert history.read_table(path, tmp_path / "history.parquet").to_pydict() == whole.to_pydict()


@pytest.mark.parametrize("block", [1, 7, 30, 1000])
def test_by_blocks_lines_are_cut_truncated_and_missed_as_in_one(run, monkeypatch, block):
    monkeypatch.setattr(history, "_BLOCK", block)
    for step in range(6):
        run.append({"step": step, "loss": step / 7})
    content = run.history.read_bytes()
    lines = content.splitlines(keepends=True)
    run.history.write_bytes(b"".join([*lines[:2], b"damage\n", *lines[2:], b'{"step": 7, "lo']))
    with pytest.warns(UserWarning, match="1 damaged lines are left out, the first is line 3") as warned:
        assert run.history_table()["step"].to_pylist() == [0, 1, 2, 3, 4, 5]
    assert len(warned) == 1
    run.truncate_history(4)
    assert run.history.read_bytes() == b"".join(lines[:5])
    run.history.write_bytes(content + b'{"step": 7, "lo')
    run.append({"step": 6})
    assert run.history.read_bytes() == content + b'{"step": 6}\n'


def test_a_history_that_grows_while_it_is_read_is_that_of_the_beginning(tmp_path, monkeypatch):
    monkeypatch.setattr(history, "_BLOCK", 20)
    path = tmp_path / "history.jsonl"
    history.rewrite(path, [{"step": step} for step in range(9)])
    schema, tables, size = history._tables(path)
    history.append_row(path, {"step": 9, "new": "text"})
    assert [step for table in tables for step in table["step"].to_pylist()] == list(range(9))
    assert (schema.names, size) == (["step"], 9 * len('{"step": 1}\n'))
