import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from optbench.trackers.follow import HistoryFollower


@settings(max_examples=50, deadline=None)
@given(rows=st.lists(st.dictionaries(st.text(), st.integers() | st.text()), max_size=6), data=st.data())
def test_however_the_writes_are_cut_each_row_is_read_once_and_in_order(tmp_path_factory, rows, data):
    path = tmp_path_factory.mktemp("run") / "history.jsonl"
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    cuts = sorted(data.draw(st.lists(st.integers(0, len(content)), max_size=8)))
    follower, seen = HistoryFollower(path), []
    assert follower.read() == []
    for start, end in zip([0, *cuts], [*cuts, len(content)], strict=True):
        with path.open("ab") as file:
            file.write(content[start:end])
        seen += follower.read()
        assert len(seen) == content[:end].count(b"\n")
    assert seen == rows


@pytest.mark.parametrize("how", ["replaced", "cut"])
def test_a_history_that_is_rewritten_is_noticed(tmp_path, how):
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n')
    follower = HistoryFollower(path)
    assert len(follower.read()) == 2
    if how == "cut":
        path.write_text('{"step": 1}\n')
    else:
        (tmp_path / "new").write_text('{"step": 1}\n{"step": 3}\n{"step": 4}\n')
        (tmp_path / "new").rename(path)
    with pytest.raises(RuntimeError, match="rewritten"):
        follower.read()


def test_a_damaged_line_is_reported_and_skipped(tmp_path, capsys):
    (tmp_path / "history.jsonl").write_bytes(b'{"step": 1}\n\xff\x00{"st\n[3]\n{"step": 4}\n')
    assert HistoryFollower(tmp_path / "history.jsonl").read() == [{"step": 1}, {"step": 4}]
    assert capsys.readouterr().out.count("damaged") == 2
