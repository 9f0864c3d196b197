"""Words of the command line that another one would undo."""

import pytest

from optbench.config import check_budget, check_trials, compose
from optbench.errors import UserError

DIGITS = ["dataset=digits", "model=mlp"]


def checked(check, *words):
    check(words, [compose([*DIGITS, *words])])


def test_a_value_that_the_trial_would_replace_is_refused_even_where_it_is_the_default():
    assert compose(DIGITS)["optimizer"]["learning_rate"] == 0.1
    with pytest.raises(
        UserError, match=r"^optimizer\.learning_rate=0\.1: trial=5 draws it .* of optimizer=sgd; accepted: "
    ):
        checked(check_trials, "trial=5", "optimizer.learning_rate=0.1")


@pytest.mark.parametrize(
    "words",
    [
        ["trial=0", "optimizer.learning_rate=0.1"],
        ["trial=5"],
        ["trial=5", "optimizer.weight_decay_mode=coupled"],  # not in the search space
        ["optimizer.learning_rate=0.3"],
    ],
    ids=" ".join,
)
def test_a_value_that_the_trial_leaves_alone_is_accepted(words):
    checked(check_trials, *words)


def test_the_value_that_the_trial_draws_is_no_contradiction():
    drawn = compose([*DIGITS, "trial=5"])["optimizer"]["learning_rate"]
    checked(check_trials, "trial=5", f"optimizer.learning_rate={drawn}")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["budget.epochs=1", "budget.steps=5"], "budget.epochs=1: has no effect beside budget.steps=5"),
        (["budget.samples=9", "budget.steps=5"], "budget.samples=9: has no effect beside budget.steps=5"),
        (["budget.epochs=1", "++budget.samples=9"], "budget.epochs=1: has no effect beside budget.samples=9"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_one_limit_of_the_budget_hides_no_other_that_was_typed(words, message):
    with pytest.raises(UserError) as raised:
        checked(check_budget, *words)
    assert str(raised.value).startswith(message)
    assert "accepted: only one of the two" in str(raised.value)


@pytest.mark.parametrize(
    "words",
    [
        ["budget.steps=5"],  # beside the 10 epochs of the file
        ["budget.epochs=1", "budget.steps=null"],
        ["budget.epochs=3", "budget.samples=null", "budget.steps=null"],
        ["budget.samples=9"],
    ],
    ids=" ".join,
)
def test_one_typed_limit_takes_the_place_of_the_one_in_the_file(words):
    checked(check_budget, *words)


def test_a_limit_typed_beside_another_one_of_the_experiment_is_refused():
    """Such as experiment=steps_to_target budget.epochs=1, whose scale has budget.steps."""
    composed = compose([*DIGITS, "budget.steps=150", "budget.epochs=1"])
    with pytest.raises(UserError, match=r"^budget\.epochs=1: has no effect beside budget\.steps=150"):
        check_budget(["budget.epochs=1"], [composed])
    check_budget(["budget.steps=150"], [composed])
