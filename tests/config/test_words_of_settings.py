"""Keyword arguments become the words that a person would type, and Hydra reads the same values in them."""

from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from optbench.config import compose
from optbench.config.settings import grid, words_of
from optbench.errors import UserError


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dataset": "digits", "batch": 64, "compile": True}, ["dataset=digits", "batch=64", "compile=true"]),
        ({"budget": {"epochs": 3, "target": None}}, ["budget.epochs=3", "budget.target=null"]),
        ({"budget.epochs": 2.5, "budget": {}}, ["budget.epochs=2.5"]),
        ({"probe": ["trace", "spectrum"]}, ["probe=[trace,spectrum]"]),
        ({"probe": {"spectrum": {"steps": 10}}}, ["probe.spectrum.steps=10"]),
        ({"model": {"hidden": [64, 32]}}, ["model.hidden=[64,32]"]),
        ({"model": {"hidden": (64,)}, "ghost_batch_size": None}, ["model.hidden=[64]", "ghost_batch_size=null"]),
        ({"optimizer": {"name": "x", "options": {"a": 1, "b": [2]}}}, ["optimizer.name=x", "+optimizer.options={a:1,b:[2]}"]),
        ({"sweep": "null", "scale": "1.5"}, ["sweep='null'", "scale='1.5'"]),
        ({"results_dir": Path("a b"), "schedule": {"warmup": "5epochs"}}, ["results_dir='a b'", "schedule.warmup=5epochs"]),
        ({"seed": grid(range(3)), "batch": grid(np.array([1, 2]))}, ["seed=0,1,2", "batch=1,2"]),
        ({"optimizer": {"learning_rate": grid([0.1, 1e-05])}}, ["optimizer.learning_rate=0.1,1e-05"]),
        ({"model": {"hidden": grid([[8], [8, 8]])}}, ["model.hidden=[8],[8,8]"]),
        ({"sweep": grid(["a,b", None])}, ["sweep='a,b',null"]),
        ({"clip_norm": np.float64(0.5), "seed": np.int64(3)}, ["clip_norm=0.5", "seed=3"]),
        (dict(OmegaConf.create({"budget": {"epochs": 1}, "probe": ["trace"]})), ["budget.epochs=1", "probe=[trace]"]),
    ],
)  # fmt: skip
def test_settings_are_words(settings, words):
    assert words_of(settings) == words


@pytest.mark.parametrize(
    "value",
    ["", "a=b", "it's", "back\\slash\\", "{a: b}", "${batch}", " x ", "true", "inf", 1e300, -1, [], ["a,b", None], {"a": "b:c"}],
)  # fmt: skip
def test_hydra_reads_what_was_given(value):
    [word] = words_of({"optimizer": {"options": value}})
    assert OverridesParser.create().parse_override(word).value() == value


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"seed": range(3)}, r"seed=range\(0, 3\): is of type range, .*optbench.grid"),
        ({"seed": {1, 2}}, "seed={1, 2}: is of type set"),
        ({"seed": grid([])}, r"seed=optbench.grid\(\[\]\): has no values"),
        ({"model": {"hidden": [grid([1])]}}, "model.hidden=.*Grid"),
        ({"a b": 1}, "'a b': is no key"),
        ({"budget": {"epochs=1 seed": 1}}, "'epochs=1 seed'"),
        ({"optimizer": {"options": {"a:b": 1}}}, "optimizer.options=.*'a:b' is no name"),
        ({"sweep": b"x"}, "sweep=b'x': is of type bytes"),
    ],
)
def test_what_no_word_says_is_refused(settings, message):
    with pytest.raises(UserError, match=message):
        words_of(settings)


def test_a_mapping_reaches_an_option_that_holds_one():
    composed = compose([*words_of({"optimizer": {"options": {"a": 1}}, "dataset": "digits"}), "optimizer=zoo"])
    assert composed["optimizer"]["options"] == {"a": 1}
