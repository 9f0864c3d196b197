"""Scaling rules against values computed by hand."""

from pathlib import Path

import pytest
import yaml

from optbench import scaling
from optbench.errors import UserError

CONF = Path(__file__).parents[1] / "conf" / "scaling"


def options(name):
    return yaml.safe_load((CONF / f"{name}.yaml").read_text())


@pytest.mark.parametrize(
    ("name", "batch", "family", "rate", "rule"),
    [
        ("none", 4096, "sgd", 0.1, "none"),
        ("linear", 8192, "sgd", 3.2, "linear"),  # Goyal et al.: 0.1 at 256, 3.2 at 8192
        ("linear", 64, "adaptive", 0.025, "linear"),
        ("sqrt", 4096, "sgd", 0.4, "sqrt"),
        ("sqrt", 16, "adaptive", 0.025, "sqrt"),
        ("power", 4096, "sgd", 0.8, "power"),  # 16^0.75 = 8
        ("auto", 4096, "sgd", 1.6, "linear"),
        ("auto", 4096, "adaptive", 0.4, "sqrt"),
        ("auto", 4096, "second_order", 0.1, "none"),
        ("auto", 256, "sgd", 0.1, "linear"),
    ],
)
def test_rules(name, batch, family, rate, rule):
    scaled, applied = scaling.learning_rate(options(name), 0.1, batch, 256, family)
    assert scaled == pytest.approx(rate, rel=1e-12)
    assert applied == rule


def test_the_exponent_is_an_option():
    scaled, _ = scaling.learning_rate(options("power") | {"exponent": -1.0}, 0.1, 512, 128, "sgd")
    assert scaled == pytest.approx(0.025)


def test_every_rule_has_a_choice_and_the_other_way_round():
    assert {path.stem for path in CONF.glob("*.yaml")} == {"none", "linear", "sqrt", "power", "auto"}


def test_what_is_not_known_is_refused():
    with pytest.raises(UserError, match="scaling=cubic"):
        scaling.learning_rate({"name": "cubic"}, 0.1, 128, 128, "sgd")
    with pytest.raises(UserError, match="family exotic"):
        scaling.learning_rate({"name": "auto"}, 0.1, 128, 128, "exotic")
