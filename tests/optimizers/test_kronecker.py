"""Kronecker factors against dense Fisher blocks from torch.func, hand computation and an independent implementation."""

import copy
import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, hessian, jacrev

from optbench import config
from optbench.config import Choice
from optbench.config.targets import load_target
from optbench.data import quadratic
from optbench.data.problems import rosenbrock
from optbench.data.spec import DataSpec
from optbench.errors import UserError
from optbench.models.language import RecurrentLanguageModel
from optbench.models.layers import BatchNorm, Dropout
from optbench.models.recurrent import RecurrentNetwork
from optbench.models.transformer import GPT
from optbench.objective import Objective
from optbench.objective.execution import Execution, Network
from optbench.objective.losses import Bernoulli, CrossEntropy, SquaredError
from optbench.optimizers.groups import trainable
from optbench.optimizers.kronecker import KroneckerFactors, damped, find_layers, positive_definite_inverses
from optbench.optimizers.kronecker.collecting import collect, evaluate_and_collect
from optbench.optimizers.kronecker.inverses import eigenbasis
from optbench.optimizers.kronecker.placement import Placement
from optbench.optimizers.kronecker.recurrent import unrolled
from optbench.optimizers.kronecker.statistics import Collector, SecondMoments, add_gram, mirror

TIGHT = {"rtol": 1e-10, "atol": 1e-12}


@pytest.fixture(autouse=True)
def double_precision():
    torch.manual_seed(0)
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def objective(model, loss, inputs, targets, micro_batch=None):
    return Objective(Network(model), loss, inputs, targets, Execution(micro_batch=micro_batch), dropout_key=3)


def factors_of(obj, model=None, targets="exact", **options):
    found = KroneckerFactors(model or obj.network.model, targets, **options)
    found.update(obj)
    return found


def jacobians(model, inputs, layers):
    """J_n of each layer's matrices (out, in + 1), flattened by rows: (n, outputs, size), example by example."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}

    def outputs(parameters, one):
        return functional_call(model, parameters, (one.unsqueeze(0),)).flatten()

    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    every = [jacrev(outputs)(parameters, one) for one in inputs]
    found = []
    for layer in layers:
        rows = []
        for one in every:
            blocks = [one[names[id(layer.weight)]].flatten(2)]
            if layer.bias is not None:
                blocks.append(one[names[id(layer.bias)]].unsqueeze(2))
            rows.append(torch.cat(blocks, 2).flatten(1))
        found.append(torch.stack(rows))
    return found


def output_hessians(model, loss, inputs, targets):
    def one_loss(outputs, target, shape):
        return loss(outputs.view(shape).unsqueeze(0), target.unsqueeze(0))

    with torch.no_grad():
        outputs = model(inputs)
    return torch.stack(
        [hessian(one_loss)(z.flatten(), target, z.shape) for z, target in zip(outputs, targets, strict=True)]
    )


def fisher_block(model, loss, inputs, targets, first=0, second=0):
    """1/N sum_n J_i^T H J_j between two layers."""
    layers, _ = find_layers(model)
    every = jacobians(model, inputs, layers)
    curvature = output_hessians(model, loss, inputs, targets)
    return torch.einsum("nci,ncd,ndj->ij", every[first], curvature, every[second]) / len(inputs)


def linear_chain(*widths, bias=True):
    return nn.Sequential(*(nn.Linear(a, b, bias=bias) for a, b in itertools.pairwise(widths)))


# ---- exact blocks ---------------------------------------------------------------------------------------------------


def test_one_linear_layer_with_squared_loss_has_the_block_of_the_inputs_and_the_identity():
    model, inputs, targets = nn.Linear(4, 3), torch.randn(7, 4), torch.randn(7, 3)
    found = factors_of(objective(model, SquaredError(), inputs, targets)).current
    rows = F.pad(inputs, (0, 1), value=1)
    torch.testing.assert_close(found.inputs[0][0], rows.T @ rows / 7, **TIGHT)
    torch.testing.assert_close(found.outputs[0][0], torch.eye(3), **TIGHT)
    dense = fisher_block(model, SquaredError(), inputs, targets)
    torch.testing.assert_close(torch.kron(found.outputs[0][0], found.inputs[0][0]), dense, **TIGHT)


@pytest.mark.parametrize(
    ("loss", "targets"),
    [
        (CrossEntropy(), torch.tensor([1])),
        (CrossEntropy(label_smoothing=0.2), torch.tensor([1])),
        (Bernoulli(), torch.tensor([[0.0, 1.0, 1.0]])),
    ],
    ids=["softmax", "smoothed", "bernoulli"],
)
def test_for_one_example_every_block_is_exact(loss, targets):
    model, inputs = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), torch.randn(1, 4)
    found = factors_of(objective(model, loss, inputs, targets)).current
    for number in range(2):
        dense = fisher_block(model, loss, inputs, targets, number, number)
        torch.testing.assert_close(torch.kron(found.outputs[number][0], found.inputs[number][0]), dense, **TIGHT)


@pytest.mark.parametrize("bias", [False, True])
def test_a_deep_linear_network_has_exact_blocks_on_and_beside_the_diagonal(bias):
    model, inputs, targets = linear_chain(4, 5, 3, 2, bias=bias), torch.randn(6, 4), torch.randn(6, 2)
    found = factors_of(objective(model, SquaredError(), inputs, targets, 4), neighbours=True).current
    for number in range(3):
        dense = fisher_block(model, SquaredError(), inputs, targets, number, number)
        torch.testing.assert_close(torch.kron(found.outputs[number][0], found.inputs[number][0]), dense, **TIGHT)
    for number in range(2):
        dense = fisher_block(model, SquaredError(), inputs, targets, number, number + 1)
        approximate = torch.kron(found.between_outputs[number], found.between_inputs[number])
        torch.testing.assert_close(approximate, dense, **TIGHT)


class Positions(nn.Module):
    """A deep linear network at every position; its outputs are averaged over the positions, or not."""

    def __init__(self, averaged):
        super().__init__()
        self.chain, self.averaged = linear_chain(3, 4, 2), averaged

    def forward(self, inputs):
        outputs = self.chain(inputs)
        return outputs.mean(1) if self.averaged else outputs


@pytest.mark.parametrize("averaged", [False, True])
@pytest.mark.parametrize("approximation", ["expand", "reduce"])
def test_expand_is_exact_for_a_loss_at_every_position_and_reduce_for_averaged_positions(averaged, approximation):
    model, inputs = Positions(averaged), torch.randn(5, 3, 3)
    targets = torch.randn(5, 2) if averaged else torch.randn(5, 3, 2)
    obj = objective(model, SquaredError(), inputs, targets, 2)
    found = factors_of(obj, approximation=approximation).current
    for number in range(2):
        dense = fisher_block(model, SquaredError(), inputs, targets, number, number)
        approximate = torch.kron(found.outputs[number][0], found.inputs[number][0])
        exact = (approximation == "reduce") == averaged
        assert torch.allclose(approximate, dense, **TIGHT) == exact


# ---- layers ---------------------------------------------------------------------------------------------------------


def convolution(**options):
    return nn.Sequential(nn.Conv2d(4, 6, **options), nn.ReLU(inplace=True), nn.Flatten(), nn.LazyLinear(3))


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": (3, 2), "stride": (2, 1), "padding": (1, 2), "dilation": (1, 2)},
        {"kernel_size": 3, "groups": 2, "bias": False},
        {"kernel_size": 3, "padding": "same", "padding_mode": "reflect"},
        {"kernel_size": 2, "padding": 1, "padding_mode": "circular", "groups": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("approximation", ["expand", "reduce"])
def test_convolution_factors_are_those_of_unfolded_patches(options, approximation):
    """KFC: Omega and Gamma from F.unfold of each group, and derivatives from torch.func along an added zero."""
    model, inputs, targets = convolution(**options), torch.randn(5, 4, 6, 7), torch.randn(5, 3)
    model(inputs)
    found = factors_of(objective(model, SquaredError(), inputs, targets, 2), approximation=approximation).current
    kernel, head = model[0], model[3]
    padded, without = inputs, copy.deepcopy(kernel)
    if kernel.padding_mode != "zeros":
        padded = F.pad(inputs, kernel._reversed_padding_repeated_twice, mode=kernel.padding_mode)
        without.padding, without.padding_mode = (0, 0), "zeros"
    outputs = F.conv2d(padded, kernel.weight, kernel.bias, *(
        getattr(without, name) for name in ("stride", "padding", "dilation", "groups")))  # fmt: skip
    torch.testing.assert_close(outputs, kernel(inputs), **TIGHT)

    def rest(added):
        return head(F.relu(outputs.detach() + added).flatten(1)).sum(0)

    derivatives = jacrev(rest)(torch.zeros_like(outputs))  # (3, n, channels, rows, columns); H is the identity
    for group in range(kernel.groups):
        channels, each = 4 // kernel.groups, 6 // kernel.groups
        patches = F.unfold(
            padded[:, group * channels : (group + 1) * channels],
            kernel.kernel_size,
            kernel.dilation,
            without.padding,
            kernel.stride,
        ).transpose(1, 2)
        if kernel.bias is not None:
            patches = F.pad(patches, (0, 1), value=1)
        mine = derivatives[:, :, group * each : (group + 1) * each].flatten(3)
        if approximation == "expand":
            omega = torch.einsum("nti,ntj->ij", patches, patches) / 5
            gamma = torch.einsum("cnit,cnjt->ij", mine, mine) / 5 / patches.shape[1]
        else:
            omega = torch.einsum("ni,nj->ij", patches.mean(1), patches.mean(1)) / 5
            gamma = torch.einsum("cni,cnj->ij", mine.sum(3), mine.sum(3)) / 5
        torch.testing.assert_close(found.inputs[0][group], omega, **TIGHT)
        torch.testing.assert_close(found.outputs[0][group], gamma, **TIGHT)


@pytest.mark.parametrize("approximation", ["expand", "reduce"])
def test_a_convolution_of_one_pixel_is_a_linear_layer(approximation):
    linear = nn.Linear(4, 3)
    kernel = nn.Sequential(nn.Conv2d(4, 3, 1), nn.Flatten())
    kernel[0].load_state_dict({"weight": linear.weight.view(3, 4, 1, 1), "bias": linear.bias})
    inputs, targets = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    for kind in ("exact", "sampled", "empirical"):
        options = {"targets": kind, "approximation": approximation}
        one = factors_of(objective(linear, CrossEntropy(), inputs, targets), **options).current
        other = factors_of(objective(kernel, CrossEntropy(), inputs.view(6, 4, 1, 1), targets), **options).current
        torch.testing.assert_close(one.lists(), other.lists(), **TIGHT)


@pytest.mark.parametrize("targets", ["exact", "sampled", "empirical"])
def test_expand_and_reduce_are_the_same_for_one_position(targets):
    model, inputs, labels = linear_chain(4, 5, 3), torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
    obj = objective(model, CrossEntropy(), inputs, labels)
    one, other = (factors_of(obj, targets=targets, approximation=name).current for name in ("expand", "reduce"))
    torch.testing.assert_close(one.lists(), other.lists(), **TIGHT)


class Sums(Collector):
    """sum_n sum_r g a^T of every layer: with empirical targets N times its gradient."""

    def __init__(self, layers):
        self.layers, self.sums = layers, [0.0] * len(layers)

    def add_gradients(self, number, inputs, gradients, examples):
        layer = self.layers[number]
        for before, after in zip(inputs, gradients, strict=True):
            rows = layer.input_rows(before, examples)
            if layer.bias is not None:
                rows = F.pad(rows, (0, 1), value=1)
            self.sums[number] = self.sums[number] + torch.einsum(
                "gnro,gnri->goi", layer.output_rows(after, examples), rows
            )


class Recurrent(nn.Module):
    def __init__(self, kind, **options):
        super().__init__()
        self.cell = kind(3, 4, **options)
        self.head = nn.Linear(4 * (1 + self.cell.bidirectional), 2)

    def forward(self, inputs):
        if not self.cell.batch_first:
            inputs = inputs.transpose(0, 1)
        states, _ = self.cell(inputs)
        return self.head(states if self.cell.batch_first else states.transpose(0, 1))


class Norms(nn.Module):
    """Batch norm, dropout, an activation in place, a layer used twice, one never used, and a frozen bias."""

    def __init__(self):
        super().__init__()
        self.first, self.twice, self.last, self.idle = (nn.Linear(*shape) for shape in ((4, 5), (5, 5), (5, 3), (2, 2)))
        self.norm, self.dropout, self.activation = BatchNorm(5), Dropout(0.3), nn.ReLU(inplace=True)
        self.last.bias.requires_grad_(False)

    def forward(self, inputs):
        hidden = self.activation(self.first(inputs))
        return self.last(self.dropout(self.norm(self.activation(self.twice(self.twice(hidden))))))


SEQUENCES = DataSpec("sequence", (5, 4), 3)
TOKENS = DataSpec("tokens", (5,), 7, "class_per_step", vocabulary=7)
MODELS = {
    "rnn": (lambda: Recurrent(nn.RNN, batch_first=True), (5, 3), None),
    "rnn_relu": (lambda: Recurrent(nn.RNN, nonlinearity="relu"), (5, 3), None),
    "lstm": (lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True), (5, 3), None),
    "gru": (lambda: Recurrent(nn.GRU, batch_first=True, num_layers=2, bias=False), (5, 3), None),
    "recurrent_network": (lambda: RecurrentNetwork(SEQUENCES, "gru", hidden=4, layers=2, dropout=0.2), (5, 4), 3),
    "language": (lambda: RecurrentLanguageModel(TOKENS, embedding=4, hidden=5, dropout=0.2), "tokens", 7),
    "gpt": (lambda: GPT(TOKENS, layers=1, heads=2, width=4, dropout=0.2, tied=True), "tokens", 7),
    "norms": (Norms, (4,), 3),
    "convolution": (lambda: convolution(kernel_size=3, groups=2, padding=1), (4, 4, 4), 3),
}


def problem(name, micro_batch=None):
    make, shape, classes = MODELS[name]
    torch.manual_seed(1)
    model, size = make(), 6
    if shape == "tokens":
        inputs, targets = torch.randint(0, classes, (size, 5)), torch.randint(0, classes, (size, 5))
        targets[0, 2:] = -100
    else:
        inputs = torch.randn(size, *shape)
        targets = torch.randn(size, 5, 2) if classes is None else torch.randint(0, classes, (size,))
    model(inputs)
    for norm in Network(model).norms:
        norm.group = 2
    loss = SquaredError() if classes is None else CrossEntropy()
    return objective(model, loss, inputs, targets, micro_batch)


@pytest.mark.parametrize("name", MODELS)
def test_the_rows_of_every_layer_make_up_its_gradient(name):
    obj = problem(name, 4)
    layers, plain = find_layers(obj.network.model)
    sums = Sums(layers)
    collect(obj, layers, [sums], "empirical", 0)
    gradient = {id(p): g for p, g in zip(obj.network.parameters, obj.gradient(), strict=True)}
    for layer, total in zip(layers, sums.sums, strict=True):
        expected = layer.matrix([gradient[id(parameter)] for parameter in layer.parameters])
        assert (expected.abs().max() > 1e-6) == (layer.name != "idle")
        torch.testing.assert_close(torch.zeros_like(expected) + total / 6, expected, **TIGHT)
    assert len(plain) + sum(len(layer.parameters) for layer in layers) == len(obj.network.parameters)


@pytest.mark.parametrize("targets", ["sampled", "exact", "empirical"])
@pytest.mark.parametrize("name", ["norms", "convolution", "gpt"])
def test_the_training_pass_shows_what_a_pass_of_its_own_shows(name, targets):
    obj = problem(name, 4)
    layers, _ = find_layers(obj.network.model)
    own, training = Sums(layers), Sums(layers)
    collect(obj, layers, [own], targets, 7)
    loss = evaluate_and_collect(obj, layers, [training], targets, 7)
    torch.testing.assert_close(loss, obj.loss(), **TIGHT)
    for parameter, gradient in zip(obj.network.parameters, obj.gradient(), strict=True):
        torch.testing.assert_close(
            torch.zeros_like(gradient) if parameter.grad is None else parameter.grad, gradient, **TIGHT
        )
    for one, other in zip(own.sums, training.sums, strict=True):
        torch.testing.assert_close(one, other, **TIGHT)
    reused, passed = (KroneckerFactors(obj.network.model, targets) for _ in range(2))
    reused.evaluate_and_update(obj)
    passed.update(obj)
    torch.testing.assert_close(reused.current.lists(), passed.current.lists(), **TIGHT)


@pytest.mark.parametrize("options", [{}, {"num_layers": 2, "bidirectional": True, "batch_first": True}], ids=str)
@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_unrolled_modules_compute_what_the_modules_compute(kind, options):
    module = kind(3, 4, **options)
    inputs = torch.randn(2, 5, 3)
    states = torch.randn(len(module.all_weights), 2 if options else 5, 4)
    initial = (states, states + 1) if kind is nn.LSTM else states
    for given in ((), (initial,)):
        found = unrolled(module, lambda *_: None)(inputs, *given)
        torch.testing.assert_close(found, module(inputs, *given), **TIGHT)


@pytest.mark.parametrize("targets", ["sampled", "exact", "empirical"])
@pytest.mark.parametrize("approximation", ["expand", "reduce"])
@pytest.mark.parametrize("name", ["norms", "convolution", "lstm", "language"])
def test_factors_do_not_depend_on_the_micro_batch(name, approximation, targets):
    whole, parts = (
        factors_of(problem(name, micro), targets=targets, approximation=approximation).current for micro in (None, 4)
    )
    torch.testing.assert_close(parts.lists(), whole.lists(), **TIGHT)


def test_collecting_leaves_everything_as_it_was():
    obj = problem("norms", 4)
    model = obj.network.model
    before, generator = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    factors_of(obj)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), generator)
    assert all(parameter.grad is None for parameter in model.parameters())
    for module in model.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert "forward" not in module.__dict__
    assert torch.equal(obj.loss(), problem("norms", 4).loss())


# ---- statistics -----------------------------------------------------------------------------------------------------


def test_sampled_factors_approach_the_exact_ones_as_the_root_of_the_draws():
    model, inputs, labels = linear_chain(4, 5, 3), torch.randn(8, 4), torch.randint(0, 3, (8,))
    obj = objective(model, CrossEntropy(), inputs, labels)
    exact = factors_of(obj).current.outputs
    sampled = KroneckerFactors(model, "sampled", decay=1 - 1e-9)  # with this decay a mean over all updates
    errors = {}
    for update in range(1, 513):
        sampled.update(obj)
        errors[update] = sum((a - b).norm() / b.norm() for a, b in zip(sampled.current.outputs, exact, strict=True))
    early = sum(errors[update] * update**0.5 for update in range(8, 17)) / 9
    late = sum(errors[update] * update**0.5 for update in range(448, 513)) / 65
    assert 0.3 < late / early < 3
    assert errors[512] < 0.1


def test_running_averages_forget_as_martens_and_grosse_have_it():
    model, labels = nn.Linear(2, 3), torch.tensor([0, 1])
    factors, expected = KroneckerFactors(model, decay=0.6), 0.0
    for update in range(1, 6):
        inputs = torch.randn(2, 2)
        factors.update(objective(model, CrossEntropy(), inputs, labels))
        rows = F.pad(inputs, (0, 1), value=1)
        weight = min(1 - 1 / update, 0.6)
        expected = weight * expected + (1 - weight) * rows.T @ rows / 2
        torch.testing.assert_close(factors.current.inputs[0][0], expected, **TIGHT)


@pytest.mark.parametrize("approximation", ["expand", "reduce"])
@pytest.mark.parametrize("name", ["mlp", "positions", "convolution"])
def test_ekfac_is_nearer_to_the_fisher_block_than_kfac_and_keeps_its_trace(name, approximation):
    if name == "mlp":
        model, inputs = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)), torch.randn(9, 3)
    elif name == "positions":
        model, inputs = nn.Sequential(Positions(True), nn.Tanh(), nn.Linear(2, 3)), torch.randn(9, 3, 3)
    else:
        model = nn.Sequential(nn.Conv2d(2, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3))
        inputs = torch.randn(9, 2, 3, 3)
    targets = torch.randint(0, 3, (9,))
    obj = objective(model, CrossEntropy(), inputs, targets, 4)
    factors = factors_of(obj, approximation=approximation)
    pairs = list(zip(factors.current.inputs, factors.current.outputs, strict=True))
    bases = [(eigenbasis(a)[1], eigenbasis(g)[1]) for a, g in pairs]
    moments = SecondMoments(factors.layers, bases)
    collect(obj, factors.layers, [moments], "exact", 0)
    for number, (a, g) in enumerate(pairs):
        dense = fisher_block(model, CrossEntropy(), inputs, targets, number, number)
        diagonal = moments.means(obj.execution, 9)[number][0].flatten()
        basis = torch.kron(bases[number][1][0], bases[number][0][0])
        torch.testing.assert_close(diagonal, (basis.T @ dense @ basis).diagonal(), **TIGHT)
        ours, theirs = basis @ torch.diag(diagonal) @ basis.T, torch.kron(g[0], a[0])
        assert (dense - ours).norm() < (dense - theirs).norm()
        torch.testing.assert_close(ours.trace(), dense.trace(), **TIGHT)


@pytest.mark.parametrize(("columns", "ones"), [(5, False), (5, True), (200, False), (131, True)])
def test_gram_is_the_product_with_the_transposed(columns, ones):
    rows = torch.randn(2, 9, columns)
    full = F.pad(rows, (0, 1), value=1) if ones else rows
    total = torch.zeros(2, columns + ones, columns + ones)
    for part in rows.split(4, dim=1):
        add_gram(total, part, ones)
    torch.testing.assert_close(mirror(total), full.mT @ full, **TIGHT)


@pytest.mark.parametrize("kind", ["linear", "convolution"])
@pytest.mark.parametrize("targets", ["exact", "empirical"])
def test_agrees_with_curvlinops(kind, targets):
    curvlinops = pytest.importorskip("curvlinops")
    if kind == "linear":
        model, inputs = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3)), torch.randn(6, 4)
    else:
        model = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(16, 3))
        inputs = torch.randn(6, 2, 4, 4)
    labels = torch.randint(0, 3, (6,))
    found = factors_of(objective(model, CrossEntropy(), inputs, labels), targets=targets)
    theirs = curvlinops.KFACLinearOperator(
        model,
        nn.CrossEntropyLoss(),
        list(model.parameters()),
        [(inputs, labels)],
        fisher_type={"exact": "type-2", "empirical": "empirical"}[targets],
        separate_weight_and_bias=False,
    )
    vector = [torch.randn_like(parameter) for parameter in model.parameters()]
    expected = theirs @ torch.cat([tensor.flatten() for tensor in vector])
    ours = []
    for layer, places, a, g in zip(
        found.layers, found.places, found.current.inputs, found.current.outputs, strict=True
    ):
        ours += layer.tensors(g @ layer.matrix([vector[place] for place in places]) @ a)
    torch.testing.assert_close(torch.cat([tensor.flatten() for tensor in ours]), expected, **TIGHT)


# ---- damping and inverses -------------------------------------------------------------------------------------------


def test_factored_damping_by_hand():
    a, g = torch.diag(torch.tensor([1.0, 7.0])).unsqueeze(0), torch.diag(torch.tensor([0.5, 1.0, 1.5])).unsqueeze(0)
    # mean eigenvalues 4 and 1: pi = 2
    first, second = damped(a, g, 0.1)
    torch.testing.assert_close(first[0].diagonal(), torch.tensor([1.2, 7.2]))
    torch.testing.assert_close(second[0].diagonal(), torch.tensor([0.55, 1.05, 1.55]))
    for zero in (a * 0, g * 0):
        for each, plain in zip(damped(a, zero, 0.1), (a, zero), strict=True):
            torch.testing.assert_close(each - plain, 0.1 * torch.eye(each.shape[1]).unsqueeze(0))


@pytest.mark.parametrize("method", ["cholesky", "eigen"])
def test_preconditioning_solves_the_dense_damped_system(method):
    model = convolution(kernel_size=2, groups=2)
    inputs, targets = torch.randn(5, 4, 3, 3), torch.randint(0, 3, (5,))
    model(inputs)
    factors = factors_of(objective(model, CrossEntropy(), inputs, targets))
    vector = [torch.randn_like(parameter) for parameter in model.parameters()]
    found = factors.invert(Execution(), 0.3, method).precondition(vector)
    for layer, places, a, g in zip(
        factors.layers, factors.places, factors.current.inputs, factors.current.outputs, strict=True
    ):
        given, solved = (layer.matrix([tensors[place] for place in places]) for tensors in (vector, found))
        for group in range(layer.groups):
            if method == "eigen":
                dense = torch.kron(g[group], a[group])
                dense += 0.3**2 * torch.eye(len(dense))
            else:
                pi = ((a[group].trace() / len(a[group])) / (g[group].trace() / len(g[group]))).sqrt()
                dense = torch.kron(
                    g[group] + 0.3 / pi * torch.eye(len(g[group])), a[group] + 0.3 * pi * torch.eye(len(a[group]))
                )
            torch.testing.assert_close(dense @ solved[group].flatten(), given[group].flatten(), rtol=1e-8, atol=1e-10)


def test_singular_and_infinite_matrices_have_inverses_without_an_error():
    singular = torch.ones(1, 3, 3, dtype=torch.float32)
    inverse = positive_definite_inverses(singular)
    assert torch.isfinite(inverse).all()
    assert inverse.dtype == torch.float32
    assert positive_definite_inverses(singular * torch.nan).isnan().all()
    values, vectors = eigenbasis(singular)
    torch.testing.assert_close(values, torch.tensor([[0.0, 0.0, 3.0]], dtype=torch.float32), atol=1e-5, rtol=0)
    torch.testing.assert_close(vectors @ torch.diag_embed(values) @ vectors.mT, singular)


def test_restored_inverses_are_the_same_numbers(through_a_file):
    obj = problem("convolution")
    factors = factors_of(obj)
    inverses = factors.invert(Execution(), 0.1)
    state = through_a_file({"factors": factors.state_dict(), "inverses": inverses.state_dict()})
    factors.update(obj)  # the inverses are those of older factors
    other = KroneckerFactors(obj.network.model, "exact")
    other.load_state_dict(state["factors"])
    vector = obj.gradient()
    again = other.restore(Execution(), state["inverses"]).precondition(vector)
    assert all(torch.equal(a, b) for a, b in zip(again, inverses.precondition(vector), strict=True))
    assert other.updates == 1


# ---- which parameters -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", config.choices("model"))
def test_every_parameter_of_every_model_has_factors_or_a_reason(name):
    choice = config.read_choice("model", name)
    specs = {
        "image": DataSpec("image", (3, 32, 32), 10),
        "sequence": DataSpec("sequence", (20, 4), 3),
        "tokens": TOKENS,
        "noise": quadratic.load("", dimension=3).spec,
        "problem": rosenbrock.load("").spec,
    }
    with torch.device("meta"):
        read = Choice.of("model", choice)
        model = load_target(read, nn.Module)(specs[choice["info"]["accepts"][0]], **read.options)
    layers, plain = find_layers(model)
    factored = [id(parameter) for layer in layers for parameter in layer.parameters]
    reasons = dict(model.named_parameters())
    found = factored + [id(reasons[name]) for name in plain]
    assert sorted(found) == sorted(id(parameter) for parameter in trainable(model))
    assert all(plain.values())
    matrices = [parameter for name in plain if (parameter := reasons[name]).ndim > 1]
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    # Whatever is a matrix and is not looked up in a table has factors.
    assert all(id(parameter) in embeddings for parameter in matrices)


class Peculiar(nn.Linear):
    def forward(self, inputs):
        return super().forward(inputs) ** 2


def test_layers_that_factors_do_not_fit_are_left_out_with_the_reason():
    model = nn.ModuleDict(
        {
            "large": nn.Linear(40, 2),
            "attention": nn.MultiheadAttention(4, 2),
            "peculiar": Peculiar(3, 3),
            "normed": nn.utils.spectral_norm(nn.Linear(3, 3)),
            "projected": nn.LSTM(3, 4, proj_size=2),
            "frozen": nn.Linear(3, 3),
            "plain": nn.Conv1d(2, 2, 1),
            "kept": nn.Linear(3, 3),
        }
    )
    model["frozen"].weight.requires_grad_(False)
    factors = KroneckerFactors(model, max_size=30)
    assert [layer.name for layer in factors.layers] == ["kept"]
    reasons = factors.plain
    assert "size 41 is larger than 30" in reasons["large.weight"]
    assert "MultiheadAttention" in reasons["attention.in_proj_weight"]
    assert "Peculiar" in reasons["peculiar.weight"]
    assert "computed from other" in reasons["normed.bias"]
    assert "projections" in reasons["projected.weight_hh_l0"]
    assert "not trained" in reasons["frozen.bias"]
    assert len(factors.describe()) == 1 + len(reasons)
    embedding, readout = nn.Embedding(5, 3), nn.Linear(3, 5)
    readout.weight = embedding.weight
    layers, plain = find_layers(nn.Sequential(embedding, readout))
    assert not layers
    assert "shared" in plain["0.weight"]
    assert "1.bias" in plain


@pytest.mark.parametrize("option", ["targets", "approximation"])
def test_unknown_options_are_refused(option):
    with pytest.raises(UserError, match=f"optimizer.{option}=nonsense: must be one of"):
        KroneckerFactors(nn.Linear(2, 2), **{option: "nonsense"})


def test_losses_without_a_known_curvature_and_foreign_shapes_are_refused():
    model, inputs = nn.Linear(2, 2), torch.randn(4, 2)
    with pytest.raises(UserError, match="cross_entropy, mse, bernoulli"):
        factors_of(objective(model, lambda outputs, targets: outputs.sum(), inputs, inputs))
    chain = nn.Sequential(
        nn.Flatten(0), nn.Unflatten(0, (2, 4)), nn.Linear(4, 2), nn.Flatten(0), nn.Unflatten(0, (4, 1))
    )
    with pytest.raises(UserError, match="the examples first"):
        factors_of(objective(chain, SquaredError(), inputs, inputs[:, :1]))
    with pytest.raises(UserError, match="act once on every example"):
        factors_of(
            objective(Positions(False), SquaredError(), torch.randn(2, 3, 3), torch.randn(2, 3, 2)), neighbours=True
        )


# ---- placement ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fraction", "workers"), [(0.0, 1), (0.25, 1), (0.5, 2), (0.7, 2), (1.0, 4)])
def test_layers_are_divided_by_cost(fraction, workers, monkeypatch):
    monkeypatch.setattr(Placement, "_group", lambda self, ranks: None)
    costs = [1.0, 8.0, 4.0, 3.0, 2.0, 6.0]
    grid = [Placement(4, rank, fraction, costs) for rank in range(4)]
    assert all(placement.owners == grid[0].owners for placement in grid)
    loads = [sum(cost for cost, owner in zip(costs, grid[0].owners, strict=True) if owner == rank) for rank in range(4)]
    assert sum(loads) == 24
    assert max(loads) == 8  # the dearest layer alone
    for layer in range(6):
        keepers = [rank for rank in range(4) if grid[rank].keeps(layer)]
        assert len(keepers) == workers
        assert grid[0].owners[layer] in keepers
        assert [rank for rank in range(4) if grid[rank].owns(layer)] == [grid[0].owners[layer]]
