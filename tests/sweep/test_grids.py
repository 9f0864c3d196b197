"""An experiment of several grids and scales: the union of what each grid alone expands to."""

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode

from optbench import config as configuration
from optbench.config import run_id
from optbench.errors import UserError
from optbench.sweep.grid.expand import expand
from optbench.sweep.grid.grids import expand_experiment

PARAMS = {"dataset": "digits", "model": "mlp", "seed": "0,1"}
SCALES = {"smoke": {"batch": "32"}, "laptop": {"batch": "32,64"}}
GRIDS = {"tuned": {"optimizer": "sgd,adam"}, "scaled": {"optimizer": "sgd", "scaling": "none,linear"}}


@pytest.fixture(scope="module")
def loader():
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(configuration.conf_dir()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def expanded(loader, *arguments, params=PARAMS, scales=SCALES, grids=GRIDS, exclude=()):
    chosen = [word for word in arguments if word.startswith("scale=")]
    master = loader.load_configuration("config", overrides=chosen, run_mode=RunMode.MULTIRUN)
    return expand_experiment(loader, arguments, (params, scales, grids, exclude), master)


def ids(expansion):
    return [run_id(cell.config) for cell in expansion.cells]


def test_the_cells_are_those_of_the_grids_each_once(loader):
    alone = [expand(loader, [], {**PARAMS, **SCALES["laptop"], **grid}) for grid in GRIDS.values()]
    together = expanded(loader, "scale=laptop")
    assert ids(together) == list(dict.fromkeys([*ids(alone[0]), *ids(alone[1])]))
    # 2 seeds x 2 batches x 2 optimizers; the second grid adds linear scaling of sgd, which changes batch 32 and 64 alike
    assert len(together.cells) == 8 + 4
    assert together.axes == {
        "seed": ["0", "1"],
        "batch": ["32", "64"],
        "optimizer": ["sgd", "adam"],
        "scaling": ["none", "linear"],
    }
    assert together.scale == "laptop"


def test_the_first_scale_is_the_default_and_the_command_line_has_the_last_word(loader):
    assert expanded(loader).scale == "smoke"
    cells = expanded(loader, "batch=128", "seed=5").cells
    assert {(cell.config["batch"], cell.config["seed"]) for cell in cells} == {(128, 5)}
    assert len(cells) == 3


def test_another_choice_of_the_command_line_replaces_the_options_of_the_first(loader):
    params = {**PARAMS, "model.hidden": "[8]"}
    scales = {"smoke": {"batch": "32", "search": "random", "search.budget": "3"}}
    found = expanded(loader, "model=logreg", "search=grid", params=params, scales=scales)
    assert {cell.config["model"]["name"] for cell in found.cells} == {"logreg"}
    same = expanded(loader, "model=mlp", "search=grid", params=params, scales=scales)
    assert {tuple(cell.config["model"]["hidden"]) for cell in same.cells} == {(8,)}


def test_a_grid_may_be_left_empty_but_not_all_of_them(loader):
    cells = expanded(loader, exclude=["optimizer == 'adam'", "scaling == 'linear'"]).cells
    assert [cell.config["optimizer"]["name"] for cell in cells] == ["sgd", "sgd"]
    with pytest.raises(UserError, match="leaves no cell of any grid"):
        expanded(loader, exclude=["batch == 32"])


def test_without_grids_there_is_one(loader):
    found = expanded(loader, scales={}, grids={})
    assert ids(found) == ids(expand(loader, [], PARAMS))
    assert found.scale is None


@pytest.mark.parametrize(
    ("words", "more", "message"),
    [
        (["scale=laptp"], {}, "scale=laptp: no such scale of this experiment; did you mean laptop"),
        (["scale=smoke"], {"scales": {}}, "scale=smoke: this sweep has no scales"),
        ([], {"grids": {"wide": {"batch": "0"}}}, "grid wide: cell seed=0: batch=0"),
    ],
)
def test_mistakes_name_themselves(loader, words, more, message):
    with pytest.raises(UserError, match=message):
        expanded(loader, *words, **more)


# ---- words that select --------------------------------------------------------------------------------------------


def cells(expansion):
    return [
        (cell.config["optimizer"]["name"], cell.config["scaling"]["name"], cell.config["batch"], cell.config["seed"])
        for cell in expansion.cells
    ]


def test_a_word_selects_the_cells_of_a_key_that_the_grids_set_differently(loader):
    everything = cells(expanded(loader, "scale=laptop"))
    adam = cells(expanded(loader, "scale=laptop", "optimizer=adam"))
    assert adam == [cell for cell in everything if cell[0] == "adam"] != []
    # What a grid does not set is the default, and that is selected, too: tuned's.
    unscaled = cells(expanded(loader, "scale=laptop", "scaling=none"))
    assert unscaled == [cell for cell in everything if cell[1] == "none"] != everything
    assert cells(expanded(loader, "scale=laptop", "optimizer=sgd,adam")) == everything


def test_words_select_and_override_together_down_to_one_cell(loader):
    assert cells(expanded(loader, "scale=laptop", "optimizer=sgd", "scaling=linear", "batch=64", "seed=1")) == [
        ("sgd", "linear", 64, 1)
    ]
    # What no grid sets is overridden as before, also by what the experiment does not have.
    assert cells(expanded(loader, "optimizer=adam", "batch=128", "seed=7")) == [("adam", "none", 128, 7)]


def test_an_option_that_other_grids_lack_selects_those_that_have_it(loader):
    grids = {
        "sgd": {"optimizer": "sgd", "optimizer.learning_rate": "1e-1,2"},
        "kfac": {"optimizer": "kfac", "optimizer.kl_clip": "null,0.5", "optimizer.learning_rate": "0.1"},
    }
    found = expanded(loader, "optimizer.learning_rate=0.1", "seed=0", grids=grids)
    assert [cell.config["optimizer"]["name"] for cell in found.cells] == ["sgd", "kfac", "kfac"]
    found = expanded(loader, "optimizer.kl_clip=null", "seed=0", grids=grids)
    assert [cell.config["optimizer"]["kl_clip"] for cell in found.cells] == [None]
    # It is composed with its own optimizer only.
    found = expanded(loader, "optimizer=kfac", "optimizer.damping=0.5", "seed=0", grids=grids)
    assert {cell.config["optimizer"]["damping"] for cell in found.cells} == {0.5}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer=lamb"], "optimizer=lamb: no grid of the experiment has such a cell; .* accepted: sgd, adam"),
        (["optimizer=adam,lamb"], "optimizer=lamb: no grid .* accepted: sgd, adam"),
        (["optimizer=adam", "scaling=linear"], "optimizer=adam: .* beside scaling=linear; .* accepted: sgd"),
    ],
)
def test_what_no_grid_has_is_named_with_what_there_is(loader, words, message):
    with pytest.raises(UserError, match=message):
        expanded(loader, *words)


def test_where_the_grids_agree_or_there_is_one_a_word_overrides(loader):
    alone = {"tuned": {"optimizer": "sgd,adam"}}
    assert {cell[0] for cell in cells(expanded(loader, "optimizer=lamb", grids=alone))} == {"lamb"}
    agreed = {name: {**grid, "clip_norm": "1"} for name, grid in GRIDS.items()}
    assert {cell.config["clip_norm"] for cell in expanded(loader, "clip_norm=3", grids=agreed).cells} == {3}


def test_probes_are_selected_as_lists(loader):
    grids = {"measured": {"probe": "trace", "optimizer": "sgd"}, "plain": {"optimizer": "adam"}}
    assert [cell[0] for cell in cells(expanded(loader, "probe=trace", "seed=0", grids=grids))] == ["sgd"]
    assert [cell[0] for cell in cells(expanded(loader, "probe=none", "seed=0", grids=grids))] == ["adam"]


def test_conditions_see_the_scale_also_if_it_is_the_default(loader):
    conditions = ["scale == 'smoke' and optimizer == 'adam'", "scale != 'smoke' and optimizer == 'sgd'"]
    found = expanded(loader, exclude=conditions)
    assert {cell.config["optimizer"]["name"] for cell in found.cells} == {"sgd"}
    assert ids(found) == ids(expanded(loader, "scale=smoke", exclude=conditions))
