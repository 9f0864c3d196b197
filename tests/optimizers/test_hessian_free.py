import itertools
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, jacrev, vmap

from optbench.errors import UserError
from optbench.objective import Execution, Network, Objective
from optbench.objective.losses import CrossEntropy, SquaredError
from optbench.optimizers import hessian_free, krylov
from optbench.optimizers.hessian_free import HessianFree

EXACT = {"cg_iterations": 200, "cg_tolerance": 0.0}


def network(outputs=3):
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, outputs)).double()


def batch(number=0, size=12):
    generator = torch.Generator().manual_seed(number)
    inputs = torch.randn(size, 4, dtype=torch.float64, generator=generator)
    return inputs, torch.randint(0, 3, (size,), generator=generator)


def objective_of(model, number=0, size=12, micro_batch=None):
    return Objective(Network(model), CrossEntropy(), *batch(number, size), Execution(micro_batch=micro_batch))


def flat(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


class Dense:
    """The same problem by torch.func and cross entropy written out."""

    def __init__(self, model, number=0, size=12):
        self.model, (self.inputs, self.targets) = model, batch(number, size)
        self.shapes = {name: parameter.shape for name, parameter in model.named_parameters()}

    def outputs(self, vector, inputs):
        parts = vector.split([shape.numel() for shape in self.shapes.values()])
        values = {name: part.view(shape) for (name, shape), part in zip(self.shapes.items(), parts, strict=True)}
        return functional_call(self.model, values, (inputs,))

    def example_loss(self, vector, inputs, target):
        outputs = self.outputs(vector, inputs)
        return outputs.logsumexp(0) - outputs.gather(0, target.unsqueeze(0)).squeeze()

    def loss(self, vector):
        return vmap(self.example_loss, in_dims=(None, 0, 0))(vector, self.inputs, self.targets).mean()

    def gradient(self, vector):
        return grad(self.loss)(vector)

    def squared_gradients(self, vector):
        return vmap(grad(self.example_loss), (None, 0, 0))(vector, self.inputs, self.targets).square().mean(0)

    def gauss_newton(self, vector):
        jacobian = jacrev(self.outputs)(vector, self.inputs)
        p = self.outputs(vector, self.inputs).softmax(1)
        curvature = torch.diag_embed(p) - p.unsqueeze(2) * p.unsqueeze(1)
        return torch.einsum("nip,nij,njq->pq", jacobian, curvature, jacobian) / len(p)


def quadratic(size=8, seed=0):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(size, size, dtype=torch.float64, generator=generator)
    gradient = torch.randn(size, dtype=torch.float64, generator=generator)
    return root @ root.T + torch.eye(size), gradient


# ---- conjugate gradients ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preconditioned", [False, True])
@pytest.mark.parametrize("start", [0.0, 1.0])
def test_cg_solves_the_system_in_as_many_iterations_as_dimensions(preconditioned, start):
    matrix, gradient = quadratic()
    scales = torch.linspace(0.5, 5, 8, dtype=torch.float64) if preconditioned else None
    found = krylov.conjugate_gradient(matrix.mv, gradient, torch.full_like(gradient, start), 8, 0.0, scales)
    torch.testing.assert_close(found[-1].solution, -torch.linalg.solve(matrix, gradient), rtol=0, atol=1e-7)
    assert [each.iteration for each in found] == [1, 2, 3, 4, 5, 7, 8]
    for each in found:
        model = 0.5 * each.solution @ matrix @ each.solution + gradient @ each.solution
        assert each.value == pytest.approx(float(model), rel=1e-10)
    values = [each.value for each in found]
    assert values == sorted(values, reverse=True)


def test_a_preconditioner_is_a_change_of_variables():
    """CG with M = C² is plain CG on C⁻¹BC⁻¹ for Cδ."""
    matrix, gradient = quadratic()
    scales = torch.linspace(0.5, 5, 8, dtype=torch.float64)
    root = scales.sqrt()
    inner = (matrix / root).T / root
    zero = torch.zeros_like(gradient)
    found = krylov.conjugate_gradient(matrix.mv, gradient, zero, 3, 0.0, scales)
    changed = krylov.conjugate_gradient(inner.mv, gradient / root, zero, 3, 0.0)
    torch.testing.assert_close(found[-1].solution, changed[-1].solution / root, rtol=1e-10, atol=0)
    plain = krylov.conjugate_gradient(matrix.mv, gradient, zero, 3, 0.0)
    assert not torch.allclose(found[-1].solution, plain[-1].solution, rtol=1e-2)


@pytest.mark.parametrize("tolerance", [5e-4, 5e-3])
def test_cg_ends_where_the_model_has_stalled(tolerance):
    eigenvalues = torch.logspace(-4, 2, 400, dtype=torch.float64)
    gradient = torch.ones(400, dtype=torch.float64)
    zero = torch.zeros_like(gradient)

    def product(vector):
        return eigenvalues * vector

    def values(count):
        return krylov.conjugate_gradient(product, gradient, zero, count, 0.0)[-1].value

    last = krylov.conjugate_gradient(product, gradient, zero, 1000, tolerance)[-1]

    def has_stalled(i):
        k = max(10, math.ceil(0.1 * i))
        return i > k and values(i) < 0 and (values(i) - values(i - k)) / values(i) < k * tolerance

    assert 100 < last.iteration < 1000
    assert has_stalled(last.iteration)
    assert not any(has_stalled(i) for i in range(last.iteration - 10, last.iteration))


def test_cg_stores_iterates_at_powers_of_1_3():
    matrix, gradient = quadratic(60)
    found = krylov.conjugate_gradient(matrix.mv, gradient, torch.zeros_like(gradient), 30, 0.0)
    assert [each.iteration for each in found] == [1, 2, 3, 4, 5, 7, 9, 11, 14, 18, 24, 30]


def test_cg_ends_where_there_is_nothing_to_gain():
    matrix, gradient = quadratic()
    solution = torch.zeros_like(gradient)
    (only,) = krylov.conjugate_gradient(matrix.mv, torch.zeros_like(gradient), solution, 5)
    assert only.iteration == 0
    assert not only.solution.any()
    (only,) = krylov.conjugate_gradient(lambda vector: -vector, gradient, solution, 5)
    assert only.iteration == 0


# ---- one step against dense matrices ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("preconditioner", ["none", "empirical_fisher"])
@pytest.mark.parametrize("micro_batch", [None, 5])
@pytest.mark.parametrize(("reduction_model", "weight_decay"), [("damped", 0.0), ("undamped", 0.0), ("damped", 0.1)])
def test_a_step_solves_the_damped_gauss_newton_system(preconditioner, micro_batch, reduction_model, weight_decay):
    model, damping = network(), 0.5
    dense, start = Dense(model), flat(model)
    decays = torch.cat([torch.full_like(each, weight_decay * (each.ndim > 1)).flatten() for each in model.parameters()])
    decays = decays.detach()
    gradient = dense.gradient(start) + decays * start
    matrix = dense.gauss_newton(start) + torch.diag(damping + decays)
    solution = -torch.linalg.solve(matrix, gradient)
    optimizer = HessianFree(
        model.parameters(), damping=damping, preconditioner=preconditioner, reduction_model=reduction_model,
        weight_decay=weight_decay, **EXACT,
    )  # fmt: skip
    loss = optimizer.step(objective_of(model, micro_batch=micro_batch))
    assert loss.item() == pytest.approx(dense.loss(start).item(), rel=1e-12)
    # Backtracking went no further than the digits of the loss.
    torch.testing.assert_close(flat(model) - start, solution, rtol=0, atol=1e-5)
    kept = torch.cat([optimizer.state[each]["cg_solution"].flatten() for each in model.parameters()])
    torch.testing.assert_close(kept, solution, rtol=0, atol=1e-9)

    def value(point):
        return dense.loss(point) + 0.5 * (decays * point.square()).sum()

    if reduction_model == "undamped":
        matrix -= damping * torch.eye(len(start))
    model_change = gradient @ solution + 0.5 * solution @ matrix @ solution
    ratio = float((value(start + solution) - value(start)) / model_change)
    assert optimizer.diagnostics["reduction_ratio"] == pytest.approx(ratio, rel=1e-3)
    expected = damping / 1.5 if ratio > 0.75 else damping
    assert optimizer.param_groups[0]["damping"] == pytest.approx(expected)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
@pytest.mark.parametrize("decay_norm_and_bias", [False, True])
def test_least_squares_takes_one_step(weight_decay, decay_norm_and_bias):
    """With λ = 0, the normal equations, with a ridge where there is decay."""
    model = nn.Linear(4, 2).double()
    inputs, targets = batch(0)[0], batch(1)[0][:, :2]
    extended = torch.cat([inputs, torch.ones(12, 1, dtype=torch.float64)], dim=1)
    ridge = 12 * weight_decay * torch.diag(torch.tensor([1.0] * 4 + [float(decay_norm_and_bias)], dtype=torch.float64))
    expected = torch.linalg.solve(extended.T @ extended + ridge, extended.T @ targets)
    optimizer = HessianFree(
        model.parameters(), damping=0.0, preconditioner="none", cg_iterations=10, cg_tolerance=0.0,
        weight_decay=weight_decay, decay_norm_and_bias=decay_norm_and_bias,
    )  # fmt: skip
    optimizer.step(Objective(Network(model), SquaredError(), inputs, targets))
    torch.testing.assert_close(model.weight.T.detach(), expected[:4], rtol=0, atol=1e-6)
    torch.testing.assert_close(model.bias.detach(), expected[4], rtol=0, atol=1e-6)


@pytest.mark.parametrize("preconditioner", ["none", "empirical_fisher"])
def test_large_damping_gives_a_short_gradient_step(preconditioner):
    model, damping = network(), 1e6
    start, gradient = flat(model), Dense(model).gradient(flat(model))
    optimizer = HessianFree(model.parameters(), damping=damping, preconditioner=preconditioner)
    optimizer.step(objective_of(model))
    torch.testing.assert_close((flat(model) - start) * damping, -gradient, rtol=1e-4, atol=1e-6)
    assert optimizer.param_groups[0]["damping"] == pytest.approx(damping / 1.5)


def test_squared_gradients_of_one_example_are_exact():
    model = network()
    found = hessian_free._mean_squared_gradients(objective_of(model, size=1), 1, 0, 0)
    torch.testing.assert_close(found, Dense(model, size=1).squared_gradients(flat(model)), rtol=1e-10, atol=0)


def test_squared_gradients_converge_with_the_probes():
    """Each probe's relative variance is at most 2: the fourth moment of a sum of signs is at most 3 times its second's square."""
    model = network()
    exact = Dense(model).squared_gradients(flat(model))
    found = hessian_free._mean_squared_gradients(objective_of(model), 2000, 0, 0)
    ratios = found / exact
    assert (ratios - 1).abs().max() < 5 * math.sqrt(2 / 2000)
    assert (hessian_free._mean_squared_gradients(objective_of(model), 2, 0, 0) / exact - 1).abs().max() > 0.2
    parts = hessian_free._mean_squared_gradients(objective_of(model, micro_batch=5), 2, 0, 7)
    torch.testing.assert_close(parts, hessian_free._mean_squared_gradients(objective_of(model), 2, 0, 7))
    assert not torch.allclose(parts, hessian_free._mean_squared_gradients(objective_of(model), 2, 0, 8), rtol=0.1)


# ---- its decisions --------------------------------------------------------------------------------------------------------


def iterates(count):
    return [krylov.Iterate(torch.tensor([float(number)]), -float(number), number) for number in range(1, count + 1)]


@pytest.mark.parametrize(
    ("losses", "chosen"),
    [
        ([5, 4, 3, 2], 4),
        ([1, 2, 3, 4], 1),
        ([0, 9, 3, 4], 3),  # it does not look beyond a rise
        ([5, 3, 3, 4], 3),
        ([2, 1, math.inf, math.inf], 2),
    ],
)
def test_backtracking_goes_from_the_last_iterate_while_the_loss_falls(losses, chosen):
    found, lowest = hessian_free._backtrack(iterates(4), lambda solution: float(losses[int(solution) - 1]))
    assert found.iteration == chosen
    assert lowest == losses[chosen - 1]


@pytest.mark.parametrize(
    ("change", "factor"),
    [
        (-0.8, 1 / 1.5),
        (-1.6, 1 / 1.5),
        (-0.5, 1.0),
        (-0.2, 1.5),
        (0.1, 1.5),
        (0.0, 1.5),
        (math.inf, 1.5),
        (math.nan, 1.5),
    ],
)
def test_damping_follows_the_reduction_ratio(change, factor):
    optimizer = HessianFree(network().parameters(), damping=2.0)
    ratio = optimizer._adapt_damping(optimizer.param_groups[0], krylov.Iterate(torch.ones(1), -1.0, 1), change)
    assert optimizer.param_groups[0]["damping"] == pytest.approx(2.0 * factor)
    assert ratio == (-change if change < 0 else -math.inf)


def test_the_line_search_shortens_the_step_until_the_loss_falls_enough():
    """x² from 1 along δ = -8: 1 - 8α has to lie below √(1 - 0.16α)."""
    step = krylov.Iterate(torch.tensor([-8.0], dtype=torch.float64), -1.0, 1)
    tried = []

    def value(change):
        tried.append(float(change) / -8)
        return (1 + float(change)) ** 2

    rate = hessian_free._line_search(step, 1.0, 49.0, -16.0, 1.0, value)
    assert tried == pytest.approx([0.8**power for power in range(1, 8)])
    assert rate == pytest.approx(0.8**7)
    assert (1 - 8 * 0.8**6) ** 2 > 1 - 0.16 * 0.8**6
    assert hessian_free._line_search(step, 1.0, 49.0, -16.0, 0.1, value) == 0.1


def test_no_step_is_taken_where_nothing_will_do():
    step = krylov.Iterate(torch.tensor([1.0]), 1.0, 1)
    tried = []
    assert hessian_free._line_search(step, 1.0, 2.0, -1.0, 1.0, lambda change: tried.append(change) or 2.0) == 0
    assert len(tried) == 59
    assert hessian_free._line_search(step, 1.0, 0.5, 1.0, 1.0, lambda change: 0.5) == 0


def test_the_preconditioner_is_of_each_step_and_of_martens_exponent(monkeypatch):
    model, seen = network(), []
    inner = krylov.conjugate_gradient

    def watched(*arguments):
        seen.append(arguments[-1])
        return inner(*arguments)

    monkeypatch.setattr(krylov, "conjugate_gradient", watched)
    optimizer = HessianFree(model.parameters(), lr=1e-9, damping=0.1, weight_decay=0.2, preconditioner_probes=1000)
    decays = torch.cat([torch.full_like(each, 0.2 * (each.ndim > 1)).flatten() for each in model.parameters()]).detach()
    exact = Dense(model).squared_gradients(flat(model))
    estimates = []
    for _ in range(2):  # at the same point, since lr is next to nothing
        added = optimizer.param_groups[0]["damping"] + decays
        optimizer.step(objective_of(model))
        estimates.append(seen[-1] ** (4 / 3) - added)
        torch.testing.assert_close(estimates[-1], exact, rtol=5 * math.sqrt(2 / 1000), atol=0)
    assert not torch.allclose(estimates[0], estimates[1], rtol=1e-3)  # other signs in every step


def test_cg_starts_from_its_last_solution_decayed(monkeypatch):
    model, starts, ends = network(), [], []
    inner = krylov.conjugate_gradient

    def watched(product, gradient, start, *more):
        starts.append(start)
        found = inner(product, gradient, start, *more)
        ends.append(found[-1].solution)
        return found

    monkeypatch.setattr(krylov, "conjugate_gradient", watched)
    optimizer = HessianFree(model.parameters(), damping=0.1, warm_start=0.7, cg_iterations=6)
    for number in range(2):
        optimizer.step(objective_of(model, number))
    assert not starts[0].any()
    assert ends[0].any()
    torch.testing.assert_close(starts[1], 0.7 * ends[0], rtol=1e-15, atol=0)


# ---- the optimizer in a loop --------------------------------------------------------------------------------------------------


def test_the_loss_of_a_batch_falls_at_every_step():
    model = network()
    optimizer = HessianFree(model.parameters())
    losses = [optimizer.step(objective_of(model)).item() for _ in range(30)]
    assert all(after < before for before, after in itertools.pairwise(losses))
    assert losses[-1] < 0.02 * losses[0]
    assert optimizer.param_groups[0]["damping"] < 0.01


@pytest.mark.parametrize("options", [{}, {"preconditioner": "none", "weight_decay": 0.01}], ids=str)
def test_resuming_is_bit_exact(options, through_a_file):
    whole = network()
    optimizer = HessianFree(whole.parameters(), **options)
    for number in range(6):
        optimizer.step(objective_of(whole, number))
    model = network()
    optimizer = HessianFree(model.parameters(), **options)
    for number in range(3):
        optimizer.step(objective_of(model, number))
    saved = through_a_file({"model": model.state_dict(), "optimizer": optimizer.state_dict()})
    model = network()
    optimizer = HessianFree(model.parameters(), **options)
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    for number in range(3, 6):
        optimizer.step(objective_of(model, number))
    assert torch.equal(flat(model), flat(whole))


def test_a_loss_that_is_not_a_number_changes_nothing():
    model = network()
    with torch.no_grad():
        model[2].bias[0] = math.nan
    before = flat(model)
    optimizer = HessianFree(model.parameters())
    assert math.isnan(optimizer.step(objective_of(model)))
    assert torch.equal(flat(model).nan_to_num(), before.nan_to_num())
    assert optimizer.param_groups[0]["damping"] == 1.0


def test_what_it_cannot_work_with_is_refused():
    model = network()
    with pytest.raises(UserError, match="parameter groups"):
        HessianFree([{"params": [parameter]} for parameter in model.parameters()])
    with pytest.raises(UserError, match="Objective"):
        HessianFree(model.parameters()).step(lambda: None)
    unknown = Objective(Network(model), nn.CrossEntropyLoss(), *batch())
    for act in (HessianFree(model.parameters()).check, HessianFree(model.parameters()).step):
        with pytest.raises(UserError, match="cross_entropy, mse, bernoulli"):
            act(unknown)
    HessianFree(model.parameters()).check(objective_of(model))
    with pytest.raises(ValueError, match="damping_factor"):
        HessianFree(model.parameters(), damping_factor=1.0)
