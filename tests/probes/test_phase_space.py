"""The probe `phase_space` on a network with a known Hessian, and on a quadratic; `displacement` from its first measurement."""

import math

import numpy as np
import pytest
import torch

from optbench import config
from optbench.config import RunConfig
from optbench.errors import UserError
from optbench.objective.vectors import flatten
from optbench.probes import ProbeContext
from optbench.probes.displacement import Displacement
from optbench.probes.phase_space import PhaseSpace
from optbench.training import build, run

WORDS = [
    "model=mlp", "model.hidden=[3]", "model.activation=tanh", "dataset=digits", "dataset.train_limit=24", "batch=8",
    "precision=fp64", "budget.steps=30", "tracker=none", "progress=false", "optimizer=momentum",
    "optimizer.learning_rate=0.05",
]  # fmt: skip


def task_of(*words):
    read = RunConfig.of(config.compose([*WORDS, *words]))
    task = build.build_task(read, build.load_data(read))
    task.configure_optimizers()
    return task


def weights(task):
    return flatten([parameter.detach().double() for parameter in task.model.parameters()]).clone()


def dense_hessian(task):
    names = [name for name, _ in task.model.named_parameters()]
    sizes = [parameter.numel() for parameter in task.model.parameters()]
    ((inputs, targets),) = task.source.evaluation("train", 24)

    def loss(vector):
        parts = [part.view_as(like) for part, like in zip(vector.split(sizes), task.model.parameters(), strict=True)]
        outputs = torch.func.functional_call(task.model, dict(zip(names, parts, strict=True)), (inputs,))
        return torch.nn.functional.cross_entropy(outputs, targets)

    return torch.autograd.functional.hessian(loss, weights(task))


def walked(task, probe, steps):
    """Take ``steps`` steps that the probe watches; the weights and the buffers after each."""
    task.watch = probe.watch
    path, buffers = [], []
    for _ in range(steps):
        task.take_step()
        path.append(weights(task))
        states = [task.optimizer.state[parameter] for parameter in task.model.parameters()]
        if "momentum_buffer" in states[0]:
            buffers.append(flatten([state["momentum_buffer"].double() for state in states]).clone())
    return torch.stack(path), torch.stack(buffers) if buffers else None


def case(velocity="difference", *words, **options):
    """Four steps, the first measurement, eight watched steps, the second measurement."""
    task = task_of(*words)
    for _ in range(4):
        task.take_step()
    probe = PhaseSpace(window=100, directions=3, velocity=velocity, steps=300, tolerance=1e-10, **options)
    context = ProbeContext(task, list)
    start, hessian = weights(task), dense_hessian(task)
    first = probe.measure(context)
    path, buffers = walked(task, probe, 8)
    return first, probe.measure(context), start, path, buffers, hessian


def test_positions_are_projections_on_the_top_eigenvectors_of_the_first_measurement():
    first, second, start, path, _, hessian = case()
    values, vectors = np.linalg.eigh(hessian.numpy())
    for found in (first, second):
        np.testing.assert_allclose(found.arrays["eigenvalues"], values[-1:-4:-1], rtol=1e-7)
        assert found.values["top"] == pytest.approx(values[-1])
    assert first.arrays["step"].shape == (0,)
    assert math.isnan(first.values["velocity_squared"])
    assert first.values["displacement_squared"] == 0
    assert second.arrays["step"].tolist() == [5, 6, 7, 8, 9, 10, 11, 12]
    chosen = vectors[:, -1:-4:-1]
    chosen = chosen * np.sign(chosen[np.abs(chosen).argmax(axis=0), range(3)])
    moved = (path - start).numpy()
    np.testing.assert_allclose(second.arrays["x"], moved @ chosen, rtol=1e-5, atol=1e-9)
    np.testing.assert_allclose(second.arrays["displacement_squared"], (moved**2).sum(axis=1), rtol=1e-12)
    assert second.values["displacement_squared"] == pytest.approx((moved[-1] ** 2).sum(), rel=1e-12)


@pytest.mark.parametrize("velocity", ["difference", "buffer"])
def test_the_velocity_is_the_momentum_buffer(velocity):
    _, found, _, _, buffers, hessian = case(velocity)
    np.testing.assert_allclose(found.arrays["velocity_squared"], buffers.square().sum(dim=1).numpy(), rtol=1e-10)
    assert found.values["velocity_squared"] == found.arrays["velocity_squared"][-1]
    vectors = np.linalg.eigh(hessian.numpy())[1][:, -1:-4:-1]
    projected = np.abs(buffers.numpy() @ vectors)
    np.testing.assert_allclose(np.abs(found.arrays["v"]), projected, rtol=1e-5, atol=1e-8)


def test_the_velocity_without_a_buffer_is_the_step_over_the_rate():
    """SGD without momentum, and the present rate of a schedule: 0.05 of step 5, then a tenth of it."""
    words = ("optimizer.momentum=0", "schedule=multistep", "schedule.milestones=[6]", "schedule.gamma=0.1")
    _, found, start, path, _, _ = case("difference", *words)
    steps = torch.diff(torch.cat([start[None], path]), dim=0)
    rates = torch.tensor([0.05, 0.05, *[0.005] * 6])[:, None]
    expected = (steps / rates).square().sum(dim=1).numpy()
    np.testing.assert_allclose(found.arrays["velocity_squared"], expected, rtol=1e-6)


def test_one_of_so_many_steps_in_the_window():
    task = task_of()
    probe = PhaseSpace(window=12, stride=5, directions=2, steps=4, tolerance=0)
    for _ in range(3):
        task.take_step()
    probe.measure(ProbeContext(task, list))
    walked(task, probe, 20)
    assert probe.measure(ProbeContext(task, list)).arrays["step"].tolist() == [13, 18, 23]


def test_what_is_watched_is_no_part_of_the_training(monkeypatch):
    """Seconds of the run's clock, counted by a clock that the test moves."""
    now = [0.0]
    monkeypatch.setattr("time.perf_counter", lambda: now[0])
    task = task_of()
    probe = PhaseSpace(directions=1, steps=2, tolerance=0)
    probe.measure(ProbeContext(task, list))

    def later(task):
        now[0] += 1.0
        return torch.zeros(weights(task).shape, dtype=torch.float64)

    monkeypatch.setattr("optbench.probes.phase_space._weights", later)
    task.clock.start()
    walked(task, probe, 3)
    assert task.clock.stop() == 0
    assert probe.seconds_aside == 6  # before and after each step


def test_its_seconds_are_in_the_history_and_in_the_summary(tmp_path):
    words = [
        "probe=phase_space",
        "probe.phase_space.directions=1",
        "probe.phase_space.steps=2",
        f"results_dir={tmp_path}",
    ]
    outcome = run.execute(config.compose([*WORDS, *words, "budget.steps=4"]))
    rows = [row for row in outcome.directory.rows() if row["event"] == "probe"]
    assert [row["step"] for row in rows] == [0, 4]
    assert outcome.summary["probe_seconds"] == pytest.approx(sum(row["probe_seconds"] for row in rows))
    file = outcome.directory.measurements.arrays("phase_space-4.npz")
    assert file["step"].tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["optimizer=adam", "probe.phase_space.velocity=buffer"],
            r"probe\.phase_space\.velocity=buffer: this optimizer has no momentum buffer; accepted: optimizer=momentum or",
        ),
        (
            ["optimizer=sgd", "probe.phase_space.velocity=buffer"],
            r"velocity=buffer: this optimizer has no momentum buffer",
        ),
        (["probe.phase_space.directions=81"], r"directions=81: .*accepted: 1 to 80"),
        (
            ["probe.phase_space.directions=300", "probe.phase_space.steps=500"],
            r"directions=300: .*accepted: 1 to 235",
        ),
        (["communication=local", "communication.workers=2"], "probe=phase_space: .*accepted: communication=dense"),
        (["probe.phase_space.velocity=x"], "must be one of difference, buffer"),
    ],
    ids=str,
)
def test_what_cannot_be_measured_is_refused_before_the_run(words, message, tmp_path):
    with pytest.raises(UserError, match=message):
        run.execute(config.compose([*WORDS, "probe=phase_space", *words, f"results_dir={tmp_path}"]))


def test_a_displacement_from_the_first_measurement():
    task = task_of()
    context = ProbeContext(task, lambda: [torch.full_like(each, 9.0) for each in task.model.parameters()])
    task.take_step()
    origin = weights(task)
    probe = Displacement(since="first_measurement")
    first = probe.measure(context)
    assert first.values["distance"] == first.values["moved"] == first.values["path"] == 0
    task.take_step()
    middle = weights(task)
    probe.measure(context)
    resumed = Displacement(since="first_measurement")
    resumed.load_state_dict(probe.state_dict())
    task.take_step()
    found = resumed.measure(context)
    assert found.values["distance"] == pytest.approx(float((weights(task) - origin).norm()), rel=1e-12)
    assert found.values["moved"] == pytest.approx(float((weights(task) - middle).norm()), rel=1e-12)
    assert np.linalg.norm(found.arrays["layer_distances"]) == pytest.approx(found.values["distance"], rel=1e-12)
