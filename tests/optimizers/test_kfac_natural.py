import math
from itertools import pairwise

import pytest
import torch
from built import build
from torch import nn
from torch.func import functional_call, hessian, jacrev

from optbench.errors import UserError
from optbench.objective import Execution, Network, Objective
from optbench.objective.losses import Bernoulli, CrossEntropy, SquaredError
from optbench.optimizers.kfac_natural import STRUCTURES, KFACNatural

DTYPE = torch.float64


class Scaled(nn.Module):
    """Linear layers with a scale between them that has no factors."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(3, 2)
        self.scale = nn.Parameter(torch.ones(3))

    def forward(self, inputs):
        return self.second(self.scale * torch.tanh(self.first(inputs)))


def chain(*widths, activation=nn.Tanh):
    layers = [nn.Linear(*pair) for pair in pairwise(widths)]
    return nn.Sequential(*[module for layer in layers for module in (layer, activation())][:-1])


def initialized(model, seed=1):
    generator = torch.Generator().manual_seed(seed)
    model = model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator, dtype=DTYPE) / 2)
    return model


def data(inputs, outputs, examples=30, seed=0):
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(examples, inputs, generator=generator, dtype=DTYPE)
    return features, torch.randn(examples, outputs, generator=generator, dtype=DTYPE)


class Problem:
    """A model with its batch, loss and optimizer, and the quadratic model of its loss as a dense matrix."""

    def __init__(self, model, loss=None, examples=30, **options):
        self.model = initialized(model)
        matrices = [parameter for parameter in model.parameters() if parameter.ndim == 2]
        self.batch = data(matrices[0].shape[1], matrices[-1].shape[0], examples)
        self.loss = loss or SquaredError()
        self.optimizer = KFACNatural(self.model, **options)
        self.network = Network(self.model)

    def step(self, steps=1, **execution):
        for _ in range(steps):
            self.optimizer.step(Objective(self.network, self.loss, *self.batch, Execution(**execution)))

    def place(self):
        return nn.utils.parameters_to_vector(self.model.parameters()).detach().clone()

    def outputs(self, flat, inputs=None):
        parts = flat.split([parameter.numel() for parameter in self.model.parameters()])
        named = {
            name: part.view(parameter.shape)
            for (name, parameter), part in zip(self.model.named_parameters(), parts, strict=True)
        }
        return functional_call(self.model, named, (self.batch[0] if inputs is None else inputs,))

    def penalized(self, flat, decay):
        return self.loss(self.outputs(flat), self.batch[1]) + decay / 2 * flat @ flat

    def gauss_newton(self, flat):
        """By torch.func, of the squared error or of Bernoulli pixels."""
        jacobian = jacrev(self.outputs)(flat)
        total = torch.zeros(len(flat), len(flat), dtype=DTYPE)
        for rows, output, target in zip(jacobian, self.outputs(flat), self.batch[1], strict=True):
            curvature = hessian(lambda z, target=target: self.loss(z.unsqueeze(0), target.unsqueeze(0)))(output)
            total += rows.T @ curvature @ rows / len(jacobian)
        return total

    def quadratic(self, flat, damping, decay):
        """g and F + (λ + η)I."""
        gradient = torch.func.grad(lambda place: self.penalized(place, decay))(flat)
        return gradient, self.gauss_newton(flat) + (damping + decay) * torch.eye(len(flat), dtype=DTYPE)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_one_linear_layer_is_solved_in_one_step(structure):
    """Squared error: the Fisher matrix is A (x) I exactly, and so the step that of Newton's method."""
    problem = Problem(nn.Linear(4, 3), targets="exact", damping=1e-12, weight_decay=0.0, structure=structure)
    problem.step()
    inputs, targets = problem.batch
    solution = torch.linalg.lstsq(torch.cat([inputs, torch.ones(30, 1, dtype=DTYPE)], dim=1), targets).solution.T
    torch.testing.assert_close(problem.model.weight.detach(), solution[:, :-1], rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(problem.model.bias.detach(), solution[:, -1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("structure", STRUCTURES)
def test_the_first_step_is_along_the_solution_of_the_damped_factors(structure):
    """Two layers, where the tridiagonal inverse is that of the whole factored matrix, damped on the diagonal of its factors."""
    problem = Problem(chain(4, 3, 2), targets="exact", damping=0.5, weight_decay=0.1, structure=structure)
    inputs, _ = problem.batch
    start, model = problem.place(), problem.model
    hidden = torch.tanh(model[0](inputs)).detach()
    ones = torch.ones(30, 1, dtype=DTYPE)
    rows = [torch.cat([inputs, ones], dim=1), torch.cat([hidden, ones], dim=1)]
    backward = [(1 - hidden**2).unsqueeze(2) * model[2].weight.detach().T, torch.eye(2, dtype=DTYPE).expand(30, 2, 2)]
    gamma = math.sqrt(0.5 + 0.1)
    a = [[one.T @ other / 30 for other in rows] for one in rows]
    g = [[torch.einsum("nik,njk->ij", one, other) / 30 for other in backward] for one in backward]
    for i in range(2):
        pi = math.sqrt((a[i][i].trace() / len(a[i][i])) / (g[i][i].trace() / len(g[i][i])))
        a[i][i] = a[i][i] + pi * gamma * torch.eye(len(a[i][i]), dtype=DTYPE)
        g[i][i] = g[i][i] + gamma / pi * torch.eye(len(g[i][i]), dtype=DTYPE)
    blocks = [
        [torch.kron(g[i][j], a[i][j]) for j in range(2)] for i in range(2)
    ]  # rows of a matrix one after the other
    if structure == "block_diagonal":
        blocks[0][1], blocks[1][0] = torch.zeros_like(blocks[0][1]), torch.zeros_like(blocks[1][0])
    fisher = torch.cat([torch.cat(row, dim=1) for row in blocks])

    def augmented(flat):
        parts = flat.split([12, 3, 6, 2])
        pairs = (parts[0].view(3, 4), parts[1].view(3, 1)), (parts[2].view(2, 3), parts[3].view(2, 1))
        return torch.cat([torch.cat(pair, dim=1).reshape(-1) for pair in pairs])

    gradient, _ = problem.quadratic(start, 0.5, 0.1)
    proposal = -torch.linalg.solve(fisher, augmented(gradient))
    problem.step()
    update = augmented(problem.place() - start)
    torch.testing.assert_close(update / update.norm(), proposal / proposal.norm(), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("lr", [1.0, 0.5])
@pytest.mark.parametrize("momentum", [True, False])
@pytest.mark.parametrize("make", [lambda: chain(4, 3, 2), Scaled])
def test_a_step_minimizes_the_exact_quadratic_model(make, momentum, lr):
    """At its minimum over a few directions, the gradient of M is orthogonal to each of them."""
    damping, decay = 0.3, 0.01
    problem = Problem(make(), damping=damping, weight_decay=decay, damping_period=5, lr=lr, adaptive_momentum=momentum)
    problem.step(3)
    before = problem.place()
    problem.step()
    start = problem.place()
    gradient, matrix = problem.quadratic(start, damping, decay)
    problem.step()
    update, last = problem.place() - start, start - before
    full = update / lr
    slope = gradient + matrix @ full
    directions = [full, last] if momentum else [full]
    if make is Scaled:
        plain = torch.zeros_like(gradient)
        plain[:3] = gradient[:3]  # a module's own parameters come first
        directions.append(plain)
    for direction in directions:
        assert abs(slope @ direction) < 1e-9 * direction.norm() * gradient.norm()
    if not momentum:
        assert abs(slope @ last) > 1e-4 * last.norm() * gradient.norm()
    # The fifth step has measured the reduction ratio.
    model = gradient @ update + update @ matrix @ update / 2
    change = problem.penalized(start + update, decay) - problem.penalized(start, decay)
    assert problem.optimizer.reduction_ratio == pytest.approx(float(change / model), rel=1e-6)


def test_parameters_without_factors_do_not_drown_the_others():
    damping, decay = 0.3, 0.01
    problem = Problem(Scaled(), damping=damping, weight_decay=decay)
    problem.optimizer.factor_damping = 1e4  # makes Δ as small as 1e-8 g
    start = problem.place()
    gradient, matrix = problem.quadratic(start, damping, decay)
    problem.step()
    update = problem.place() - start
    slope = gradient + matrix @ update
    for part in (slice(0, 3), slice(3, None)):  # the scale, and the layers
        assert abs(slope[part] @ update[part]) < 1e-6 * update[part].norm() * gradient.norm()


@pytest.mark.parametrize(("ratio", "factor"), [(0.76, 0.95**5), (0.74, 1), (0.26, 1), (0.24, 0.95**-5), (math.nan, 1)])
def test_damping_follows_the_reduction_ratio(ratio, factor):
    optimizer = KFACNatural(nn.Linear(2, 2), damping=3.0)
    optimizer._adapt_damping(ratio)
    assert optimizer.damping == pytest.approx(3.0 * factor)


def test_damping_is_adapted_every_period():
    # The squared error of a linear layer is its quadratic model but for λ, so that each ratio is above 3/4.
    problem = Problem(nn.Linear(4, 3), damping=2.0, damping_period=3)
    found = []
    for _ in range(6):
        problem.step()
        found.append(problem.optimizer.damping / 2)
    assert found == pytest.approx([1, 1, 0.95**3, 0.95**3, 0.95**3, 0.95**6])


@pytest.mark.parametrize("gamma", [0.05, 0.3, 5.0])
def test_of_three_gammas_the_one_with_the_smallest_model_is_kept(gamma):
    damping, decay = 0.3, 0.01
    options = {"damping": damping, "weight_decay": decay, "factor_damping_decay": 0.5, "inverse_period": 1}
    problem = Problem(chain(4, 3, 2), factor_damping_period=4, damping_period=100, **options)
    problem.step(3)
    start = problem.place()
    gradient, matrix = problem.quadratic(start, damping, decay)
    tried = {}
    for candidate in (gamma, gamma / 16, gamma * 16):
        twin = Problem(chain(4, 3, 2), factor_damping_period=100, damping_period=100, **options)
        twin.step(3)
        twin.optimizer.factor_damping = candidate
        twin.step()
        update = twin.place() - start
        tried[candidate] = float(gradient @ update + update @ matrix @ update / 2), twin.place()
    problem.optimizer.factor_damping = gamma
    problem.step()
    best = min(tried, key=lambda candidate: tried[candidate][0])
    assert problem.optimizer.factor_damping == pytest.approx(best)
    torch.testing.assert_close(problem.place(), tried[best][1], rtol=1e-9, atol=1e-9)


def test_gamma_starts_at_the_root_of_both_dampings():
    assert KFACNatural(nn.Linear(2, 2), damping=8.0, weight_decay=1.0).factor_damping == 3.0


def test_inverses_are_made_in_the_first_three_steps_and_every_period():
    problem = Problem(chain(4, 3, 2), inverse_period=4, factor_damping_period=7)
    made = []
    for step in range(1, 10):
        before = problem.optimizer.inverses
        problem.step()
        if problem.optimizer.inverses is not before:
            made.append(step)
    assert made == [1, 2, 3, 4, 7, 8]


@pytest.mark.parametrize("structure", STRUCTURES)
def test_without_damping_the_outputs_do_not_depend_on_the_parametrization(structure):
    """Affine changes of the inputs, and logistic units for tanh(z) = 2 sigmoid(2z) - 1 (Martens & Grosse 2015, section 10)."""
    options = {"targets": "exact", "damping": 1e-22, "weight_decay": 0.0, "structure": structure}
    one = Problem(chain(3, 3, 2), Bernoulli(), examples=60, **options)
    other = Problem(chain(3, 3, 2, activation=nn.Sigmoid), Bernoulli(), examples=60, **options)
    one.batch = one.batch[0], one.batch[1].sigmoid()
    stretch = torch.tensor([[2.0, 0.5, 0.0], [0.0, 0.3, 1.0], [1.0, 0.0, 1.0]], dtype=DTYPE)
    other.batch = one.batch[0] @ stretch.T + 3, one.batch[1]
    with torch.no_grad():
        weight = one.model[0].weight @ torch.linalg.inv(stretch)
        other.model[0].weight.copy_(2 * weight)
        other.model[0].bias.copy_(2 * (one.model[0].bias - weight.sum(1) * 3))
        other.model[2].weight.copy_(2 * one.model[2].weight)
        other.model[2].bias.copy_(one.model[2].bias - one.model[2].weight.sum(1))
    start = one.model(one.batch[0]).detach()
    torch.testing.assert_close(other.model(other.batch[0]).detach(), start)
    for _ in range(4):
        one.step()
        other.step()
        torch.testing.assert_close(
            other.model(other.batch[0]).detach(), one.model(one.batch[0]).detach(), rtol=1e-4, atol=1e-4
        )
    assert (one.model(one.batch[0]) - start).abs().max() > 0.1


@pytest.mark.parametrize("structure", STRUCTURES)
def test_it_does_not_depend_on_micro_batches(structure):
    whole, parts = (Problem(chain(4, 3, 3, 2), damping=0.5, structure=structure) for _ in range(2))
    start = whole.place()
    whole.step(6)
    parts.step(6, micro_batch=7)
    torch.testing.assert_close(parts.place(), whole.place(), rtol=1e-9, atol=1e-10)
    assert (whole.place() - start).norm() > 0.1


@pytest.mark.parametrize("structure", STRUCTURES)
@pytest.mark.parametrize("stop", [1, 5])
def test_it_resumes_exactly(structure, stop, through_a_file):
    # After step 5 the inverses of step 3 are in use, made of older factors than the present ones.
    whole, first, second = (Problem(chain(4, 3, 3, 2), damping=0.5, structure=structure) for _ in range(3))
    whole.step(9)
    first.step(stop)
    second.model.load_state_dict(through_a_file(first.model.state_dict()))
    second.optimizer.load_state_dict(through_a_file(first.optimizer.state_dict()))
    # Saved again before a step, as a run that is killed at once does.
    again = through_a_file(second.optimizer.state_dict())
    second.optimizer = KFACNatural(second.model, damping=0.5, structure=structure)
    second.optimizer.load_state_dict(again)
    second.step(9 - stop)
    assert torch.equal(second.place(), whole.place())
    assert second.optimizer.damping == whole.optimizer.damping
    assert second.optimizer.reduction_ratio == whole.optimizer.reduction_ratio


@pytest.mark.parametrize("structure", STRUCTURES)
def test_a_small_autoencoder_learns_in_fewer_steps_than_by_momentum(structure):
    generator = torch.Generator().manual_seed(0)
    codes = torch.tanh(torch.randn(256, 4, generator=generator) @ torch.randn(4, 12, generator=generator))
    images = torch.sigmoid(1.5 * codes @ torch.randn(12, 36, generator=generator))
    loss = Bernoulli()
    least = loss(torch.logit(images), images)

    def excess(make):
        generator = torch.Generator().manual_seed(1)
        model = chain(36, 20, 6, 20, 36)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * len(parameter) ** -0.5 / 2)
        network, optimizer = Network(model), make(model)
        for _ in range(20):
            optimizer.step(Objective(network, loss, images, images))
        return float(Objective(network, loss, images, images).loss() - least), optimizer

    found, optimizer = excess(lambda model: KFACNatural(model, damping=1.0, structure=structure))
    by_momentum = [
        excess(lambda model, lr=lr: torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9))[0]
        for lr in (0.03, 0.1, 0.3)
    ]
    assert found < 0.7 * min(by_momentum)
    assert optimizer.damping < 0.5


def test_a_gradient_of_zero_leaves_everything_as_it_is():
    problem = Problem(nn.Linear(4, 3), weight_decay=0.0, damping_period=1)
    with torch.no_grad():
        problem.model.weight.zero_()
        problem.model.bias.zero_()
    problem.batch = problem.batch[0], torch.zeros(30, 3, dtype=DTYPE)
    problem.step(2)
    assert not problem.place().any()
    assert problem.optimizer.damping == 150.0


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2)), "Conv2d"),
        (nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), nn.Linear(3, 2)), "without factors: 1.weight, 1.bias"),
        (nn.Sequential(nn.Linear(3, 4), nn.MaxPool1d(2), nn.Linear(2, 2)), "0 has 4 outputs and 2 2 inputs"),
    ],
)
def test_block_tridiagonal_needs_a_plain_chain(model, why):
    with pytest.raises(UserError, match=f"block_tridiagonal: needs a plain chain .*{why}.*accepted"):
        KFACNatural(model, structure="block_tridiagonal")
    KFACNatural(model)


def test_a_model_without_factors_and_a_plain_closure_are_refused():
    with pytest.raises(UserError, match="no layer has Kronecker factors: weight: plain gradient, LayerNorm"):
        KFACNatural(nn.LayerNorm(3))
    with pytest.raises(UserError, match="needs an optbench"):
        KFACNatural(nn.Linear(2, 2)).step(lambda: torch.zeros(()))


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("learning_rate", 2.0),
        ("structure", "dense"),
        ("damping", 0.0),
        ("damping_decay", 0.0),
        ("factor_damping_decay", 1.1),
        ("factor_decay", 1.0),
        ("inverse_period", 0),
        ("weight_decay", -1.0),
        ("targets", "guessed"),
    ],
)
def test_bad_values_are_refused(option, value, choice):
    config = choice("kfac_natural", **{option: value})
    with pytest.raises(UserError, match=str(value)):
        build(config, nn.Linear(2, 2), config["learning_rate"])


def test_classes_are_learned():
    model = initialized(chain(4, 6, 3))
    inputs, scores = data(4, 3, examples=60)
    targets = scores.argmax(1)
    network, optimizer = Network(model), KFACNatural(model, damping=1.0)
    losses = [float(optimizer.step(Objective(network, CrossEntropy(), inputs, targets))) for _ in range(40)]
    assert losses[-1] < 0.6 * losses[0]
