"""Squared norms of the gradients of single examples against a loop over the examples."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from optbench.errors import UserError
from optbench.objective import Network, Objective
from optbench.objective.losses import CrossEntropy
from tests.objective.product_problems import (
    COUPLED,
    PROBLEMS,
    N,
    assert_is,
    classes,
    dense,
    every_micro_batch,
    features,
    flat,
    images,
    mlp,
    objective_of,
    real,
    vectors_of,
)


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
