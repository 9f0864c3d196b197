"""schedule=lanczos: the estimator by hand, the spectrum it is given, and the promises of the bench."""

import copy
import json
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.func import hessian

from optbench import config, schedules
from optbench.config import Choice, RunConfig
from optbench.errors import UserError
from optbench.models.layers import BatchNorm, Dropout
from optbench.objective.execution import Execution, Network
from optbench.objective.losses import CrossEntropy
from optbench.schedules.base import SpectrumRequest
from optbench.schedules.hessian import measure
from optbench.schedules.lanczos import heavy_ball_from_ritz
from optbench.testing.invariance import TwoRanks
from optbench.testing.outcomes import require_close, require_equal
from optbench.testing.trained import numbers, run_in, trained
from optbench.training import build, run
from optbench.training.recorder import Audience
from tests.test_promises import composed

LANCZOS = [
    "schedule=lanczos",
    "schedule.every=2",
    "schedule.lanczos_steps=3",
    "schedule.examples=48",
    "schedule.scale=0.1",
]

# ---- the estimator --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "weights", "variant", "rate", "momentum"),
    [
        # A = 9 and μ = 1, as the pair of 0.0001 has more than half of the weight: (2/(3 + 1))² and ((3 - 1)/(3 + 1))².
        ([-4.0, 0.0001, 1.0, 9.0], [0.1, 0.6, 0.2, 0.1], "minimum", 1 / 4, 1 / 4),
        # It stays where it has half: √μ = 0.01.
        ([-4.0, 0.0001, 1.0, 9.0], [0.1, 0.5, 0.2, 0.2], "minimum", (2 / 3.01) ** 2, (2.99 / 3.01) ** 2),
        # The largest by size is negative: A = 16, and μ = 4 once 1 is gone.
        ([-16.0, 1.0, 4.0], [0.2, 0.7, 0.1], "minimum", 1 / 9, 1 / 9),
        # A is taken before anything is left out.
        ([1.0, 9.0], [0.3, 0.7], "minimum", 1 / 4, 1 / 4),
        # The order of the pairs does not matter, their weights go with them.
        ([9.0, 1.0, 0.0001, -4.0], [0.1, 0.2, 0.6, 0.1], "minimum", 1 / 4, 1 / 4),
        ([-4.0, 0.0001, 1.0, 9.0], [0.1, 0.6, 0.2, 0.1], "median", (2 / (3 + 2.5**0.5)) ** 2, None),
        ([9.0, -1.0, 0.0], [0.1, 0.8, 0.1], "median", 1 / 4, 1 / 4),
        # One pair is never left out: η = 1/A.
        ([4.0], [1.0], "minimum", 1 / 4, 0.0),
        # Curvatures of zero count as 1e-8 A.
        ([0.0, 4.0], [0.4, 0.6], "minimum", 1 / (1 + 1e-4) ** 2, ((1 - 1e-4) / (1 + 1e-4)) ** 2),
    ],
)
def test_the_estimator_by_hand(values, weights, variant, rate, momentum):
    if momentum is None:
        momentum = ((3 - 2.5**0.5) / (3 + 2.5**0.5)) ** 2
    found = heavy_ball_from_ritz(values, weights, variant)
    assert (found.learning_rate, found.momentum) == pytest.approx((rate, momentum), rel=1e-12)


@pytest.mark.parametrize("values", [[], [0.0, 0.0], [1.0, math.nan], [math.inf, 1.0]])
def test_ritz_values_that_tell_nothing(values):
    with pytest.raises(ValueError, match="finite, and not all zero"):
        heavy_ball_from_ritz(values, [0.5] * len(values), "minimum")


# ---- the schedule ---------------------------------------------------------------------------------------------------


def test_it_measures_from_step_0_of_the_run_whatever_the_warmup():
    choice = Choice.of("schedule", config.read_choice("schedule", "lanczos") | {"examples": 50, "lanczos_steps": 7})
    for warmup in (0, 5):
        schedule = schedules.build(replace(choice, options=choice.options | {"warmup": warmup, "every": 6}), 20)
        due = [step for step in range(20) if schedule.needs_spectrum(step) is not None]
        assert due == [0, 6, 12, 18]
        assert schedule.needs_spectrum(6) == SpectrumRequest(50, 7)
        schedule.observe_spectrum([1.0, 9.0], [0.5, 0.5])
        assert schedule.base_learning_rate(3) == pytest.approx(1 / 4)
        assert schedule.momentum(3) == pytest.approx(1 / 4)
        assert schedule(0) == (pytest.approx(0.2) if warmup else 1.0)  # what multiplies the learned rate
        assert schedule(10) == 1.0


def test_what_was_learned_is_kept_and_resumed():
    schedule = schedules.LanczosLearner(20, every=5, scale=2.0)
    assert schedule.state_dict() == {}
    assert schedule.base_learning_rate(0) is schedule.momentum(0) is None
    schedule.observe_spectrum([1.0, 9.0], [0.5, 0.5])
    schedule.observe_spectrum([math.nan, 9.0], [0.5, 0.5])  # of a run that has diverged
    schedule.observe_spectrum([0.0], [1.0])
    state = json.loads(json.dumps(schedule.state_dict()))  # plain numbers
    resumed = schedules.LanczosLearner(20, every=5, scale=2.0)
    resumed.load_state_dict(state)
    for each in (schedule, resumed):
        assert (each.base_learning_rate(7), each.momentum(7)) == pytest.approx((1 / 2, 1 / 4))
    resumed.load_state_dict({})
    assert resumed.base_learning_rate(0) is None


# ---- the spectrum ---------------------------------------------------------------------------------------------------


class Stored:
    """As much of a batch source as the spectrum needs."""

    def __init__(self, inputs, targets):
        self.inputs, self.targets = inputs, targets

    def evaluation(self, split, size, limit):
        assert split == "train"
        yield self.inputs[:limit], self.targets[:limit]


def small_problem():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 4), BatchNorm(4), nn.Tanh(), Dropout(0.5), nn.Linear(4, 3)).double()
    with torch.no_grad():
        model[1].weight.uniform_(0.5, 2.0)
        model[1].running_mean.fill_(7.0)  # which must not matter
    return model, Stored(torch.randn(30, 3, dtype=torch.float64), torch.randint(3, (30,)))


def spectrum_of(model, source, *, steps=100, norm_batch=5, micro_batch=None):
    generator = torch.Generator().manual_seed(1)
    request = SpectrumRequest(22, steps)
    execution = Execution(micro_batch=micro_batch)
    return measure(request, Network(model), CrossEntropy(), source, execution, norm_batch, generator)


def test_the_spectrum_is_that_of_the_dense_hessian_with_fresh_statistics():
    model, source = small_problem()
    values, weights = spectrum_of(model, source)
    inputs, targets = source.inputs[:22], source.targets[:22]
    # Four whole groups of five; the two examples left over do not count.
    hidden = model[0](inputs[:20]).detach().view(4, 5, 4)
    mean, variance = hidden.mean(1).mean(0), hidden.var(1).mean(0)
    names, shapes = zip(*((name, parameter.shape) for name, parameter in model.named_parameters()), strict=True)
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])

    def loss(vector):
        parts = dict(zip(names, vector.split([shape.numel() for shape in shapes]), strict=True))
        parts = {name: part.view(shape) for (name, part), shape in zip(parts.items(), shapes, strict=True)}
        normal = (inputs @ parts["0.weight"].T + parts["0.bias"] - mean) / (variance + 1e-5).sqrt()
        scaled = torch.tanh(normal * parts["1.weight"] + parts["1.bias"])
        return nn.functional.cross_entropy(scaled @ parts["4.weight"].T + parts["4.bias"], targets)

    dense = torch.linalg.eigvalsh(hessian(loss)(flat))
    assert sum(weights) == pytest.approx(1.0)
    assert values[0] == pytest.approx(float(dense[0]), abs=1e-10)
    assert values[-1] == pytest.approx(float(dense[-1]), rel=1e-10)
    distances = (torch.tensor(values, dtype=torch.float64).unsqueeze(1) - dense).abs().min(1).values
    assert distances.max() < 1e-9


def test_measuring_leaves_the_model_alone():
    model, source = small_problem()
    model.train()
    model[3].eval()  # a mode of its own comes back too
    network_group = model[1].group = 5
    before, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    spectrum_of(model, source)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert [module.training for module in model] == [True, True, True, False, True]
    assert (model[1].group, model[1].ranks, model[1].recording, model[1].recorded) == (
        network_group,
        None,
        "follow",
        [],
    )
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(torch.get_rng_state(), generator)


def test_the_spectrum_does_not_depend_on_micro_batches():
    model, source = small_problem()
    whole, parts = spectrum_of(model, source, steps=8), spectrum_of(model, source, steps=8, micro_batch=7)
    assert parts[0] == pytest.approx(whole[0], rel=1e-9, abs=1e-12)
    assert parts[1] == pytest.approx(whole[1], rel=1e-6, abs=1e-12)


def test_a_model_that_is_not_finite_has_no_spectrum():
    model, source = small_problem()
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    assert spectrum_of(model, source, steps=3) is None


# ---- runs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "measured"),
    [
        (["optimizer=momentum"], 1),
        (["optimizer=sgd", "schedule.variant=median"], 1),
        # At the epochs 0, 8 and 16; the noise of small batches leaves less room than the Hessian of many examples.
        (["optimizer=momentum", "schedule.every=8epochs", "schedule.scale=0.1"], 3),
    ],
    ids=str,
)
def test_it_trains_a_network_on_digits(words, measured):
    chosen = config.compose(
        ["model=mlp", "dataset=digits", "schedule=lanczos", "budget.epochs=20", "tracker=none", "progress=false",
         "log_every=10", *words]
    )  # fmt: skip
    read = RunConfig.of(chosen)
    task = build.build_task(read, build.load_data(read))
    rows = []
    recorder = build.build_recorder(read, task, None, Audience(rows.append))
    build.build_trainer(read, [recorder]).fit(task, train_dataloaders=run.StepTokens(task))
    assert recorder.outcome == "done"
    assert recorder.evaluation["test_accuracy"] > 0.9
    learned = {(row["learning_rate"], row["momentum"]) for row in rows if row["event"] == "train"}
    assert len(learned) == measured
    assert all(0 < momentum < 1 for _, momentum in learned)
    own = chosen["optimizer"]["learning_rate"]
    assert task.optimizer.param_groups[0]["lr"] == task.recipe.schedule.base_learning_rate(0) != own


def test_its_result_does_not_depend_on_the_micro_batch():
    overrides = [*LANCZOS, "precision=fp64"]
    whole = trained(composed("sgd", *overrides))
    require_close(numbers(trained(composed("sgd", *overrides, "micro_batch=48"))), numbers(whole), "micro_batch=48")
    # What was learned has an effect at all: by itself this optimizer has no momentum.
    assert whole.optimizer.param_groups[0]["momentum"] > 0


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns():
    """Of 48 examples each rank takes half; 31 they cannot divide equally, and each takes them all."""
    overrides = [*LANCZOS, "precision=fp64"]
    configs = {
        str(examples): composed("momentum", *overrides, f"schedule.examples={examples}") for examples in (48, 31)
    }
    ranks = TwoRanks({name: {**each, "micro_batch": 16} for name, each in configs.items()})
    try:
        for name, chosen in configs.items():
            require_close(ranks.reached(name), numbers(trained(chosen)), "two ranks")
    finally:
        ranks.stop()


def test_a_killed_run_ends_where_an_undisturbed_one_does(tmp_path):
    """It measures at the steps 0, 3 and 6; killed with checkpoints of the steps 2 and 6."""
    overrides = [*LANCZOS, "schedule.every=3", "checkpoint_every=2", "eval_every=3", "budget.steps=8"]
    chosen = composed("momentum", *overrides)
    whole = run_in(tmp_path / "whole", chosen)
    resumed = run_in(tmp_path / "killed", chosen, kill_before=(3, 7))
    assert resumed.resumed_at == [2, 6]
    assert resumed.rows == whole.rows
    assert len({row["momentum"] for row in resumed.rows if row["event"] == "train"}) == 3
    assert resumed.state["schedule"] == whole.state["schedule"] != {}
    require_equal(resumed.state["model"], whole.state["model"], "killed and started again")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["optimizer=adam"], r"schedule=lanczos: .* Adam .*; accepted: optimizer=sgd or momentum"),
        (["optimizer=nesterov"], r"schedule=lanczos: .* SGD .*; accepted: optimizer=sgd or momentum"),
        (["optimizer=kfac"], r"schedule=lanczos: .* KFAC .*; accepted: optimizer=sgd or momentum"),
        (["optimizer=momentum", "momentum_schedule=sutskever"], r"schedule=lanczos: .* momentum_schedule=none"),
        (["optimizer=momentum", "precision=fp16"], r"schedule=lanczos: needs second derivatives"),
    ],
    ids=str,
)
def test_what_it_cannot_set_is_refused_before_training(words, message):
    chosen = config.compose([*words, "model=mlp", "dataset=digits", "schedule=lanczos", "tracker=none"])
    read = RunConfig.of(chosen)
    task = build.build_task(read, build.load_data(read))
    with pytest.raises(UserError, match=message):
        task.check(1)
