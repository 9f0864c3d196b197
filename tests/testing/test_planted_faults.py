"""Every planted fault is found by the check that is about it, and nothing is found in the optimizer they are made from."""

import pytest

from optbench import testing
from optbench.testing.certifying import CHECKS

PLACE = "tests.testing.planted"
# Each with the check that has to find it.
FAULTS = {
    "MomentumNotSaved": "resume",
    "KeyedById": "resume",
    "StepOfItsOwn": "resume",
    "LoadingResetsTheStep": "resume",
    "PythonDraws": "resume",
    "StateRunsCode": "resume",
    "CacheOfTheModule": "repeat",
    "KeyedByOrder": "frozen",
    "FrozenDecay": "frozen",
    "UnusedMove": "unused",
    "TiedTwice": "tied",
    "GradientOfTheLastUse": "twice",
    "StepSharedByGroups": "groups",
    "FirstGroupsRate": "group rates",
    "OneGroupOnly": "added group",
    "DifferentOrders": "order",
    "SharedMemory": "own state",
    "GradientAsMemory": "own state",
    "GradientsChanged": "gradients",
    "RateAtConstruction": "learning rate",
    "RateOfTheFirstStep": "learning rate",
    "DividesByTheRate": "zero rate",
    "MomentumAtConstruction": "momentum",
    "StaleBiasCorrection": "reference",
    "DecayInside": "weight decay",
    "DecayOutside": "weight decay",
    "DecayWithoutTheRate": "weight decay",
    "DecayIgnored": "weight decay",
    "ClosureTwice": "evaluations",
    "OtherWithoutClosure": "without closure",
    "StateInFloat32": "precision",
    "LoadedAsSaved": "dtype",
    "CountsBackwardPasses": "micro-batch",
}
STARTS_PROCESSES = {"kill", "ranks", "time"}
ADAM = "torch.optim.Adam"


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_found(fault):
    card = testing.certify(f"{PLACE}.{fault}", checks=[FAULTS[fault]], reference=ADAM)
    assert [(check.name, check.outcome) for check in card.checks] == [(FAULTS[fault], "failed")]
    assert len(card[FAULTS[fault]].reason.splitlines()) == 1
    with pytest.raises(AssertionError, match=FAULTS[fault]):
        card.check()


def test_nothing_is_found_where_nothing_is_planted():
    card = testing.certify(f"{PLACE}.Clean", quick=True, reference=ADAM)
    card.check()
    assert {check.name for check in card.checks if check.outcome == "not applicable"} <= {"device"}
    assert {check.name for check in card.checks} == {name for name, _, _ in CHECKS} - STARTS_PROCESSES
    assert not card.complete


@pytest.mark.slow
def test_the_whole_of_it_with_ranks_and_killed_runs():
    card = testing.certify(f"{PLACE}.Clean", reference=ADAM)
    card.check()
    assert card.complete


@pytest.mark.slow
def test_what_only_ranks_and_killed_runs_show():
    card = testing.certify(f"{PLACE}.LocalGradients", checks=["ranks", "kill"])
    assert {check.name: check.outcome for check in card.checks} == {"ranks": "failed", "kill": "passed"}
    assert testing.certify(f"{PLACE}.PythonDraws", checks=["kill"])["kill"].outcome == "failed"


def test_the_faults_are_of_every_kind():
    """A check that finds no planted fault may find nothing at all: only what measures, or starts processes, has none above."""
    assert {name for name, _, _ in CHECKS} - set(FAULTS.values()) == {"device", "memory", *STARTS_PROCESSES}


@pytest.mark.parametrize(
    ("words", "outcome"),
    [
        (["optimizer=lars"], "passed"),
        (["optimizer=lamb"], "passed"),
        (["optimizer=nadam"], "passed"),
        (["torch.optim.SGD", "optimizer.momentum=0.8", "optimizer.nesterov=true"], "passed"),
        (["torch.optim.RMSprop", "optimizer.centered=true"], "not applicable"),
        (["optimizer=zoo", "optimizer.name=lamb"], "not applicable"),
        ([f"{PLACE}.Clean"], "not applicable"),
    ],
    ids=str,
)
def test_references_are_those_of_the_same_method(words, outcome):
    card = testing.certify(*words, checks=["reference"])
    assert card["reference"].outcome == outcome, card["reference"]


def test_a_class_that_takes_over_a_choice_is_not_held_against_its_formula(tmp_path):
    (tmp_path / "optimizer").mkdir()
    (tmp_path / "optimizer" / "mine.yaml").write_text(f"defaults: [sgd]\n_target_: {PLACE}.Clean\n")
    words = ["optimizer=mine", f"--config-dir={tmp_path}"]
    assert testing.certify(*words, checks=["reference"])["reference"].outcome == "not applicable"
    assert testing.certify(*words, checks=["reference"], reference=ADAM)["reference"].outcome == "passed"


def test_a_promise_that_does_not_fit_is_stated_with_the_reason():
    card = testing.certify("optimizer=rprop", checks=["schedules"])
    assert card["zero rate"].reason == "stated: as of the learning rate"
    assert testing.certify("torch.optim.Rprop", checks=["zero rate"])["zero rate"].outcome == "failed"


def test_a_step_size_for_all_weights_is_not_taken_for_a_decay_of_biases():
    """Adai divides by a mean over all weights, which the decay of some changes for the others."""
    card = testing.certify("optimizer=zoo", "optimizer.name=adai", checks=["weight decay"])
    assert (card.passed, card["weight decay"].values["biases"]) == (True, "not decayed")
    for name, biases in (("DecayOfBiases", "decayed"), ("Clean", "not decayed")):
        card = testing.certify(f"{PLACE}.{name}", checks=["weight decay"])
        assert card["weight decay"].values["biases"] == biases
