"""Transforms on the command line: which fit, their order, and their part in run ids, names and sweeps."""

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra

from optbench.analysis.names import method
from optbench.config import (
    RunConfig,
    choices,
    compose,
    conf_dir,
    optimizer_name,
    read_choice,
    resolve,
    run_id,
    science,
    setting,
)
from optbench.config.files import TRANSFORM_PLACES
from optbench.config.transforms import check_transforms
from optbench.errors import UserError
from optbench.provenance.fingerprints import targets
from optbench.sweep.grid.expand import expand

WORDS = ["dataset=digits", "model=mlp", "budget.steps=5", "tracker=none"]
NAMES = [name for name in choices("transform") if name != "none"]
# The order in which they act.
ORDER = ["sam", "centralize", "mars", "cautious", "hyperball", "lookahead"]


def composed(*words):
    return compose([*WORDS, *words])


@pytest.mark.parametrize("name", NAMES)
def test_every_file_says_where_it_acts_and_names_optimizers_that_there_are(name):
    info = read_choice("transform", name)["info"]
    assert info["place"] in TRANSFORM_PLACES
    assert info["about"]
    assert info["source"]
    listed = [optimizer for names in info.get("not_with", {}).values() for optimizer in names]
    assert {*listed} <= {*choices("optimizer")}


def test_they_act_in_a_fixed_order_whatever_was_typed():
    assert sorted(NAMES) == sorted(ORDER)
    found = composed(f"transform=[{','.join(sorted(ORDER))}]")
    again = composed(f"transform=[{','.join(reversed(ORDER))}]")
    assert [each.name for each in RunConfig.of(found).transforms] == ORDER
    assert [each.name for each in RunConfig.of(again).transforms] == ORDER
    assert run_id(found) == run_id(again)


def test_they_are_part_of_the_name_and_of_the_run_id():
    plain, cautious = composed("optimizer=adamw"), composed("optimizer=adamw", "transform=cautious")
    both = composed("optimizer=adamw", "transform=[lookahead,cautious]")
    assert "transform" not in science(plain)
    assert run_id(cautious).startswith("adamw+cautious-mlp-digits-b128-s0-")
    assert optimizer_name(both) == "adamw+cautious+lookahead"
    other = composed("optimizer=adamw", "transform=[lookahead,cautious]", "transform.lookahead.period=6")
    seed = composed("optimizer=adamw", "transform=[lookahead,cautious]", "seed=1")
    assert len({*map(run_id, (plain, cautious, both, other, seed))}) == 5
    assert setting(both) == setting(seed) != setting(other)
    assert method("adamw+cautious+lookahead") == "AdamW + cautious + Lookahead"


def test_none_and_an_empty_list_are_no_transform():
    assert run_id(composed("transform=none")) == run_id(composed("transform=[]")) == run_id(composed())


@pytest.fixture
def loader():
    GlobalHydra.instance().clear()
    with initialize_config_dir(config_dir=str(conf_dir()), version_base="1.3"):
        yield GlobalHydra.instance().config_loader()


def test_an_axis_of_a_sweep(loader):
    found = expand(loader, [*WORDS, "transform=none,[cautious],[cautious,lookahead]"])
    assert [optimizer_name(cell.config) for cell in found.cells] == ["sgd", "sgd+cautious", "sgd+cautious+lookahead"]


def test_their_code_is_that_of_the_run():
    found = targets(composed("transform=[cautious]"))
    assert "optbench.optimizers.transforms.cautious.Cautious" in found


FIT = "does not fit optimizer="


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["transform=[cautious]", "optimizer=lbfgs"], rf"transform=cautious: {FIT}lbfgs, whose step no single gradient"),
        (["transform=[cautious]", "optimizer=schedule_free_sgd"], "which moves other weights than those where"),
        (["transform=[lookahead]", "optimizer=lbfgs"], "whose memory is that of the steps"),
        (["transform=[hyperball]", "optimizer=lars"], "whose steps have lengths of their own"),
        (["transform=[centralize]", "optimizer=kfac"], "whose curvature would be that of another function"),
        (["transform=[centralize]", "optimizer=zeroth_order"], "which takes losses alone"),
        (["transform=[sam]", "optimizer=asam"], "more than once a step"),
        (["transform=[mars]", "optimizer=mars"], "more than once a step"),
        (["transform=[sam]", "precision=fp16"], r"precision=fp16: optimizer=sgd\+sam evaluates"),
        (["transform=[sam]", "communication=sign", "communication.workers=2"], r"optimizer=sgd\+sam evaluates"),
        (["transform=[lookahead]", "communication=local", "communication.workers=2"], "transform=lookahead: sets the weights"),
        (["transform=[cautious,lookahead,cautious]"], "cautious is there twice; accepted: each once"),
        (["transform=null"], "must be a list of choices"),
        (["transform=[caution]"], "no such transform; did you mean cautious"),
        (["transform=[lookahead]", "transform.lookahead.period=0"], "transform.lookahead.period=0: must be int >= 1"),
        (["transform.lookahead.period=2"], r"choose it too, as in 'transform=\[lookahead\]'"),
        (
            ["transform=[cautious]", "trainer.devices=2", "trainer.accelerator=cpu", "trainer.sharding=zero1", "optimizer=adam"],
            r"trainer.sharding=zero1: transform=\[cautious\]: a transform needs whole",
        ),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_one_message(words, said):
    with pytest.raises(UserError, match=said) as refused:
        composed(*words)
    assert len(str(refused.value).splitlines()) == 1


def test_a_place_that_there_is_not_is_refused():
    found = composed("transform=[cautious]")
    info = {**found["transform"]["cautious"]["info"], "place": "nowhere"}
    config = {**found, "transform": {"cautious": {**found["transform"]["cautious"], "info": info}}}
    with pytest.raises(UserError, match="fixed"):
        resolve(config)
    with pytest.raises(UserError, match=r"info\.place: nowhere; accepted: evaluation, gradient, update, weights"):
        check_transforms(RunConfig.of(config))
