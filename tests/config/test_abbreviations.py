"""Keys as other programs call them are answered with the full key, wherever they are typed."""

import re

import pytest

import optbench
from optbench.__main__ import main
from optbench.config import GROUPS, MACHINE_KEYS, SCIENCE_KEYS, choices, options, read_choice
from optbench.config.abbreviations import _ELSEWHERE

SMALL = ["dataset=digits", "model=mlp", "dry_run=true"]


def answer(capsys, *words):
    capsys.readouterr()
    assert main([*SMALL, *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    return err


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("epochs=5", "epochs: unknown key; did you mean budget.epochs?"),
        ("steps=5", "did you mean budget.steps?"),
        ("lr=0.1", "did you mean optimizer.learning_rate?"),
        ("learning_rate=0.1", "did you mean optimizer.learning_rate?"),
        ("wd=0.1", "did you mean optimizer.weight_decay?"),
        ("weight_decay=0.1", "did you mean optimizer.weight_decay?"),
        ("optimizer=momentum momentum=0.8", "did you mean optimizer.momentum?"),
        ("optimizer=lars momentum=0.8", "did you mean optimizer.momentum?"),
        ("optimizer=adam beta1=0.8", "did you mean optimizer.beta1?"),
        ("bs=64", "did you mean batch?"),
        ("batch_size=64", "did you mean batch?"),
        ("gpus=2", "did you mean trainer.devices?"),
        ("warmup=3", "did you mean schedule.warmup?"),
        ("+epochs=5", "did you mean budget.epochs?"),
        ("optimizer.lr=0.1", "did you mean optimizer.learning_rate?"),
        ("budget.max_epochs=0.1", "did you mean budget.epochs?"),
        ("-m lr=0.1,0.2", "did you mean optimizer.learning_rate?"),
        # Of a choice that is not chosen: with it.
        ("milestones=[3]", "no chosen choice has such an option; did you mean schedule.milestones with schedule="),
        ("bach=3", "bach: unknown key; did you mean batch"),
    ],
)
def test_the_full_key_is_named(words, meant, capsys):
    assert meant in answer(capsys, *words.split())


def test_every_answer_is_a_key_that_there_is():
    known = {*SCIENCE_KEYS, *MACHINE_KEYS, *GROUPS}
    for group in GROUPS:
        known |= {f"{group}.{option}" for name in choices(group) for option in options(read_choice(group, name))}
    assert set(_ELSEWHERE) <= known
    named = [word for words in _ELSEWHERE.values() for word in words]
    assert len(named) == len({*named})


@pytest.mark.parametrize("words", [["--version"], ["optimizer=adam", "--version"]])
def test_the_version_is_optbenchs(words, capsys):
    assert main(words) == 0
    out = capsys.readouterr().out
    assert re.fullmatch(r"optbench \d+\.\d+\.\d+\n", out)
    assert out == f"optbench {optbench.__version__}\n"
