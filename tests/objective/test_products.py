"""Products with the derivatives of the objective against dense float64 matrices of independent functions."""

import copy
import functools
import gc
import weakref

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, hessian, jacrev
from torch.nn.attention import SDPBackend, sdpa_kernel

from optbench.data.spec import DataSpec
from optbench.errors import UserError
from optbench.models.language import RecurrentLanguageModel
from optbench.models.layers import BatchNorm, Dropout, set_ghost_batch_size
from optbench.models.recurrent import RecurrentNetwork
from optbench.models.transformer import GPT
from optbench.objective import Execution, LossScale, Network, Objective, dropout_key
from optbench.objective.losses import NO_TARGET, Bernoulli, CrossEntropy, Loss, OneHotSquaredError, SquaredError
from optbench.objective.products.graph import differentiable_twice

N, GROUP, KEY = 10, 4, dropout_key(0, 5)  # micro-batches and groups of batch norm of 4, 4 and 2
TIGHT = {"rtol": 1e-10, "atol": 1e-12}


# ---- the problems: models, batches and losses, each with a twin made of elementary operations ------------------------


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


# ---- against dense matrices -----------------------------------------------------------------------------------------


@every_problem
@every_micro_batch
def test_hessian(name, micro_batch):
    objective, expected = objective_of(name, micro_batch=micro_batch), dense(name)[4]
    vectors = vectors_of(objective)
    for vector in vectors:
        assert_is(flat(objective.hvp(vector)), expected @ flat(vector))
    for vector, product in zip(vectors, objective.hvps(vectors), strict=True):
        assert_is(flat(product), expected @ flat(vector))


@every_problem
@every_micro_batch
@pytest.mark.parametrize("cached_graphs", [1, None])
def test_gauss_newton(name, micro_batch, cached_graphs):
    objective, (_, jacobian, middle, *_) = (
        objective_of(name, micro_batch=micro_batch, cached_graphs=cached_graphs),
        dense(name),
    )
    expected = jacobian.T @ middle @ jacobian
    vectors = vectors_of(objective)
    for vector in vectors:
        assert_is(flat(objective.ggnvp(vector)), expected @ flat(vector))
    for vector, product in zip(vectors, objective.ggnvps(vectors), strict=True):
        assert_is(flat(product), expected @ flat(vector))


@every_problem
@every_micro_batch
def test_empirical_fisher(name, micro_batch):
    objective, each = objective_of(name, micro_batch=micro_batch), dense(name)[5]
    vectors = vectors_of(objective)
    expected = [each.T @ (each @ flat(vector)) / N for vector in vectors]
    assert_is(flat(objective.empirical_fisher_vp(vectors[0])), expected[0])
    assert_is(
        torch.stack([flat(product) for product in objective.empirical_fisher_vps(vectors)]), torch.stack(expected)
    )


@every_problem
@every_micro_batch
def test_quadratic(name, micro_batch):
    objective, (_, jacobian, middle, *_) = objective_of(name, micro_batch=micro_batch), dense(name)
    vectors = vectors_of(objective)
    along = torch.stack([jacobian @ flat(vector) for vector in vectors])
    for _ in range(2):  # by forward mode; then by a graph, where a product has left one
        assert_is(objective.quadratic(vectors), along @ middle @ along.T)
        objective.ggnvp(vectors[0])


@every_problem
@every_micro_batch
def test_gradient(name, micro_batch):
    objective, expected = objective_of(name, micro_batch=micro_batch), dense(name)[3]
    for _ in range(2):
        found = objective.gradient()
        assert_is(flat(found), expected)
        assert not any(part.requires_grad for part in found)
        objective.hvp(vectors_of(objective)[0])
    objective()
    grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in objective.network.parameters]
    assert_is(flat(grads), expected)


@every_problem
@every_micro_batch
def test_jacobian_products_and_outputs(name, micro_batch):
    objective, (outputs, jacobian, *_) = objective_of(name, micro_batch=micro_batch), dense(name)
    vector, back = vectors_of(objective)[0], torch.randn(outputs.shape, dtype=torch.float64)
    for _ in range(2):
        assert_is(objective.outputs(), outputs)
        assert_is(objective.jvp(vector).flatten(), jacobian @ flat(vector))
        assert_is(flat(objective.vjp(back)), jacobian.T @ back.flatten() / N)
        objective.ggnvp(vector)
    loss, targets = objective.loss_function, problem(name)[2]
    inner = loss.output_hessian_product(objective.outputs(), targets, objective.jvp(vector))
    assert_is(flat(objective.vjp(inner)), flat(objective.ggnvp(vector)))
    gradients = loss.output_gradient(objective.outputs(), targets)
    assert_is(flat(objective.vjp(gradients)), dense(name)[3])


@every_problem
@every_micro_batch
def test_jacobian(name, micro_batch):
    objective, (outputs, expected, *_) = objective_of(name, micro_batch=micro_batch), dense(name)
    found = objective.jacobian()
    assert found.shape == (N, outputs[0].numel(), expected.shape[1])
    assert_is(found.flatten(0, 1), expected)


def last_linear(model):
    return [module for module in model.modules() if isinstance(module, nn.Linear)][-1]


@pytest.mark.parametrize("name", [name for name in PROBLEMS if name != "tied"])
@every_micro_batch
def test_last_layer_gradients(name, micro_batch):
    objective = objective_of(name, micro_batch=micro_batch)
    model, inputs, targets, loss = problem(name)
    twin = elementary(model)
    layer, network = last_linear(twin), Network(twin)
    if name == "transformer":  # the use as an embedding is not one of the layer
        layer.weight = nn.Parameter(layer.weight.detach().clone())
    if network.draw is not None:
        network.draw[0] = KEY
    losses = loss.per_example(twin(inputs), targets)
    expected = [torch.autograd.grad(value, list(layer.parameters()), retain_graph=True) for value in losses]
    found = objective.last_layer_gradients()
    assert len(found) == len(expected[0])
    for tensor, each in zip(found, zip(*expected, strict=True), strict=True):
        assert_is(tensor, torch.stack(each))


@every_problem
@every_micro_batch
def test_per_example_losses(name, micro_batch):
    outputs, *_ = dense(name)
    _, _, targets, loss = problem(name)
    assert_is(objective_of(name, micro_batch=micro_batch).per_example_losses(), loss.per_example(outputs, targets))


@pytest.mark.parametrize("name", [name for name in PROBLEMS if name not in COUPLED])
@every_micro_batch
def test_squared_norms_of_the_gradients_of_examples(name, micro_batch):
    objective = objective_of(name, micro_batch=micro_batch)
    with torch.no_grad():  # as within the step of an optimizer
        assert_is(objective.per_example_squared_gradient_norms(), dense(name)[-1].square().sum(1))
    assert objective.evaluations == 1
    vector = flat(vectors_of(objective)[0])
    assert_is(objective.per_example_slopes(vector), dense(name)[-1] @ vector)
    assert all(parameter.grad is None for parameter in objective.network.parameters)


class Positions(nn.Module):
    """Linear layers over the positions of an example, of which there are few or many."""

    def __init__(self, positions, width):
        super().__init__()
        self.positions = positions
        self.first, self.last = nn.LazyLinear(width), nn.Linear(width, 3, bias=False)

    def forward(self, inputs):
        hidden = 2 * self.first(inputs.view(len(inputs), self.positions, -1))
        return self.last(torch.tanh(hidden).mean(1))


class Overwritten(Positions):
    """Over several positions the outputs of a layer are a view, whose node is not in the graph after an operation in place."""

    def forward(self, inputs):
        return self.last(torch.tanh(self.first(inputs.view(len(inputs), self.positions, -1)).mul_(2)).mean(1))


class Functional(nn.Module):
    """A layer whose weight has a second way into the loss."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, inputs):
        return self.last(torch.tanh(F.linear(torch.tanh(self.first(inputs)), self.first.weight)))


def padded(mode):
    conv = nn.Conv2d(2, 4, (3, 2), stride=(2, 1), padding=(2, 1), groups=2, padding_mode=mode)
    return nn.Sequential(conv, nn.ReLU(inplace=True), nn.Conv2d(4, 6, 1), nn.Flatten(), nn.LazyLinear(3))


def folded():
    """The positions of all examples as the rows of one matrix."""
    rows = nn.Sequential(
        nn.Unflatten(1, (2, 2)), nn.Flatten(0, 1), nn.Linear(2, 3), nn.Tanh(), nn.Unflatten(0, (-1, 2))
    )
    return nn.Sequential(rows, nn.Flatten(), nn.Linear(6, 3))


BY_LAYERS = {
    "mlp": (mlp, features),
    "many positions": (lambda: Positions(8, 3), lambda: real(16)),
    "few positions": (lambda: Positions(2, 40), lambda: real(20)),
    "zeros": (lambda: padded("zeros"), images),
    "circular": (lambda: padded("circular"), images),
}
BY_EXAMPLES = {
    "a weight with two ways": (Functional, features),
    "an overwritten view": (lambda: Overwritten(2, 5), features),
    "as many positions as examples": (lambda: Positions(N, 3), lambda: real(20)),
    "folded": (folded, features),
    "a norm": (lambda: mlp(layer_norm=True), features),
}


@pytest.mark.parametrize("frozen", [None, "weight", "bias"])
@pytest.mark.parametrize("name", BY_LAYERS | BY_EXAMPLES)
def test_squared_norms_by_layers_are_those_of_a_loop(name, frozen, monkeypatch):
    torch.manual_seed(1)
    make, draw = (BY_LAYERS | BY_EXAMPLES)[name]
    model, inputs, targets = make().double(), draw(), classes()
    model(inputs)  # which makes a lazy layer
    for parameter_name, parameter in list(model.named_parameters())[:2]:
        parameter.requires_grad_(frozen is None or not parameter_name.endswith(frozen))
    network = Network(model)
    expected = []
    for number in range(N):
        value = F.cross_entropy(model(inputs[number : number + 1]), targets[number : number + 1])
        gradients = torch.autograd.grad(value, network.parameters)
        expected.append(sum(gradient.square().sum() for gradient in gradients))
    expected = torch.stack(expected)
    objective = Objective(network, CrossEntropy(), inputs, targets)
    assert_is(objective.per_example_squared_gradient_norms(), expected)
    monkeypatch.setattr(Objective, "_by_examples", lambda *_: pytest.fail("the layers would do"))
    by_layers = [objective._by_layers(part) for part in objective._parts]
    # A weight that is frozen has no second way.
    assert (by_layers[0] is not None) == (name in BY_LAYERS or (name, frozen) == ("a weight with two ways", "weight"))


def test_gradients_of_examples_that_batch_norm_couples():
    objective = objective_of("batch norm")
    with pytest.raises(UserError, match="couples the examples of a batch"):
        objective.per_example_squared_gradient_norms()
    with objective.evaluation_mode():
        assert objective.per_example_squared_gradient_norms().shape == (N,)


@every_problem
def test_symmetry(name):
    """u^T H v = v^T H u and u^T G v = v^T G u."""
    objective = objective_of(name)
    u, v = vectors_of(objective, 2)
    for product in (objective.hvp, objective.ggnvp, objective.empirical_fisher_vp):
        assert_is(flat(u) @ flat(product(v)), flat(v) @ flat(product(u)))


@pytest.mark.parametrize("name", ["mlp", "batch norm", "transformer"])
def test_frozen_parameters_are_left_out(name):
    model, inputs, targets, loss = problem(name)
    chosen = [index for index, _ in enumerate(model.parameters()) if index % 2]
    kept = torch.cat([torch.full((p.numel(),), bool(i % 2)) for i, p in enumerate(model.parameters())])
    for index, parameter in enumerate(model.parameters()):
        parameter.requires_grad_(bool(index % 2))
    objective = Objective(Network(model), loss, inputs, targets, dropout_key=KEY)
    vector = vectors_of(objective)[0]
    assert len(vector) == len(chosen)
    _, jacobian, middle, gradient, curvature, _ = dense(name)
    part = jacobian[:, kept]
    assert_is(flat(objective.gradient()), gradient[kept])
    assert_is(flat(objective.hvp(vector)), curvature[kept][:, kept] @ flat(vector))
    assert_is(objective.jvp(vector).flatten(), part @ flat(vector))
    assert_is(flat(objective.ggnvp(vector)), part.T @ middle @ part @ flat(vector))
    assert_is(objective.jacobian().flatten(0, 1), part)


# ---- modes, and what is left alone ----------------------------------------------------------------------------------


@every_micro_batch
def test_evaluation_mode(micro_batch):
    model, inputs, targets, loss = problem("batch norm in eval mode")
    model.train()
    model[1].eval()  # a mode of its own, to be found again
    objective = Objective(Network(model), loss, inputs, targets, Execution(micro_batch=micro_batch), KEY)
    vector = vectors_of(objective)[0]
    _, jacobian, middle, gradient, curvature, _ = dense("batch norm in eval mode")
    trained = objective.hvp(vector)
    with objective.evaluation_mode():
        assert_is(flat(objective.hvp(vector)), curvature @ flat(vector))
        assert_is(flat(objective.ggnvp(vector)), jacobian.T @ middle @ jacobian @ flat(vector))
        assert_is(flat(objective.gradient()), gradient)
        assert_is(objective.loss(), loss(dense("batch norm in eval mode")[0], targets))
        model[1].running_mean += 1  # a graph that is kept would not know
        assert not torch.allclose(flat(objective.hvp(vector)), curvature @ flat(vector))
        model[1].running_mean -= 1
    assert [module.training for module in model.modules()] == [True, True, False, True, True, True]
    assert_is(flat(objective.hvp(vector)), flat(trained))
    assert not torch.allclose(flat(trained), curvature @ flat(vector))


def test_the_first_evaluation_in_train_mode_is_the_one_recorded():
    model, inputs, targets, loss = problem("batch norm")
    objective = Objective(Network(model), loss, inputs, targets)
    with objective.evaluation_mode():
        objective()
    before = model[1].running_mean.clone()
    objective()
    objective.finish()
    assert not torch.equal(model[1].running_mean, before)


def every_product(objective):
    """Calls everything once."""
    vectors = vectors_of(objective, 2)
    objective.gradient()
    objective.hvp(vectors[0])
    objective.hvps(vectors)
    objective.ggnvps(vectors)
    objective.empirical_fisher_vp(vectors[0])
    objective.jvp(vectors[0])
    objective.vjp(objective.outputs())
    objective.quadratic(vectors)
    objective.sample_targets(1)
    objective.per_example_losses()
    objective.jacobian()
    objective.last_layer_gradients()


@pytest.mark.parametrize("name", ["conv with batch norm", "batch norm", "gru", "dropout", "transformer"])
@pytest.mark.parametrize("recording", ["follow", "record"])
def test_products_leave_everything_as_it_was(name, recording):
    objective = objective_of(name, micro_batch=4)
    model = objective.network.model
    objective.network.record_norms(recording)
    if recording == "record":
        objective()
    grads = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    recorded = [len(norm.recorded) for norm in objective.network.norms]
    modes = [norm.recording for norm in objective.network.norms]
    state, flags, rng = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()], torch.get_rng_state()
    backends = (torch.backends.cudnn.enabled, torch.backends.mkldnn.enabled, torch.is_grad_enabled())
    every_product(objective)
    with objective.evaluation_mode():
        every_product(objective)
    for key, value in model.state_dict().items():
        assert torch.equal(value, state[key]), key
    for parameter, gradient in zip(model.parameters(), grads, strict=True):
        assert (parameter.grad is None) if gradient is None else torch.equal(parameter.grad, gradient)
        assert parameter.is_leaf
        assert parameter.requires_grad
    assert [module.training for module in model.modules()] == flags
    assert torch.equal(torch.get_rng_state(), rng)
    assert [len(norm.recorded) for norm in objective.network.norms] == recorded
    assert [norm.recording for norm in objective.network.norms] == modes
    assert (torch.backends.cudnn.enabled, torch.backends.mkldnn.enabled, torch.is_grad_enabled()) == backends
    copy.deepcopy(model)  # no module keeps a tensor of some graph


def test_products_within_no_grad():
    """Optimizers' steps run without gradients."""
    objective = objective_of("mlp")
    vector = vectors_of(objective)[0]
    expected = dense("mlp")[4] @ flat(vector)
    with torch.no_grad():
        assert_is(flat(objective.hvp(vector)), expected)
        every_product(objective)


# ---- graphs ---------------------------------------------------------------------------------------------------------


def counted(objective):
    """Counts the forward passes of the model."""
    passes = []
    objective.network.model.register_forward_hook(lambda *_: passes.append(1))
    return passes


@pytest.mark.parametrize(
    ("micro_batch", "cached_graphs", "first", "then"),
    [(None, 1, 1, 0), (4, 1, 3, 3), (4, 2, 3, 2), (4, 3, 3, 0), (4, None, 3, 0)],
)
@pytest.mark.parametrize("product", ["hvp", "gradient"])
def test_forward_passes(micro_batch, cached_graphs, first, then, product):
    """``first`` of them for the first product, ``then`` for every later one."""
    objective = objective_of("mlp", micro_batch=micro_batch, cached_graphs=cached_graphs)
    passes, of = counted(objective), {"hvp": vectors_of(objective)[:1], "gradient": []}[product]
    getattr(objective, product)(*of)
    assert len(passes) == first
    for count in range(1, 4):
        getattr(objective, product)(*of)
        assert len(passes) == first + count * then


def test_all_products_share_one_graph():
    objective = objective_of("mlp")
    passes, vectors = counted(objective), vectors_of(objective)
    objective.gradient()
    objective.hvps(vectors)
    objective.ggnvp(vectors[0])
    objective.ggnvp(vectors[1])
    objective.outputs()
    objective.sample_targets(0)
    objective.per_example_losses()
    objective.quadratic(vectors)
    objective.jvp(vectors[0])
    assert len(passes) == 1
    objective.finish()
    objective.hvp(vectors[0])
    assert len(passes) == 2


def test_several_vectors_build_a_graph_that_is_not_kept_once():
    objective = objective_of("mlp", micro_batch=4)
    passes, vectors = counted(objective), vectors_of(objective, 5)
    objective.hvps(vectors)
    assert len(passes) == 3
    objective.ggnvps(vectors)
    assert len(passes) == 6


CHANGES = {
    "in place": lambda parameter, value: parameter.detach().copy_(value),
    "data": lambda parameter, value: setattr(parameter, "data", value.clone()),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("index", [0, 3])
def test_changed_parameters_give_fresh_results(change, index):
    objective = objective_of("mlp", micro_batch=4, cached_graphs=None)
    vector = vectors_of(objective)[0]

    def everything(objective):
        matrices = [objective.hvp(vector), objective.ggnvp(vector), objective.gradient(), [objective.outputs()]]
        return torch.cat([flat(product) for product in matrices])

    before = everything(objective)
    parameter = objective.network.parameters[index]
    old = parameter.detach().clone()
    CHANGES[change](parameter, old + 0.5)
    fresh = objective_of("mlp", micro_batch=4)
    fresh.network.parameters[index].data += 0.5
    expected = everything(fresh)
    assert not torch.allclose(expected, before)
    torch.testing.assert_close(everything(objective), expected, **TIGHT)
    CHANGES[change](parameter, old)
    torch.testing.assert_close(everything(objective), before, **TIGHT)


def test_a_trial_elsewhere_keeps_the_graph():
    objective = objective_of("mlp")
    vector, before = vectors_of(objective)[0], objective.hvp(vectors_of(objective)[0])
    passes = counted(objective)
    objective.loss(at=[p.detach() + 1 for p in objective.network.model.parameters()])
    assert all(map(torch.equal, objective.hvp(vector), before))
    assert len(passes) == 1  # that of the trial


@pytest.mark.parametrize("how", ["finish", "change", "mode", "delete"])
def test_no_graph_outlives_its_parameters(how):
    """The record of a forward pass is freed by reference counts alone."""
    objective = objective_of("mlp", micro_batch=4, cached_graphs=None)
    alive = []
    objective.network.model[2].register_forward_hook(lambda module, inputs, outputs: alive.append(weakref.ref(outputs)))
    vector = vectors_of(objective)[0]
    gc.disable()
    try:
        objective.hvp(vector)
        objective.ggnvp(vector)
        graphs = [weakref.ref(graph) for graph in objective._graphs._graphs.values()]
        assert len(graphs) == 3
        if how == "finish":
            objective.finish()
        elif how == "change":
            objective.network.parameters[0].data = objective.network.parameters[0].data + 1
            objective.loss()
        elif how == "mode":
            with objective.evaluation_mode():
                objective.loss()
        else:
            del objective
        assert [graph() for graph in graphs] == [None] * 3
        assert not any(reference() is not None for reference in alive)
    finally:
        gc.enable()


# ---- kernels and precision ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*RECURRENT, "transformer"])
def test_float32_kernels_are_differentiable_twice(name):
    """In float32 the CPU has fused kernels for these models, without second derivatives."""
    model, inputs, targets, loss = problem(name)
    inputs = inputs.float() if inputs.is_floating_point() else inputs
    objective = Objective(Network(model.float()), loss, inputs, targets, dropout_key=KEY)
    vector = vectors_of(objective)[0]
    _, jacobian, middle, _, curvature, _ = dense(name)
    direction = flat(vector).double()
    close = {"rtol": 1e-4, "atol": 1e-5}
    torch.testing.assert_close(flat(objective.hvp(vector)).double(), curvature @ direction, **close)
    torch.testing.assert_close(objective.jvp(vector).double().flatten(), jacobian @ direction, **close)
    expected = jacobian.T @ middle @ jacobian @ direction
    torch.testing.assert_close(flat(objective.ggnvp(vector)).double(), expected, **close)


def test_kernels_are_switched_off_only_where_they_have_to_be():
    seen = []
    with differentiable_twice(mlp()):
        seen.append((torch.backends.cudnn.enabled, torch.backends.cuda.flash_sdp_enabled()))
    with differentiable_twice(nn.Sequential(nn.LSTM(2, 2))):
        seen.append((torch.backends.cudnn.enabled, torch.backends.cuda.flash_sdp_enabled()))
    assert seen == [(True, False), (False, False)]
    assert torch.backends.cudnn.enabled
    assert torch.backends.cuda.flash_sdp_enabled()


def test_under_autocast_products_are_those_of_full_precision():
    model, inputs, targets, loss = problem("mlp")
    objectives = [
        Objective(Network(model.float()), loss, inputs.float(), targets, Execution(dtype=dtype))
        for dtype in (None, torch.bfloat16)
    ]
    vector = vectors_of(objectives[0])[0]
    expected = objectives[0].hvp(vector) + objectives[0].ggnvp(vector)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = objectives[1].hvp(vector) + objectives[1].ggnvp(vector)
    assert all(map(torch.equal, found, expected))


# ---- mistakes -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("execution", [{"dtype": torch.float16}, {"loss_scale": LossScale()}])
def test_fp16_is_refused(execution):
    objective = objective_of("mlp", **execution)
    with pytest.raises(UserError, match=r"precision=fp16.* need fp32, tf32, bf16 or fp64"):
        objective.hvp(vectors_of(objective)[0])


class Absolute(Loss):
    def per_example(self, outputs, targets):
        return (outputs - targets).abs().sum(1)


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (Absolute(), r"loss=Absolute: the curvature .* not known; accepted are cross_entropy, mse, bernoulli"),
        (F.mse_loss, r"loss=mse_loss: .* not known; accepted are cross_entropy, mse, bernoulli"),
    ],
)
def test_a_loss_of_unknown_curvature_is_named(loss, message):
    model, inputs, targets, _ = problem("squared error")
    objective = Objective(Network(model), loss, inputs, targets)
    vector = vectors_of(objective)[0]
    objective.hvp(vector)
    with pytest.raises(UserError, match=message):
        objective.ggnvp(vector)
    with pytest.raises(UserError, match=message):
        objective.quadratic([vector])
    with pytest.raises(UserError, match="not known"):
        objective.sample_targets(0)


@pytest.mark.parametrize("method", ["hvp", "ggnvp", "empirical_fisher_vp", "jvp"])
def test_a_vector_that_does_not_fit(method):
    objective = objective_of("mlp")
    vector = vectors_of(objective)[0]
    for wrong in (vector[:-1], [vector[0].T, *vector[1:]]):
        with pytest.raises(UserError, match=rf"objective\.{method}: a vector of shapes .*needed is one tensor"):
            getattr(objective, method)(wrong)


def test_outputs_that_do_not_fit():
    with pytest.raises(UserError, match=r"objective\.vjp: a tensor of shape \(9, 3\); the outputs have \(10, 3\)"):
        objective_of("mlp").vjp(torch.zeros(9, 3, dtype=torch.float64))


def test_a_jacobian_that_does_not_fit_in_memory():
    objective = objective_of("mlp", micro_batch=4)
    needed = 10 * 3 * 43 * 8
    assert objective.jacobian(memory_limit=needed).numel() * 8 == needed
    passes = counted(objective)
    with pytest.raises(
        UserError, match=r"10 examples x 3 outputs x 43 parameters take 10320 bytes.*memory_limit=10319"
    ):
        objective.jacobian(memory_limit=needed - 1)
    assert len(passes) == 1


def test_last_layer_gradients_need_a_linear_layer_that_no_batch_norm_follows():
    model, inputs, targets, loss = problem("mlp")
    objective = Objective(Network(nn.Sequential(model, BatchNorm(3).double())), loss, inputs, targets)
    with pytest.raises(UserError, match="batch norm after the last linear layer"):
        objective.last_layer_gradients()
    with objective.evaluation_mode():
        objective.last_layer_gradients()
    bare = Objective(
        Network(nn.Sequential(nn.Conv1d(4, 3, 1, dtype=torch.float64), nn.Flatten())), loss, inputs, targets
    )
    with pytest.raises(UserError, match="has no linear layer"):
        bare.last_layer_gradients()


# ---- sampled targets ------------------------------------------------------------------------------------------------


@every_problem
def test_samples_do_not_depend_on_how_the_batch_is_cut(name):
    whole = objective_of(name).sample_targets(7)
    torch.testing.assert_close(objective_of(name, micro_batch=4).sample_targets(7), whole, **TIGHT)
    assert not torch.equal(objective_of(name).sample_targets(8), whole)
    model, inputs, targets, loss = problem(name)
    if name not in COUPLED and name not in ("dropout", "gru", "transformer"):  # whose examples know their place
        share = Objective(Network(model), loss, inputs[5:], targets[5:], Execution(rank=1))
        torch.testing.assert_close(share.sample_targets(7), whole[5:], **TIGHT)
    if isinstance(loss, CrossEntropy):
        assert torch.equal(whole == NO_TARGET, targets == NO_TARGET)


@pytest.mark.parametrize("name", ["smoothed", "squared error", "without half", "language model", "tied"])
def test_sampled_gradients_have_the_second_moment_of_gauss_newton(name):
    """Over many keys, the mean of u u^T is the Hessian of the loss in the outputs, example by example."""
    objective, middle = objective_of(name), dense(name)[2]
    outputs, draws = objective.outputs(), 600
    found = torch.stack(
        [
            objective.loss_function.sampled_output_gradient(outputs, objective.sample_targets(key)).flatten(1)
            for key in range(draws)
        ]
    )
    each = middle.view(N, found.shape[2], N, -1) * N
    for example in range(N):
        expected = each[example, :, example]
        moment = found[:, example].T @ found[:, example] / draws
        assert (moment - expected).abs().max() < 6 * (expected.abs().max() + 1e-12) * (3 / draws) ** 0.5
        assert found[:, example].mean(0).abs().max() < 6 * (expected.abs().max() / draws) ** 0.5 + 1e-12


# ---- a peer ---------------------------------------------------------------------------------------------------------


# Its Hessian of a network with layer norm is wrong in the norm's weight, as torch.func's is.
@pytest.mark.parametrize("name", ["smoothed", "squared error", "conv", "batch norm in eval mode"])
def test_curvlinops_agrees(name):
    curvlinops = pytest.importorskip("curvlinops")
    model, inputs, targets, _ = problem(name)
    objective = objective_of(name, micro_batch=4)
    mean = {
        "smoothed": nn.CrossEntropyLoss(label_smoothing=0.2),
        "squared error": nn.MSELoss(reduction="sum"),
    }.get(name, nn.CrossEntropyLoss())
    # Its squared error is summed over the outputs of the batch, where ours is half of the sum, over the examples.
    factor = 0.5 / N if name == "squared error" else 1.0
    for operator, product in (
        (curvlinops.HessianLinearOperator, objective.hvp),
        (curvlinops.GGNLinearOperator, objective.ggnvp),
    ):
        peer = operator(model, mean, list(model.parameters()), [(inputs, targets)], check_deterministic=False)
        vector = vectors_of(objective)[0]
        assert_is(flat(product(vector)), factor * (peer @ flat(vector)))


# ---- ranks ----------------------------------------------------------------------------------------------------------

RANKS = [("dropout", GROUP), ("batch norm", GROUP), ("batch norm", None)]  # None: one group over both ranks


def rank_problem(name, group):
    model, inputs, targets, loss = problem(name)
    set_ghost_batch_size(model, group)
    return model, torch.cat([inputs, -inputs])[:16], torch.cat([targets, targets])[:16], loss


def all_products(objective):
    """The values that every rank shares, and those of its own examples."""
    vectors, last = vectors_of(objective, 2), torch.linspace(-1, 1, 16, dtype=torch.float64)
    share = slice(objective._first, objective._first + len(objective.outputs()))
    back = last[share, None] * objective.outputs()
    matrices = [
        objective.gradient(),
        objective.vjp(back),
        objective.hvp(vectors[0]),
        objective.empirical_fisher_vp(vectors[1]),
    ]
    shared = [flat(product) for product in [*matrices, *objective.ggnvps(vectors)]]
    shared += [objective.quadratic(vectors)]
    own = [objective.outputs(), objective.jvp(vectors[1]), objective.sample_targets(3), objective.per_example_losses()]
    if not objective.network.norms:
        own.append(objective.per_example_squared_gradient_norms())
    return shared, own


def on_one_of_two_ranks(rank, folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meeting", rank=rank, world_size=2)
    results = []
    for name, group in RANKS:
        model, inputs, targets, loss = rank_problem(name, group)
        replica = nn.parallel.DistributedDataParallel(model)  # whose reducer must not take part
        assert replica.module is model
        ranks = dist.new_group([0, 1])
        if group is None:
            set_ghost_batch_size(model, None, ranks)
        share, micro_batch = slice(8 * rank, 8 * rank + 8), None if group is None else 4
        execution = Execution(micro_batch=micro_batch, world_size=2, rank=rank)
        results.append(all_products(Objective(Network(model), loss, inputs[share], targets[share], execution, KEY)))
    with pytest.raises(UserError, match="batch norm couples examples of several ranks"):
        Objective(Network(model), loss, inputs[share], targets[share], execution, KEY).jacobian()
    torch.save(results, f"{folder}/{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.slow
def test_two_ranks_are_one(tmp_path):
    multiprocessing.spawn(on_one_of_two_ranks, (str(tmp_path),), nprocs=2)
    found = [torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)]
    for case, (name, group) in enumerate(RANKS):
        model, inputs, targets, loss = rank_problem(name, group)
        shared, own = all_products(Objective(Network(model), loss, inputs, targets, dropout_key=KEY))
        for rank in range(2):
            for one, other in zip(found[rank][case][0], shared, strict=True):
                assert_is(one, other)
            for one, other in zip(found[rank][case][1], own, strict=True):
                assert_is(one.double(), other[8 * rank : 8 * rank + 8].double())
