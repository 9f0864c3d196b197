"""Schedules against torch's own, against values computed by hand, and at the edges of a run."""

import math
import subprocess
import sys
import warnings

import pytest
import torch
from torch.optim import lr_scheduler

from optbench import config, schedules
from optbench.config import Choice, choices, read_choice
from optbench.config.durations import BatchPlan, Horizon
from optbench.errors import UserError
from optbench.schedules import (
    BatchGrowth,
    Constant,
    Cosine,
    CosineRestarts,
    Exponential,
    InverseSqrt,
    InverseTime,
    Linear,
    MultiStep,
    OneCycle,
    Plateau,
    Polynomial,
    Rex,
    Step,
    Trapezoid,
    Triangular,
    Warmup,
    momentum,
)

CHOICES = sorted(choices("schedule"))


def torch_factors(make, steps, **options):
    """The learning rates of ``steps`` steps under a scheduler of torch, for a base learning rate of 1."""
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0, momentum=0.9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scheduler = make(optimizer, **options)
        rates, momenta = [], []
        for _ in range(steps):
            rates.append(float(optimizer.param_groups[0]["lr"]))
            momenta.append(optimizer.param_groups[0]["momentum"])
            optimizer.step()
            scheduler.step()
    return rates, momenta


def composed(name, horizon, **overrides):
    """A choice of conf/schedule as the bench hands it to `build`: durations in steps of 100 examples, 10 an epoch."""
    options = read_choice("schedule", name) | overrides
    return Choice.of("schedule", options).in_steps(Horizon(BatchPlan(100), 1000, horizon))


@pytest.mark.parametrize(
    ("schedule", "make", "options"),
    [
        (Constant(97), lr_scheduler.ConstantLR, {"factor": 1.0}),
        (Step(97, every=30, gamma=0.2), lr_scheduler.StepLR, {"step_size": 30, "gamma": 0.2}),
        (MultiStep(97, [10, 10, 60], 0.3), lr_scheduler.MultiStepLR, {"milestones": [10, 10, 60], "gamma": 0.3}),
        (Exponential(97, gamma=0.9), lr_scheduler.ExponentialLR, {"gamma": 0.9}),
        (Cosine(97, final=0.01), lr_scheduler.CosineAnnealingLR, {"T_max": 97, "eta_min": 0.01}),
        (
            CosineRestarts(97, period=10, multiplier=2, final=0.1),
            lr_scheduler.CosineAnnealingWarmRestarts,
            {"T_0": 10, "T_mult": 2, "eta_min": 0.1},
        ),
        (CosineRestarts(97, period=7), lr_scheduler.CosineAnnealingWarmRestarts, {"T_0": 7}),
        (Polynomial(97, power=2.5), lr_scheduler.PolynomialLR, {"total_iters": 97, "power": 2.5}),
        (
            Linear(97, initial=0.3, final=0.8, length=40),
            lr_scheduler.LinearLR,
            {"start_factor": 0.3, "end_factor": 0.8, "total_iters": 40},
        ),
        (Linear(97), lr_scheduler.LinearLR, {"start_factor": 1.0, "end_factor": 0.0, "total_iters": 97}),
        (
            Triangular(97, period=20, rise=0.25, minimum=0.1),
            lr_scheduler.CyclicLR,
            {"base_lr": 0.1, "max_lr": 1.0, "step_size_up": 5, "step_size_down": 15, "cycle_momentum": False},
        ),
        (
            Triangular(97, period=20, minimum=0.2, amplitude_decay=0.5),
            lr_scheduler.CyclicLR,
            {"base_lr": 0.2, "max_lr": 1.0, "step_size_up": 10, "mode": "triangular2", "cycle_momentum": False},
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, schedules.Schedule) else "",
)
def test_equals_torch(schedule, make, options):
    expected, _ = torch_factors(make, 97, **options)
    assert [schedule(step) for step in range(97)] == pytest.approx(expected, rel=0, abs=1e-12)


@pytest.mark.parametrize(("horizon", "rise"), [(100, 0.3), (97, 0.25), (1000, 0.5), (7, 0.3)])
def test_one_cycle_equals_torch_with_momentum(horizon, rise):
    schedule = OneCycle(horizon, rise=rise)
    options = {"max_lr": 1.0, "total_steps": horizon, "pct_start": rise}
    rates, momenta = torch_factors(lr_scheduler.OneCycleLR, horizon, **options)
    assert [schedule(step) for step in range(horizon)] == pytest.approx(rates, rel=0, abs=1e-12)
    assert [schedule.momentum(step) for step in range(horizon)] == pytest.approx(momenta, rel=0, abs=1e-12)


def test_one_cycle_at_its_ends():
    schedule = OneCycle(100)
    assert (schedule(0), schedule(29), schedule(99)) == pytest.approx((1 / 25, 1, 1 / 25 / 1e4), rel=1e-12)
    assert [schedule.momentum(step) for step in (0, 29, 99, 500)] == pytest.approx([0.95, 0.85, 0.95, 0.95], rel=1e-12)
    assert OneCycle(100, cycle_momentum=False).momentum(3) is None


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Rex(100), {0: 1, 50: 2 / 3, 75: 0.25 / 0.625, 100: 0}),
        (InverseTime(100, timescale=20), {0: 1, 20: 1 / 2, 60: 1 / 4}),
        (InverseSqrt(100), {0: 1, 3: 1 / 2, 99: 1 / 10}),
        (InverseSqrt(400, timescale=25), {0: 1, 24: 1, 99: 1 / 2, 399: 1 / 4}),
        (Exponential(100, gamma=0.5, every=10), {0: 1, 5: math.sqrt(0.5), 20: 1 / 4}),
        (Cosine(100), {0: 1, 25: (2 + math.sqrt(2)) / 4, 50: 1 / 2, 100: 0}),
        (Polynomial(100, power=2, final=0.1), {0: 1, 50: 0.1 + 0.9 / 4, 100: 0.1}),
        (Trapezoid(100, cooldown=20), {0: 1, 80: 1, 85: 3 / 4, 95: 1 / 4, 99: 1 / 20, 100: 0}),
        (Trapezoid(100, cooldown=20, shape="cosine"), {80: 1, 85: (2 + math.sqrt(2)) / 4, 90: 1 / 2, 100: 0}),
        (Trapezoid(100, cooldown=20, shape="sqrt"), {80: 1, 85: 1 / 2, 96: 1 - math.sqrt(0.8), 100: 0}),
        (Trapezoid(100, cooldown=20, final=0.2), {80: 1, 90: 0.6, 100: 0.2}),
        (Trapezoid(100, cooldown=0), {0: 1, 99: 1, 100: 1}),
        # Cycles that fill the run: 100 / 7 steps, then twice and four times as many.
        (CosineRestarts(700, cycles=3, multiplier=2), {0: 1, 50: 1 / 2, 100: 1, 200: 1 / 2, 300: 1, 500: 1 / 2}),
        (CosineRestarts(10, cycles=4), {5: 1, 9: (1 + math.cos(math.pi * 0.6)) / 2}),
        (Triangular(80, cycles=2, minimum=0), {0: 0, 10: 1 / 2, 20: 1, 30: 1 / 2, 40: 0, 60: 1}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, schedules.Schedule) else "",
)
def test_closed_forms(schedule, expected):
    assert {step: schedule(step) for step in expected} == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("period", [7, 30, 33, 100])
@pytest.mark.parametrize("cycles", [3, 6, 7])
def test_no_cycle_starts_a_step_late_by_rounding(cycles, period):
    horizon = cycles * period
    schedule = CosineRestarts(horizon, cycles=cycles)
    assert [schedule(start) for start in range(0, horizon, period)] == [1.0] * cycles


@pytest.mark.parametrize("schedule", [Triangular(45, period=20), CosineRestarts(40, period=20)])
def test_a_cycle_that_the_horizon_cuts_does_not_go_on_rising(schedule):
    assert {schedule(step) for step in range(schedule.horizon, 200)} == {schedule(schedule.horizon - 1)}


# ---- warm-up ----


@pytest.mark.parametrize("warmup", [1, 5, 40])
def test_linear_warmup_equals_torch(warmup):
    def make(optimizer):
        ramp = lr_scheduler.LinearLR(optimizer, start_factor=1 / warmup, total_iters=warmup - 1)
        cosine = lr_scheduler.CosineAnnealingLR(optimizer, T_max=100 - warmup)
        return lr_scheduler.SequentialLR(optimizer, [ramp, cosine], [warmup])

    if warmup == 1:
        expected = [1.0, *torch_factors(lr_scheduler.CosineAnnealingLR, 99, T_max=99)[0]]
    else:
        expected, _ = torch_factors(make, 100)
    schedule = schedules.build(composed("cosine", 100, warmup=warmup), 100)
    assert [schedule(step) for step in range(100)] == pytest.approx(expected, rel=0, abs=1e-12)


def test_warmup_at_its_edges():
    schedule = Warmup(Cosine(90), 10)
    values = [schedule(step) for step in (0, 4, 8, 9, 10, 55, 99, 100, 1000)]
    last = (1 + math.cos(math.pi * 89 / 90)) / 2
    assert values == pytest.approx([0.1, 0.5, 0.9, 1, 1, 0.5, last, 0, 0], abs=1e-12)


def test_exponential_warmup():
    schedule = Warmup(Constant(100), 10, "exponential")
    expected = [(1 - math.exp(-(step + 1) / 2)) / (1 - math.exp(-5)) for step in range(10)]
    assert [schedule(step) for step in range(10)] == pytest.approx(expected, rel=1e-12)
    assert schedule(9) == schedule(10) == 1


def test_warmup_leads_up_to_where_the_schedule_starts():
    schedule = Warmup(OneCycle(100), 4)
    assert [schedule(step) for step in range(5)] == pytest.approx([0.01, 0.02, 0.03, 0.04, 0.04], rel=1e-12)
    assert schedule.momentum(2) == pytest.approx(0.95)
    assert schedule.momentum(4 + 29) == pytest.approx(0.85)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("multistep", {"milestones": [30, 60]}),
        ("step", {"every": 30}),
        ("batch_growth", {"milestones": [30, 60], "maximum": 1}),
    ],
)
def test_milestones_are_positions_in_the_run_whatever_the_warmup(name, options):
    schedule = schedules.build(composed(name, 90, warmup=5, **options), 90, batch=1)
    drops = [step for step in range(5, 89) if schedule(step + 1) < schedule(step)]
    assert drops == [29, 59]
    assert schedule(4) == schedule(29) == 1


def test_inverse_sqrt_takes_its_timescale_from_the_warmup():
    schedule = schedules.build(composed("inverse_sqrt", 400, warmup=25), 400)
    expected = [min((step + 1) / 25, math.sqrt(25 / (step + 1))) for step in range(400)]
    assert [schedule(step) for step in range(400)] == pytest.approx(expected, rel=1e-12)
    # A timescale of its own, here shorter: the ramp leads up to the curve.
    schedule = schedules.build(composed("inverse_sqrt", 400, warmup=25, timescale=9), 400)
    assert [schedule(step) for step in (4, 24, 99)] == pytest.approx([3 / 5 / 5, 3 / 5, 3 / 10], rel=1e-12)


# ---- every choice of conf/schedule ----


@pytest.mark.parametrize("warmup", [0, 5])
@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("horizon", [8, 100, 1001])
def test_after_the_horizon_the_last_value_is_kept(name, warmup, horizon):
    schedule = schedules.build(composed(name, horizon, warmup=warmup), horizon)
    values = [schedule(step) for step in range(horizon + 200)]
    assert all(0 <= value <= 1 for value in values)
    assert values[horizon] <= values[horizon - 1]
    assert set(values[horizon:]) == {values[horizon]}


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("horizon", [1, 2, 3, 4])
def test_the_shortest_runs(name, horizon):
    schedule = schedules.build(composed(name, horizon), horizon)
    assert all(0 <= schedule(step) <= 1 for step in range(-1, 10))


@pytest.mark.parametrize("name", CHOICES)
def test_only_the_plateau_has_a_state(name):
    schedule = schedules.build(composed(name, 100, warmup=5), 100)
    schedule.observe(1.0)
    assert bool(schedule.state_dict()) == (name == "plateau")
    schedule.load_state_dict(schedule.state_dict())


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("cosine", {"warmup": 100}, r"schedule\.warmup=100 steps: must be shorter than the run, which has 100 steps"),
        ("trapezoid", {"warmup": 50, "cooldown": 60}, r"schedule\.cooldown=60 steps: must be at most the 50 steps"),
    ],
)
def test_what_does_not_fit_the_run_is_refused(name, options, message):
    with pytest.raises(UserError, match=message):
        schedules.build(composed(name, 100, **options), 100)


# ---- plateau ----

METRICS = [3.0, 2.0, 2.1, 2.05, 2.0, 1.9999, 2.2, 2.3, 1.5, 1.6, 1.6, 1.6, 1.6, 1.6, 1.6, 1.6, 1.4, 1.4, 1.4, 1.4, 9.0]


@pytest.mark.parametrize(
    "options",
    [
        {"patience": 2},
        {"patience": 0, "factor": 0.5, "minimum": 0.2},
        {"patience": 1, "cooldown": 2},
        {"patience": 1, "threshold": 0.2, "threshold_mode": "abs"},
        {"patience": 3, "mode": "max", "threshold": 0.05},
    ],
    ids=str,
)
def test_plateau_equals_torch_also_after_a_resume(options):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    theirs = lr_scheduler.ReduceLROnPlateau(
        optimizer, **{"min_lr" if name == "minimum" else name: value for name, value in options.items()}, eps=0
    )
    ours = Warmup(Plateau(100, **options), 3)
    values = set()
    for metric in METRICS:
        theirs.step(metric)
        ours.observe(metric)
        resumed = Warmup(Plateau(100, **options), 3)
        resumed.load_state_dict(ours.state_dict())
        ours = resumed
        assert ours(50) == pytest.approx(optimizer.param_groups[0]["lr"], rel=1e-12)
        values.add(ours(50))
    assert len(values) > 1


# ---- batch growth ----


def test_a_growing_batch_leaves_the_learning_rate():
    schedule = BatchGrowth(100, [30, 60, 80])
    assert {schedule(step) for step in range(100)} == {1.0}
    assert [schedule.batch_factor(step) for step in (0, 29, 30, 59, 60, 79, 80, 99)] == [1, 1, 5, 5, 25, 25, 125, 125]


def test_at_the_maximum_the_learning_rate_drops_instead():
    schedule = BatchGrowth(100, [30, 60, 80], growth=5.0, maximum=700, batch=128)
    steps = (0, 30, 60, 80)
    assert [128 * schedule.batch_factor(step) for step in steps] == [128, 640, 640, 640]
    assert [schedule(step) for step in steps] == pytest.approx([1, 1, 1 / 5, 1 / 25])


def test_a_batch_grows_in_whole_examples():
    schedule = BatchGrowth(100, [10, 20], growth=1.5, batch=5)
    assert [round(5 * schedule.batch_factor(step), 9) for step in (0, 10, 20)] == [5, 7, 10]


def test_batch_growth_lowers_the_noise_scale_as_decay_does():
    growing = schedules.build(composed("batch_growth", 100, milestones=[30, 60, 80], maximum=3000), 100, batch=100)
    decaying = MultiStep(100, [30, 60, 80], gamma=1 / 5)
    for step in range(100):
        assert growing(step) / growing.batch_factor(step) == pytest.approx(decaying(step), rel=1e-12)


def test_batch_growth_with_a_warmup_keeps_its_milestones():
    schedule = schedules.build(composed("batch_growth", 100, milestones=[30], warmup=40), 100)
    assert [schedule.batch_factor(step) for step in (0, 29, 30, 99, 500)] == [1, 1, 5, 5, 5]


def test_a_maximum_needs_the_batch():
    with pytest.raises(ValueError, match="maximum"):
        BatchGrowth(100, [30], maximum=1000)


# ---- momentum ----


def sutskever(horizon, **overrides):
    options = read_choice("momentum_schedule", "sutskever") | overrides
    read = Choice.of("momentum_schedule", options)
    return momentum.build(read.in_steps(Horizon(BatchPlan(100), 1000, horizon)), horizon)


def test_sutskever_values_of_the_paper():
    schedule = sutskever(750_000, maximum=0.999)
    values = [schedule(step) for step in (0, 249, 250, 1000, 5000, 125_000, 748_999, 749_000, 749_999)]
    assert values == pytest.approx([0.5, 0.5, 0.75, 0.9, 1 - 0.5 / 21, 0.999, 0.999, 0.9, 0.9], rel=1e-12)


def test_sutskever_equals_the_formula_with_the_logarithm():
    schedule = sutskever(5000, maximum=0.97, period=50, final_steps=0)
    expected = [min(1 - 2 ** (-1 - math.log2(step // 50 + 1)), 0.97) for step in range(5000)]
    assert [schedule(step) for step in range(5000)] == pytest.approx(expected, rel=1e-12)


def test_sutskever_never_raises_the_momentum_at_the_end():
    plain = sutskever(2000, maximum=0.0)
    assert {plain(step) for step in range(2000)} == {0.0}
    assert sutskever(200)(0) == 0.5


def test_a_delayed_momentum_changes_once():
    read = Choice.of(
        "momentum_schedule", read_choice("momentum_schedule", "delayed") | {"first_steps": "10%", "then": 0.0}
    )
    schedule = momentum.build(read.in_steps(Horizon(BatchPlan(100), 1000, 3000)), 3000)
    assert [schedule(step) for step in (0, 299, 300, 2999)] == [0.9, 0.9, 0.0, 0.0]


def test_no_momentum_schedule():
    assert momentum.build(Choice.of("momentum_schedule", config.read_choice("momentum_schedule", "none")), 100) is None


def test_schedules_and_scaling_import_no_torch():
    modules = "optbench.schedules, optbench.schedules.momentum, optbench.config.scaling"
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
