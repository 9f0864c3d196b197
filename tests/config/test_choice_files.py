"""Choices of the user's own: known by their files, also where they inherit, and refused by file where they cannot be chosen."""

import os
from pathlib import Path

import pytest
from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import RunMode
from omegaconf import OmegaConf

from optbench import config as configuration
from optbench.config import RunConfig, check_choice, compose, name_of, read_choice, run_id, scaling, works_as
from optbench.errors import UserError
from optbench.sweep.grid.expand import expand
from optbench.training import build

SMALL = ["dataset=digits", "model=mlp"]
FILES = {
    "optimizer/my_adam": "defaults: [adam]\nlearning_rate: 3e-3\n",
    "optimizer/other_adam": "defaults: [adam]\n",
    "optimizer/heir": "defaults: [my_adam, _self_]\nbeta1: 0.5\ninfo:\n  about: an heir\n",
    "optimizer/below": "defaults: [_self_, adam]\nlearning_rate: 0.5\n",
    "optimizer/my_zoo": "defaults: [zoo]\n",
    "optimizer/misnamed": "defaults: [adam]\nname: foo\n",
    "optimizer/adams_name": "defaults: [adam]\nname: adam\n",
    "optimizer/bare": "_target_: torch.optim.Adam\nlr: 3\n",
    "optimizer/text": "just text\n",
    "optimizer/lost": "defaults: [admm]\n",
    "schedule/my_growth": "defaults: [batch_growth]\nmilestones: [1epochs]\n",
    "scaling/my_rule": "defaults: [linear]\n",
    "dataset/my_digits": "defaults: [digits]\n",
}


@pytest.fixture(autouse=True)
def own(tmp_path, monkeypatch):
    """A folder of choices that Hydra is told to look in."""
    monkeypatch.delenv("OPTBENCH_CONF", raising=False)
    for name, content in FILES.items():
        path = tmp_path / "own" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
        os.utime(path, (1e9, 1e9))
    configuration.look_in([tmp_path / "own"])
    return tmp_path / "own"


def composed(own, *words):
    return compose([*SMALL, f"hydra.searchpath=[file://{own}]", *words])


def test_a_choice_that_inherits_is_another_optimizer(own):
    one, other = composed(own, "optimizer=my_adam"), composed(own, "optimizer=other_adam")
    assert one["optimizer"]["learning_rate"] == 0.003
    assert [config["optimizer"]["name"] for config in (one, other)] == ["my_adam", "other_adam"]
    adam = compose([*SMALL, "optimizer=adam"])
    ids = [run_id(config) for config in (one, other, adam)]
    assert len(set(ids)) == 3
    assert [name.partition("-")[0] for name in ids] == ["my_adam", "other_adam", "adam"]


def test_two_files_of_the_zoo_are_told_apart_though_the_name_is_an_option(own):
    ours, own_one = compose([*SMALL, "optimizer=zoo"]), composed(own, "optimizer=my_zoo")
    assert run_id(ours) != run_id(own_one)
    assert [name_of(config["optimizer"]) for config in (ours, own_one)] == ["adabelief", "my_zoo.adabelief"]
    # What the package is asked for stays.
    assert own_one["optimizer"]["name"] == "adabelief"


@pytest.mark.parametrize("name", ["my_adam", "heir", "below", "my_zoo"])
def test_a_choice_is_read_as_hydra_composes_it(name, own):
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(configuration.conf_dir()), version_base="1.3"):
        node = hydra_compose("config", [f"hydra.searchpath=[file://{own}]", f"optimizer={name}"])
    expected = OmegaConf.to_container(node.optimizer)
    read = read_choice("optimizer", name)
    expected["info"].update({key: read["info"][key] for key in ("choice", "inherits") if key in read["info"]})
    assert read == expected | {"name": read["name"]}
    assert composed(own, f"optimizer={name}")["optimizer"] == read


def test_an_heir_of_an_heir_works_as_the_first_of_them(own):
    assert (read_choice("optimizer", "heir")["name"], works_as(read_choice("optimizer", "heir"))) == ("heir", "adam")
    assert works_as(read_choice("optimizer", "adam")) == "adam"


def test_what_code_knows_by_name_it_knows_in_an_heir(own):
    words = ["schedule=my_growth", "schedule.growth=2", "budget.epochs=2", "scaling=my_rule"]
    config = RunConfig.of(composed(own, *words))
    assert config.schedule.name == "my_growth"
    plan = configuration.batch_plan(config)
    assert [plan.batch(0), plan.batch(1000)] == [128, 256]
    assert scaling.learning_rate(config.scaling, 0.1, 256, 128, config.optimizer) == (0.2, "linear")
    assert build.load_data(RunConfig.of(composed(own, "dataset=my_digits"))).train.inputs.shape[0] > 1000


def test_the_cells_of_a_sweep_are_named_by_their_files(own):
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(configuration.conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        search = f"hydra.searchpath=[file://{own}]"
        words = [*SMALL, "optimizer=adam,my_adam,other_adam", "seed=0,1"]
        master = loader.load_configuration("config", [search, *words], RunMode.MULTIRUN)
        cells = expand(loader, words, master=master).cells
        names = [cell.config["optimizer"]["name"] for cell in cells]
        assert names == ["adam"] * 2 + ["my_adam"] * 2 + ["other_adam"] * 2
        assert [run_id(cell.config) for cell in cells[2:4]] == [
            run_id(composed(own, "optimizer=my_adam", f"seed={seed}")) for seed in (0, 1)
        ]
        with pytest.raises(UserError, match=r"optimizer.name=sgd: is fixed"):
            expand(loader, [*SMALL, "optimizer=my_adam", "optimizer.name=my_adam,sgd"], master=master)


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "optimizer=misnamed",
            r"misnamed.yaml says name: foo; accepted: the name of the file, name: misnamed, or no name",
        ),
        ("optimizer=adams_name", r"adams_name.yaml says name: adam; accepted: the name of the file"),
        ("optimizer=bare", r"bare.yaml has no info with a schema"),
        ("optimizer=my_adam optimizer.name=adamw", r"optimizer.name=adamw: is fixed; choose with optimizer=..."),
        ("optimizer=my_adam optimizer.beta3=1", r"optimizer.beta3: unknown key; did you mean"),
    ],
)
def test_a_file_that_cannot_be_chosen_names_itself(word, message, own):
    with pytest.raises(UserError, match=message):
        composed(own, *word.split())


@pytest.mark.parametrize(
    ("name", "message"),
    [("text", "text.yaml holds no mapping"), ("lost", "lost.yaml: defaults: admm: is no other choice of this group")],
)
def test_what_hydra_itself_would_refuse_names_its_file_too(name, message):
    with pytest.raises(UserError, match=message):
        check_choice("optimizer", name)


@pytest.mark.parametrize("group", [*configuration.GROUPS, *configuration.LIST_GROUPS])
def test_every_choice_of_ours_can_be_chosen(group):
    for name, path in configuration.choices(group).items():
        if Path(path).is_relative_to(configuration.conf_dir()):
            check_choice(group, name)
