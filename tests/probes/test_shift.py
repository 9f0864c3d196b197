"""probe=shift beside dense Newton and autograd; the test labels, which no other probe sees and nothing is chosen by."""

import copy

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from torch.func import grad, hessian, vmap

from optbench import config
from optbench.analysis.laws.learning_rates import sweep_of
from optbench.analysis.statistics.selection import select
from optbench.analysis.statistics.targets import times_to_target
from optbench.analysis.statistics.tuning_budget import curves
from optbench.config import RunConfig
from optbench.curvature.minima import PenalizedLoss, barrier, minimum_near
from optbench.errors import UserError
from optbench.probes.base import ProbeContext
from optbench.probes.interpolation import Interpolation
from optbench.probes.measured import MeasuredModel
from optbench.probes.shift import Shift
from optbench.training import build

WORDS = [
    "model=logreg", "dataset=digits_table", "dataset.train_limit=60", "dataset.replacement=true", "batch=8", "tracker=none",
    "optimizer=sgd", "optimizer.weight_decay=0.05", "optimizer.learning_rate=0.5", "budget.steps=40",
]  # fmt: skip
DECAY_ALL = "optimizer.decay_norm_and_bias=true"


def prepared(*words):
    read = RunConfig.of(config.compose([*WORDS, *words]))
    task = build.build_task(read, build.load_data(read))
    task.configure_optimizers()
    task.model.train()
    return task


def context(task):
    return ProbeContext(task, list, None)


class Independent:
    """Softmax regression with 650 weights by torch's own functions, in float64: a flat vector holds the matrix, then the bias."""

    def __init__(self, task, split, decay=0.05, of_bias=0.05):
        ((inputs, self.targets),) = task.source.evaluation(split, 629)
        self.inputs = inputs.double()
        self.decay = torch.full((650,), decay, dtype=torch.float64)
        self.decay[640:] = of_bias

    def example(self, theta, inputs, target):
        return F.cross_entropy(theta[:640].view(10, 64) @ inputs + theta[640:], target)

    def loss(self, theta):
        outputs = self.inputs @ theta[:640].view(10, 64).T + theta[640:]
        return F.cross_entropy(outputs, self.targets) + 0.5 * (self.decay * theta**2).sum()

    def newton(self, theta):
        """The minimum, by Newton's method with the dense Hessian."""
        for _ in range(25):
            gradient = grad(self.loss)(theta)
            if float(gradient.norm()) < 1e-12:
                return theta
            theta = theta - torch.linalg.solve(self.hessian(theta), gradient)
        raise AssertionError("Newton's method does not converge")

    def hessian(self, theta):
        return hessian(self.loss)(theta)

    def noise(self, theta):
        found = vmap(grad(self.example), (None, 0, 0))(theta, self.inputs, self.targets)
        return (found - found.mean(0)).T @ (found - found.mean(0)) / len(found)


def flat(task):
    return torch.cat([parameter.detach().reshape(-1) for parameter in task.model.parameters()]).double()


@pytest.fixture(scope="module")
def watched():
    """A task after 40 steps, a probe that has watched the last 12, and every second iterate among them."""
    task, probe, kept = prepared(DECAY_ALL), Shift(window=12, iterates=6, examples=None), []
    for step in range(40):
        if step >= 28:
            task.watch = probe.watch
        task.take_step()
        if step >= 28 and task.step % 2 == 0:
            kept.append(flat(task))
    return task, probe, torch.stack(kept)


@pytest.fixture(scope="module")
def values(watched):
    task, probe, _ = watched
    probe = copy.deepcopy(probe)
    return probe.measure(context(task)).values


@pytest.fixture(scope="module")
def minima(watched):
    """Both losses, their minima, and the Hessian of the test loss at its own."""
    task, _, iterates = watched
    train, test = Independent(task, "train"), Independent(task, "test")
    low = train.newton(iterates.mean(0))
    test_low = test.newton(low)
    return train, test, low, test_low, test.hessian(test_low)


def test_the_terms_are_those_of_dense_newton(watched, values, minima):
    _, _, iterates = watched
    train, test, low, test_low, hessian = minima
    shift, bias, deviations = test_low - low, iterates.mean(0) - low, iterates - iterates.mean(0)
    assert len(iterates) == values["iterates"] == 6
    expected = {
        "loss": train.loss(low),
        "excess": torch.stack([train.loss(theta) for theta in iterates]).mean() - train.loss(low),
        "bias_norm": bias.norm(),
        "diagnostic_shift": 0.5 * shift @ hessian @ shift,
        "diagnostic_bias": 0.5 * bias @ hessian @ bias,
        "diagnostic_cross": -bias @ hessian @ shift,
        "diagnostic_covariance": 0.5 * (deviations @ hessian * deviations).sum() / 6,
        "diagnostic_excess": torch.stack([test.loss(theta) for theta in iterates]).mean() - test.loss(test_low),
        "diagnostic_shift_excess": test.loss(low) - test.loss(test_low),
        "diagnostic_shift_by_train": 0.5 * shift @ train.hessian(low) @ shift,
        "diagnostic_shift_norm": shift.norm(),
        "diagnostic_cosine": bias @ shift / bias.norm() / shift.norm(),
    }
    for name, value in expected.items():
        assert values[name] == pytest.approx(float(value), rel=1e-5, abs=1e-9), name
    terms = [values[f"diagnostic_{name}"] for name in ("shift", "bias", "cross", "covariance")]
    assert values["diagnostic_sum"] == pytest.approx(sum(terms))
    assert (values["diagnostic_converged"], values["barrier"], values["diagnostic_barrier"]) == (1.0, 0.0, 0.0)


def test_the_predicted_covariance_is_that_of_a_long_run_of_steps(values, minima):
    """S ← A S Aᵀ + (η²/b) d from 0, with A = 1 - ηH, for 2¹⁴ steps by doubling."""
    train, _, low, _, hessian = minima
    step = torch.eye(650, dtype=torch.float64) - 0.5 * train.hessian(low)
    covariance = 0.25 / 8 * train.noise(low)
    for _ in range(14):
        covariance, step = covariance + step @ covariance @ step.T, step @ step
    expected = 0.5 * float((hessian * covariance).sum())
    assert values["diagnostic_covariance_predicted"] == pytest.approx(expected, rel=1e-6)


def test_only_plain_sgd_has_a_predicted_covariance():
    found = []
    for word, dense in (
        ("optimizer=sgd", 1500),
        ("optimizer=momentum", 1500),
        ("clip_norm=1", 1500),
        ("optimizer=sgd", 600),
    ):
        task = prepared(word, DECAY_ALL)
        task.take_step()
        values = Shift(examples=None, dense=dense).measure(context(task)).values
        found.append(bool(np.isfinite(values.get("diagnostic_covariance_predicted", np.nan))))
    assert found == [True, False, False, False]


def test_biases_are_penalized_as_in_the_run_and_a_penalty_replaces_the_decay():
    task = prepared()
    task.take_step()
    found = Shift(examples=None, dense=0).measure(context(task)).values
    train = Independent(task, "train", of_bias=0.0)
    assert found["loss"] == pytest.approx(float(train.loss(train.newton(flat(task)))), rel=1e-8)
    assert (found["iterates"], found["diagnostic_covariance"]) == (1, 0.0)
    found = Shift(examples=None, dense=0, penalty=0.2).measure(context(task)).values
    train = Independent(task, "train", 0.2, 0.2)
    assert found["loss"] == pytest.approx(float(train.loss(train.newton(flat(task)))), rel=1e-8)


def test_only_diagnostics_depend_on_the_test_labels(watched, values):
    task, probe, _ = watched
    other = copy.deepcopy(probe)
    split = task.source.splits["test"]
    targets = split.targets.clone()
    try:
        split.targets.copy_(targets.flip(0))
        found = other.measure(context(task)).values
    finally:
        split.targets.copy_(targets)
    assert found.keys() == values.keys()
    for name, value in found.items():
        if not name.startswith("diagnostic_"):
            assert value == values[name], name
    assert found["diagnostic_shift"] != values["diagnostic_shift"]


def test_the_run_does_not_move_and_iterates_go_on_after_a_stop(watched):
    task, probe, iterates = watched
    before = flat(task)
    resumed = Shift(window=12, iterates=6, examples=None)
    resumed.load_state_dict(copy.deepcopy(probe.state_dict()))
    assert torch.equal(torch.stack(resumed._kept).double(), iterates)
    empty = Shift()
    empty.load_state_dict(Shift().state_dict())
    assert empty._kept == []
    resumed.measure(context(task))
    assert torch.equal(flat(task), before)
    assert resumed.state_dict() == {"iterates": None}


def test_the_minimum_is_that_of_the_basin_and_a_barrier_is_seen():
    """A tanh network: from its minimum the descent does not move, and between two of its minima there is a barrier."""
    task = prepared("model=mlp", "model.hidden=[4]", "model.activation=tanh", "optimizer.weight_decay=0.01")
    measured = MeasuredModel(task, None, float64=True)
    loss = PenalizedLoss(measured.objective(), np.full(measured.dimension, 0.01))
    start = loss.position
    low = minimum_near(loss, start)
    assert low.gradient_norm <= 1e-7
    assert low.loss < loss.loss(start)
    again = minimum_near(loss, low.point)
    assert again.iterations == 0
    # Exchanging two hidden neurons gives another minimum of the same loss.
    sizes = [parameter.numel() for parameter in measured.parameters]
    parts = np.split(low.point, np.cumsum(sizes)[:-1])
    swap = [1, 0, 2, 3]
    parts[0], parts[1] = parts[0].reshape(4, 64)[swap].ravel(), parts[1][swap]
    parts[2] = parts[2].reshape(10, 4)[:, swap].ravel()
    twin = np.concatenate(parts)
    assert loss.loss(twin) == pytest.approx(low.loss, rel=1e-12)
    middle = loss.loss(0.5 * (low.point + twin))
    # The middle is one of the points of the line, to rounding.
    assert barrier(loss, low.point, twin) >= (middle - low.loss) * (1 - 1e-9) > 0
    assert barrier(loss, start, start + 1e-3 * (low.point - start)) == 0


def test_a_loss_that_is_not_finite_has_no_minimum_near():
    task = prepared()
    measured = MeasuredModel(task, None, float64=True)
    loss = PenalizedLoss(measured.objective(), np.zeros(measured.dimension))
    with np.errstate(invalid="ignore"), pytest.raises(ValueError, match="not finite"):
        minimum_near(loss, np.full(measured.dimension, np.inf))


@pytest.mark.parametrize(
    ("words", "options", "message"),
    [
        (["optimizer.weight_decay_mode=decoupled"], {}, "probe.shift: the weight decay of this optimizer is not"),
        (["optimizer=adamw"], {}, "probe.shift: the weight decay of this optimizer is not"),
        (["optimizer=lion"], {}, "probe.shift: the weight decay of this optimizer is not"),
        (
            [],
            {"window": 9, "iterates": 10**6},
            r"probe.shift.iterates=1000000: .* accepted: at most 206488, or window=0",
        ),
    ],
    ids=str,
)
def test_what_cannot_work_is_refused_before_the_run(words, options, message):
    with pytest.raises(UserError, match=message):
        Shift(**options).check(context(prepared(*words)))
    if not options:
        Shift(penalty=0.1).check(context(prepared(*words)))
        Shift().check(context(prepared(*words, "optimizer.weight_decay=0")))


@pytest.mark.parametrize("split", ["validation", "test"])
def test_only_a_marked_probe_reads_held_out_examples(split):
    task = prepared()
    task.take_step()

    class Curious(Shift):
        diagnostic = False

    with pytest.raises(ValueError, match=f"the {split} split may be read only by probes that are marked"):
        Curious().measured(context(task)).objective(split)
    with pytest.raises(ValueError, match="the test split may be read only"):
        Curious().measure(context(task))
    assert Shift().measured(context(task)).count(split) == len(Shift().measured(context(task)).examples(split)[1])
    assert Interpolation.diagnostic
    assert float(Curious().measured(context(task)).objective("train").loss()) > 0


def test_nothing_is_chosen_by_a_diagnosis():
    name = "shift_diagnostic_shift"
    runs = pd.DataFrame(
        {"optimizer": "sgd", "batch": 8, "trial": [0, 1], "seed": 0, "status": "done", name: [1.0, 2.0]}
    )
    history = pd.DataFrame({"run_id": [], "event": [], name: []})
    for choose in (
        lambda: select(runs, metric=name, results=()),
        lambda: curves(runs, metric=name, result=name),
        lambda: times_to_target(runs.assign(run_id="a"), history, 1.0, name),
        lambda: sweep_of(runs.assign(learning_rate=0.1), name),
    ):
        with pytest.raises(UserError, match=f"metric={name}: a diagnosis from held-out labels"):
            choose()
    with pytest.raises(UserError, match=r"budget\.target_metric=shift_diagnostic_shift: must be one of"):
        config.compose([f"budget.target_metric={name}"])
