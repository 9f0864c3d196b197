"""Fragments, the files in conf/ whose names begin with _: parts of choices, and no choices themselves."""

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType

from optbench import config as configuration
from optbench.__main__ import main
from optbench.config import GROUPS, LIST_GROUPS, choices, compose, read_choice, works_as
from optbench.config.files import content_of, parts_of
from optbench.errors import UserError

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
