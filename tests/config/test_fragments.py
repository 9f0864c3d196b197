"""Fragments, the files in conf/ whose names begin with _: parts of choices, and no choices themselves."""

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType

from optbench import config as configuration
from optbench.__main__ import main
from optbench.config import (
    GROUPS,
    LIST_GROUPS,
    RunConfig,
    choices,
    command_of,
    compose,
    read_choice,
    run_id,
    works_as,
)
from optbench.config.files import content_of, parts_of, shared_parts
from optbench.errors import UserError
from optbench.store import RunDirectory

SMALL = ["dataset=digits", "model=mlp", "tracker=none"]
FRAGMENTS = sorted(path for path in configuration.conf_dir().glob("*/_*.yaml"))
IDS = [f"{path.parent.name}/{path.stem}" for path in FRAGMENTS]


@pytest.fixture
def own(tmp_path, monkeypatch):
    def write(name, content):
        path = tmp_path / "own" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)

    monkeypatch.setenv("OPTBENCH_CONF", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    return write


@pytest.mark.parametrize("path", FRAGMENTS, ids=IDS)
def test_a_fragment_states_the_types_of_its_options_and_several_choices_take_it_over(path):
    fragment, group = content_of(path), path.parent.name
    assert fragment.keys() - {"info"} == fragment["info"]["schema"].keys()
    assert not {"name", "_target_"} & fragment.keys()
    users = [name for name, file in choices(group).items() if path.stem in parts_of(content_of(file), group)]
    if path.stem in shared_parts(group):  # which the front page takes over for every choice
        assert not users
        users = [*choices(group)]
    assert len(users) > 1
    for name in users:
        schema = read_choice(group, name)["info"]["schema"]
        assert {option: schema[option] for option in fragment["info"]["schema"]} == fragment["info"]["schema"]
        assert "inherits" not in read_choice(group, name)["info"]


def test_there_are_some_and_none_is_a_choice():
    assert {"probe/_schedule", "probe/_subset", "schedule/_warmup", "optimizer/_decay"} <= {*IDS}
    assert not [name for group in (*GROUPS, *LIST_GROUPS) for name in choices(group) if name.startswith("_")]


@pytest.mark.parametrize("words", [["list"], ["list", "--options"], ["list", "--markdown"]])
def test_none_is_listed(words, capsys):
    assert main(words) == 0
    out = capsys.readouterr().out
    assert not [name for name in ("_schedule", "_warmup", "_slurm") if f" {name}" in out or f"[{name}" in out]


def test_hydra_offers_none():
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(configuration.conf_dir()), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        for group in ("schedule", "probe", "optimizer"):
            offered = loader.get_group_options(group, ObjectType.CONFIG, config_name="config", overrides=[])
            assert offered == sorted(choices(group))


def test_a_sweep_over_all_choices_leaves_them_out(capsys):
    words = [*SMALL, "schedule=glob(*m*)", "dry_run=true"]
    assert main(["-m", *words]) == 0
    count = len([name for name in choices("schedule") if "m" in name])
    assert f"{count} runs: {count} new" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("word", "name"),
    [("schedule=_warmup", "_warmup"), ("probe=_schedule", "_schedule"), ("probe=[trace,_subset]", "_subset")],
)
def test_none_can_be_chosen(word, name):
    with pytest.raises(UserError, match=rf"{name}: is a part of choices, and none itself; accepted: .*trace|constant"):
        compose([*SMALL, word])


def test_choices_of_ones_own_take_over_ours_and_have_their_own(own):
    own("schedule/_halves", "gamma: 0.5\ninfo:\n  schema:\n    gamma: float in (0, 1]\n")
    own(
        "schedule/mine",
        "defaults: [_warmup, _halves]\n_target_: optbench.schedules.Step\nname: mine\nevery: 20%\n"
        "info:\n  about: halves\n  source: ours\n  schema:\n    every: duration > 0\n",
    )
    own("schedule/heir", "defaults: [mine]\nwarmup: 5\n")
    composed = compose([*SMALL, "schedule=mine"])["schedule"]
    assert (composed["gamma"], composed["warmup"], composed["every"]) == (0.5, 0, "20%")
    assert composed == read_choice("schedule", "mine")
    assert works_as(composed) == "mine"
    heir = compose([*SMALL, "schedule=heir"])["schedule"]
    assert (heir["warmup"], works_as(heir)) == (5, "mine")


def test_a_fragment_that_is_not_there_is_one_message(own):
    own("schedule/mine", "defaults: [_warm]\nname: mine\n")
    with pytest.raises(UserError, match=r"mine.yaml: defaults: _warm: is no other choice of this group"):
        read_choice("schedule", "mine")


def test_a_fragment_has_one_file(own):
    own("schedule/_warmup", "warmup: 7\ninfo:\n  schema:\n    warmup: duration\n")
    with pytest.raises(UserError, match=r"schedule=_warmup: is the name of two files"):
        compose([*SMALL, "schedule=cosine"])


# ---- model.checkpointing: an option of every model ---------------------------------------------------------------------------

OWN = "_target_: optbench.models.mlp.MLP\nname: mine\ninfo: {about: a, source: b, accepts: [image], batch_norm: false, schema: {}"


def test_a_choice_that_knows_nothing_of_it_has_the_option_of_every_model(own):
    own("model/mine", f"{OWN}}}\n")
    own("model/heir", "defaults: [mine]\ncheckpointing: 1\n")
    small = ["dataset=digits", "tracker=none", "model=mine"]
    one, other = (compose([*small, *words]) for words in ([], ["model.checkpointing=3"]))
    assert (one["model"]["checkpointing"], other["model"]["checkpointing"]) == (0, 3)
    assert run_id(one) == run_id(other)
    assert command_of(one) == command_of({**other, "model": {**other["model"], "checkpointing": 0}})
    assert "model.checkpointing=3" in command_of(other)
    assert (RunConfig.of(other).checkpointing, RunConfig.of(other).model.options) == (3, {})
    heir = compose([*small[:2], "model=heir"])["model"]
    assert heir["checkpointing"] == read_choice("model", "heir")["checkpointing"] == 1


def test_it_is_in_no_run_id_of_a_model_that_keeps_other_options_out_too(own):
    own("model/mine", f"{OWN[:-2]}{{hidden: list of int}}, not_in_run_id: [hidden]}}\nhidden: []\n")
    words = ["dataset=digits", "tracker=none", "model=mine"]
    assert {run_id(compose([*words, word])) for word in ("model.hidden=[3]", "model.checkpointing=3")} == {
        run_id(compose(words))
    }


def test_an_option_of_ones_own_has_another_name(own):
    own("model/mine", f"{OWN[:-2]}{{checkpointing: bool}}}}\ncheckpointing: true\n")
    with pytest.raises(UserError, match=r"mine\.yaml: info\.schema\.checkpointing: is an option of every model"):
        compose(["dataset=digits", "tracker=none", "model=mine"])


@pytest.mark.parametrize("value", ["-1", "true", "1.5", "two", "null"])
def test_other_values_are_one_message(value):
    with pytest.raises(UserError, match=r"^model\.checkpointing=\S+: must be int >= 0$"):
        compose([*SMALL, f"model.checkpointing={value}"])


def test_the_compiler_divides_nothing():
    with pytest.raises(UserError, match=r"^model\.checkpointing=2: with compile=true, .*; accepted: one of the two"):
        compose([*SMALL, "model.checkpointing=2", "compile=true"])


def test_a_configuration_that_an_earlier_version_froze_has_none(tmp_path):
    config = compose([*SMALL, f"results_dir={tmp_path}"])
    earlier = {**config, "model": {key: value for key, value in config["model"].items() if key != "checkpointing"}}
    assert run_id(earlier) == run_id(config)
    assert RunConfig.of(earlier).checkpointing == 0
    directory = RunDirectory.at(tmp_path, run_id(config))
    directory.make()
    directory.create(earlier)
    assert configuration.thaw(directory)["model"]["checkpointing"] == 0
