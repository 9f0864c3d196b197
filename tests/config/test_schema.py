"""The types of options: what each accepts and refuses, the one form of a value, and the messages."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optbench.config.schema import Duration, OptionType, check, time_limit_minutes
from optbench.errors import UserError

NAN, INFINITY = math.nan, math.inf
NOT_DURATIONS = [
    None,
    True,
    -1,
    1.5,
    "",
    "epochs",
    "-5epochs",
    "1.5steps",
    "0.5",
    "5 weeks",
    "5Epochs",
    "nan",
    "infepochs",
]
NOT_DURATIONS += ["1e999samples", "1e400epochs", "5epochs5", "5epochss", "%", "10%%", [5]]
DURATIONS = [
    0,
    1,
    100,
    "0",
    "100",
    "1step",
    "100steps",
    "1e3steps",
    "5epochs",
    "0.5epochs",
    "1e-2epochs",
    "1.5e+2samples",
]
DURATIONS += ["1sample", "1000 samples", " 5 epochs ", "10%", "2.5 %", "100%", "150%"]

# type: (accepted, refused)
TYPES = {
    "int": ([0, 1, -1, 10**12], [True, False, 1.0, "1", None, [1], NAN]),
    "int >= 1": ([1, 2, 10**9], [0, -1, True, 1.0, "1"]),
    "int > 0": ([1], [0, -1]),
    "int <= 3": ([3, -5], [4, True]),
    "int < 3": ([2], [3]),
    "int in [0, 3]": ([0, 3], [-1, 4]),
    "int in [0, 3)": ([0, 2], [-1, 3]),
    "int>=1": ([1], [0]),
    "float": (
        [0, 1, -1, 0.5, 1e-30, -1e30],
        [True, False, "1e-3", "0.1", "nan", NAN, INFINITY, -INFINITY, None, [0.1]],
    ),
    "float > 0": ([1e-300, 1, 3.5], [0, 0.0, -1.0, NAN, INFINITY]),
    "float >= 0": ([0, 0.0, 1e30], [-1e-9]),
    "float <= 1": ([1, 1.0, -7], [1.0000001]),
    "float < 1": ([0.999], [1, 1.0]),
    "float in [0, 1)": ([0, 0.0, 0.999], [1, 1.0, -0.001, True]),
    "float in (0, 1]": ([1e-9, 1], [0, 0.0, 1.1]),
    "float in (0, 1)": ([0.5], [0, 1]),
    "float in [0, 1]": ([0, 1], [-0.1, 1.1]),
    "float in [-1.5, 2.5e-1]": ([-1.5, 0.25], [-1.6, 0.3]),
    "float > 0 or null": ([None, 0.1], [0, "null", INFINITY]),
    "bool": ([True, False], [0, 1, "true", None, 1.0]),
    "bool or null": ([True, None], [0, "null"]),
    "str": (["", "relu", "1"], [1, None, True, ["relu"]]),
    "str or null": (["relu", None], [1]),
    "duration": (DURATIONS, NOT_DURATIONS),
    "duration or null": ([*DURATIONS, None], [value for value in NOT_DURATIONS if value is not None]),
    "duration > 0": ([1, "1", "0.1epochs", "5%"], [0, "0", "0epochs", "0%", "x"]),
    "list of int": ([[], [1, 2], (3,)], [1, [1.0], [True], ["1"], [1, None], None, "12", {1: 2}]),
    "list of int >= 1": ([[1, 2]], [[1, 0], [0]]),
    "list of float": ([[0, 0.5], []], [0.5, ["0.5"], [NAN], [[0.5]]]),
    "list of float in [0, 1)": ([[0, 0.9]], [[0.5, 1]]),
    "list of bool": ([[True]], [[1]]),
    "list of str": ([["a"], []], ["a", [1]]),
    "list of duration": ([[5, "5epochs", "10%"], []], ["5epochs", [True], ["5 weeks"], [1.5]]),
    "list of int or null": ([None, [1]], [[None]]),
    "one of linear, cosine": (["linear", "cosine"], ["Linear", "", "linear, cosine", None, 1, ["linear"]]),
    "one of linear": (["linear"], ["cosine", "null"]),
    "one of linear, cosine or null": (["linear", "cosine", None], ["null", "cosine or null"]),
    "mapping": ([{}, {"a": 1}], [[], None, "a", 1]),
    "list of mapping": ([[], [{}], [{"a": 1}, {}]], [{}, [[]], ["a"], [None], None]),
    "time": (
        [1, 90, "90", "30:00", "0:01", "2:30:00", "1-12", "1-12:30", "1-12:00:30", " 60 "],
        [0, "0", "0:00", "0-0", -1, True, 1.5, "1.5", "", "an hour", "1:2:3:4", "1-", "-1", "1h", None, [60]],
    ),
    "time or null": ([None, 60], [0]),
}
CASES = [
    (text, value, accepted)
    for text, both in TYPES.items()
    for values, accepted in zip(both, (True, False), strict=True)
    for value in values
]


@pytest.mark.parametrize(("text", "value", "accepted"), CASES, ids=lambda part: repr(part))
def test_accepts(text, value, accepted):
    assert OptionType.parse(text).accepts(value) is accepted


@pytest.mark.parametrize(
    "text",
    [
        "",
        "number",
        "integer",
        "floats",
        "int >= ",
        "int >= one",
        "int == 1",
        "int 1",
        "int in 0, 1",
        "int in [0, 1",
        "int in [0]",
        "list of",
        "list of list of int",
        "list int",
        "or null",
        "int or none",
        "float > 0 < 1",
        "bool > 0",
        "str >= 1",
        "list of str > 0",
        "mapping < 3",
    ],
)
def test_what_is_not_a_type_is_refused(text):
    with pytest.raises(ValueError):
        OptionType.parse(text)


# ---- durations ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "amount", "unit", "text"),
    [
        (0, 0, "steps", "0steps"),
        (250, 250, "steps", "250steps"),
        ("250", 250, "steps", "250steps"),
        ("1step", 1, "steps", "1steps"),
        ("1 steps", 1, "steps", "1steps"),
        ("1e3steps", 1000, "steps", "1000steps"),
        ("5epoch", 5, "epochs", "5epochs"),
        ("5epochs", 5, "epochs", "5epochs"),
        ("5 epochs", 5, "epochs", "5epochs"),
        (" 5.0  epochs ", 5, "epochs", "5epochs"),
        ("0.5epochs", 0.5, "epochs", "0.5epochs"),
        ("1sample", 1, "samples", "1samples"),
        ("1000samples", 1000, "samples", "1000samples"),
        ("10%", 10, "%", "10%"),
        ("2.50 %", 2.5, "%", "2.5%"),
        # More digits than six: two lengths of training must not share one spelling.
        (1234567, 1234567, "steps", "1234567steps"),
        ("12800001samples", 12800001, "samples", "12800001samples"),
        ("33.3333333%", 33.3333333, "%", "33.3333333%"),
    ],
)
def test_durations(value, amount, unit, text):
    duration = Duration.parse(value)
    assert (duration.amount, duration.unit) == (amount, unit)
    assert str(duration) == text


@pytest.mark.parametrize(
    ("value", "minutes"),
    [
        (90, 90),
        ("90", 90),
        ("30:00", 30),
        ("30:01", 31),
        ("0:01", 1),
        ("2:30:00", 150),
        ("2:29:01", 150),
        ("1-12", 36 * 60),
        ("1-12:30", 36 * 60 + 30),
        ("2-01:02:03", 2 * 1440 + 63),
    ],
)
def test_time_limits_in_whole_minutes(value, minutes):
    assert time_limit_minutes(value) == minutes


@pytest.mark.parametrize("value", NOT_DURATIONS, ids=repr)
def test_what_is_not_a_duration_is_refused(value):
    with pytest.raises(ValueError):
        Duration.parse(value)


@given(st.integers(0, 10**15) | st.floats(0, 1e15, allow_nan=False), st.sampled_from(["epochs", "samples", "%"]))
def test_the_spelling_of_a_duration_says_all_of_it(amount, unit):
    assert Duration.parse(str(Duration(amount, unit))) == Duration(amount, unit)


# ---- the one form of a value ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "values", "form"),
    [
        ("float", [1, 1.0], 1.0),
        ("float > 0 or null", [None], None),
        ("int", [3], 3),
        ("bool", [True], True),
        ("str", ["relu"], "relu"),
        ("one of linear, cosine", ["linear"], "linear"),
        ("duration", ["5epoch", "5epochs", "5 epochs", " 5.0epochs", "5e0epochs"], "5epochs"),
        ("duration", [100, "100", "100steps", "100 step", "1e2"], "100steps"),
        ("duration or null", [None], None),
        ("list of float", [[1, 0.5], (1.0, 0.5)], [1.0, 0.5]),
        ("list of duration", [["30epoch", 5], ("30 epochs", "5steps")], ["30epochs", "5steps"]),
        ("list of int", [[1, 2], (1, 2)], [1, 2]),
    ],
)
def test_canonical(text, values, form):
    for value in values:
        canonical = OptionType.parse(text).canonical(value)
        # repr tells 1 from 1.0 and True, as the run id's JSON does.
        assert repr(canonical) == repr(form)


# ---- messages -------------------------------------------------------------------------------------------------------

SCHEMA = {"learning_rate": "float > 0", "momentum": "float in [0, 1)", "nesterov": "bool", "warmup": "duration or null"}
RIGHT = {"learning_rate": 0.1, "momentum": 0.9, "nesterov": False, "warmup": None}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"momentum": 1.0}, "optimizer.momentum=1.0: must be float in [0, 1)"),
        ({"learning_rate": "1e-3"}, "optimizer.learning_rate=1e-3: must be float > 0"),
        ({"learning_rate": NAN}, "optimizer.learning_rate=nan: must be float > 0"),
        ({"learning_rate": None}, "optimizer.learning_rate=null: must be float > 0"),
        (
            {"warmup": "5 weeks"},
            "optimizer.warmup=5 weeks: must be duration or null "
            "(such as 200 or 200steps, 5epochs, 10000samples, 10% of the budget; at most 1e15)",
        ),
        ({"nesterov": "yes"}, "optimizer.nesterov=yes: must be bool"),
        ({"momentun": 0.9}, "optimizer.momentun: unknown key; did you mean momentum?"),
        (
            {"xyz": 1},
            "optimizer.xyz: unknown key; accepted: learning_rate, momentum, nesterov, warmup",
        ),
    ],
)
def test_messages(change, message):
    with pytest.raises(UserError) as raised:
        check({**RIGHT, **change}, SCHEMA, "optimizer")
    assert str(raised.value) == message


@pytest.mark.parametrize(
    ("value", "hint"),
    [
        ("0..3", "'seed=range(0,4)' or seed=0,1,2,3"),
        ("2-4", "'seed=range(2,5)' or seed=2,3,4"),
        ("0:2", "'seed=range(0,3)' or seed=0,1,2"),
        ("0...1", "'seed=range(0,2)' or seed=0,1"),
        ("0..99", "'seed=range(0,100)'"),
    ],
)
def test_a_range_of_another_language_is_answered_with_ours(value, hint):
    with pytest.raises(UserError) as raised:
        check({"seed": value}, {"seed": "int >= 0"})
    assert str(raised.value) == f"seed={value}: must be int >= 0; several values are swept over with -m: {hint}"


@pytest.mark.parametrize("value", ["3..0", "1.5", "a..b", "1..", 0.5])
def test_what_is_no_range_is_not_taken_for_one(value):
    with pytest.raises(UserError, match=r": must be int >= 0$"):
        check({"seed": value}, {"seed": "int >= 0"})


def test_a_missing_key_is_named():
    with pytest.raises(UserError) as raised:
        check({name: value for name, value in RIGHT.items() if name != "momentum"}, SCHEMA)
    assert str(raised.value) == "momentum: missing; must be float in [0, 1)"


def test_an_unknown_key_where_there_are_none():
    with pytest.raises(UserError, match=r"^loss\.power: unknown key; none is accepted here$"):
        check({"power": 2}, {}, "loss")


def test_right_options_pass():
    check(RIGHT, SCHEMA, "optimizer")
