import itertools

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, hessian

from optbench.errors import UserError
from optbench.objective import Execution, Network, Objective
from optbench.objective.losses import CrossEntropy
from optbench.optimizers.damped_newton import DampedNewton
from optbench.optimizers.saddle_free_newton import SaddleFreeNewton

DENSE = {"subspace": "dense", "damping_ladder": [0.0]}


class Function(nn.Module):
    """A function of a point, as a model whose outputs are its values."""

    def __init__(self, function, start):
        super().__init__()
        self.function = function
        self.point = nn.Parameter(torch.tensor(start, dtype=torch.float64))

    def forward(self, inputs):
        return self.function(self.point).expand(len(inputs))


def objective_of(model):
    nothing = torch.zeros(1, dtype=torch.float64)
    return Objective(Network(model), lambda outputs, targets: outputs.mean(), nothing, nothing)


def descend(method, function, start, steps=1, **options):
    """The points that ``method`` visits, and the method."""
    model = Function(function, start)
    optimizer = method(model.parameters(), **{**DENSE, **options})
    points = [model.point.detach().clone()]
    for _ in range(steps):
        optimizer.step(objective_of(model))
        points.append(model.point.detach().clone())
    return torch.stack(points), optimizer


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double()


def batch(number=0, size=12):
    generator = torch.Generator().manual_seed(number)
    inputs = torch.randn(size, 4, dtype=torch.float64, generator=generator)
    return inputs, torch.randint(0, 3, (size,), generator=generator)


def batch_objective(model, number=0, micro_batch=None):
    return Objective(Network(model), CrossEntropy(), *batch(number), Execution(micro_batch=micro_batch))


def flat(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def dense_problem(model, number=0):
    """Loss, gradient and Hessian as functions of flat parameters, by torch.func and cross entropy written out."""
    shapes = {name: parameter.shape for name, parameter in model.named_parameters()}
    inputs, targets = batch(number)

    def loss(vector):
        parts = vector.split([shape.numel() for shape in shapes.values()])
        values = {name: part.view(shape) for (name, shape), part in zip(shapes.items(), parts, strict=True)}
        outputs = functional_call(model, values, (inputs,))
        return (outputs.logsumexp(1) - outputs[torch.arange(len(targets)), targets]).mean()

    return loss, torch.func.grad(loss), hessian(loss)


# ---- closed forms ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("method", "end"), [(SaddleFreeNewton, [0.0, 1.0]), (DampedNewton, [0.0, 0.0])])
@pytest.mark.parametrize("subspace", ["dense", "krylov"])
def test_a_saddle_repels_one_and_attracts_the_other(method, end, subspace):
    """x² - y² from (1, 1/2): the Hessian is diag(2, -2), the gradient (2, -1)."""
    points, _ = descend(method, lambda p: p[0] ** 2 - p[1] ** 2, [1.0, 0.5], subspace=subspace)
    torch.testing.assert_close(points[1], torch.tensor(end, dtype=torch.float64), rtol=0, atol=1e-12)


@pytest.mark.parametrize("method", [SaddleFreeNewton, DampedNewton])
def test_a_convex_quadratic_takes_one_step(method):
    generator = torch.Generator().manual_seed(0)
    root = torch.randn(5, 5, dtype=torch.float64, generator=generator)
    matrix, minimum = root @ root.T + torch.eye(5), torch.randn(5, dtype=torch.float64, generator=generator)
    points, optimizer = descend(method, lambda p: 0.5 * (p - minimum) @ matrix @ (p - minimum), [2.0] * 5)
    torch.testing.assert_close(points[1], minimum, rtol=0, atol=1e-10)
    assert optimizer.diagnostics["smallest_eigenvalue"] == pytest.approx(float(torch.linalg.eigvalsh(matrix)[0]))


def test_a_monkey_saddle_is_left_downwards():
    def saddle(point):
        return point[0] ** 3 - 3 * point[0] * point[1] ** 2

    points, _ = descend(SaddleFreeNewton, saddle, [0.01, 0.01], steps=12)
    values = [float(saddle(point)) for point in points]
    assert all(after < before for before, after in itertools.pairwise(values))
    assert values[-1] < 1e4 * values[0] < 0


@pytest.mark.parametrize("curvature", [1e-3, 1.0, 100.0])
def test_the_distance_along_negative_curvature_doubles_whatever_the_curvature(curvature):
    points, _ = descend(SaddleFreeNewton, lambda p: p[0] ** 2 - curvature * p[1] ** 2, [0.0, 1e-6], steps=10)
    torch.testing.assert_close(points[:, 1], 1e-6 * 2.0 ** torch.arange(11, dtype=torch.float64), rtol=1e-9, atol=0)


@pytest.mark.parametrize(("damping", "method"), [(0.5, SaddleFreeNewton), (0.5, DampedNewton)])
def test_damping_is_added_to_the_eigenvalue_or_to_its_size(damping, method):
    points, optimizer = descend(
        method, lambda p: 2 * p[0] ** 2 - p[1] ** 2, [1.0, 0.5], damping_ladder=[damping], lr=0.5
    )
    along = -2.0 + damping if method is DampedNewton else 2.0 + damping
    expected = [1.0 - 0.5 * 4 / (4 + damping), 0.5 - 0.5 * -1 / along]
    torch.testing.assert_close(points[1], torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-12)
    assert optimizer.diagnostics["damping"] == damping


def test_the_point_stays_where_no_damping_lowers_the_loss():
    """Newton overshoots the minimum of log cosh from afar by more than its distance: the curvature there is 0.01."""
    points, optimizer = descend(SaddleFreeNewton, lambda p: p.cosh().log().sum(), [3.0])
    assert points[1].item() == 3.0
    assert optimizer.diagnostics["step_norm"] == 0
    points, _ = descend(SaddleFreeNewton, lambda p: p.cosh().log().sum(), [3.0], damping_ladder=[0.0, 0.5])
    assert abs(points[1].item()) < 3.0


@pytest.mark.parametrize("method", [SaddleFreeNewton, DampedNewton])
def test_a_damping_that_makes_the_matrix_singular_is_left_out(method):
    points, optimizer = descend(method, lambda p: p[0] ** 2 + p[1], [1.0, 0.0], damping_ladder=[0.0, 1.0])
    torch.testing.assert_close(points[1], torch.tensor([1 - 2 / 3, -1.0], dtype=torch.float64))
    assert optimizer.diagnostics["damping"] == 1.0


def test_a_step_to_infinity_is_none_even_where_the_loss_is_least_there():
    points, _ = descend(SaddleFreeNewton, lambda p: p.sum(), [1.0], damping_ladder=[0.0])
    assert points[1].item() == 1.0


def test_inner_steps_keep_the_hessian_and_renew_the_gradient():
    """x⁴ from 1 with H = 12 throughout: x ← x - 4x³/12."""
    points, optimizer = descend(SaddleFreeNewton, lambda p: p.pow(4).sum(), [1.0], inner_steps=3)
    x = 1.0
    for _ in range(3):
        x -= 4 * x**3 / 12
    assert points[1].item() == pytest.approx(x, rel=1e-12)
    assert optimizer.diagnostics["updates"] == 3


@pytest.mark.parametrize("subspace", ["dense", "krylov"])
def test_a_point_without_gradient_stays(subspace):
    points, _ = descend(SaddleFreeNewton, lambda p: p[0] ** 2 - p[1] ** 2, [0.0, 0.0], subspace=subspace)
    assert not points.any()


def test_a_loss_that_is_not_a_number_changes_nothing():
    points, _ = descend(SaddleFreeNewton, lambda p: (p - 2).sqrt().sum(), [1.0])
    assert points[1].item() == 1.0


# ---- networks, against dense matrices ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("micro_batch", [None, 5])
@pytest.mark.parametrize(("method", "size"), [(SaddleFreeNewton, torch.abs), (DampedNewton, lambda values: values)])
def test_the_dense_step_is_the_best_of_the_ladder(method, size, micro_batch):
    model, ladder = network(), [3.0, 0.3, 0.03, 0.003]
    loss, gradient, second = dense_problem(model)
    start = flat(model)
    values, vectors = np.linalg.eigh(second(start).numpy())
    values, vectors = torch.tensor(values), torch.tensor(vectors)
    assert values[0] < -1e-3  # a saddle's surroundings
    candidates = [start - vectors @ (vectors.T @ gradient(start) / (size(values) + damping)) for damping in ladder]
    losses = torch.stack([loss(candidate) for candidate in candidates])
    optimizer = method(model.parameters(), subspace="dense", damping_ladder=ladder)
    assert optimizer.step(batch_objective(model, micro_batch=micro_batch)).item() == pytest.approx(loss(start).item())
    torch.testing.assert_close(flat(model), candidates[int(losses.argmin())], rtol=0, atol=1e-10)
    assert optimizer.diagnostics["damping"] == ladder[int(losses.argmin())]


@pytest.mark.parametrize("method", [SaddleFreeNewton, DampedNewton])
def test_a_krylov_space_of_all_dimensions_is_the_dense_method(method):
    """Damping large enough keeps the rounding of the last Lanczos vectors out of the result."""
    models = [network(), network()]
    for subspace, model in zip(("dense", "krylov"), models, strict=True):
        optimizer = method(model.parameters(), subspace=subspace, krylov_dimension=1000, damping_ladder=[3.0, 0.1])
        for number in range(3):
            optimizer.step(batch_objective(model, number))
    torch.testing.assert_close(flat(models[1]), flat(models[0]), rtol=0, atol=1e-9)


def test_the_krylov_step_is_that_of_the_space_of_the_gradient_and_its_images():
    model, damping = network(), 0.1
    loss, gradient, second = dense_problem(model)
    start, matrix = flat(model), second(flat(model))
    g = gradient(start)
    basis = torch.linalg.qr(torch.stack([g, matrix @ g, matrix @ matrix @ g], dim=1))[0]
    values, vectors = torch.linalg.eigh(basis.T @ matrix @ basis)
    expected = start - basis @ vectors @ (vectors.T @ basis.T @ g / (values.abs() + damping))
    assert loss(expected) < loss(start)
    SaddleFreeNewton(model.parameters(), krylov_dimension=3, damping_ladder=[damping]).step(batch_objective(model))
    torch.testing.assert_close(flat(model), expected, rtol=0, atol=1e-10)


def test_the_step_before_is_in_the_space():
    model = network()
    optimizer = SaddleFreeNewton(model.parameters(), krylov_dimension=4)
    before = flat(model)
    optimizer.step(batch_objective(model))
    previous = flat(model) - before
    gradient, second = dense_problem(model, 1)[1:]
    objective = batch_objective(model, 1)
    g, matrix = gradient(flat(model)), second(flat(model))
    parameters = list(model.parameters())
    with torch.no_grad():
        space = optimizer._subspace(objective, optimizer.param_groups[0], parameters, g)
    assert len(space.basis) == 5
    torch.testing.assert_close(space.basis.T @ (space.basis @ previous), previous, rtol=0, atol=1e-12)
    restricted = space.vectors @ torch.diag(space.values) @ space.vectors.T
    torch.testing.assert_close(restricted, space.basis @ matrix @ space.basis.T, rtol=0, atol=1e-12)


# ---- the optimizer in a loop ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [SaddleFreeNewton, DampedNewton])
@pytest.mark.parametrize(
    "options", [{}, {"subspace": "dense"}, {"inner_steps": 2, "previous_direction": False}], ids=str
)
def test_resuming_is_bit_exact(method, options, through_a_file):
    options = {"krylov_dimension": 4, **options}
    whole = network()
    optimizer = method(whole.parameters(), **options)
    for number in range(4):
        optimizer.step(batch_objective(whole, number))
    model = network()
    optimizer = method(model.parameters(), **options)
    for number in range(2):
        optimizer.step(batch_objective(model, number))
    saved = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    model = network()
    optimizer = method(model.parameters(), **options)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    for number in range(2, 4):
        optimizer.step(batch_objective(model, number))
    assert torch.equal(flat(model), flat(whole))


def test_frozen_parameters_stay():
    model = network()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    SaddleFreeNewton(model.parameters(), krylov_dimension=4).step(batch_objective(model))
    assert torch.equal(model[0].weight, before)
    assert model[0].bias.grad.any()


def test_a_hessian_too_large_is_refused_before_training():
    with pytest.raises(UserError, match=r"27 parameters .* dense_limit=26"):
        SaddleFreeNewton.from_model(network(), lr=1.0, subspace="dense", dense_limit=26)
    SaddleFreeNewton.from_model(network(), lr=1.0, subspace="dense", dense_limit=27)


def test_a_model_without_second_derivatives_is_refused_before_training():
    """torch has the first derivatives of distances in the 1-norm, but not the second ones."""
    center = torch.zeros(1, 2, dtype=torch.float64)
    model = Function(lambda point: torch.cdist(point, center, p=1.0).square().sum(), [[1.0, 2.0]])
    with pytest.raises(UserError, match="Function cannot be differentiated twice"):
        SaddleFreeNewton(model.parameters()).check(objective_of(model))
    SaddleFreeNewton(model.parameters()).check(batch_objective(network()))


@pytest.mark.parametrize("method", [SaddleFreeNewton, DampedNewton])
def test_what_it_cannot_work_with_is_refused(method):
    model = network()
    with pytest.raises(UserError, match=f"{method.__name__}.*parameter groups"):
        method([{"params": [parameter]} for parameter in model.parameters()])
    with pytest.raises(UserError, match="Objective"):
        method(model.parameters()).step(lambda: None)
    with pytest.raises(ValueError, match="damping_ladder"):
        method(model.parameters(), damping_ladder=[])
