import copy
import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from optbench.curvature.surfaces import evaluation, grid, interpolation, line, model_state, shifted
from optbench.objective import Network, Objective


def quadratic(seed=0):
    """L0 + g'p + p'Hp/2 of parameters (2, 3) and (4,), and where it is looked at from."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape):
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    matrix, slope = draw(10, 10), draw(10)
    matrix = matrix + matrix.T

    def flat(parts):
        return torch.cat([part.flatten() for part in parts])

    def evaluate(parts):
        p = flat(parts)
        return {"loss": float(1.5 + slope @ p + p @ matrix @ p / 2), "twice": float(3 + 2 * slope @ p + p @ matrix @ p)}

    origin, first, second = ([draw(2, 3), draw(4)] for _ in range(3))
    return evaluate, origin, first, second, matrix, matrix @ flat(origin) + slope, flat


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


# ---- lines and planes -----------------------------------------------------------------------------------------------


def test_the_line_through_a_quadratic_is_a_parabola():
    evaluate, origin, d, _, matrix, gradient, flat = quadratic()
    positions = torch.linspace(-1, 1, 51).tolist()
    found = line(evaluate, origin, d, positions)
    x = found.positions
    assert x.tolist() == positions
    expected = evaluate(origin)["loss"] + x * (gradient @ flat(d)) + x**2 * (flat(d) @ matrix @ flat(d)) / 2
    torch.testing.assert_close(found.values["loss"], expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found.values["twice"], 2 * expected, rtol=1e-12, atol=1e-12)
    assert float(line(evaluate, origin, d, [0.0]).values["loss"]) == evaluate(origin)["loss"]


def test_the_plane_through_a_quadratic_has_x_along_the_first_direction():
    evaluate, origin, u, v, matrix, gradient, flat = quadratic()
    found = grid(evaluate, origin, u, v, [-1.0, 0.0, 0.5, 2.0], [0.0, 3.0, -0.25])
    x, y = found.x.unsqueeze(0), found.y.unsqueeze(1)
    u, v = flat(u), flat(v)
    expected = evaluate(origin)["loss"] + x * (gradient @ u) + y * (gradient @ v) + x * y * (u @ matrix @ v)
    expected = expected + x**2 * (u @ matrix @ u) / 2 + y**2 * (v @ matrix @ v) / 2
    assert found.values["loss"].shape == (3, 4)
    torch.testing.assert_close(found.values["loss"], expected, rtol=1e-12, atol=1e-12)


def test_values_that_are_not_finite_stay_as_they_are():
    def evaluate(parts):
        x = float(parts[0])
        return {"loss": math.inf if x > 1 else math.nan if x < -1 else x, "accuracy": 0.5}

    found = line(evaluate, [torch.zeros(1)], [torch.ones(1)], [-2, 0.5, 2]).values
    assert math.isnan(found["loss"][0])
    assert found["loss"].tolist()[1:] == [0.5, math.inf]
    assert found["accuracy"].tolist() == [0.5] * 3


def test_a_point_at_zero_is_the_origin_even_along_a_direction_that_is_not_finite():
    origin = [torch.tensor([0.1, 0.2])]
    bad = [torch.tensor([math.nan, math.inf])]
    assert torch.equal(shifted(origin, (0.0, bad), (1.0, [torch.zeros(2)]))[0], origin[0])


def test_an_evaluation_that_leaves_its_parameters_behind_moves_no_other_point():
    live = [torch.tensor([1.0])]

    def evaluate(parts):
        live[0].copy_(parts[0])
        return {"loss": float(live[0])}

    one = [torch.ones(1)]
    assert line(evaluate, live, one, [1, 2, 3]).values["loss"].tolist() == [2, 3, 4]
    live[0].fill_(1)
    assert grid(evaluate, live, one, one, [1, 2], [10, 20]).values["loss"].tolist() == [[12, 13], [22, 23]]
    live[0].fill_(1)
    assert interpolation(evaluate, live, [torch.tensor([3.0])], [0.5, 1, 2]).values["loss"].tolist() == [2, 3, 5]


# ---- a live model ---------------------------------------------------------------------------------------------------


def test_a_model_has_its_own_state_again_also_where_measuring_moved_it():
    model = network()
    inputs = torch.randn(10, 3)
    before = copy.deepcopy(model.state_dict())
    seen = []

    def measure():
        seen.append(float(model[0].weight.detach().norm()))
        model(inputs)  # in train mode: batch norm's running statistics and its counter move
        return {"loss": 0.0}

    direction = [torch.randn_like(parameter) for parameter in model.parameters()]
    line(evaluation(model, measure), list(model.parameters()), direction, [-1.0, 0.0, 1.0])
    assert len(set(seen)) == 3
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_a_model_has_its_own_state_again_after_an_exception():
    model = network()
    before = copy.deepcopy(model.state_dict())
    calls = []

    def measure():
        calls.append(1)
        if len(calls) == 2:
            raise RuntimeError("out of memory")
        return {"loss": 0.0}

    ones = [torch.ones_like(parameter) for parameter in model.parameters()]
    with pytest.raises(RuntimeError, match="out of memory"):
        line(evaluation(model, measure), list(model.parameters()), ones, [0.5, 1.0])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


@pytest.mark.parametrize("way", ["at", "in place"])
def test_an_objective_gives_the_loss_of_a_model_that_was_built_there(way):
    model, other = network().double().eval(), network().double().eval()
    inputs, targets = torch.randn(20, 3, dtype=torch.float64), torch.randint(0, 2, (20,))
    objective = Objective(Network(model), F.cross_entropy, inputs, targets)
    objective.hvp([torch.ones_like(parameter) for parameter in model.parameters()])  # a graph that could be stale
    direction = [torch.randn_like(parameter) for parameter in model.parameters()]
    evaluate = evaluation(model, lambda: {"loss": float(objective.loss())})
    if way == "at":

        def evaluate(parameters):
            return {"loss": float(objective.loss(at=parameters))}

    found = line(evaluate, list(model.parameters()), direction, [-0.5, 0.0, 2.0]).values["loss"]
    for x, value in zip([-0.5, 0.0, 2.0], found, strict=True):
        with torch.no_grad():
            for parameter, own, along in zip(other.parameters(), model.parameters(), direction, strict=True):
                parameter.copy_(own + x * along)
            assert float(value) == pytest.approx(float(F.cross_entropy(other(inputs), targets)), abs=1e-14)


@pytest.mark.parametrize("count", [3, 7, 9])
def test_tensors_that_are_neither_parameters_nor_a_state_are_refused(count):
    model = network()  # 6 parameters and 2 running statistics
    values = [*model_state(model), torch.ones(4)][:count]
    with pytest.raises(ValueError, match="cannot take the place"):
        evaluation(model, lambda: {"loss": 0.0})(values)


# ---- between two states ---------------------------------------------------------------------------------------------


def two_networks():
    """Two networks in eval mode whose running statistics differ, and the loss of a model on fixed examples."""
    models = [network().double(), network().double()]
    inputs, targets = torch.randn(40, 3, dtype=torch.float64), torch.randint(0, 2, (40,))
    for seed, model in enumerate(models):
        torch.manual_seed(seed)
        for parameter in model.parameters():
            nn.init.normal_(parameter)
        for _ in range(20):
            model(inputs)
        model.eval()
    return *models, lambda model: {"loss": float(F.cross_entropy(model(inputs), targets).detach())}


def test_the_ends_of_an_interpolation_of_states_are_the_two_models():
    first, second, loss = two_networks()
    model = copy.deepcopy(first)
    positions = [-0.5, 0.0, 0.5, 1.0, 1.5]
    found = interpolation(evaluation(model, lambda: loss(model)), model_state(first), model_state(second), positions)
    assert found.values["loss"][1] == loss(first)["loss"]
    assert found.values["loss"][3] == loss(second)["loss"]
    blend = copy.deepcopy(first)
    state = {
        name: (first.state_dict()[name] + second.state_dict()[name]) / 2
        for name in first.state_dict()
        if "tracked" not in name
    }
    blend.load_state_dict(state, strict=False)
    assert float(found.values["loss"][2]) == pytest.approx(loss(blend)["loss"], abs=1e-12)


def test_parameters_alone_keep_the_running_statistics_of_the_model():
    first, second, loss = two_networks()
    ends = [list(first.parameters()), list(second.parameters())]
    found = interpolation(evaluation(first, lambda: loss(first)), *ends, [0.0, 1.0]).values["loss"]
    mixed = copy.deepcopy(first)
    mixed.load_state_dict(dict(second.named_parameters()), strict=False)
    assert found.tolist() == [loss(first)["loss"], loss(mixed)["loss"]]
    assert abs(loss(mixed)["loss"] - loss(second)["loss"]) > 1e-3


def test_an_interpolation_of_quadratics_by_hand():
    def evaluate(parts):
        return {"loss": float(parts[0].square().sum())}

    first, second = [torch.tensor([1.0, 0.0])], [torch.tensor([0.0, 2.0])]
    found = interpolation(evaluate, first, second, [-0.5, 0.5, 1.5])
    assert found.positions.tolist() == [-0.5, 0.5, 1.5]
    assert found.values["loss"].tolist() == pytest.approx([1.5**2 + 1, 0.25 + 1, 0.25 + 9])
