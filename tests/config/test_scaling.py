"""Scaling rules against values computed by hand."""

from pathlib import Path

import pytest
import yaml

from optbench import config
from optbench.config import Choice, RunConfig, scaling
from optbench.errors import UserError

CONF = Path(__file__).parents[2] / "conf" / "scaling"


def named(group, name, **info):
    return Choice.of(group, {"name": name, "info": {"schema": {}} | info})


def optimizer(name, info):
    return named("optimizer", name, **info)


def rule_of(name, **options):
    return Choice.of("scaling", yaml.safe_load((CONF / f"{name}.yaml").read_text()) | options)


SGD = optimizer("sgd", {"family": "sgd"})


@pytest.mark.parametrize(
    ("name", "batch", "info", "rate", "rule"),
    [
        ("none", 4096, {"family": "sgd"}, 0.1, "none"),
        ("linear", 8192, {"family": "sgd"}, 3.2, "linear"),  # Goyal et al.: 0.1 at 256, 3.2 at 8192
        ("linear", 64, {"family": "adaptive"}, 0.025, "linear"),
        ("sqrt", 4096, {"family": "sgd"}, 0.4, "sqrt"),
        ("sqrt", 16, {"family": "adaptive"}, 0.025, "sqrt"),
        ("power", 4096, {"family": "sgd"}, 0.8, "power"),  # 16^0.75 = 8
        ("auto", 4096, {"family": "sgd"}, 1.6, "linear"),
        ("auto", 4096, {"family": "adaptive"}, 0.4, "sqrt"),
        ("auto", 4096, {"family": "second_order"}, 0.1, "none"),
        ("auto", 256, {"family": "sgd"}, 0.1, "linear"),
        ("auto", 4096, {"family": "sgd", "scaling": "sqrt"}, 0.4, "sqrt"),
        ("auto", 4096, {"family": "sgd", "scaling": "none"}, 0.1, "none"),
        ("auto", 4096, {"family": "adaptive", "scaling": {"mine": "linear", "other": "sqrt"}}, 1.6, "linear"),
        ("linear", 4096, {"family": "sgd", "scaling": "none"}, 1.6, "linear"),  # who names a rule gets it
    ],
)
def test_rules(name, batch, info, rate, rule):
    scaled, applied = scaling.learning_rate(rule_of(name), 0.1, batch, 256, optimizer("Mine", info))
    assert scaled == pytest.approx(rate, rel=1e-12)
    assert applied == rule


def test_the_exponent_is_an_option():
    scaled, _ = scaling.learning_rate(rule_of("power", exponent=-1.0), 0.1, 512, 128, SGD)
    assert scaled == pytest.approx(0.025)


def test_every_rule_has_a_choice_and_the_other_way_round():
    assert {path.stem for path in CONF.glob("*.yaml")} == {"none", "linear", "sqrt", "power", "auto"}


def test_what_is_not_known_is_refused():
    with pytest.raises(UserError, match="scaling=cubic"):
        scaling.learning_rate(named("scaling", "cubic"), 0.1, 128, 128, SGD)
    for info in ({"family": "exotic"}, {"family": "adaptive", "scaling": {"other": "sqrt"}}):
        with pytest.raises(
            UserError, match=r"scaling=auto: not known for optimizer\.name=mine.*none, linear, sqrt or power"
        ):
            scaling.learning_rate(named("scaling", "auto"), 0.1, 128, 128, optimizer("mine", info))


# ---- the rules of the optimizers that ship --------------------------------------------------------------------------------

LINEAR = {"sgd", "momentum", "nesterov", "asgd", "kfac", "ekfac", "perturbed_sgd", "sam", "asam", "schedule_free_sgd"}
NONE = {
    "entropy_sgd", "rprop", "lbfgs", "lm", "score_ggn", "hessian_free", "kfac_natural", "damped_newton", "saddle_free",
    "zeroth_order", "cubic_newton", "prodigy", "adahessian", "ogr",
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(set(config.choices("optimizer")) - {"zoo"}))
def test_auto_of_every_optimizer(name):
    rule = "linear" if name in LINEAR else "none" if name in NONE else "sqrt"
    composed = config.compose([f"optimizer={name}", "scaling=auto", "batch=512"])
    base = composed["optimizer"]["learning_rate"]
    assert config.learning_rate(RunConfig.of(composed)) == (
        pytest.approx(base * {"linear": 4, "sqrt": 2, "none": 1}[rule]),
        rule,
    )
    # The optimizer's own file says so; a rule that merely follows from the family would be one of two facts.
    assert config.read_choice("optimizer", name)["info"]["scaling"] == rule


def zoo(*words):
    return config.compose(["optimizer=zoo", "batch=512", *words])


def rate_of(*words):
    return config.learning_rate(RunConfig.of(zoo(*words)))


def test_auto_of_the_zoo_follows_the_name():
    rate = "optimizer.learning_rate=0.1"
    assert rate_of("optimizer.name=SGDW", "scaling=auto", rate) == (pytest.approx(0.4), "linear")
    assert rate_of("optimizer.name=soap", "scaling=auto", rate) == (pytest.approx(0.2), "sqrt")
    with pytest.raises(UserError, match=r"scaling=auto: not known for optimizer\.name=prodigy"):
        zoo("optimizer.name=prodigy", "scaling=auto", rate)
    assert rate_of("optimizer.name=prodigy", "scaling=linear", rate) == (pytest.approx(0.4), "linear")


def test_a_rate_that_is_not_known_is_not_left_unscaled_in_silence():
    for rule in ("auto", "linear", "sqrt", "power"):
        with pytest.raises(UserError, match=rf"scaling={rule}: optimizer=adabelief has no learning rate here"):
            zoo(f"scaling={rule}")
        zoo(f"scaling={rule}", "base_batch=512")  # nothing to scale
    assert rate_of() == (None, "none")


def test_run_ids_change_where_the_rule_of_auto_did_and_nowhere_else():
    """Those on the left are of the days when auto was the rule of the family."""

    def run_id(*words):
        return config.run_id(config.compose(["scaling=auto", "batch=512", *words])).rsplit("-", 1)[-1]

    assert run_id("optimizer=adam") == "72429fc45e"
    assert run_id("optimizer=momentum") == "5fa91d9956"
    assert run_id("optimizer=zoo", "optimizer.name=soap", "optimizer.learning_rate=0.1") == "aaa52154b5"
    assert run_id("optimizer=lars", "base_batch=512") == "ad481d01e8"
    assert run_id("optimizer=lars") != "dcadc9a76b"
    assert run_id("optimizer=entropy_sgd") != "d4f094a816"
    assert run_id("optimizer=kfac") != "5db12d6859"
    assert run_id("optimizer=zoo", "optimizer.name=sgdw", "optimizer.learning_rate=0.1") != "a98999de87"
    # Its rule is part of the science, so that two rules never share an id.
    science = config.science(config.compose(["scaling=auto", "batch=512", "optimizer=lars"]))
    assert science["scaling"] == {"_target_": "optbench.scaling.learning_rate", "name": "auto", "rule": "sqrt"}
