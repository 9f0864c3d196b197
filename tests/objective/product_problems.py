"""Models, batches and losses, each with a twin made of elementary operations, and their dense float64 matrices."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, hessian, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from optbench.data.spec import DataSpec
from optbench.models.language import RecurrentLanguageModel
from optbench.models.layers import BatchNorm, Dropout, set_ghost_batch_size
from optbench.models.recurrent import RecurrentNetwork
from optbench.models.transformer import GPT
from optbench.objective import Execution, Network, Objective, dropout_key
from optbench.objective.losses import NO_TARGET, Bernoulli, CrossEntropy, OneHotSquaredError, SquaredError

N, GROUP, KEY = 10, 4, dropout_key(0, 5)  # micro-batches and groups of batch norm of 4, 4 and 2


TIGHT = {"rtol": 1e-10, "atol": 1e-12}


class ElementaryNorm(nn.Module):
    """Batch norm written out, because torch.func takes derivatives of F.batch_norm along other ways than its own."""

    def __init__(self, norm):
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self.mean, self.variance = norm.running_mean.clone(), norm.running_var.clone()
        self.train(norm.training)

    def forward(self, inputs):
        over, shape = [0, *range(2, inputs.ndim)], [1, -1] + [1] * (inputs.ndim - 2)
        if self.training:
            parts = [
                (part - part.mean(over, keepdim=True)) / (part.var(over, False, keepdim=True) + 1e-5).sqrt()
                for part in inputs.split(GROUP)
            ]
            normal = torch.cat(parts)
        else:
            normal = (inputs - self.mean.view(shape)) / (self.variance.view(shape) + 1e-5).sqrt()
        return normal * self.weight.view(shape) + self.bias.view(shape)


class ElementaryLayerNorm(nn.Module):
    """Layer norm written out: torch.func's second derivatives of F.layer_norm in its weight are wrong (torch 2.13)."""

    def __init__(self, norm):
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, inputs):
        centred = inputs - inputs.mean(-1, keepdim=True)
        return centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * self.weight + self.bias


class ElementaryCell(nn.Module):
    """One layer of torch's recurrent networks, from the equations in their documentation."""

    def __init__(self, layer):
        super().__init__()
        self.kind = type(layer)
        for name, parameter in layer.named_parameters():
            self.register_parameter(name, parameter)

    def forward(self, inputs):
        hidden = cell = inputs.new_zeros(len(inputs), self.weight_hh_l0.shape[1])
        states = []
        for step in inputs.unbind(1):
            a = F.linear(step, self.weight_ih_l0, self.bias_ih_l0)
            b = F.linear(hidden, self.weight_hh_l0, self.bias_hh_l0)
            if self.kind is nn.RNN:
                hidden = torch.tanh(a + b)
            elif self.kind is nn.GRU:
                (ar, az, an), (br, bz, bn) = a.chunk(3, 1), b.chunk(3, 1)
                z = torch.sigmoid(az + bz)
                hidden = (1 - z) * torch.tanh(an + torch.sigmoid(ar + br) * bn) + z * hidden
            else:
                i, f, g, o = (a + b).chunk(4, 1)
                cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
                hidden = torch.sigmoid(o) * torch.tanh(cell)
            states.append(hidden)
        return torch.stack(states, 1), None


ELEMENTARY = {
    BatchNorm: ElementaryNorm,
    nn.LayerNorm: ElementaryLayerNorm,
    nn.RNN: ElementaryCell,
    nn.GRU: ElementaryCell,
    nn.LSTM: ElementaryCell,
}


def elementary(model):
    """A twin that shares nothing with ``model``, without the kernels that hide their derivatives."""
    twin = copy.deepcopy(model)
    for name, module in list(twin.named_modules()):
        if type(module) in ELEMENTARY:
            twin.set_submodule(name, ELEMENTARY[type(module)](module))
    return twin


class TiedAutoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 3), nn.Linear(3, 8)
        self.decoder.weight = nn.Parameter(self.encoder.weight.T.clone())
        self.bias = self.decoder.bias
        del self.decoder

    def forward(self, images):
        return F.linear(torch.tanh(self.encoder(images.flatten(1))), self.encoder.weight.T, self.bias)


class TwiceUsed(nn.Module):
    """Its last linear layer is used twice, and one parameter is not used at all."""

    def __init__(self):
        super().__init__()
        self.first, self.last, self.unused = nn.Linear(4, 3), nn.Linear(3, 3), nn.Parameter(torch.ones(2))

    def forward(self, inputs):
        return self.last(torch.tanh(self.last(torch.tanh(self.first(inputs)))))


def gaps():
    targets = torch.randint(0, 5, (N, 4))
    targets[0, 2:] = targets[3, :1] = targets[5] = NO_TARGET
    return targets


def convolutional(norm):
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, groups=2),
        BatchNorm(4) if norm else nn.Identity(),
        nn.Softplus(),
        nn.Conv2d(4, 3, 3, padding=2, dilation=2, bias=not norm),
        BatchNorm(3) if norm else nn.MaxPool2d(2, stride=1),
        nn.Tanh(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(3, 3),
    )


def mlp(outputs=3, *, norm=False, dropout=0.0, layer_norm=False):
    between = BatchNorm(5) if norm else nn.LayerNorm(5) if layer_norm else nn.Identity()
    return nn.Sequential(nn.Linear(4, 5), between, nn.Tanh(), Dropout(dropout), nn.Linear(5, outputs))


TOKENS = DataSpec("tokens", (4,), 5, target="class_per_step", vocabulary=5)


SEQUENCE = DataSpec("sequence", (3, 2), 3)


def features():
    return torch.randn(N, 4, dtype=torch.float64)


def images():
    return torch.randn(N, 2, 6, 5, dtype=torch.float64)


def classes():
    return torch.randint(0, 3, (N,))


def real(*shape):
    return torch.randn(N, *shape, dtype=torch.float64)


def pixels():
    return torch.rand(N, 2, 2, 2, dtype=torch.float64)


def tokens():
    return torch.randint(0, 5, (N, 4))


PROBLEMS = {
    "mlp": lambda: (mlp(), features(), classes(), CrossEntropy()),
    "smoothed": lambda: (mlp(), features(), classes(), CrossEntropy(0.2)),
    "squared error": lambda: (mlp(2), features(), real(2), SquaredError()),
    "without half": lambda: (mlp(1), features(), real(), SquaredError(half=False)),
    "squared error of classes": lambda: (mlp(), features(), classes(), OneHotSquaredError()),
    "conv": lambda: (convolutional(False), images(), classes(), CrossEntropy()),
    "conv with batch norm": lambda: (convolutional(True), images(), classes(), CrossEntropy()),
    "batch norm": lambda: (mlp(norm=True), features(), classes(), CrossEntropy()),
    "batch norm in eval mode": lambda: (mlp(norm=True, dropout=0.3).eval(), features(), classes(), CrossEntropy()),
    "layer norm": lambda: (mlp(layer_norm=True), features(), classes(), CrossEntropy()),
    "dropout": lambda: (mlp(2, dropout=0.4), features(), real(2), SquaredError()),
    "rnn": lambda: (RecurrentNetwork(SEQUENCE, "rnn", 3), real(3, 2), classes(), CrossEntropy()),
    "gru": lambda: (RecurrentNetwork(SEQUENCE, "gru", 2, 2, dropout=0.3), real(3, 2), classes(), CrossEntropy()),
    "lstm": lambda: (RecurrentNetwork(SEQUENCE, "lstm", 3), real(3, 2), classes(), CrossEntropy()),
    "language model": lambda: (RecurrentLanguageModel(TOKENS, "gru", 2, 3, 1), tokens(), gaps(), CrossEntropy(0.1)),
    "transformer": lambda: (GPT(TOKENS, 1, 2, 4, 0.2, tied=True), tokens(), gaps(), CrossEntropy()),
    "tied": lambda: (TiedAutoencoder(), pixels(), pixels(), Bernoulli()),
    "used twice": lambda: (TwiceUsed(), features(), real(3), SquaredError()),
}


COUPLED = ["conv with batch norm", "batch norm"]


RECURRENT = ["rnn", "gru", "lstm", "language model"]
every_problem = pytest.mark.parametrize("name", PROBLEMS)
every_micro_batch = pytest.mark.parametrize("micro_batch", [None, 4], ids=["whole", "parts"])


def problem(name):
    torch.manual_seed(3)
    model, inputs, targets, loss = PROBLEMS[name]()
    model.double()
    with torch.no_grad():
        for parameter in model.parameters():
            # GPT starts at weights so small that its derivatives would be too.
            parameter.add_(0.3 * torch.randn_like(parameter))
        for norm in (module for module in model.modules() if isinstance(module, BatchNorm)):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.5, 2)
    set_ghost_batch_size(model, GROUP)
    return model, inputs, targets, loss


def objective_of(name, **execution):
    model, inputs, targets, loss = problem(name)
    return Objective(Network(model), loss, inputs, targets, Execution(**execution), KEY)


def flat(vector):
    return torch.cat([tensor.flatten() for tensor in vector])


@functools.cache
def dense(name):
    """Outputs, J, the loss's Hessian in all outputs, gradient, Hessian, and per-example gradients, by torch.func."""
    model, inputs, targets, loss = problem(name)
    twin = elementary(model)
    draw = Network(twin).draw
    if draw is not None:
        draw[0] = KEY
    parameters = dict(twin.named_parameters())
    shapes = [parameter.shape for parameter in parameters.values()]

    def outputs(theta):
        parts = theta.split([shape.numel() for shape in shapes])
        values = {key: part.view(shape) for key, part, shape in zip(parameters, parts, shapes, strict=True)}
        return functional_call(twin, values, (inputs,))

    theta = flat(parameters.values()).detach()
    with sdpa_kernel(SDPBackend.MATH):
        z = outputs(theta)
        jacobian = jacrev(outputs)(theta).reshape(z.numel(), -1)
        each = jacrev(lambda t: loss.per_example(outputs(t), targets))(theta)
        gradient = jacrev(lambda t: loss(outputs(t), targets))(theta)
        curvature = jacrev(jacrev(lambda t: loss(outputs(t), targets)))(theta)
    middle = hessian(lambda u: loss(u.view_as(z), targets))(z.flatten())
    return z, jacobian, middle, gradient, curvature, each


def vectors_of(objective, count=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        [torch.randn(p.shape, generator=generator, dtype=p.dtype) for p in objective.network.parameters]
        for _ in range(count)
    ]


def assert_is(found, expected):
    """Equal, and not for being zero."""
    assert expected.abs().max() > 1e-6
    torch.testing.assert_close(found, expected, **TIGHT)


def counted(objective):
    """Counts the forward passes of the model."""
    passes = []
    objective.network.model.register_forward_hook(lambda *_: passes.append(1))
    return passes
