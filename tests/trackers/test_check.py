"""What is wrong with a tracker is said before the run starts; the shipped choices are right."""

import inspect
import sys
from pathlib import Path

import pytest
import yaml

import optbench
from optbench import trackers
from optbench.config import schema
from optbench.errors import UserError
from optbench.trackers.base import options_of, tracker_class

CHOICES = sorted((Path(optbench.__file__).parents[1] / "conf" / "tracker").glob("*.yaml"))
WANDB, TENSORBOARD = (
    {"_target_": f"optbench.trackers.{name}", "name": name.split("_")[0]}
    for name in ("wandb_mirror.WandbMirror", "tensorboard_mirror.TensorBoardMirror")
)


@pytest.mark.parametrize(
    ("tracker", "command"), [(WANDB, "pip install wandb"), (TENSORBOARD, "pip install 'optbench[tensorboard]'")]
)
@pytest.mark.parametrize("folder", [False, True])
def test_a_missing_package_is_named_with_the_command_that_installs_it(tmp_path, monkeypatch, tracker, command, folder):
    """Also where the working folder has a ./wandb or ./tensorboard of results: that is not the package."""
    name = tracker["name"]
    if folder:
        (tmp_path / name).mkdir()
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    for module in [module for module in sys.modules if module.split(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    with pytest.raises(UserError) as caught:
        trackers.check(tracker)
    assert f"tracker={name}: the {name} package is not installed: {command}" in str(caught.value)


def test_online_needs_a_login(monkeypatch):
    with pytest.raises(UserError, match=r"tracker.mode=online.*wandb login"):
        trackers.check({**WANDB, "mode": "online"})
    monkeypatch.setenv("WANDB_API_KEY", "k")
    trackers.check({**WANDB, "mode": "online"})


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("optbench.nowhere.Tracker", "cannot be imported"),
        ("optbench.trackers.Nothing", "cannot be imported"),
        ("nothing", "cannot be imported"),
        ("optbench.errors.UserError", "is not a subclass"),
    ],
)
def test_a_target_that_is_no_tracker_is_named(target, message):
    with pytest.raises(UserError, match=f"tracker._target_={target}: {message}"):
        trackers.check({"_target_": target})


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: path.stem)
def test_a_shipped_choice_fits_its_schema_and_its_class(path):
    choice = yaml.safe_load(path.read_text())
    options = options_of(choice)
    assert choice["name"] == path.stem
    assert set(options) == set(choice["info"]["schema"])
    schema.check(options, choice["info"]["schema"], "tracker")
    trackers.check(choice)
    found = tracker_class(choice)
    if found is None:
        assert path.stem == "none"
        return
    accepted = list(inspect.signature(found.__init__).parameters.values())[2:]
    assert {parameter.name: parameter.default for parameter in accepted} == {
        name: () if value == [] else value for name, value in options.items()
    }
