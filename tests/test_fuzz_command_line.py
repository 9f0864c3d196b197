"""Command lines made from the schemas of all choices, with values that nobody meant: one message, and nothing left behind.

`OPTBENCH_FUZZ=2000 pytest tests/test_fuzz_command_line.py` tries more of them than the suite does.
"""

import os
import time
from copy import deepcopy
from functools import cache

import hypothesis.strategies as st
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from hypothesis import HealthCheck, given, settings

from optbench import config
from optbench.__main__ import main
from optbench.config import GROUPS, LIST_GROUPS, MACHINE_KEYS, SCIENCE_KEYS, RunConfig, choices, options, read_choice
from optbench.errors import UserError
from optbench.training import build

EXAMPLES = int(os.environ.get("OPTBENCH_FUZZ", "0"))
SECONDS = 20.0  # for one of them, on a machine that does other things too
QUICK = settings(
    max_examples=EXAMPLES or 300, derandomize=not EXAMPLES, deadline=None, database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip
HUGE = 10**25
NUMBERS = ["-1", "0", "1", "2", "7", "-0.0", "1e-320", "0.5", "1.5", "1e3", "1e308", "-1e308", "1e400", "nan", "inf", "-.inf",
           str(2**31), str(2**63 - 1), str(2**63), str(HUGE), f"-{HUGE}", "9" * 400, "0x10", "1_000", "010", "1:30"]  # fmt: skip
DURATIONS = ["0epochs", "1e308epochs", "-1epochs", "1e-9epochs", "101%", "1e300%", "0%", "99999999999999steps", "5 epochs",
             "epochs", "1epoch1", "0.5steps", "1e11samples", "nan%"]  # fmt: skip
WORDS = ["null", "true", "", "''", "' '", "none", "auto", "[]", "[1]", "[null]", "[1,[2]]", "[a,b]", "{}", "{a:1}", "[", "]", "}",
         "ä", "日本", "a" * 5000, "\\", "%", "$", "--", "=", "a=b", "'a\nb'", "1,2", "range(3)", "../x"]  # fmt: skip
INTERPOLATIONS = ["${nothing}", "${batch}", "${batch", "${.}", "${optimizer}", "${seed}x", "${oc.env:NO_SUCH_VARIABLE}",
                  "${oc.env:PATH}", "${no_such_resolver:1}", "'${oc.decode:\"[\"}'", "${now:%Y}", "${..batch}"]  # fmt: skip
# The choices whose data are not shipped would say that they are missing.
SHIPPED = ["digits", "adding", "memorization", "curves", "text", "temporal_order_2"]


@cache
def keys():
    """Every key that can be set, with the words that choose what it belongs to."""
    found = [((), key) for key in {**SCIENCE_KEYS, **MACHINE_KEYS}]
    for group in LIST_GROUPS:
        for name in choices(group):
            chosen = read_choice(group, name)
            found += [((f"{group}=[{name}]",), f"{group}.{name}.{option}") for option in options(chosen)]
    for group in GROUPS:
        for name in choices(group):
            chosen = read_choice(group, name)
            if group == "dataset" and name not in SHIPPED:
                continue
            found += [((f"{group}={name}",), f"{group}.{option}") for option in options(chosen)]
    return found


values = st.sampled_from([*NUMBERS, *DURATIONS, *WORDS, *INTERPOLATIONS]) | st.lists(
    st.sampled_from(NUMBERS), max_size=3
).map(lambda items: f"[{','.join(items)}]")


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setenv("OPTBENCH_DATA", str(tmp_path))
    return tmp_path


def refused(call, key):
    """Whether ``call`` refuses, in one line that names ``key``; any other exception is a failure."""
    try:
        call()
    except UserError as error:
        message = str(error)
        assert "\n" not in message, message
        # Another option of the group, or the group itself, may be to blame as well as this one.
        assert key.rpartition(".")[2] in message or key.partition(".")[0] in message, message
        assert len(message) < 1500, message
        return True
    return False


@cache
def front_page():
    return config.compose(["dataset=digits", "model=mlp"])


def resolved(chosen, key, value, page=None):
    """What `config.compose` makes of the words, by Hydra's own reading of the value, but 30 times as fast."""
    if "${" in value:
        return config.compose([*chosen, f"{key}={value}"])
    try:
        value = OverridesParser.create().parse_override(f"{key}={value}").value()
    except HydraException:
        return config.compose([*chosen, f"{key}={value}"])
    made = deepcopy(page or front_page())
    for word in chosen:
        group, _, name = word.partition("=")
        if group in LIST_GROUPS:
            made[group] = {name.strip("[]"): deepcopy(read_choice(group, name.strip("[]")))}
        else:
            made[group] = deepcopy(read_choice(group, name))
    place = made
    *path, last = key.split(".")
    for part in path:
        place = place[part]
    place[last] = value if isinstance(value, str | int | float | bool | list | dict | None) else str(value)
    return config.resolve(made)


@given(where=st.deferred(lambda: st.sampled_from(keys())), value=values)
@QUICK
def test_whatever_is_typed_is_composed_or_refused_in_one_line(here, where, value):
    chosen, key = where
    began = time.monotonic()
    refused(lambda: resolved(chosen, key, value), key)
    assert time.monotonic() - began < SECONDS
    assert list(here.iterdir()) == []


@given(where=st.deferred(lambda: st.sampled_from(keys())), value=values)
@settings(QUICK, max_examples=EXAMPLES or 15)
def test_the_command_says_it_in_one_line(here, capsys, where, value):
    chosen, key = where
    capsys.readouterr()
    status = main([*chosen, f"{key}={value}", "dry_run=true"])
    errors = capsys.readouterr().err
    assert status in (0, 2)
    assert len(errors.splitlines()) == (1 if status else 0), errors
    assert list(here.iterdir()) == []


SMALL = [
    "dataset=digits",
    "dataset.train_limit=64",
    "model=mlp",
    "model.hidden=[8]",
    "batch=16",
    "budget.steps=3",
    "tracker=none",
]
BUILT = (
    "optimizer",
    "schedule",
    "momentum_schedule",
    "scaling",
    "init",
    "averaging",
    "budget",
    "loss",
    "model",
    "dataset",
)


@cache
def built():
    """The keys that a small run on digits, or on its own generated data, can be built with."""
    images = [name for name in choices("model") if "image" in read_choice("model", name)["info"]["accepts"]]
    return [
        (chosen, key)
        for chosen, key in keys()
        if (group := key.partition(".")[0]) in BUILT or "." not in key
        if group != "model" or chosen[0].removeprefix("model=") in images
        if group != "dataset" or chosen == ("dataset=digits",)
    ]


@cache
def small():
    return config.compose(SMALL)


@given(where=st.deferred(lambda: st.sampled_from(built())), value=st.sampled_from([*NUMBERS, *DURATIONS]))
@settings(QUICK, max_examples=EXAMPLES or 40)
def test_what_is_composed_is_built_or_refused_in_one_line(here, where, value):
    chosen, key = where
    began = time.monotonic()

    def attempt():
        made = resolved(chosen, key, value, small())
        read = RunConfig.of(made)
        task = build.build_task(read, build.load_data(read))
        task.check(1)
        build.build_recorder(read, task, None)

    refused(attempt, key)
    assert time.monotonic() - began < SECONDS
    assert list(here.iterdir()) == []
