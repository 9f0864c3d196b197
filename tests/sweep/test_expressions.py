"""Conditions over a configuration: what they mean, held against Python's own, and what they refuse."""

import pytest

from optbench.errors import UserError
from optbench.sweep.expressions import Expression

CONFIG = {
    "optimizer": {"name": "lamb", "learning_rate": 0.01, "options": {}, "info": {"family": "adaptive"}},
    "model": {"name": "wrn", "depth": 28},
    "trainer": {"name": "ddp", "devices": 2, "num_nodes": 1},
    "batch": 128,
    "seed": 3,
    "clip_norm": None,
    "compile": False,
    "precision": "bf16",
    "probe": {"spectrum": {"name": "spectrum"}, "eigenvalues": {"name": "eigenvalues"}},
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("optimizer == 'lamb' and batch < 256", True),
        ("optimizer == 'lamb' and batch < 128", False),
        ("model in ('wrn', 'resnet18')", True),
        ("model not in ['wrn', 'resnet18']", False),
        ("model.depth >= 28 or trainer.devices > 1", True),
        ("model.depth > 28 or trainer.devices > 2", False),
        ("optimizer.info.family == 'adaptive'", True),
        ("64 <= batch < 256", True),
        ("64 <= batch < 128", False),
        ("0 < seed < batch > 1000", False),
        ("not compile", True),
        ("compile == false and clip_norm == null", True),
        ("compile == False and clip_norm == None", True),
        ("true", True),
        ("'f16' in precision", True),
        ("'spectrum' in probe and 'trace' not in probe", True),
        ("batch != 128.0", False),
        ("batch\n  == 128", True),
    ],
)
def test_a_condition_holds_or_not(text, value):
    assert Expression.parse(text).holds(CONFIG) is value


@pytest.mark.parametrize(
    "text",
    [
        "batch * 2 + seed - 1",
        "batch / 3",
        "batch // 3 % 5",
        "-batch + 1",
        "-(batch - seed) * 2.5",
        "not batch or seed",
        "batch and seed",
        "batch and 0 or seed and precision",
        "[batch, seed] == [128, 3]",
        "seed in (1, 2, 3) and 1 < 2 < 3 != 4",
        "(seed, batch) < (3, 129)",
    ],
)
def test_values_are_those_of_python(text):
    expected = eval(text, {key: CONFIG[key] for key in ("batch", "seed", "precision")})
    value = Expression.parse(text)(CONFIG)
    assert value == expected
    assert type(value) is type(expected)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("optimizer.momentum", None),
        ("optimizer.options.precondition.every", None),
        ("optimizer.momentum == None", True),
        ("optimizer.momentum > 0", False),
        ("optimizer.momentum <= 0", False),
        ("0 < optimizer.momentum < 1", False),
        ("optimizer.momentum * 2 + 1", None),
        ("-clip_norm", None),
        ("1 in optimizer.momentum", False),
        ("1 not in optimizer.momentum", True),
    ],
)
def test_an_option_that_the_choice_lacks_is_none_and_compares_with_nothing(text, value):
    assert Expression.parse(text)(CONFIG) is value


def test_and_or_look_no_further_than_they_must():
    assert Expression.parse("optimizer == 'lamb' or nonsense").holds(CONFIG)
    assert not Expression.parse("optimizer == 'sgd' and nonsense").holds(CONFIG)


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "open('file')",
        "batch.__class__()",
        "optimizer['name']",
        "'text'.upper",
        "(batch).real if seed else 0",
        "[x for x in (1, 2)]",
        "lambda: 1",
        "(batch := 3)",
        "{1, 2}",
        "{'a': 1}",
        "f'{batch}'",
        "b'bytes'",
        "1j",
        "...",
        "2 ** 8",
        "1 << 3",
        "~seed",
        "+seed",
        "batch is None",
        "(*(1, 2),)",
        "await_ = 3",
        "import os",
        "batch >",
        "",
        "batch == 'lamb",
        "batch\0",
        "-" * 100_000 + "1",
        "(" * 500 + "1" + ")" * 500,
    ],
    ids=lambda text: text[:24] or "nothing",
)
def test_what_is_not_of_the_language_is_refused_when_it_is_read(text):
    with pytest.raises(UserError, match=r"cannot be read .*; accepted: ") as caught:
        Expression.parse(text, "hydra.sweeper.exclude")
    assert str(caught.value).startswith("hydra.sweeper.exclude: ")


@pytest.mark.parametrize("text", [True, None, 3, ["batch"]])
def test_what_is_not_text_is_refused(text):
    with pytest.raises(UserError, match="an expression is text"):
        Expression.parse(text)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optimiser == 'lamb'", r"where: optimiser == 'lamb': optimiser: unknown key; did you mean optimizer"),
        ("optimizer == lamb", r"lamb: unknown key; .* \(a name is written in quotes: 'lamb'\)"),
        ("batch.size > 3", r"batch\.size: batch is 128, which has no options"),
        ("model.depth.odd", r"model\.depth\.odd: model\.depth is 28, which has no options"),
        ("null.x", r"null: unknown key"),
        ("batch < 'large'", r"batch < 'large' cannot compare 128 and 'large'"),
        ("probe == 'trace'", r"a group of several choices; accepted: 'NAME' in probe"),
        ("1 in batch", r"1 in batch cannot compare 1 and 128"),
        ("precision * 1000000000 == 0", r"precision \* 1000000000 needs numbers, and has 'bf16' and 1000000000"),
        ("(1, 2) * 1000000000", r"needs numbers"),
        ("-precision", r"-precision needs numbers"),
        ("batch / (seed - 3)", r"batch / \(seed - 3\): division by zero"),
        ("batch % 0", r"batch % 0: .*by zero"),
    ],
)
def test_what_cannot_be_evaluated_names_the_expression_and_why(text, message):
    expression = Expression.parse(text, "where")
    with pytest.raises(UserError, match=message) as caught:
        expression(CONFIG)
    assert str(caught.value).startswith(f"where: {text}: ")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("optimizer == 'lamb' and batch < 256", True),
        ("batch > 256 and model.depth > 3", False),  # the known part decides
        ("model.depth > 3 and batch > 256", False),
        ("batch < 256 or unknown_key > 3", True),
        ("unknown_key > 3 or batch < 256", True),
        ("batch < 256 and model.depth > 3", None),
        ("batch > 256 or seed == 3", None),
        ("not seed", None),
        ("optimizer.learning_rate > 0.1", None),  # of a choice only the name is known
        ("seed + batch > 0", None),
        ("batch == true", False),
        ("batch < 'large'", None),  # the whole configuration tells the error
    ],
)
def test_a_condition_is_decided_by_some_values_as_by_all(text, value):
    assert Expression.parse(text).decided({"optimizer": "lamb", "batch": 128}) is value
    if value is not None and "unknown_key" not in text:
        assert Expression.parse(text).holds(CONFIG) is value
