import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from optbench.curvature.directions import random_direction
from optbench.curvature.normalization import filter_norms, normalize, transposed_groups
from optbench.curvature.surfaces import evaluation, line
from optbench.errors import UserError

POSITIONS = [-1.0, -0.5, 0.0, 0.3, 1.0]


def convnet():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3, groups=4), nn.Flatten(), nn.Linear(16, 5)
    )


def drawn(parameters, seed=1):
    return random_direction(parameters, torch.Generator().manual_seed(seed))


def filters(tensor):
    return tensor.detach().flatten(1)


def test_every_filter_has_the_norm_of_its_own_filter_and_tensors_of_one_axis_are_zero():
    parameters = list(convnet().parameters())
    for d, w in zip(normalize(drawn(parameters), parameters), parameters, strict=True):
        if w.ndim == 1:
            assert not d.any()
            continue
        for d_f, w_f in zip(filters(d), filters(w), strict=True):
            assert abs(float(d_f.norm()) - float(w_f.norm())) < 1e-6


def test_a_filter_keeps_its_direction():
    parameters = list(convnet().parameters())
    raw = drawn(parameters)
    for d, r in zip(normalize(raw, parameters), raw, strict=True):
        if r.ndim > 1:
            alike = F.cosine_similarity(filters(d), filters(r))
            torch.testing.assert_close(alike, torch.ones(len(r)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("how", "expected"),
    [
        ("filter", [[3 / 5 * 3, 3 / 5 * 4], [0.0, 10.0]]),
        ("layer", [[3 * 109**0.5 / 50**0.5, 4 * 109**0.5 / 50**0.5], [0.0, 5 * 109**0.5 / 50**0.5]]),
        ("weight", [[9.0, 0.0], [0.0, 40.0]]),
        ("dfilter", [[0.6, 0.8], [0.0, 1.0]]),
        ("dlayer", [[3 / 50**0.5, 4 / 50**0.5], [0.0, 5 / 50**0.5]]),
    ],
)
def test_the_five_normalizations_by_hand(how, expected):
    parameters = [torch.tensor([[3.0, 0.0], [6.0, 8.0]]), torch.tensor([7.0, -2.0])]
    direction = [torch.tensor([[3.0, 4.0], [0.0, 5.0]]), torch.tensor([1.0, 1.0])]
    matrix, vector = normalize(direction, parameters, how)
    torch.testing.assert_close(matrix, torch.tensor(expected), rtol=1e-6, atol=0)
    assert vector.tolist() == [0, 0]
    assert normalize(direction, parameters, how, "copy")[1].tolist() == [7, -2]


def test_an_empty_filter_gets_no_direction_and_a_zero_direction_stays_finite():
    parameters = [torch.tensor([[0.0, 0.0], [1.0, 0.0]])]
    direction = [torch.tensor([[1.0, 2.0], [0.0, 0.0]])]
    assert normalize(direction, parameters)[0].tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("groups", [1, 2])
def test_the_filters_of_a_transposed_convolution_are_its_outputs(groups):
    """The entries of the weight that lead to one output channel, found by differentiating it, are one filter."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.ConvTranspose2d(4, 6, 2, groups=groups), nn.Embedding(5, 2))
    assert transposed_groups(model) == [0, 0, groups, 0, 0]
    weight = model[1].weight
    inputs = torch.randn(1, 4, 3, 3)
    for channel in range(6):
        leads = torch.autograd.grad(model[1](inputs)[0, channel].square().sum(), weight)[0] != 0
        assert leads.sum() == 4 // groups * 4
        expected = weight[leads].norm()
        norms = filter_norms(weight, groups)[leads]
        torch.testing.assert_close(norms, expected.detach().expand_as(norms))
    parameters = list(model.parameters())
    d = normalize(drawn(parameters), parameters, transposed=transposed_groups(model))[2]
    torch.testing.assert_close(filter_norms(d, groups), filter_norms(weight, groups))


def test_the_filters_of_an_embedding_are_its_rows():
    table = nn.Embedding(3, 2)
    nn.init.constant_(table.weight, 1.0)
    with torch.no_grad():
        table.weight[1] *= 7
    expected = torch.tensor([2.0, 98.0, 2.0]).sqrt().unsqueeze(1).expand(3, 2)
    torch.testing.assert_close(filter_norms(table.weight), expected)


@pytest.mark.parametrize("options", [{"how": "filters"}, {"one_dimensional": "ignore"}])
def test_other_names_are_refused(options):
    with pytest.raises(UserError, match="accepted are"):
        normalize([torch.ones(1)], [torch.ones(1)], **options)


# ---- what the normalization is for ----------------------------------------------------------------------------------


def curve(model, measure, normalized=True, seed=5):
    parameters = list(model.parameters())
    direction = drawn(parameters, seed)
    if normalized:
        direction = normalize(direction, parameters)
    return line(evaluation(model, measure), parameters, direction, POSITIONS).values["loss"]


def test_surfaces_are_invariant_under_the_rescaling_of_relu_layers():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 20), nn.ReLU(), nn.Linear(20, 3)).double()
    inputs, targets = torch.randn(50, 6, dtype=torch.float64), torch.randint(0, 3, (50,))
    with torch.no_grad():
        for layer in model[::2]:
            layer.weight *= 3  # weights of a trained network's size, so that the curve is not flat
    rescaled = copy.deepcopy(model)
    with torch.no_grad():
        rescaled[0].weight *= 10
        rescaled[0].bias *= 10
        rescaled[2].weight /= 10

    def curves(normalized):
        return [
            curve(net, lambda net=net: {"loss": F.cross_entropy(net(inputs), targets).item()}, normalized)
            for net in (model, rescaled)
        ]

    own, other = curves(True)
    torch.testing.assert_close(own, other, rtol=0, atol=1e-5)
    assert own.max() - own.min() > 0.1
    own, other = curves(False)
    assert (own - other).abs().max() > 0.1


def test_surfaces_are_invariant_under_the_scale_of_a_convolution_before_batch_norm():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3, bias=False), nn.BatchNorm2d(6, momentum=1.0), nn.ReLU(), nn.Flatten(), nn.Linear(96, 3)
    ).double()
    inputs, targets = torch.randn(40, 2, 6, 6, dtype=torch.float64), torch.randint(0, 3, (40,))
    scaled = copy.deepcopy(model)
    with torch.no_grad():
        scaled[0].weight *= 10

    def curves(normalized):
        found = []
        for net in (model, scaled):
            net.train()(inputs)  # with momentum 1, one pass estimates the running statistics anew
            net.eval()
            found.append(curve(net, lambda net=net: {"loss": F.cross_entropy(net(inputs), targets).item()}, normalized))
        return found

    own, other = curves(True)
    torch.testing.assert_close(own, other, rtol=0, atol=1e-4)
    assert own.max() - own.min() > 0.1
    own, other = curves(False)
    assert (own - other).abs().max() > 0.1
