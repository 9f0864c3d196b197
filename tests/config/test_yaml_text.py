"""YAML in one dialect, Hydra's: held against OmegaConf's own loader, and against what Hydra composes."""

import copy
import math
import re
from pathlib import Path

import pytest
import yaml
from omegaconf._utils import get_yaml_loader

from optbench.config import choices, compose, read_choice, search_path
from optbench.config.yaml_text import YAMLError, read_yaml, write_yaml
from optbench.store import RunDirectory

ROOT = Path(__file__).parents[2]
_HARD = (
    "1e-3 1E-3 1e5 1e+5 1.e-3 1.5e-3 -1e-3 +1e5 .5 -.5 .5e-3 .5e3 5. 1_000 1_000.5 1_0e-1 0o17 017 0x1f 0b101 1:30 1:30:00 "
    "1:30.5 2001-01-01 2001-01-01T10:00:00 yes no on off y n true True TRUE false ~ null Null .inf -.inf .Inf .nan .NaN "
    "12e03 0.0 -0 1e 1e- e5 . + 1__0 3epochs 10% NaN inf 0.1.2 1e-3e"
)
HARD = _HARD.split()


@pytest.mark.parametrize("text", HARD)
def test_a_scalar_is_what_hydra_reads_in_a_file(text):
    expected = yaml.load(f"key: {text}\nother: [{text}]", Loader=get_yaml_loader())
    # As text: NaN differs from itself, and True equals 1.
    assert repr(read_yaml(f"key: {text}\nother: [{text}]")) == repr(expected)


def test_numbers_without_a_point_are_numbers():
    assert read_yaml("[1e-3, 1e5, .5, 1_000]") == [0.001, 100000.0, 0.5, 1000]


@pytest.mark.parametrize("text", ["a: 1\na: 2", "x: {b: 1, b: 1}", "a: [1", "a: !!python/object/apply:os.getcwd []"])
def test_what_hydra_refuses_is_refused(text):
    with pytest.raises(YAMLError):
        yaml.load(text, Loader=get_yaml_loader())
    with pytest.raises(YAMLError):
        read_yaml(text)


VALUES = [1e-05, 1e-300, 1e22, 0.1, 5e-324, -0.0, math.inf, -math.inf, 3, True, None, [], {}, "ein Wort", "Größe", ""]


@pytest.mark.parametrize("value", [*VALUES, *HARD])
def test_what_is_written_reads_back_as_it_was(value):
    text = write_yaml({"key": value, "list": [value]})
    assert repr(read_yaml(text)) == repr({"key": value, "list": [value]})
    # PyYAML's own dialect reads the same in it, and so do other programs.
    assert repr(yaml.safe_load(text)) == repr({"key": value, "list": [value]})


def test_not_a_number_reads_back():
    assert math.isnan(read_yaml(write_yaml({"key": math.nan}))["key"])


@pytest.mark.parametrize(
    "path", sorted(ROOT.glob("conf/**/*.yaml")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_every_file_of_ours_is_read_as_hydra_reads_it(path):
    text = path.read_text(encoding="utf-8")
    assert repr(read_yaml(text)) == repr(yaml.load(text, Loader=get_yaml_loader()))


def test_a_number_is_the_same_in_a_choice_in_a_word_and_in_a_frozen_configuration(tmp_path, monkeypatch):
    folder = tmp_path / "conf"
    for path in [*ROOT.glob("conf/*.yaml"), *ROOT.glob("conf/*/*.yaml")]:
        copy = folder / path.relative_to(ROOT / "conf")
        copy.parent.mkdir(parents=True, exist_ok=True)
        copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
    adam = (folder / "optimizer" / "adam.yaml").read_text(encoding="utf-8")
    adam = re.sub(
        "low: 1.0e-5, high: 0.1", "low: 1e-5, high: 1e-1", adam.replace("learning_rate: 1.0e-3", "learning_rate: 2e-3")
    )
    (folder / "optimizer" / "adam.yaml").write_text(adam, encoding="utf-8")
    monkeypatch.setattr(search_path, "_PACKAGE", tmp_path)
    assert read_choice("optimizer", "adam")["learning_rate"] == 0.002
    assert "adam" in choices("optimizer")
    in_the_file = compose(["optimizer=adam", "dataset=digits", "model=mlp"])
    assert in_the_file["optimizer"]["learning_rate"] == 0.002
    assert in_the_file["optimizer"]["info"]["search_space"]["learning_rate"]["low"] == 1e-5
    typed = compose(["optimizer=adam", "dataset=digits", "model=mlp", "optimizer.learning_rate=2e-3"])
    assert typed == in_the_file
    run = RunDirectory(tmp_path / "run")
    run.create(in_the_file)
    (run.path / "config.json").unlink()
    assert run.config() == in_the_file


def test_a_mapping_is_written_as_by_pyyaml_whatever_was_written_before():
    for value in (1, 1.0, True, "1", None, 1e-5, float("inf"), {"a": 1}, {"a": True}, ["x", {}], {}, "two\nlines" * 30):
        config = {"same": value, "batch": {"deep": copy.deepcopy([value])}, 3: "a number"}
        written = write_yaml(config)
        assert written == yaml.dump(config, Dumper=yaml.SafeDumper, sort_keys=False, width=120)
        assert repr(read_yaml(written)) == repr(config)


def test_a_frozen_configuration_of_before_reads_as_before():
    # As it was written by PyYAML's own dumper, which puts a point into every float.
    frozen = yaml.dump(
        {"rate": 1e-05, "large": 1e22, "name": "1:30", "day": "2001-01-01", "none": None}, Dumper=yaml.SafeDumper
    )
    assert read_yaml(frozen) == yaml.safe_load(frozen)
