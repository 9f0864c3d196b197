"""ARAS: its ratio, σ and sampling tests by closed forms, its phases, and the batch that grows in a run."""

import math

import pytest
import torch
from golden import assert_is, numbers
from torch import nn

from optbench import config
from optbench.config.durations import GrowingPlan, Horizon
from optbench.errors import UserError
from optbench.models.layers import BatchNorm
from optbench.objective import Execution, Network, Objective, Population
from optbench.objective.losses import CrossEntropy, Value
from optbench.optimizers.aras import ARAS, wanted_batch
from optbench.store import load_history
from optbench.testing import invariance, resuming
from optbench.training import run


class Values(nn.Module):
    """½ Σ h_i x_i² + a_nᵀx of every example with the inputs a_n, as the outputs (n, 1)."""

    def __init__(self, curvatures, start):
        super().__init__()
        self.curvatures = curvatures
        self.point = nn.Parameter(start.clone())

    def forward(self, inputs):
        return (0.5 * (self.curvatures * self.point.square()).sum() + inputs @ self.point)[:, None]


def walk(model, batches, population=None, clip_norm=None, **options):
    """A step on each of ``batches`` of inputs; the optimizer, and its diagnostics with the wanted batches."""
    optimizer, network, found = ARAS(model.parameters(), **options), Network(model), []
    for inputs in batches:
        targets = torch.zeros(len(inputs), dtype=torch.float64)
        execution = Execution(clip_norm=clip_norm)
        objective = Objective(network, Value(), inputs, targets, execution, population=population)
        optimizer.step(objective)
        objective.finish()
        found.append({**optimizer.diagnostics, "wanted": optimizer.wanted_batch, "evaluations": objective.evaluations})
    return optimizer, found


# ---- σ ------------------------------------------------------------------------------------------------------------------------


def test_sigma_on_a_quadratic_by_its_numbers():
    model = Values(numbers([0.5, 3, 10]), torch.ones(3).double())
    _, found = walk(model, [torch.zeros(1, 3).double()] * 12, sigma=1.0)
    ratios = [-3.7008, -1.3504, -0.1752, 0.4124, 0.5421, 0.7406, 0.8342, 0.7507, 0.7500]
    assert [each["ratio"] for each in found[:9]] == pytest.approx(ratios, abs=5e-5)
    sigmas = [1.0] + [each["sigma"] for each in found]  # before every step
    assert sigmas[:12] == [1, 2, 4, 8, 8, 8, 8, 4, 2, 1, 2, 4]
    assert max(sigmas) <= 2 * 10 / 1.8
    assert [each["accepted"] for each in found[:5]] == [0, 0, 0, 1, 1]


def test_the_ratio_is_of_the_linear_decrease():
    """ρ = 1 - gᵀHg / (2σ‖g‖²), which is ½ where H = σI; of a model with the quadratic term it would be 1, and σ would fall."""
    model = Values(torch.ones(2).double(), numbers([3.0, -1]))
    _, found = walk(model, [torch.zeros(1, 2).double()], sigma=1.0)
    assert found[0]["ratio"] == pytest.approx(0.5, rel=1e-12)
    assert found[0]["sigma"] == 1.0
    assert_is(model.point.detach(), 0.0, 0.0)


def test_a_rate_scales_the_step_and_the_predicted_decrease():
    model = Values(torch.ones(2).double(), numbers([3.0, -1]))
    _, found = walk(model, [torch.zeros(1, 2).double()], sigma=2.0, lr=0.5)
    assert found[0]["ratio"] == pytest.approx(1 - 0.5 / 4, rel=1e-12)
    assert_is(model.point.detach(), 2.25, -0.75)


def test_a_clipped_gradient_predicts_its_own_decrease():
    model = Values(torch.ones(2).double(), numbers([3.0, -4]))
    _, found = walk(model, [torch.zeros(1, 2).double()], clip_norm=1.0, sigma=1.0)
    assert found[0]["ratio"] == pytest.approx(1 - 1 / (2 * 5), rel=1e-5)
    torch.testing.assert_close(model.point.detach(), numbers([2.4, -3.2]), rtol=0, atol=1e-5)


# ---- the sampling tests -------------------------------------------------------------------------------------------------------

FOUR = numbers([[1, 0], [3, 0], [2, 1], [2, -1]])  # their mean is (2, 0), and Var is 4/3


@pytest.mark.parametrize(
    ("accuracy", "examples", "wanted"), [(0.2, None, 9), (0.3, None, None), (0.2, 8, 5), (0.05, 8, 8), (1e-6, 8, 8)]
)
def test_the_batch_by_its_numbers(accuracy, examples, wanted):
    model = Values(torch.zeros(2).double(), torch.zeros(2).double())
    population = None if examples is None else Population(examples, lambda: iter([]))
    options = {"accuracy": accuracy, "batch_multiple": 1}
    _, found = walk(model, [FOUR], population, **options)
    assert found[0]["variance"] == pytest.approx(4 / 3, rel=1e-12)
    assert found[0]["wanted"] == wanted
    assert found[0]["accepted"] == (wanted is None)
    assert_is(model.point.detach(), *((0.0, 0.0) if wanted else (-2.0, 0.0)))
    assert found[0]["evaluations"] == 2


def test_the_batch_that_is_wanted_is_the_smallest_that_passes():
    assert [wanted_batch(4 / 3, 4.0, accuracy) for accuracy in (0.2, 0.3)] == [9, 4]
    for variance, squared, accuracy, examples in [(3.0, 0.1, 0.5, 1000), (7.0, 2.0, 0.9, 50), (1.0, 1e-9, 0.9, 40)]:
        found = wanted_batch(variance, squared, accuracy, examples)

        def passes(batch, variance=variance, squared=squared, accuracy=accuracy, examples=examples):
            return variance / batch * (1 - batch / examples) <= accuracy**2 * squared * (1 + 1e-9)

        assert passes(found)
        assert found == 1 or not passes(found - 1)
        assert found <= examples


@pytest.mark.parametrize(("accuracy", "refused"), [(0.2, True), (0.21, False)])
def test_the_inner_product_test_by_its_numbers(accuracy, refused):
    """Var(∇l_nᵀg)/b = 2/3 against ω²‖g‖⁴, .64 at ω = .2; the norm test would refuse both."""
    model = Values(torch.zeros(2).double(), torch.zeros(2).double())
    _, found = walk(model, [FOUR], accuracy=accuracy, sampling_test="inner_product")
    assert found[0]["variance"] == pytest.approx(8 / 3, rel=1e-12)
    assert found[0]["wanted"] == (5 if refused else None)


def test_an_accuracy_that_follows_sigma():
    for sigma, wanted in ((5.0, 9), (2.0, None)):
        model = Values(torch.zeros(2).double(), torch.zeros(2).double())
        _, found = walk(model, [FOUR], sigma=sigma, accuracy_rule="inverse_sigma")
        assert found[0]["wanted"] == wanted


# ---- the phases ---------------------------------------------------------------------------------------------------------------


def test_gradients_that_turn_begin_the_second_phase():
    """On ½‖x‖², with σ = ½ the gradient changes its sign in every step: ρ is 0, so that σ = 0.6 is taken, with ρ = 1/6."""
    model = Values(torch.ones(1).double(), numbers([1.0]))
    batches, population = [torch.zeros(2, 1).double()] * 6, Population(6, lambda: iter([]))
    _, found = walk(model, batches, population, sigma=0.6, batch_multiple=1, maximum_batch=100)
    # g_1ᵀg_0 < 0 after the second step; an epoch is over after three.
    assert [each["phase"] for each in found] == [1, 1, 1, 2, 2, 2]
    assert [each["evaluations"] for each in found] == [2, 2, 2, 1, 1, 1]
    factors = [1 - 1 / 0.6] * 3 + [1 - 1 / (0.6 * k**0.5) for k in (1, 2, 3)]
    assert float(model.point.detach()) == pytest.approx(math.prod(factors), rel=1e-9)


@pytest.mark.parametrize(("maximum", "size", "phase"), [(None, 8, 2), (None, 6, 1), (6, 6, 2), (100, 6, 1)])
def test_a_batch_that_cannot_grow_begins_the_second_phase(maximum, size, phase):
    model = Values(torch.ones(1).double(), numbers([1.0]))
    population = Population(9, lambda: iter([]))
    _, found = walk(model, [torch.zeros(size, 1).double()], population, maximum_batch=maximum, batch_multiple=2)
    assert found[0]["phase"] == phase


# ---- the plan -----------------------------------------------------------------------------------------------------------------


def test_a_growing_plan():
    plan = GrowingPlan(6, multiple=4, limit=30)
    horizon = Horizon(plan, examples=30, steps=17, samples=100)
    assert (plan.largest, horizon.last) == (28, 17)
    plan.grow(2, 9)
    plan.grow(3, 7)  # it never shrinks
    plan.grow(5, 100)
    assert [plan.batch(step) for step in range(7)] == [6, 6, 12, 12, 12, 28, 28]
    assert [plan.first_sample(step) for step in range(7)] == [0, 6, 12, 24, 36, 48, 76]
    assert horizon.last == 7  # 76 + 28 samples
    again = GrowingPlan(6, multiple=4, limit=30)
    again.load_state_dict(plan.state_dict())
    assert again.stages == plan.stages
    assert Horizon(plan, examples=30, steps=17).last == 17


# ---- in a run -----------------------------------------------------------------------------------------------------------------

WORDS = (
    "optimizer=aras", "optimizer.accuracy=0.6", "optimizer.batch_multiple=4", "model=mlp", "model.hidden=[16]",
    "dataset=digits", "dataset.train_limit=300", "dataset.validation=16", "batch=16", "ghost_batch_size=4", "evaluate_train=16",
    "tracker=none", "progress=false", "log_every=1", "trainer.accelerator=cpu",
)  # fmt: skip


@pytest.fixture(scope="module")
def grown(tmp_path_factory):
    folder = tmp_path_factory.mktemp("aras")
    words = [*WORDS, "budget.epochs=4", "precision=fp64", f"results_dir={folder}"]
    outcome = run.execute(config.compose(words))
    assert outcome.state == "done", outcome.why
    return outcome


def test_the_batch_is_a_result_of_the_run(grown):
    history = load_history(grown.directory.path.parent.parent)
    rows = history[history["event"] == "train"]
    batches = rows["optimizer_batch"].astype(int).tolist()
    assert batches[0] == 16
    assert batches == sorted(batches)
    assert 16 < batches[-1] <= 300
    assert all(batch % 4 == 0 for batch in batches)
    summary = grown.summary
    assert summary["steps"] == len(batches) < 4 * 300 / 16
    assert summary["samples"] == sum(batches)
    assert sum(batches[:-1]) < 4 * 300 <= sum(batches)
    assert rows["samples"].tolist() == torch.tensor(batches).cumsum(0).tolist()
    assert summary["epochs"] == pytest.approx(sum(batches) / 300)
    tested = (rows["optimizer_phase"] == 1).sum()
    assert summary["oracle_gradients"] == 2 * tested + (len(rows) - tested)


def test_the_batch_does_not_depend_on_micro_batches():
    undisturbed = invariance.Undisturbed(config.compose([*WORDS, "budget.steps=12", "precision=fp64"]))
    assert not invariance.micro_batch(undisturbed).note


def test_a_grown_batch_goes_on_after_a_kill():
    resuming.kill(config.compose([*WORDS, *resuming.KILLED, "optimizer.accuracy=0.2"]))


@pytest.mark.slow
def test_the_batch_on_two_ranks():
    undisturbed = invariance.Undisturbed(config.compose([*WORDS, "budget.steps=12", "precision=fp64"]))
    two = invariance.TwoRanks({"aras": {**undisturbed.config, "micro_batch": 4}})
    try:
        assert not invariance.ranks(undisturbed, two, "aras").note
    finally:
        two.stop()


# ---- what is refused --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["schedule=cosine", "budget.epochs=2"], "schedule=cosine: counts steps that are known before"),
        (["schedule=constant", "schedule.warmup=5", "budget.epochs=2"], "schedule=constant: counts steps"),
        (["schedule=step", "schedule.every=2epochs", "budget.steps=9"], "schedule=step: counts steps"),
        (["schedule=batch_growth", "schedule.milestones=[1epochs]", "budget.steps=9"], "schedule=batch_growth: counts"),
        (["batch=1", "ghost_batch_size=1"], "batch=1: optimizer=aras estimates a variance"),
        (["optimizer.maximum_batch=8"], r"batch=16: .* to optimizer\.maximum_batch=8; accepted: 2 or more, up to that"),
        (["trainer=ddp", "trainer.devices=3", "batch=18", "ghost_batch_size=6"], "batch_multiple=4: .*multiples of 3"),
        (["communication=sign", "communication.workers=2"], "optimizer=aras"),
    ],
)
def test_what_does_not_fit_a_batch_that_grows(words, message):
    with pytest.raises(UserError, match=message):
        config.compose([*WORDS, *words])


@pytest.mark.parametrize("words", [["schedule=plateau", "budget.epochs=2"], ["schedule=cosine", "budget.steps=9"]])
def test_what_fits(words):
    config.compose([*WORDS, *words])


def test_a_model_whose_examples_are_coupled_is_refused():
    model = nn.Sequential(nn.Linear(3, 2), BatchNorm(2))
    objective = Objective(Network(model), CrossEntropy(), torch.randn(4, 3), torch.tensor([0, 1, 0, 1]))
    with pytest.raises(UserError, match="couples the examples"):
        ARAS(model.parameters()).check(objective)


@pytest.mark.parametrize(
    "options",
    [
        {"sigma": 0.0}, {"accuracy": 0.0}, {"accuracy_rule": "some"}, {"sampling_test": "some"}, {"accepted": 0.8},
        {"decrease": 0.0}, {"increase": 1.0},
    ],
)  # fmt: skip
def test_values_that_are_not_accepted(options):
    with pytest.raises(ValueError, match=f"{next(iter(options))}=.*: must be"):
        ARAS([nn.Parameter(torch.zeros(2))], **options)
