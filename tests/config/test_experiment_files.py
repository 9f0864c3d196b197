"""Mistakes in a file of conf/experiment, as the command line answers them."""

import dataclasses
import shutil

import pytest

from hydra_plugins.optbench_sweeper import OptbenchSweeperConf
from optbench import config as configuration
from optbench.__main__ import main
from optbench.config.experiments import SWEEPER_KEYS

RIGHT = "# @package _global_\n# a comment\nhydra:\n  sweeper:\n    params:\n      seed: 0,1\n"
WORDS = ["dataset=digits", "model=mlp", "budget.steps=5", "tracker=none", "dry_run=true"]


@pytest.fixture
def answer(tmp_path, monkeypatch, capsys):
    """The answer of the command line to an experiment ``mine`` with this content: (exit status, output, the message)."""
    shutil.copytree(configuration.conf_dir(), tmp_path / "conf")
    monkeypatch.setenv("OPTBENCH_CONF", str(tmp_path / "conf"))
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "conf" / "experiment" / "mine.yaml"

    def call(content):
        path.write_text(content)
        capsys.readouterr()
        return main(["-m", "experiment=mine", *WORDS]), *capsys.readouterr(), str(path)

    return call


def test_a_right_one_is_planned(answer):
    status, out, err, _ = answer(RIGHT)
    assert (status, err) == (0, "")
    assert "mine: 2 runs: 2 new" in out


def test_an_unknown_key_of_the_sweeper_is_named_with_its_file_and_the_nearest(answer):
    status, out, err, path = answer(RIGHT.replace("params:", "parms:"))
    assert (status, out) == (2, "")
    assert err == (
        f"optbench: experiment=mine: {path}: hydra.sweeper.parms: unknown key; did you mean params? "
        "(accepted: params, scales, grids, exclude)\n"
    )


@pytest.mark.parametrize("head", ["", "# What it is\n# @package _global_\n", "# @package experiment\n"])
def test_a_file_whose_keys_do_not_get_to_the_front_page_is_told_which_line_it_lacks(head, answer):
    status, out, err, path = answer(RIGHT.replace("# @package _global_\n", head))
    assert (status, out) == (2, "")
    assert err.startswith(f"optbench: experiment=mine: {path} lacks the line '# @package _global_'")
    assert "accepted: that line as the first one" in err
    assert err.count("\n") == 1


def test_a_file_that_is_no_yaml_is_one_message_too(answer):
    status, _, err, path = answer(RIGHT + "a: [\n")
    assert (status, err.count("\n")) == (2, 1)
    assert f"experiment=mine: {path} is not YAML: " in err
    assert "line 8" in err


def test_the_accepted_keys_are_those_of_the_sweeper():
    fields = [field.name for field in dataclasses.fields(OptbenchSweeperConf)]
    assert fields == ["_target_", *SWEEPER_KEYS]


SCALED = """# @package _global_
hydra:
  sweeper:
    params: {dataset: digits, seed: "0,1", schedule: "constant,cosine"}
    scales:
      small: {model: convnet, model.channels: "[4]", search: adaptive}
      large: {model: wrn}
    grids:
      first: {optimizer: adam}
      second: {optimizer: sgd, optimizer.learning_rate: 0.1}
"""


@pytest.mark.parametrize(
    ("words", "added"),
    [
        (
            "model.channels=[8] search.budget=5",
            {"model=convnet", "search=adaptive"},
        ),  # the first scale, as without the word
        ("scale=large model.width=1", {"model=wrn"}),
        ("model=mlp model.hidden=[8]", set()),  # typed
        ("optimizer.learning_rate=0.2", set()),  # differs between the grids
        ("schedule.warmup=5%", set()),  # a sweep of two
        ("scale=none search.budget=5", set()),
        ("seed=3", set()),
    ],
)
def test_options_of_a_choice_that_the_experiment_makes_come_with_the_choice(tmp_path, monkeypatch, words, added):
    shutil.copytree(configuration.conf_dir(), tmp_path / "conf")
    monkeypatch.setenv("OPTBENCH_CONF", str(tmp_path / "conf"))
    (tmp_path / "conf" / "experiment" / "mine.yaml").write_text(SCALED)
    given = ["experiment=mine", *words.split()]
    found = configuration.with_choices_of_experiment(given)
    assert found[: len(given)] == given
    assert set(found[len(given) :]) == added
    assert configuration.with_choices_of_experiment(words.split()) == words.split()


def test_an_option_of_the_experiments_model_can_be_typed(answer):
    content = RIGHT.replace("seed: 0,1", "seed: 0,1\n      model: convnet\n      dataset: digits")
    answer(content)
    assert main(["-m", "experiment=mine", "model.channels=[4]", "tracker=none", "dry_run=true"]) == 0
