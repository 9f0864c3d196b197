"""Edges of a search space, in the coordinate that the search draws uniformly."""

import json

import pandas as pd
import pytest

from optbench.analysis.statistics.search_edges import edges, search_space
from optbench.store.files import flatten


def run(space, **options):
    columns = flatten({"optimizer": options}, "config.") | {"search_space": json.dumps(space)}
    return pd.Series(columns, dtype=object)


def one(distribution, low, high, value):
    return run({"x": {"distribution": distribution, "low": low, "high": high}}, x=value)


@pytest.mark.parametrize(
    ("distribution", "low", "high", "value", "found"),
    [
        # Four decades: 5 % of them is a factor of 10^0.2 = 1.58.
        ("log_uniform", 1e-4, 1.0, 1.5e-4, ["x low"]),
        ("log_uniform", 1e-4, 1.0, 1.6e-4, []),
        ("log_uniform", 1e-4, 1.0, 0.62, []),
        ("log_uniform", 1e-4, 1.0, 0.64, ["x high"]),
        ("log_uniform", 1e-4, 1.0, 7.0, ["x high"]),  # a default beyond the space
        ("log_uniform", 1e-6, 1e-2, 0.0, []),  # weight decay that is off
        # 1 - x log-uniform on [0.001, 1]: three decades, 5 % is 10^0.15 = 1.41.
        ("log_uniform_complement", 1e-3, 1.0, 0.9987, ["x high"]),
        ("log_uniform_complement", 1e-3, 1.0, 0.9985, []),
        ("log_uniform_complement", 1e-3, 1.0, 0.25, ["x low"]),
        ("log_uniform_complement", 1e-3, 1.0, 0.32, []),
        ("log_uniform_complement", 1e-3, 1.0, 1.0, ["x high"]),
        ("uniform", -1.0, 3.0, -0.8, ["x low"]),
        ("uniform", -1.0, 3.0, 2.7, []),
        ("integer", 2, 5, 5, ["x high"]),
        ("integer", 2, 5, 3, []),
    ],
)
def test_edges(distribution, low, high, value, found):
    assert edges(one(distribution, low, high, value)) == found


def test_the_margin_is_a_choice_and_options_without_a_place_have_none():
    assert edges(one("uniform", 0.0, 1.0, 0.3), margin=0.3) == ["x low"]
    assert edges(one("uniform", 0.0, 1.0, None)) == []
    assert edges(one("integer", 2, 2, 2)) == []
    assert edges(pd.Series({"run_id": "a"})) == []


def test_choices_have_no_edge_and_are_read_back():
    choices = run({"mode": {"distribution": "categorical", "choices": ["a", "b"]}}, mode="a")
    assert search_space(choices) == {"mode": {"distribution": "categorical", "choices": ["a", "b"]}}
    assert edges(choices) == []
