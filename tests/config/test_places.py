"""Names of sweeps and folders: one plain part of a path, and a path of this file system."""

from pathlib import Path

import pytest

from optbench.cli.parser import Parser
from optbench.config import check_sweep_name, compose, folder
from optbench.errors import UserError
from optbench.sweep.plan import Plan

NO_NAMES = [
    "",
    " ",
    ".",
    "..",
    "../x",
    "a/b",
    "a\\b",
    "/x",
    "-x",
    ".x",
    "a\nb",
    "a\tb",
    "a\x1b[31m",
    "a\u202eb",
    "a\u2028b",
]
NO_NAMES += ["runs", "Sweeps", "vintages.json", "x" * 101, "ü" * 200]


@pytest.mark.parametrize("name", NO_NAMES)
def test_what_is_no_name_of_a_sweep_is_refused_wherever_it_is_given(name, tmp_path):
    with pytest.raises(UserError, match="accepted: a name of at most 100 characters") as refusal:
        check_sweep_name(name, "sweep=")
    assert "\x1b" not in str(refusal.value)
    assert "\n" not in str(refusal.value)
    with pytest.raises(UserError):
        Plan.find(tmp_path, name)


@pytest.mark.parametrize(
    "name", ["first", "first-2", "x" * 100, "Größe 1", "a.b", "run", "adam-lenet5-b128-s0-de2932a637"]
)
def test_a_plain_name_is_accepted(name):
    check_sweep_name(name)


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("", "is empty"),
        ("  ", "is empty"),
        ("s3://bucket/results", "is an address"),
        ("file:///tmp/x", "is an address"),
        ("a\nb", "control characters"),
        ("~nobody-of-this-name/x", "there is no user ~nobody-of-this-name here"),
        ("a/" + "x" * 256, "more than 255 bytes"),
        ("abc/" * 900, "has 3600 characters"),
    ],
)
def test_what_is_no_folder_is_refused(value, problem):
    with pytest.raises(UserError, match=problem):
        folder(value, "results_dir=")
    parser = Parser(prog="optbench status")
    parser.add_results_dir()
    with pytest.raises(UserError, match=problem):
        parser.parse_args([f"--results-dir={value}"])


def test_the_home_of_the_user_is_expanded(monkeypatch):
    monkeypatch.setenv("HOME", "/home/of-a-test")
    assert folder("~/results", "") == "/home/of-a-test/results"
    assert folder("a~b", "") == "a~b"
    config = compose(["dataset=digits", "model=mlp", "results_dir='~/results'", "data_dir='~/data'"])
    assert (config["results_dir"], config["data_dir"]) == ("/home/of-a-test/results", "/home/of-a-test/data")
    parser = Parser(prog="optbench status")
    parser.add_results_dir()
    assert Path(parser.parse_args(["--results-dir=~/results"]).results_dir) == Path("/home/of-a-test/results")


@pytest.mark.parametrize("word", ["results_dir=", "data_dir=''", "sweep=../x", "sweep=runs", "results_dir='s3://b'"])
def test_a_configuration_is_held_to_it(word):
    with pytest.raises(UserError, match=rf"{word.partition('=')[0]}=.*accepted"):
        compose(["dataset=digits", "model=mlp", word])


@pytest.mark.usefixtures("homeless")
@pytest.mark.parametrize("key", ["results_dir", "data_dir"])
def test_a_folder_at_home_of_a_user_without_one_is_refused(key):
    with pytest.raises(UserError, match=f"{key}=~/x: this user has no home folder; accepted"):
        compose(["dataset=digits", "model=mlp", f"{key}='~/x'"])
