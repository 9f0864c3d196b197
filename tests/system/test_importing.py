"""The folder of the command is importable, last of all, and only while the command runs."""

import sys
from pathlib import Path

import pytest

from optbench.system import importing


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.delenv("OPTBENCH_PATH", raising=False)
    monkeypatch.chdir(tmp_path)
    return str(tmp_path)


@pytest.mark.parametrize(
    "first", [["HERE"], [""], ["/usr/bin"]], ids=["python -m", "a notebook", "an installed script"]
)
def test_it_is_last_however_the_command_was_started(first, here, monkeypatch):
    before = [word.replace("HERE", here) for word in first]
    monkeypatch.setattr(sys, "path", [*before, "/lib"])
    with importing.start_folder():
        assert sys.path == [*(["/usr/bin"] if first == ["/usr/bin"] else []), "/lib", here]
        assert importing.folders() == [here]
    assert sys.path == [*before, "/lib"]


def test_where_it_was_named_explicitly_it_stays(here, monkeypatch):
    monkeypatch.setattr(sys, "path", ["/bin", here, "/lib"])
    with importing.start_folder():
        assert sys.path == ["/bin", here, "/lib"]


def test_a_checkout_keeps_its_place(monkeypatch):
    root = str(Path(importing.__file__).parents[2])
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "path", [root, "/lib"])
    with importing.start_folder():
        assert sys.path == [root, "/lib"]


def test_what_is_handed_over_is_taken_and_handed_on(here, monkeypatch):
    monkeypatch.setattr(sys, "path", ["/lib", "/a"])
    monkeypatch.setenv("OPTBENCH_PATH", "/a:/b")
    importing.take_over()
    assert sys.path == ["/lib", "/a", "/b"]
    assert importing.folders() == ["/a", "/b"]  # and not this folder, from which nothing can be imported here
