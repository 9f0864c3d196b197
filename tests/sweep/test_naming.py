"""The automatic name of a sweep: from what its runs are, not from the words that asked for them."""

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from optbench import config as configuration
from optbench.config import MACHINE_KEYS, read_choice
from optbench.sweep.grid.expand import expand
from optbench.sweep.naming import automatic_name

GRID = ["dataset=digits", "model=mlp", "optimizer=sgd,adam", "seed=0,1"]
# Another value of a machine's key, or of an option that no run id has; and a choice of a group that none has.
OTHER_VALUES = {"int": "64", "duration": "100", "str": "another", "bool": "true", "float": "2.5", "list": "[a]"}


@pytest.fixture(scope="module")
def loader():
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(configuration.conf_dir()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


@pytest.fixture(scope="module")
def name(loader):
    def named(*words):
        master = loader.load_configuration("config", overrides=[], run_mode=RunMode.MULTIRUN)
        found = expand(loader, words, master=master)
        return automatic_name(found.cells, found.axes, words)

    return named


@pytest.fixture(scope="module")
def plain(name):
    return name(*GRID)


def not_science():
    for key, text in MACHINE_KEYS.items():
        value = {"retry": "failed", "sweep": "demo", "scale": "smoke"}.get(key) or OTHER_VALUES[text.split()[0]]
        yield f"{key}={value}"
    for word in ("trainer.accelerator=cpu", "trainer.deterministic=false"):
        assert word.partition("=")[0].partition(".")[2] in read_choice("trainer", "auto")["info"]["not_in_run_id"]
        yield word
    yield from ("tracker=csv", "tracker=none", "launcher.workers=1", "probe=trace", "tracker.tags=[a]")
    yield "model.checkpointing=2"


@pytest.mark.parametrize("word", not_science())
def test_what_is_in_no_run_id_does_not_change_it(word, name, plain):
    assert name(*GRID, word) == plain


@pytest.mark.parametrize(
    "words",
    [
        [*reversed(GRID)],
        ["dataset=digits", "model=mlp", "optimizer=sgd,adam", "seed=2,3,4"],
        ["dataset=digits", "model=mlp", "optimizer=lamb,kfac,zoo", "seed=range(5)"],
        [*GRID, "batch=128", "loss=auto", "clip_norm=null"],
        [*GRID, "micro_batch=32,64"],
        [*GRID, "model.checkpointing=0,2"],
    ],
)
def test_the_same_in_other_words_and_wider_over_the_same_axes_has_the_same(words, name, plain):
    assert name(*words) == plain


@pytest.mark.parametrize(
    "word", ["batch=64", "model.hidden=[16]", "schedule=cosine", "init=he", "optimizer.weight_decay=0.5", "trial=0,1"]
)
def test_other_science_has_another(word, name, plain):
    assert name(*GRID, word) != plain


def test_trials_and_the_loss_that_follows_from_the_model_are_no_part_of_it(name):
    grid = ["dataset=digits", "optimizer=adam"]
    assert name(*grid, "trial=0,1", "model=mlp,logreg") == name(*grid, "trial=range(4)", "model=mlp,autoencoder")
    assert name(*grid, "model=mlp,logreg") != name(*grid, "model=mlp,logreg", "loss=cross_entropy")


def test_hashes_that_are_not_checked_are_the_same_sweep(name):
    grid = ["dataset=fashion_mnist", "seed=0,1"]
    assert "check_hash" in read_choice("dataset", "fashion_mnist")["info"]["not_in_run_id"]
    assert name(*grid) == name(*grid, "dataset.check_hash=false")


def test_it_reads_as_its_axes(plain):
    assert plain.startswith("optimizer_seed-")


def test_a_key_that_has_another_name_now_leaves_the_name_of_a_sweep_as_it_was(name):
    # As the last version named it in which the key was norm_batch.
    words = ["dataset=digits", "model=wrn", "ghost_batch_size=32,64", "batch=128", "seed=0,1"]
    assert name(*words) == "norm_batch_seed-036321"
