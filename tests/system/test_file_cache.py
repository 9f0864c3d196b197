"""Values made from files are kept while the files are the same, and made again otherwise."""

import pytest

from optbench.system import file_cache
from optbench.system.file_cache import FileCache


@pytest.fixture
def cache(monkeypatch):
    monkeypatch.setattr(file_cache, "CLOCK_NANOSECONDS", -1)  # files may be as young as they like
    return FileCache()


@pytest.mark.parametrize("change", ["other content", "a further file", "the folder that was not there"])
def test_a_value_is_made_again_once_something_that_it_was_made_from_is_another(cache, tmp_path, change):
    file, folder, absent = tmp_path / "file", tmp_path / "folder", tmp_path / "absent"
    file.write_text("1")
    folder.mkdir()
    made = []

    def make():
        made.append(file.read_text())
        return made[-1], [file, folder, absent]

    assert [cache.made("key", make) for _ in range(3)] == ["1"] * 3
    assert made == ["1"]
    if change == "other content":
        file.write_text("22")
    elif change == "a further file":
        (folder / "new").touch()
    else:
        absent.mkdir()
    assert cache.made("key", make) == file.read_text()
    assert len(made) == 2
    cache.made("another key", make)
    assert len(made) == 3


def test_a_file_that_has_just_changed_is_read_again(tmp_path):
    file, cache = tmp_path / "file", FileCache()
    file.write_text("1")
    assert cache.made("key", lambda: (file.read_text(), [file])) == "1"
    file.write_text("2")
    assert cache.made("key", lambda: (file.read_text(), [file])) == "2"
