"""`certify`, and what `list` says of its cards."""

import dataclasses
import json

import pytest

from optbench.testing import card as cards
from optbench.testing.certifying import CHECKS


def test_prints_a_table_and_writes_a_card(command, tmp_path):
    words = ["optimizer=adamw", "--check", "weight decay", "--check", "costs", "--output", str(tmp_path)]
    status, out, err = command("certify", *words)
    assert (status, err) == (0, "")
    lines = [line.split() for line in out.splitlines()]
    assert ["check", "outcome", "found", "seconds"] in lines
    assert any(line[:3] == ["weight", "decay", "passed"] for line in lines)
    assert "decoupled, times the learning rate" in out
    card = cards.read(tmp_path / "optimizer-adamw.json")
    assert [check.name for check in card.checks] == ["weight decay", "memory", "time"]
    assert card.passed
    assert not card.complete
    # Two moments of four bytes, and the number of the step.
    assert card["memory"].values["bytes a parameter"] == pytest.approx(8, rel=1e-2)
    assert json.loads((tmp_path / "optimizer-adamw.json").read_text())["passed"] is True


def test_a_failed_check_is_the_exit_status(command):
    status, out, _ = command("certify", "tests.testing.planted.DecayIgnored", "--check", "weight decay")
    assert status == 1
    assert "weight_decay changes nothing" in out
    assert "0 passed, 1 failed, 0 not applicable" in out
    assert "card:" not in out  # of a part of the checks, unless it is asked for


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["optimizer=admm"], "optimizer=admm: no such optimizer"),
        (["schedule=cosine"], "schedule=cosine: cannot be certified"),
        (["optimizer=adam", "lion"], "certify lion: one subject at a time"),
        (["torch.optim.Adamm"], "torch.optim.Adamm"),
        (["torch.nn.Linear"], "no subclass of torch.optim.Optimizer"),
        (["torch.optim.Adam", "optimizer.beta=0.9"], "optimizer.beta=0.9: not an option"),
        (["optimizer=adam", "optimizer.beta1=2.0"], "optimizer.beta1=2.0"),
        (["lomo"], "optimizer.name=lomo: cannot run here"),
        (["optimizer=adam", "--check", "decay rate"], "checks=decay rate: no such check"),
        (["optimizer=adam", "--reference", "torch.optim.Adamm"], "Adamm"),
        (["model=logreg", "--reference", "torch.optim.Adam"], "reference=torch.optim.Adam: accepted: for an optimizer"),
    ],
    ids=str,
)
def test_mistakes_are_one_message(command, words, said):
    status, out, err = command("certify", *words)
    assert (status, out) == (2, "")
    assert said in err
    assert len(err.splitlines()) == 1


def test_list_says_who_has_a_card_and_of_which_code(command, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")  # a choice in a line
    assert command("certify", "optimizer=sgd", "--check", "memory", "--output", str(tmp_path / "cards"))[0] == 0
    card = cards.read(tmp_path / "cards" / "optimizer-sgd.json")
    rest = [cards.Check(name, group, "passed") for name, group, _ in CHECKS]
    broken = dataclasses.replace(rest[0], outcome="failed")
    for name, changes in {
        "sgd": {"complete": True},
        "adam": {"code": "0123"},
        "adan": {"checks": (broken, *rest[1:])},
    }.items():
        dataclasses.replace(card, **{"name": name, "date": "2026-07-01T12:00:00+00:00", **changes}).write(
            tmp_path / "cards"
        )
    (tmp_path / "cards" / "none.json").write_text("[]")
    status, out, err = command("list", "optimizers", "--results-dir", str(tmp_path))
    assert (status, err) == (0, "")
    text = " ".join(out.split())
    assert "(scaling=auto: linear); certified 2026-07-01 Robbins" in text
    assert "certified in part 2026-07-01, by other code than is there now" in text
    assert "adan: certify failed 2026-07-01: repeat" in text
    assert "certif" not in command("list", "optimizers", "--results-dir", str(tmp_path / "none"))[1]
