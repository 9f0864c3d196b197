"""The command of one configuration: composed again it is the same run."""

import random

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl  # noqa: F401
from hydra.core.override_parser.overrides_parser import OverridesParser

from optbench import config as configuration
from optbench.cli import typed
from optbench.config.commands import command_of, written


@pytest.mark.parametrize(
    "value",
    [None, True, False, 0, -3, 0.1, 1e-05, 1.0, 1e20, "1epoch", "10%", "null", "True", "1", "1e3", "inf", "a b", "it's", "",
     "a=b", "x,y", "back\\slash", "end\\", "a\\'b", "[x]", "{x}", [1, "2", None], {"a": 1, "b": [True, "x"]}, "ünï",
     "(", "data/x-1.y"],
    ids=repr,
)  # fmt: skip
def test_a_value_is_read_as_it_was_written(value):
    read = OverridesParser.create().parse_override(f"key={written(value)}").value()
    # Hydra keeps strings in quotes as such until they are used.
    assert _plain(read) == value
    assert type(_plain(read)) is type(value)


def _plain(value):
    if isinstance(value, list):
        return [_plain(entry) for entry in value]
    if isinstance(value, dict):
        return {str(key): _plain(entry) for key, entry in value.items()}
    return getattr(value, "text", value)


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["optimizer=kfac", "model=keskar_f1", "batch=32", "seed=2", "trial=2"],
        ["optimizer=adam", "optimizer.learning_rate=1e-5", "schedule=cosine", "schedule.warmup=10%", "budget.steps=7"],
        ["model=autoencoder", "loss=mse"],
        ["model=autoencoder"],
        ["optimizer=zoo", "optimizer.name=lion"],
        ["probe=[spectrum,noise_scale]", "probe.spectrum.every=3", "micro_batch=4"],
        ["trainer=ddp", "trainer.devices=2", "ghost_batch_size=null", "data_dir=elsewhere", "tracker=none"],
    ],
    ids=" ".join,
)
def test_a_command_composes_to_the_same_run(words):
    config = configuration.compose(words)
    again = configuration.compose(command_of(config))
    assert configuration.run_id(again) == configuration.run_id(config)
    assert again["probe"] == config["probe"]
    assert again["micro_batch"] == config["micro_batch"]


def test_what_the_front_page_says_is_not_said_again():
    assert command_of(configuration.compose([])) == []
    words = ["optimizer=kfac", "model=keskar_f1", "batch=32", "seed=2", "trial=2"]
    assert sorted(command_of(configuration.compose(words))) == sorted(words)


def cells(*words):
    expansion = typed.read(["-m", *words]).composed
    return [cell.config for cell in expansion.cells]


def scales(name):
    return list(configuration.read_choice("experiment", name)["hydra"]["sweeper"].get("scales", {}))


def assert_composes_to_the_same_run(config):
    again = configuration.compose(command_of(config))
    assert configuration.run_id(again) == configuration.run_id(config), command_of(config)


EXPERIMENTS = sorted(configuration.choices("experiment"))
# Its cells differ in all groups, so that the hundreds of its first scale take half a minute to compose.
LARGE = {"nonconvex_rates"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.exhaustive if name in LARGE else ()) for name in EXPERIMENTS]
)
def test_cells_of_experiments_have_commands(name):
    """Some of the first scale, whose grids are those of the larger ones."""
    found = cells(f"experiment={name}", "search=grid", *(f"scale={scale}" for scale in scales(name)[:1]))
    for config in random.Random(0).sample(found, min(3, len(found))):
        assert_composes_to_the_same_run(config)
