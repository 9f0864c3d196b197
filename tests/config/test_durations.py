"""The batch of every step and the length of a run, against sums counted step by step and values computed by hand."""

import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optbench.config.durations import BatchPlan, Budget, Horizon, in_samples
from optbench.config.run_config import Choice
from optbench.config.schema import Duration
from optbench.errors import UserError

NO_BUDGET = {
    "steps": None,
    "samples": None,
    "epochs": None,
    "target": None,
    "target_metric": "train_loss",
    "stop_at_target": False,
    "regime_adaptation": False,
}


@st.composite
def plans(draw):
    """A batch plan, and the milestones and batches it was made of."""
    first = draw(st.integers(1, 300))
    stages = draw(st.lists(st.tuples(st.integers(0, 3000), st.integers(1, 2000)), max_size=4))
    milestones = sorted(milestone for milestone, _ in stages)
    batches = [batch for _, batch in stages]
    return BatchPlan(first, milestones, batches), milestones, [first, *batches]


# ---- batch plans ----------------------------------------------------------------------------------------------------


@given(plans(), st.integers(0, 200))
def test_samples_before_a_step_are_the_batches_before_it(made, steps):
    plan, _, _ = made
    assert plan.first_sample(steps) == sum(plan.batch(step) for step in range(steps))


@given(plans(), st.integers(0, 60))
def test_a_batch_grows_once_its_milestone_is_consumed(made, step):
    plan, milestones, batches = made
    passed = sum(milestone <= plan.first_sample(step) for milestone in milestones)
    assert plan.batch(step) == batches[passed]


@given(plans(), st.integers(0, 20_000))
def test_steps_for_is_the_least_number_of_steps(made, samples):
    plan, _, _ = made
    steps = plan.steps_for(samples)
    assert plan.first_sample(steps) >= samples
    assert steps == 0 or plan.first_sample(steps - 1) < samples


@given(plans(), st.integers(0, 500))
def test_steps_for_is_the_inverse_of_first_sample(made, step):
    plan, _, _ = made
    assert plan.steps_for(plan.first_sample(step)) == step


@given(st.integers(1, 65536), st.integers(0, 10**11))
def test_long_constant_plans_are_exact(batch, samples):
    assert BatchPlan(batch).steps_for(samples) == -(-samples // batch)
    assert BatchPlan(batch).first_sample(samples) == samples * batch


def test_a_growing_plan_by_hand():
    # Steps 0 to 2 take 300 >= 250 samples, so step 3 has 200; after step 4 there are 700 >= 700, so step 5 has 1000.
    plan = BatchPlan(100, [250, 700], [200, 1000])
    assert [plan.batch(step) for step in range(7)] == [100, 100, 100, 200, 200, 1000, 1000]
    assert [plan.first_sample(step) for step in range(7)] == [0, 100, 200, 300, 500, 700, 1700]
    assert [plan.steps_for(samples) for samples in (0, 1, 300, 301, 700, 701, 1700)] == [0, 1, 3, 4, 5, 6, 6]
    assert plan.largest == 1000


def test_milestones_within_one_batch_all_take_effect_at_its_end():
    plan = BatchPlan(100, [0, 110, 130], [50, 200, 400])
    assert [plan.batch(step) for step in range(5)] == [50, 50, 50, 400, 400]


def test_the_largest_batch_need_not_be_the_last():
    assert BatchPlan(10, [100, 200], [500, 20]).largest == 500


def test_rounding_errors_of_fractions_take_no_extra_step():
    assert BatchPlan(100).steps_for(0.1 * 3 * 1000) == 3  # 300.00000000000006 samples
    assert BatchPlan(100).steps_for(300.1) == 4


def test_a_negative_step_is_refused():
    with pytest.raises(ValueError, match="step -1"):
        BatchPlan(10).batch(-1)


def test_milestones_out_of_order_are_refused():
    with pytest.raises(UserError, match=r"schedule\.milestones=\[200, 100\].*accepted: \[100, 200\]"):
        BatchPlan(10, [200, 100], [20, 40])


def test_every_milestone_needs_a_batch():
    with pytest.raises(ValueError):
        BatchPlan(10, [100, 200], [20])


# ---- budgets --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("budget", "steps"),
    [
        ({"steps": 7}, 7),
        ({"samples": 1000}, 8),  # 7.8
        ({"samples": 1024}, 8),
        ({"samples": 1025}, 9),
        ({"samples": 1}, 1),
        ({"epochs": 2}, 16),  # 2000 / 128 = 15.6
        ({"epochs": 0.5}, 4),
        ({"epochs": 1e-12}, 1),  # never an empty run
        ({"steps": 7, "samples": 10_000, "epochs": 10}, 7),
        ({"samples": 1024, "epochs": 10}, 8),
    ],
    ids=str,
)
def test_budgets(budget, steps):
    horizon = Horizon.of(Budget.of(NO_BUDGET | budget), BatchPlan(128), examples=1000)
    assert horizon.steps == steps
    assert isinstance(horizon.steps, int)


@pytest.mark.parametrize(
    ("budget", "steps"), [({"epochs": 2}, 60), ({"steps": 7}, 7), ({"samples": 1000}, 10)], ids=str
)
def test_regime_adaptation_stretches_epochs_only(budget, steps):
    assert Horizon.of(Budget.of(NO_BUDGET | budget), BatchPlan(100), examples=1000, stretch=3).steps == steps


def test_the_budget_of_a_growing_plan():
    plan = BatchPlan(100, [1000], [500])  # 10 steps of 100, then 500 each
    assert Horizon.of(Budget.of(NO_BUDGET | {"epochs": 3}), plan, examples=1000).steps == 14
    assert Horizon.of(Budget.of(NO_BUDGET | {"samples": 1001}), plan, examples=1000).steps == 11


def test_epochs_that_have_passed():
    horizon = Horizon(BatchPlan(300), examples=1000, steps=10)
    assert [horizon.epoch(step) for step in (0, 1, 10)] == [0.0, 0.3, 3.0]


# ---- durations in steps ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "plain", "stretched"),
    [
        (0, 0, 0),
        (17, 17, 17),
        ("17", 17, 17),
        ("17steps", 17, 17),
        ("1epoch", 10, 40),  # 1000 / 101 = 9.9; 4000 / 101 = 39.6
        ("2 epochs", 20, 80),  # 19.8; 79.2
        ("0.5epochs", 5, 20),  # 4.95; 19.8
        ("101samples", 1, 1),
        ("102samples", 2, 2),
        ("0samples", 0, 0),
        ("10%", 20, 20),
        ("0.1%", 0, 0),  # 0.2 steps
        ("0.4%", 1, 1),  # 0.8
        ("0.6%", 1, 1),  # 1.2
        ("100%", 199, 199),
    ],
)
def test_durations_in_steps(value, plain, stretched):
    horizon = Horizon(BatchPlan(101), examples=1000, steps=199, stretch=4)
    assert horizon.in_steps(Duration.parse(value)) == plain
    assert horizon.in_steps(Duration.parse(value), stretch=True) == stretched
    assert isinstance(horizon.in_steps(Duration.parse(value)), int)


@given(st.floats(0.01, 50), st.integers(1, 5000), st.integers(1, 512), st.integers(1, 8))
def test_a_duration_as_long_as_the_budget_ends_with_it(epochs, examples, batch, stretch):
    horizon = Horizon.of(Budget.of(NO_BUDGET | {"epochs": epochs}), BatchPlan(batch), examples, stretch)
    assert horizon.in_steps(Duration(epochs, "epochs"), stretch=True) == horizon.steps
    assert horizon.in_steps(Duration(100, "%")) == horizon.steps


def test_durations_on_a_growing_plan():
    horizon = Horizon(BatchPlan(100, [1000], [500]), examples=1000, steps=20)
    lengths = map(Duration.parse, ("1epoch", "2epochs", "3epochs", "1001samples"))
    assert [horizon.in_steps(length) for length in lengths] == [10, 12, 14, 11]


def test_the_durations_of_a_choice_are_read_once_and_put_into_steps():
    horizon = Horizon(BatchPlan(100), examples=1000, steps=50, stretch=2)
    schema = {
        "warmup": "duration",
        "milestones": "list of duration",
        "period": "duration or null",
        "factor": "float",
        "kind": "str",
    }
    options = {
        "warmup": "1epoch",
        "milestones": ["2epochs", 7, "10%"],
        "period": None,
        "factor": 1,
        "kind": "5epochs",
    }
    choice = Choice.of("schedule", {"name": "x", "info": {"schema": schema}, **options})
    assert choice.options == options | {
        "warmup": Duration(1, "epochs"),
        "milestones": [Duration(2, "epochs"), Duration(7, "steps"), Duration(10, "%")],
    }
    assert choice.in_steps(horizon).options == options | {"warmup": 10, "milestones": [20, 7, 5]}
    assert choice.in_steps(horizon, stretch=True).options == options | {"warmup": 20, "milestones": [40, 7, 5]}


@pytest.mark.parametrize(
    ("value", "stretch", "samples"), [("3epochs", 1, 300), ("0.5epochs", 4, 200), ("7samples", 4, 7)]
)
def test_in_samples(value, stretch, samples):
    assert in_samples(Duration.parse(value), 100, stretch) == samples


@pytest.mark.parametrize("value", [5, "10%"])
def test_steps_and_percentages_are_no_number_of_samples(value):
    with pytest.raises(ValueError, match="must be in epochs or samples"):
        in_samples(Duration.parse(value), 100)


# ---- imports --------------------------------------------------------------------------------------------------------


def test_plans_are_made_without_torch():
    code = "import sys, optbench.config.durations, optbench.config.schema; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
