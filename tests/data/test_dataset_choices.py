"""Every conf/dataset/*.yaml against the function that it names."""

import importlib
import importlib.util
import inspect

import pytest

from optbench.config import choices, read_choice, schema
from optbench.data.locate import NO_DOWNLOAD

CHOICES = {name: read_choice("dataset", name) for name in choices("dataset")}
AUGMENTATION = {"augment", "crop", "crop_padding", "flip", "cutout", "normalize"}
NEEDS_PACKAGES = {"natpatch": ("skimage", "sklearn", "PIL")}


def options(choice):
    return {key: value for key, value in choice.items() if key not in ("_target_", "name", "info")}


def load_function(choice):
    module, _, name = choice["_target_"].rpartition(".")
    return getattr(importlib.import_module(module), name)


def passed_on(choice):
    return {key: value for key, value in options(choice).items() if key not in choice["info"].get("augmentation", [])}


@pytest.mark.parametrize("name", CHOICES)
def test_file(name):
    choice = CHOICES[name]
    assert choice["name"] == name
    schema.check(options(choice), choice["info"]["schema"], "dataset")
    assert choice["info"]["download"] in ("needed", "none")
    assert set(choice["info"].get("augmentation", [])) <= AUGMENTATION
    parameters = inspect.signature(load_function(choice)).parameters
    assert next(iter(parameters)) == "data_dir"
    assert set(parameters) - {"data_dir"} == set(passed_on(choice))
    if name not in ("huggingface", "svhn", "temporal_order_2", "temporal_order_3"):  # choices of a shared function
        for option, value in passed_on(choice).items():
            default = parameters[option].default
            assert (list(default) if isinstance(default, tuple) else default) == value


def test_what_needs_no_download_is_what_messages_say():
    assert set(NO_DOWNLOAD) == {name for name, choice in CHOICES.items() if choice["info"]["download"] == "none"}


@pytest.mark.parametrize("name", NO_DOWNLOAD)
def test_declared_sizes(name):
    lacking = [package for package in NEEDS_PACKAGES.get(name, ()) if importlib.util.find_spec(package) is None]
    if lacking:
        pytest.skip(f"not installed: {', '.join(lacking)}")
    choice = CHOICES[name]
    info = choice["info"]
    raw = load_function(choice)("nowhere", **passed_on(choice))
    assert len(raw.train) == info["size"]["train"]
    assert len(raw.validation) > 0  # by which searches choose
    assert raw.spec.kind == info["kind"]
    assert raw.spec.target == info["target"]
    assert list(raw.spec.shape) == info["size"]["shape"] == list(raw.validation.inputs.shape[1:])
    if raw.spec.target.startswith("class"):
        assert raw.spec.outputs == info["size"]["classes"]
        targets = raw.train.targets[raw.train.targets != -100]
        assert targets.min() >= 0
        assert targets.max() < raw.spec.outputs
    if raw.spec.kind == "image":
        assert len(raw.mean) == len(raw.std) == raw.spec.shape[0]
        assert set(info["augmentation"]) == AUGMENTATION
    for option in info.get("size_from", []):
        assert choice[option] == info["size"]["train"]
