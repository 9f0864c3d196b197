"""The values of single probes, against dense matrices and loops by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from optbench import config
from optbench.config import RunConfig
from optbench.errors import UserError
from optbench.objective.vectors import flatten
from optbench.probes import ProbeContext
from optbench.probes.batch_hessian import BatchHessianProbe
from optbench.probes.displacement import Displacement
from optbench.probes.eigenvalues import Eigenvalues
from optbench.probes.gradient_statistics import GradientStatistics
from optbench.probes.interpolation import Interpolation, _barrier
from optbench.probes.landscape import Landscape
from optbench.probes.sharpness import SharpnessProbe
from optbench.probes.spectrum import Spectrum
from optbench.probes.trace import Trace
from optbench.training import build

WORDS = [
    "model=mlp", "model.hidden=[3]", "model.activation=tanh", "dataset=digits", "dataset.train_limit=24", "batch=8",
    "precision=fp64", "budget.steps=9", "tracker=none", "optimizer.learning_rate=0.5",
]  # fmt: skip


class Case:
    """A small network after three steps, its 24 examples, and how it began."""

    def __init__(self):
        chosen = config.compose(WORDS)
        read = RunConfig.of(chosen)
        self.task = build.build_task(read, build.load_data(read))
        self.start = [parameter.detach().clone() for parameter in self.task.model.parameters()]
        self.task.configure_optimizers()
        for _ in range(3):
            self.task.take_step()
        ((self.inputs, self.targets),) = self.task.source.evaluation("train", 24)
        self.context = ProbeContext(self.task, lambda: self.start)
        self.names = [name for name, _ in self.task.model.named_parameters()]
        self.here = [parameter.detach() for parameter in self.task.model.parameters()]

    def loss(self, parameters, inputs=None, targets=None):
        given = dict(zip(self.names, parameters, strict=True))
        outputs = torch.func.functional_call(self.task.model, given, (self.inputs if inputs is None else inputs,))
        return F.cross_entropy(outputs, self.targets if targets is None else targets)

    def hessian(self, examples=slice(None)):
        sizes = [tensor.numel() for tensor in self.here]

        def of_flat(vector):
            parts = [part.view_as(like) for part, like in zip(vector.split(sizes), self.here, strict=True)]
            return self.loss(parts, self.inputs[examples], self.targets[examples])

        return torch.autograd.functional.hessian(of_flat, flatten(self.here))


@pytest.fixture(scope="module")
def case():
    return Case()


@pytest.fixture(scope="module")
def hessian(case):
    return case.hessian()


@pytest.fixture(scope="module")
def eigenvalues(hessian):
    return torch.linalg.eigvalsh(hessian).numpy()


def test_extremes_are_the_ends_of_the_dense_spectrum(case, eigenvalues):
    found = Eigenvalues(largest=3, smallest=2, steps=300, tolerance=1e-9).measure(case.context)
    expected = np.concatenate([eigenvalues[:2], eigenvalues[-3:]])
    np.testing.assert_allclose(found.arrays["eigenvalues"], expected, rtol=1e-6, atol=1e-9)
    assert found.values["top"] == pytest.approx(eigenvalues[-1])
    assert found.values["bottom"] == pytest.approx(eigenvalues[0])
    assert (found.arrays["residuals"] < 1e-6).all()


def test_spectrum_has_the_moments_of_the_dense_one(case, hessian, eigenvalues):
    found = Spectrum(steps=30, vectors=40, points=500).measure(case.context)
    assert found.arrays["values"].shape == found.arrays["weights"].shape == (40, 30)
    assert found.arrays["grid"].shape == found.arrays["density"].shape == found.arrays["density_error"].shape == (500,)
    assert found.arrays["dimension"] == len(eigenvalues)
    # Hutchinson's variance for signs, 2 (|A|_F^2 - sum of A_ii^2), of one vector's z^T A z.
    spread = (2 * (hessian.square().sum() - hessian.diag().square().sum()) / 40).sqrt() / len(hessian)
    assert abs(found.values["mean"] - eigenvalues.mean()) < 3 * float(spread)
    assert found.values["deviation"] == pytest.approx(eigenvalues.std(), rel=0.25)
    assert found.arrays["top"] == found.values["top"] == pytest.approx(eigenvalues[-1], rel=1e-6)
    assert found.arrays["bottom"] == found.values["bottom"] == pytest.approx(eigenvalues[0], rel=1e-3)


@pytest.mark.parametrize("method", ["hutchinson", "hutch++", "projections"])
def test_trace_is_that_of_the_dense_matrix(case, hessian, method):
    found = Trace(method=method, tolerance=0.0, most=60).measure(case.context).values
    assert abs(found["value"] - float(hessian.trace())) < 4 * found["standard_error"] + 1e-6
    assert found["standard_error"] < 0.3 * abs(found["value"])
    assert found["mean_curvature"] == pytest.approx(found["value"] / len(hessian))
    if method == "hutchinson":
        assert abs(found["frobenius"] - float(hessian.norm())) < 4 * found["frobenius_error"]


def test_projections_measure_the_hessian_only():
    with pytest.raises(UserError, match="method=projections: measures the Hessian, not matrix=fisher"):
        Trace(matrix="fisher", method="projections")


def test_batch_hessian_has_the_subset_for_its_population(case, eigenvalues):
    found = BatchHessianProbe(batch_sizes=[1, 8, 24, 99], draws=2, steps=60, examples=24).measure(case.context)
    assert found.arrays["batch_sizes"].tolist() == [1, 8, 24]
    assert found.arrays["top"].shape == found.arrays["bottom"].shape == (3, 2)
    assert found.values["full_top"] == pytest.approx(eigenvalues[-1], rel=1e-8)
    assert found.arrays["top"][2] == pytest.approx(eigenvalues[-1], rel=1e-8)  # the whole population, in every draw
    singles = [float(torch.linalg.eigvalsh(case.hessian(slice(i, i + 1)))[-1]) for i in range(24)]
    for top in found.arrays["top"][0]:
        assert min(abs(top - single) for single in singles) < 1e-6 * max(singles)
    sizes = BatchHessianProbe(draws=1, steps=2, vectors=1).measure(case.context).arrays["batch_sizes"]
    assert sizes.tolist() == [1, 2, 4, 8]


def test_displacement_by_hand(case):
    probe = Displacement()
    first = probe.measure(case.context)
    distances = [float((now - then).norm()) for now, then in zip(case.here, case.start, strict=True)]
    np.testing.assert_allclose(first.arrays["layer_distances"], distances)
    assert first.arrays["layer_names"].tolist() == case.names
    assert first.values["distance"] == pytest.approx(math.hypot(*distances))
    assert first.values["moved"] == first.values["path"] == first.values["distance"]
    assert first.values["norm"] == pytest.approx(float(flatten(case.here).norm()))
    weights = [tensor for tensor, name in zip(case.here, case.names, strict=True) if name.endswith("weight")]
    assert first.values["weight_norm"] == pytest.approx(float(flatten(weights).norm()))
    assert first.values["weight_norm"] < first.values["norm"]
    # Back towards the start: the distance shrinks, the path does not.
    before = [tensor.clone() for tensor in case.here]
    with torch.no_grad():
        for tensor, then in zip(case.here, case.start, strict=True):
            tensor.lerp_(then, 0.25)
    second = probe.measure(case.context).values
    with torch.no_grad():
        for tensor, kept in zip(case.here, before, strict=True):
            tensor.copy_(kept)
    whole = first.values["distance"]
    assert second["distance"] == pytest.approx(0.75 * whole)
    assert second["moved"] == pytest.approx(0.25 * whole)
    assert second["path"] == pytest.approx(1.25 * whole)


def test_gradient_statistics_by_hand(case):
    probe = GradientStatistics(batch=6)
    found = probe.measure(case.context)
    parameters = [tensor.clone().requires_grad_() for tensor in case.here]
    gradients = []
    for start in range(0, 24, 6):
        loss = case.loss(parameters, case.inputs[start : start + 6], case.targets[start : start + 6])
        gradients.append(flatten(torch.autograd.grad(loss, parameters)))
    stacked = torch.stack(gradients)
    mean, variance = stacked.mean(0), float(stacked.var(0).sum())
    assert found.values["norm"] == pytest.approx(float(mean.norm()))
    assert found.values["variance"] == pytest.approx(variance)
    assert found.values["trace"] == pytest.approx(6 * variance)
    assert found.values["signal_to_noise"] == pytest.approx(float(mean.square().sum()) / variance)
    assert found.values["largest"] == pytest.approx(float(mean.abs().max()))
    assert np.square(found.arrays["layer_norms"]).sum() == pytest.approx(float(mean.square().sum()))
    assert found.arrays["layer_variances"].sum() == pytest.approx(variance)
    assert "cosine" not in found.values
    probe._last = -2 * probe._last
    assert probe.measure(case.context).values["cosine"] == pytest.approx(-1)


def test_interpolation_is_the_loss_on_the_line_from_the_start(case):
    found = Interpolation(points=5, first=-0.5, last=1.5).measure(case.context)
    assert found.arrays["positions"].tolist() == [-0.5, 0.0, 0.5, 1.0, 1.5]
    for x, loss in zip(found.arrays["positions"], found.arrays["train_loss"], strict=True):
        point = [then + x * (now - then) for now, then in zip(case.here, case.start, strict=True)]
        assert loss == pytest.approx(float(case.loss(point)))
    ((inputs, targets),) = case.task.source.evaluation("test", 10_000)
    assert found.arrays["test_loss"][3] == pytest.approx(float(case.loss(case.here, inputs, targets)))
    assert found.arrays["test_accuracy"].shape == found.arrays["train_accuracy"].shape == (5,)


@pytest.mark.parametrize(
    ("losses", "expected"),
    [([9, 4, 3, 2, 9], 0), ([9, 4, 5, 2, 9], 2), ([9, 2, 5, 4, 9], 2), ([9, 4, np.nan, 2, 9], math.inf)],
)
def test_the_barrier_is_above_the_straight_line_between_the_ends(losses, expected):
    positions = np.array([-0.5, 0, 0.5, 1, 1.5])
    assert _barrier(positions, np.array(losses, dtype=float), losses[1], losses[3]) == expected


@pytest.mark.parametrize("directions", ["random", "hessian"])
@pytest.mark.parametrize("plane", [False, True])
def test_landscapes_have_the_loss_in_their_middle_and_the_curvature_of_their_directions(
    case, eigenvalues, directions, plane
):
    reach = 1e-3
    options = {"directions": directions, "plane": plane, "lines": 2, "points": 3, "reach": reach, "steps": 150}
    found = Landscape(**options).measure(case.context)
    middle = float(case.loss(case.here))
    assert found.values["loss"] == pytest.approx(middle)
    if plane:
        surface = found.arrays["loss_surface"]
        assert surface.shape == found.arrays["accuracy_surface"].shape == (3, 3)
        lines = [surface[1], surface[:, 1]]
        assert found.arrays["x"].tolist() == found.arrays["y"].tolist() == [-reach, 0, reach]
    else:
        lines = list(found.arrays["loss"])
        assert found.arrays["accuracy"].shape == found.arrays["loss"].shape == (2, 3)
    assert str(found.arrays["normalization"]) == ("filter" if directions == "random" else "eigenvectors")
    for line in lines:
        assert line[1] == pytest.approx(middle, rel=1e-12)
    if directions == "hessian":
        np.testing.assert_allclose(found.arrays["eigenvalues"], eigenvalues[[-1, 0]], rtol=1e-6)
        for line, value in zip(lines, eigenvalues[[-1, 0]], strict=True):
            assert (line[0] - 2 * line[1] + line[2]) / reach**2 == pytest.approx(value, rel=1e-3, abs=1e-4)
    else:
        assert -1 < found.values["cosine"] < 1


def test_sharpness_of_the_first_order_is_the_loss_up_the_gradient(case):
    found = SharpnessProbe(radius=0.05, iterations=3).measure(case.context).values
    parameters = [tensor.clone().requires_grad_() for tensor in case.here]
    loss = case.loss(parameters)
    slopes = torch.autograd.grad(loss, parameters)
    length = flatten(slopes).norm()
    there = case.loss([now + 0.05 * slope / length for now, slope in zip(case.here, slopes, strict=True)])
    assert found["loss"] == pytest.approx(loss.item())
    assert found["sam"] == pytest.approx(float(there) - loss.item(), rel=1e-6)
    scaled = [now.abs() * slope for now, slope in zip(case.here, slopes, strict=True)]
    length = flatten(scaled).norm()
    moved = [now + 0.5 * now.abs() * each / length for now, each in zip(case.here, scaled, strict=True)]
    assert found["adaptive"] == pytest.approx(float(case.loss(moved)) - loss.item(), rel=1e-6)
    assert found["keskar"] > 0


@pytest.mark.parametrize(
    ("name", "words"),
    [("phase_space", ["probe.phase_space.directions=1"]), ("profile", []), ("shift", ["probe.shift.window=4"])],
)
def test_keeping_weights_between_steps_is_no_part_of_the_training(tmp_path, monkeypatch, name, words):
    """The run's clock stands while a probe copies weights; noise_scale looks into the passes themselves, which do count."""
    common = [
        "dataset=digits",
        "dataset.train_limit=64",
        "model=logreg",
        "optimizer=sgd",
        "batch=16",
        "budget.steps=4",
        "tracker=none",
    ]
    composed = config.compose([*common, f"probe={name}", *words, f"results_dir={tmp_path}"])
    read = RunConfig.of(composed)
    task = build.build_task(read, build.load_data(read))
    task.configure_optimizers()
    (entry,) = build.build_probes(read, task, None).scheduled
    if name == "phase_space":
        entry.probe.measure(ProbeContext(task, list))  # which fixes its directions
    stood = []
    monkeypatch.setattr(task.clock, "stop", lambda: stood.append("stop"))
    monkeypatch.setattr(task.clock, "start", lambda: stood.append("start"))
    task.clock.since = 0.0
    with entry.probe.watch(None, task):
        pass
    assert stood[:2] == ["stop", "start"]
    assert entry.probe.seconds_aside > 0
